"""A trained network to a bundle (`models/README.md`): SavedModel, LiteRT file, labels, calibration, golden answers.

Owns the writing of bundles, atomically: everything goes into a folder beside the destination, which is renamed into
place when it is whole. TensorFlow is imported here, whatever backend trained the network.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from app.engine.bundle_schema import Labels, Manifest
from app.engine.images import IMAGE_PREPROCESSING_VERSION, decode_photo
from app.engine.runtimes.base import ModelSpec
from app.engine.text import TEXT_PREPROCESSING_VERSION, TitleTokenizer
from scripts.config import NetworkConfig, RunConfig
from scripts.drawn_products import DrawnProduct
from scripts.labels import LabelSpace
from scripts.network import published

BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
BLANK_SIDE = 8
"""Side in pixels of the photos that a model without an image branch takes and ignores."""
GOLDEN_TOLERANCE = {
    # Float arithmetic in another order.
    "tensorflow": {"min_cosine": 0.999, "max_probability_gap": 0.01, "top1_margin": 0.02},
    # Weights in eight bits; drawn products lie far from any training photo, where the answers move most.
    "litert": {"min_cosine": 0.95, "max_probability_gap": 0.25, "top1_margin": 0.3},
}


class ExportError(RuntimeError):
    """The bundle cannot be written; the message says why and what to do."""


def next_version(model_folder: Path) -> int:
    """The number after the highest version folder."""
    taken = [int(p.name) for p in model_folder.glob("*") if p.is_dir() and p.name.isdigit()]
    return max(taken, default=0) + 1


@contextmanager
def new_bundle(destination: Path, *, replace_existing: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes `destination` when the block ends well, and vanishes when it does not.

    Raises ExportError when the destination is taken and `replace_existing` is not set.
    """
    if destination.exists() and not replace_existing:
        raise ExportError(f"{destination} exists; choose another --version, or name it with --version to replace it")
    destination.parent.mkdir(parents=True, exist_ok=True)
    # A leading dot, so that a service watching the folder never takes it for a version. Inside, the bundle already has
    # its name and version as folders, because a bundle that is elsewhere is refused and so could not be evaluated.
    staging = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=destination.parent))
    folder = staging / destination.parent.name / destination.name
    folder.mkdir(parents=True)
    replaced = staging / "replaced"
    try:
        yield folder
        if destination.exists():
            destination.rename(replaced)
        folder.rename(destination)
    finally:
        if replaced.exists() and not destination.exists():
            # Should this fail too, the old version is still whole in the folder that the error names.
            replaced.rename(destination)
        shutil.rmtree(staging, ignore_errors=True)


