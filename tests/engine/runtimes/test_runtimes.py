import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.engine.bundle import load_bundle
from app.engine.errors import BundleError
from app.engine.runtimes import Runtime, RuntimeName, open_runtime
from app.engine.runtimes.base import OUTPUT_NAMES, Arrays, ModelSpec
from tests.tiny_bundle import HEIGHT, MAX_TOKENS, VOCABULARY, WIDTH


@pytest.fixture(scope="module")
def spec(tiny_models_dir: Path) -> ModelSpec:
    return load_bundle(tiny_models_dir / "tiny" / "1").spec()


@pytest.fixture(scope="module", params=["litert", "tensorflow"])
def runtime(request: pytest.FixtureRequest, spec: ModelSpec) -> Iterator[Runtime]:
    runtime = open_runtime(request.param, spec, threads=1)
    yield runtime
    runtime.close()


def batch_of(items: int, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (items, HEIGHT, WIDTH, 3), dtype=np.uint8),
        "token_ids": rng.integers(0, VOCABULARY, (items, MAX_TOKENS)).astype(np.int32),
        "image_present": rng.random(items) < 0.7,
        "text_present": rng.random(items) < 0.7,
    }


def test_both_runtimes_give_the_same_answers(spec: ModelSpec) -> None:
    batch = batch_of(8)
    litert, tensorflow = (open_runtime(name, spec, threads=1).run(batch) for name in ("litert", "tensorflow"))
    assert set(litert) == set(tensorflow) == set(OUTPUT_NAMES)
    for name in OUTPUT_NAMES:
        np.testing.assert_allclose(litert[name], tensorflow[name], atol=1e-4, err_msg=name)


def test_an_items_answer_does_not_depend_on_its_batch(runtime: Runtime) -> None:
    batch = batch_of(8)
    alone = [runtime.run({name: rows[index : index + 1] for name, rows in batch.items()}) for index in range(8)]
    for size in range(2, 9):
        together = runtime.run({name: rows[:size] for name, rows in batch.items()})
        for name, rows in together.items():
            assert len(rows) == size
            expected = np.concatenate([answer[name] for answer in alone[:size]])
            np.testing.assert_allclose(rows, expected, atol=1e-6, err_msg=f"{name} in a batch of {size}")


def test_answers_stay_when_the_next_batch_runs(runtime: Runtime) -> None:
    first = runtime.run(batch_of(4))
    kept = {name: rows.copy() for name, rows in first.items()}
    runtime.run(batch_of(4, seed=1))
    for name, rows in first.items():
        np.testing.assert_array_equal(rows, kept[name])


@pytest.mark.parametrize("items", [0, 9])
def test_a_batch_outside_the_buckets_is_refused(runtime: Runtime, items: int) -> None:
    with pytest.raises(ValueError, match="1 to 8 items"):
        runtime.run(batch_of(items))


@pytest.mark.parametrize("name", ["litert", "tensorflow"])
def test_dropped_buckets_are_gone(spec: ModelSpec, name: RuntimeName) -> None:
    runtime = open_runtime(name, spec, threads=1)
    runtime.keep_buckets(2)
    assert runtime.buckets == (1, 2)
    with pytest.raises(ValueError, match="1 to 2 items"):
        runtime.run(batch_of(3))


@pytest.mark.parametrize(("name", "file"), [("litert", "model.tflite"), ("tensorflow", "saved_model.pb")])
def test_a_file_that_is_no_model_is_refused_in_one_line(tmp_path: Path, spec: ModelSpec, name: str, file: str) -> None:
    (tmp_path / file).write_bytes(b"not a model")
    with pytest.raises(BundleError, match=f"{file}: .* refuses it") as refused:
        open_runtime(name, replace(spec, folder=tmp_path), threads=1)  # type: ignore[arg-type]
    assert "\n" not in refused.value.detail


@pytest.mark.parametrize(
    "wrong", [{"image_height": HEIGHT + 1}, {"max_tokens": MAX_TOKENS + 1}, {"logits_width": 8}, {"embedding_width": 4}]
)
@pytest.mark.parametrize("name", ["litert", "tensorflow"])
def test_a_model_of_other_shapes_is_refused(spec: ModelSpec, name: RuntimeName, wrong: dict[str, int]) -> None:
    with pytest.raises(BundleError):
        open_runtime(name, replace(spec, **wrong), threads=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "module", "remedy"),
    [
        ("tensorflow", "tensorflow", r"pip install itemlens\[tensorflow\]"),
        ("litert", "ai_edge_litert.interpreter", "pip install ai-edge-litert"),
    ],
)
def test_a_missing_library_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, spec: ModelSpec, name: RuntimeName, module: str, remedy: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BundleError, match=remedy):
        open_runtime(name, spec, threads=1)
