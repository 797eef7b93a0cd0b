import hashlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engine.bundle import load_bundle
from app.engine.errors import BundleError
from tests.tiny_bundle import BUCKETS, DIMENSIONS, HEIGHT, MAX_TOKENS, WIDTH, seal, write_manifest


def edit(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    document = json.loads((folder / name).read_text())
    change(document)
    (folder / name).write_text(json.dumps(document))


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as refused:
        load_bundle(folder)
    message = refused.value.detail
    assert message.startswith(f"{folder.parent.name}/{folder.name}: ")
    assert "\n" not in message
    return message


def test_a_good_bundle_says_what_it_is(tiny_copy: Path) -> None:
    bundle = load_bundle(tiny_copy)
    assert (bundle.name, bundle.version) == ("tiny", "1")
    assert bundle.labels_json["attributes"] == ["articleType", "masterCategory", "gender", "sleeveLength"]
    assert bundle.quality["test"]["gender"]["accuracy"] == 0.5
    spec = bundle.spec()
    assert (spec.image_height, spec.image_width, spec.max_tokens) == (HEIGHT, WIDTH, MAX_TOKENS)
    assert (spec.embedding_width, spec.batch_buckets) == (DIMENSIONS[-1], BUCKETS)
    assert bundle.golden_arrays()["input_image"].shape == (3, HEIGHT, WIDTH, 3)


def test_a_model_without_a_text_branch_still_has_the_input(tiny_models_dir: Path) -> None:
    assert load_bundle(tiny_models_dir / "photos" / "1").spec().max_tokens == 1


def test_the_digest_stands_for_every_byte(tiny_copy: Path) -> None:
    before = load_bundle(tiny_copy).digest
    (tiny_copy / "NOTES.md").write_text("hello")
    seal(tiny_copy)
    assert load_bundle(tiny_copy).digest != before


@pytest.mark.parametrize("name", ["saved_model.pb", "model.tflite", "labels.json", "tokenizer.json", "golden.npz"])
def test_one_flipped_bit_is_refused(tiny_copy: Path, name: str) -> None:
    data = bytearray((tiny_copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tiny_copy / name).write_bytes(data)
    assert f"{name} does not have the hash" in refusal(tiny_copy)


def test_a_truncated_file_is_refused(tiny_copy: Path) -> None:
    data = (tiny_copy / "model.tflite").read_bytes()
    (tiny_copy / "model.tflite").write_bytes(data[:-1])
    assert "model.tflite does not have the size" in refusal(tiny_copy)


def test_a_missing_file_is_refused(tiny_copy: Path) -> None:
    (tiny_copy / "calibration.json").unlink()
    assert "calibration.json is missing" in refusal(tiny_copy)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sha256"])
def test_a_missing_manifest_is_refused(tiny_copy: Path, name: str) -> None:
    (tiny_copy / name).unlink()
    assert f"{name} is missing" in refusal(tiny_copy)


def test_a_changed_manifest_is_refused(tiny_copy: Path) -> None:
    (tiny_copy / "manifest.json").write_bytes((tiny_copy / "manifest.json").read_bytes() + b" ")
    assert "manifest.json does not have the hash in manifest.sha256" in refusal(tiny_copy)


def test_an_unlisted_file_is_refused(tiny_copy: Path) -> None:
    (tiny_copy / "variables" / "extra.pkl").write_bytes(b"x")
    assert "variables/extra.pkl is not listed" in refusal(tiny_copy)


def test_a_linked_file_is_refused(tiny_copy: Path) -> None:
    outside = tiny_copy.parent / "elsewhere.tflite"
    (tiny_copy / "model.tflite").rename(outside)
    (tiny_copy / "model.tflite").symlink_to(outside)
    assert "model.tflite is a link" in refusal(tiny_copy)


def test_a_linked_folder_is_refused(tiny_copy: Path) -> None:
    (tiny_copy / "variables").rename(tiny_copy.parent / "elsewhere")
    (tiny_copy / "variables").symlink_to(tiny_copy.parent / "elsewhere")
    assert "variables is a link" in refusal(tiny_copy)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a//b", "a\\b", "./labels.json"])
def test_a_path_that_leaves_the_bundle_is_refused(tiny_copy: Path, name: str) -> None:
    manifest = json.loads((tiny_copy / "manifest.json").read_text())
    manifest["files"][name] = manifest["files"]["labels.json"]
    write_manifest(tiny_copy, manifest)
    assert "a path that is not inside the bundle" in refusal(tiny_copy)


def test_an_unknown_format_is_refused(tiny_copy: Path) -> None:
    seal(tiny_copy, format_version=2)
    assert "bundle format 2 is unknown" in refusal(tiny_copy)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_other_preprocessing_code_is_refused(tiny_copy: Path, modality: str) -> None:
    current = json.loads((tiny_copy / "manifest.json").read_text())["preprocessing"]
    seal(tiny_copy, preprocessing=current | {modality: current[modality] + 1})
    assert f"trained with {modality} preprocessing" in refusal(tiny_copy)


def test_a_bundle_in_the_wrong_folder_is_refused(tiny_copy: Path) -> None:
    assert "manifest.json says tiny/1" in refusal(tiny_copy.rename(tiny_copy.parent / "2"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format_version": 1}', b"\xff", b"[" * 100_000])
@pytest.mark.parametrize("name", ["manifest.json", "labels.json", "calibration.json", "golden.json"])
def test_a_file_that_is_not_its_json_is_refused(tiny_copy: Path, name: str, content: bytes) -> None:
    if name == "manifest.json":
        manifest_hash = hashlib.sha256(content).hexdigest()
        (tiny_copy / name).write_bytes(content)
        (tiny_copy / "manifest.sha256").write_text(f"{manifest_hash}  manifest.json\n")
    else:
        (tiny_copy / name).write_bytes(content)
        seal(tiny_copy)
    refusal(tiny_copy)


UNANSWERABLE = [
    b"[1, 2]",
    b'"abc"',
    b"null",
    b'[["a", 1]]',
    b'{"a": "\\ud800"}',
    b'{"\\ud800": 1}',
    b'{"a": %b1%b}' % (b"[" * 900, b"]" * 900),
]


@pytest.mark.parametrize("content", UNANSWERABLE)
def test_quality_that_could_not_be_answered_is_refused(tiny_copy: Path, content: bytes) -> None:
    (tiny_copy / "metrics.json").write_bytes(content)
    seal(tiny_copy)
    assert "metrics.json: " in refusal(tiny_copy)


@pytest.mark.parametrize("name", ["training", "held_out"])
@pytest.mark.parametrize("content", UNANSWERABLE)
def test_what_a_manifest_says_freely_could_be_answered(tiny_copy: Path, name: str, content: bytes) -> None:
    seal(tiny_copy, **{name: {}})
    data = (tiny_copy / "manifest.json").read_bytes()
    emptied = b'"%b": {}' % name.encode()
    assert emptied in data
    data = data.replace(emptied, b'"%b": %b' % (name.encode(), content))
    (tiny_copy / "manifest.json").write_bytes(data)
    (tiny_copy / "manifest.sha256").write_text(f"{hashlib.sha256(data).hexdigest()}  manifest.json\n")
    assert "manifest.json: " in refusal(tiny_copy)


@pytest.mark.parametrize("content", [b"{}", b'{"a": NaN, "b": %b1%b}' % (b"[" * 190, b"]" * 190)])
def test_quality_is_whatever_was_measured(tiny_copy: Path, content: bytes) -> None:
    (tiny_copy / "metrics.json").write_bytes(content)
    seal(tiny_copy)
    assert load_bundle(tiny_copy).quality.keys() == json.loads(content).keys()


def wrong_labels() -> dict[str, Callable[[Any], Any]]:
    return {
        "paths": lambda labels: labels["heads"][0]["paths"].pop(),
        "differ": lambda labels: labels["heads"][0]["paths"].__setitem__(0, labels["heads"][0]["paths"][1]),
        "different labels": lambda labels: labels["heads"][1]["labels"].__setitem__(0, "Women"),
        "without gaps": lambda labels: labels["heads"][2].__setitem__("offset", 6),
        "attributes must be": lambda labels: labels["attributes"].append("colour"),
        "applies needs": lambda labels: labels["applies"].__setitem__("gender", [True]),
        "8 logits": lambda labels: labels["heads"][2].update(size=3, labels=["a", "b", "c"]),
    }


@pytest.mark.parametrize("reason", wrong_labels())
def test_labels_that_do_not_fit_are_refused(tiny_copy: Path, reason: str) -> None:
    edit(tiny_copy, "labels.json", wrong_labels()[reason])
    seal(tiny_copy)
    assert reason in refusal(tiny_copy)


def wrong_calibration() -> dict[str, Callable[[Any], Any]]:
    return {
        "greater than 0": lambda c: c["patterns"]["both"]["temperature"].__setitem__("gender", 0.0),
        "rise in precision": lambda c: c["patterns"]["both"]["thresholds"]["gender"].reverse(),
        "one weight per feature": lambda c: c["agreement"]["weights"].append(1.0),
        "finite": lambda c: c["in_domain"]["image"].__setitem__("min_logit", float("nan")),
        "agreement": lambda c: c.pop("agreement"),
    }


@pytest.mark.parametrize("reason", wrong_calibration())
def test_calibration_that_does_not_fit_is_refused(tiny_copy: Path, reason: str) -> None:
    edit(tiny_copy, "calibration.json", wrong_calibration()[reason])
    seal(tiny_copy)
    assert reason in refusal(tiny_copy)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"batch_buckets": [2, 4]}, "start at 1"),
        ({"batch_buckets": [1, 4, 2]}, "must rise"),
        ({"dimensions": [8, 4]}, "dimensions must rise"),
        ({"runtimes": ["onnx"]}, "runtimes"),
        ({"inputs": {"image": None, "text": None}}, "one of image and text"),
        ({"name": "../x"}, "name"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(tiny_copy: Path, changes: dict[str, Any], reason: str) -> None:
    seal(tiny_copy, **changes)
    assert reason in refusal(tiny_copy)


def test_a_missing_tokenizer_is_refused(tiny_copy: Path) -> None:
    (tiny_copy / "tokenizer.json").unlink()
    seal(tiny_copy)
    assert "tokenizer.json must be there" in refusal(tiny_copy)


def test_a_runtime_without_its_file_is_refused(tiny_copy: Path) -> None:
    (tiny_copy / "model.tflite").unlink()
    seal(tiny_copy)
    assert "model.tflite is missing from manifest.json" in refusal(tiny_copy)


def test_pickled_arrays_are_never_unpickled(tiny_copy: Path) -> None:
    class Exploit:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tiny_copy / "executed",))

    buffer = io.BytesIO()
    np.savez(buffer, input_image=np.array([Exploit()], dtype=object))
    (tiny_copy / "golden.npz").write_bytes(buffer.getvalue())
    seal(tiny_copy)
    with pytest.raises(BundleError, match=re.escape("golden.npz is not a plain numpy archive")):
        load_bundle(tiny_copy).golden_arrays()
    assert not (tiny_copy / "executed").exists()