def write_network(folder: Path, network: keras.Model, *, config: NetworkConfig, published_width: int) -> None:
    """`saved_model.pb` and `model.tflite`, with the design's signature; auxiliary heads are cut off."""
    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            "exporting needs Keras on TensorFlow; the run is saved: repeat the command with KERAS_BACKEND=tensorflow --resume"
        )
    import tensorflow as tf

    height, width = (config.image_height, config.image_width) if config.image_height else (BLANK_SIDE, BLANK_SIDE)

    class Serving(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = published(network, config, width=published_width)

        @tf.function(  # type: ignore[untyped-decorator]
            input_signature=[
                tf.TensorSpec([None, height, width, 3], tf.uint8, name="image"),
                tf.TensorSpec([None, max(1, config.max_tokens)], tf.int32, name="token_ids"),
                tf.TensorSpec([None], tf.bool, name="image_present"),
                tf.TensorSpec([None], tf.bool, name="text_present"),
            ]
        )
        def serve(self, image: Any, token_ids: Any, image_present: Any, text_present: Any) -> dict[str, Any]:
            outputs: dict[str, Any] = self.network(
                {
                    "image": tf.cast(image, tf.float32),
                    "token_ids": token_ids,
                    "image_present": image_present,
                    "text_present": text_present,
                },
                training=False,
            )
            return outputs

    module = Serving()
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    for empty in ("assets",):
        if (folder / empty).is_dir() and not any((folder / empty).iterdir()):
            (folder / empty).rmdir()
    (folder / "model.tflite").write_bytes(_to_tflite(folder))


def _to_tflite(saved_model: Path) -> bytes:
    """The frozen network as a LiteRT file, weights in dynamic-range int8, signature and names kept.

    The converter drops the weights of an unfrozen SavedModel and the signature of a bare frozen function; freezing,
    wrapping the result in a signature again and converting that keeps both.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    loaded = tf.saved_model.load(str(saved_model))  # held: its variables die with it
    signature = loaded.signatures["serving_default"]
    frozen = convert_variables_to_constants_v2(signature)
    output_names = sorted(signature.structured_outputs)
    input_names = [tensor.name.split(":")[0] for tensor in frozen.inputs]
    specs = signature.structured_input_signature[1]
    module = tf.Module()

    @tf.function(input_signature=[specs[name] for name in input_names])  # type: ignore[untyped-decorator]
    def serve(*inputs: Any) -> dict[str, Any]:
        return dict(zip(output_names, frozen(*inputs), strict=True))

    module.serve = serve
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures={"serving_default": serve})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        return bytes(converter.convert())


def space_id(name: str, network: keras.Model, tokenizer: TitleTokenizer | None) -> str:
    """Identity of the embedding space: a hash of everything that moves a vector, and of nothing else.

    Heads and the in-domain read-outs are left out: recalibrating or relabelling does not force a client to re-index.
    """
    digest = hashlib.sha256()
    digest.update(f"image {IMAGE_PREPROCESSING_VERSION} text {TEXT_PREPROCESSING_VERSION}".encode())
    digest.update(tokenizer.to_json().encode() if tokenizer else b"no text")
    for variable in sorted(network.variables, key=lambda v: v.path):
        if not any(part in variable.path for part in ("heads", "_domain", "seed_generator")):
            digest.update(variable.path.encode())
            digest.update(np.ascontiguousarray(np.asarray(variable)).tobytes())
    return f"{name}-{digest.hexdigest()[:16]}"


def write_descriptions(
    folder: Path, *, labels: Mapping[str, Any], calibration: Mapping[str, Any], tokenizer: TitleTokenizer | None
) -> None:
    """`labels.json`, `calibration.json` and `tokenizer.json`."""
    write_json(folder / "labels.json", labels)
    write_json(folder / "calibration.json", calibration)
    if tokenizer is not None:
        (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")


def manifest_of(
    config: RunConfig,
    version: int,
    space: LabelSpace,
    identity: str,
    training: Mapping[str, Any],
    held_out: Mapping[str, Any],
) -> dict[str, Any]:
    """`manifest.json` without its list of files, which `seal` adds."""
    network = config.network
    return {
        "format_version": 1,
        "name": config.name,
        "version": version,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "inputs": {
            "image": {"height": network.image_height, "width": network.image_width} if network.image_height else None,
            "text": {"max_tokens": network.max_tokens} if network.max_tokens else None,
        },
        "preprocessing": {"image": IMAGE_PREPROCESSING_VERSION, "text": TEXT_PREPROCESSING_VERSION},
        "logits_width": space.published_width,
        "runtimes": ["tensorflow", "litert"],
        "batch_buckets": list(BATCH_BUCKETS),
        "space_id": identity,
        "dimensions": list(network.dimensions),
        "held_out": dict(held_out),
        "training": dict(training),
    }


def check_exportable(config: RunConfig, version: int, space: LabelSpace, labels: Mapping[str, Any]) -> None:
    """Raises ExportError when the service would refuse such a bundle: better said before the training than after it."""
    manifest = manifest_of(config, version, space, f"{config.name}-{'0' * 16}", training={}, held_out={})
    documents: tuple[tuple[str, type[BaseModel], Mapping[str, Any]], ...] = (
        ("manifest.json", Manifest, {**manifest, "files": {}}),
        ("labels.json", Labels, labels),
    )
    for name, schema, document in documents:
        try:
            schema.model_validate_json(json.dumps(document))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the whole"
            given = "" if isinstance(first["input"], dict | list) else f" ({first['input']!r})"
            raise ExportError(f"a bundle cannot hold this run: {name}: {place}{given}: {first['msg']}") from error


def seal(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write `manifest.json` with the hash of every other file, and `manifest.sha256`. May be called again after changes."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in ("manifest.json", "manifest.sha256"):
            data = path.read_bytes()
            files[name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    write_json(folder / "manifest.json", {**manifest, "files": files})
    digest = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    (folder / "manifest.sha256").write_text(f"{digest}  manifest.json\n")


def write_json(path: Path, value: Any) -> None:
    """JSON in UTF-8, one space of indentation, a final newline; NaN is refused."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_golden(
    folder: Path, drawn: Sequence[DrawnProduct], *, config: NetworkConfig, tokenizer: TitleTokenizer | None
) -> None:
    """`golden.json` and `golden.npz`: every drawn product as photo + title, photo only and title only (as far as the
    model reads them), what preprocessing makes of it, and what TensorFlow answers. The answers come from the exported
    SavedModel, not from the network in memory."""
    spec = spec_of(folder, config, published_width=0)
    cases: list[dict[str, str | None]] = []
    arrays: dict[str, NDArray[Any]] = {}
    for product in drawn:
        photo = f"photo_{product.name}" if config.image_height else None
        title = product.title if tokenizer is not None and product.title else None
        if photo:
            arrays[photo] = np.frombuffer(product.encoded, np.uint8)
        given = [(photo, title), (photo, None), (None, title)] if photo and title else [(photo, title)]
        for number, (with_photo, with_title) in enumerate(given):
            cases.append({"name": f"{product.name}-{number}", "photo": with_photo, "title": with_title})
    inputs = spec.blank_batch(len(cases))
    for i, case in enumerate(cases):
        if case["photo"]:
            inputs["image"][i] = decode_photo(
                arrays[case["photo"]].tobytes(), height=spec.image_height, width=spec.image_width, max_pixels=10**7
            )
            inputs["image_present"][i] = True
        if case["title"] and tokenizer is not None:
            inputs["token_ids"][i] = tokenizer.encode(case["title"])
            inputs["text_present"][i] = True
    outputs = reference_outputs(folder, inputs)
    arrays |= {f"input_{name}": value for name, value in inputs.items()}
    np.savez_compressed(folder / "golden.npz", **arrays, **outputs)  # type: ignore[arg-type]
    write_json(folder / "golden.json", {"format_version": 1, "cases": cases, "tolerance": GOLDEN_TOLERANCE})


def reference_outputs(folder: Path, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """What the SavedModel in `folder` answers, through its public signature alone."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))  # held: its variables die with it
    outputs = loaded.signatures["serving_default"](**{name: tf.constant(value) for name, value in inputs.items()})
    return {name: value.numpy() for name, value in outputs.items()}


def spec_of(folder: Path, config: NetworkConfig, *, published_width: int) -> ModelSpec:
    """The shapes that the service will expect of this network."""
    return ModelSpec(
        folder=folder,
        image_height=config.image_height or BLANK_SIDE,
        image_width=config.image_width or BLANK_SIDE,
        max_tokens=max(1, config.max_tokens),
        logits_width=published_width,
        embedding_width=config.embedding_width,
        batch_buckets=BATCH_BUCKETS,
    )
