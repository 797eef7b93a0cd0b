import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.engine.bundle import load_bundle
from app.engine.bundle_schema import Tolerance
from app.engine.errors import BundleError
from app.engine.golden import Comparison, compare_outputs, replay_golden, run_all
from app.engine.runtimes import open_runtime
from app.engine.runtimes.base import INPUT_NAMES, OUTPUT_NAMES
from app.engine.text import TitleTokenizer
from tests.tiny_bundle import MAX_TOKENS, jpeg, seal

TOLERANCE = Tolerance(min_cosine=0.999, max_probability_gap=0.05, top1_margin=0.1)
HEADS = [slice(0, 3), slice(3, 5)]
BOTH = np.array([True, True])


def outputs_of(**changes: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Two items: the first sure of label 0 of each head, the second undecided in the last head."""
    logits = np.array([[4.0, 0.0, 0.0, 3.0, 0.0], [0.0, 4.0, 0.0, 0.01, 0.0]], np.float32)
    embedding = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    outputs: dict[str, NDArray[Any]] = {}
    for name in OUTPUT_NAMES:
        kind = name.split("_", 1)[1]
        outputs[name] = {"logits": logits, "embedding": embedding, "in_domain": np.array([3.0, -3.0], np.float32)}[kind]
    return outputs | changes


def compare(actual: dict[str, NDArray[Any]], **present: NDArray[np.bool_]) -> Comparison:
    flags = {"image_present": BOTH, "text_present": BOTH} | present
    return compare_outputs(outputs_of(), actual, heads=HEADS, tolerance=TOLERANCE, names=["shoe", "watch"], **flags)


def test_equal_outputs_pass() -> None:
    assert compare(outputs_of()) == Comparison(0.0, 1.0, 0, None)


def test_adding_a_constant_to_a_heads_logits_changes_nothing() -> None:
    shifted = outputs_of()["fused_logits"] + np.array([5, 5, 5, -2, -2], np.float32)
    assert compare(outputs_of(fused_logits=shifted)).failure is None


def test_a_probability_gap_names_the_item_the_head_and_the_number() -> None:
    logits = outputs_of()["image_logits"].copy()
    logits[1, 3] = 0.5
    comparison = compare(outputs_of(image_logits=logits))
    assert comparison.max_probability_gap == pytest.approx(0.12, abs=0.005)
    assert comparison.failure is not None
    assert comparison.failure.startswith("watch, image_logits[3:5]: probability is off by 0.12")


def test_another_first_label_beyond_the_margin_fails() -> None:
    logits = outputs_of()["fused_logits"].copy()
    logits[0, :3] = [0.0, 4.0, 0.0]
    comparison = compare(outputs_of(fused_logits=logits))
    assert comparison.top1_changes == 1
    assert comparison.failure == "shoe, fused_logits[0:3]: another label comes first"


def test_another_first_label_within_the_margin_passes() -> None:
    logits = outputs_of()["fused_logits"].copy()
    logits[1, 3] = -0.01
    comparison = compare(outputs_of(fused_logits=logits))
    assert (comparison.top1_changes, comparison.failure) == (0, None)


def test_a_turned_embedding_fails() -> None:
    turned = np.array([[1.0, 0.1], [0.0, 1.0]], np.float32)
    failure = compare(outputs_of(text_embedding=turned)).failure
    assert failure is not None
    assert failure.startswith("shoe, text_embedding: cosine is 0.995")


def test_an_in_domain_score_counts() -> None:
    assert compare(outputs_of(image_in_domain=np.array([0.0, -3.0], np.float32))).failure is not None


def test_outputs_that_are_not_numbers_fail() -> None:
    failure = compare(outputs_of(fused_logits=np.full((2, 5), np.nan, np.float32))).failure
    assert failure == "fused_logits is not finite"


def test_outputs_of_an_absent_input_do_not_count() -> None:
    turned = np.array([[0.0, 1.0], [0.0, 1.0]], np.float32)
    changed = outputs_of(text_embedding=turned)
    assert compare(changed).failure is not None
    assert compare(changed, text_present=np.array([False, True])).failure is None


# --- replaying a bundle ------------------------------------------------------------------------------------------------


def replay(folder: Path, runtime: str = "litert") -> Comparison:
    bundle = load_bundle(folder)
    assert bundle.tokenizer_json is not None
    opened = open_runtime(runtime, bundle.spec(), threads=1)  # type: ignore[arg-type]
    return replay_golden(bundle, opened, TitleTokenizer.from_json(bundle.tokenizer_json, MAX_TOKENS))


def change_arrays(folder: Path, **changes: NDArray[Any]) -> None:
    with np.load(folder / "golden.npz") as stored:
        arrays: dict[str, Any] = dict(stored) | changes
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    (folder / "golden.npz").write_bytes(buffer.getvalue())
    seal(folder)


@pytest.mark.parametrize("runtime", ["litert", "tensorflow"])
def test_a_good_bundle_passes(tiny_copy: Path, runtime: str) -> None:
    assert replay(tiny_copy, runtime).min_cosine > 0.9999


def test_more_cases_than_a_bucket_are_run_in_parts(tiny_copy: Path) -> None:
    bundle = load_bundle(tiny_copy)
    runtime = open_runtime("litert", bundle.spec(), threads=1)
    arrays = bundle.golden_arrays()
    inputs = {name: arrays[f"input_{name}"] for name in INPUT_NAMES}
    whole = run_all(runtime, inputs)
    runtime.keep_buckets(2)
    for name, rows in run_all(runtime, inputs).items():
        np.testing.assert_allclose(rows, whole[name], atol=1e-6)


def test_other_answers_are_refused_by_case_and_number(tiny_copy: Path) -> None:
    logits = load_bundle(tiny_copy).golden_arrays()["fused_logits"].copy()
    logits[2, 3:5] = [9.0, 0.0] if logits[2, 3] > logits[2, 4] else [0.0, 9.0]
    change_arrays(tiny_copy, fused_logits=logits)
    with pytest.raises(BundleError, match=r"tiny/1: golden answers differ on litert: title, fused_logits\[3:5\]: .* 0\.\d+"):
        replay(tiny_copy)


def test_other_image_preprocessing_is_refused(tiny_copy: Path) -> None:
    change_arrays(tiny_copy, photo_photo=np.frombuffer(jpeg(99), np.uint8))
    with pytest.raises(BundleError, match="golden case photo: the photo decodes to other pixels"):
        replay(tiny_copy)


def test_a_golden_photo_that_cannot_be_decoded_is_refused(tiny_copy: Path) -> None:
    change_arrays(tiny_copy, photo_both=np.zeros(10, np.uint8))
    with pytest.raises(BundleError, match="golden case both: the photo cannot be decoded"):
        replay(tiny_copy)


def test_another_tokenizer_is_refused(tiny_copy: Path) -> None:
    index = json.loads((tiny_copy / "golden.json").read_text())
    index["cases"][2]["title"] = "another title"
    (tiny_copy / "golden.json").write_text(json.dumps(index))
    seal(tiny_copy)
    with pytest.raises(BundleError, match="golden case title: the title gives other tokens"):
        replay(tiny_copy)


@pytest.mark.parametrize("changes", [{"fused_logits": np.zeros((2, 7), np.float32)}, {"input_image": np.zeros((3, 2, 2, 3))}])
def test_arrays_that_do_not_fit_are_refused(tiny_copy: Path, changes: dict[str, NDArray[Any]]) -> None:
    change_arrays(tiny_copy, **changes)
    with pytest.raises(BundleError, match=r"golden\.npz"):
        replay(tiny_copy)
