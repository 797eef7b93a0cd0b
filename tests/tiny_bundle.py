"""A real bundle, tiny: a two-branch network with seeded random weights, exported for both runtimes.

Owns the making of bundles for tests. The model files take seconds to make, so they are made once per process and kind;
what depends on the name and version is written anew each time.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.engine.images import IMAGE_PREPROCESSING_VERSION, decode_photo
from app.engine.text import TEXT_PREPROCESSING_VERSION, TitleTokenizer

HEIGHT, WIDTH, MAX_TOKENS, VOCABULARY = 16, 12, 8, 320
DIMENSIONS = (4, 8, 16)
BUCKETS = (1, 2, 4, 8)
LABELS = {
    "format_version": 1,
    "attributes": ["articleType", "masterCategory", "gender", "sleeveLength"],
    "heads": [
        {
            "kind": "hierarchy",
            "offset": 0,
            "size": 3,
            "levels": ["masterCategory", "articleType"],
            "paths": [["Apparel", "Tshirts"], ["Apparel", "Shirts"], ["Accessories", "Watches"]],
        },
        {"kind": "flat", "attribute": "gender", "offset": 3, "size": 2, "labels": ["Men", "Women"]},
        {
            "kind": "flat",
            "attribute": "sleeveLength",
            "offset": 5,
            "size": 2,
            "labels": ["Long Sleeves", "Short Sleeves"],
        },
    ],
    "applies": {"sleeveLength": [True, True, False]},
}
LOGITS_WIDTH = 7
CALIBRATION: dict[str, Any] = {
    "format_version": 1,
    "patterns": {
        pattern: {"temperature": {"gender": 1.1}, "thresholds": {"gender": [[0.9, 0.6], [0.98, 0.9]]}}
        for pattern in ("both", "image", "text")
    },
    "in_domain": {"image": {"min_logit": -1e6}, "text": {"min_logit": None}},
    "agreement": {"features": ["cosine"], "weights": [2.0], "bias": 0.0, "conflict_below": {"gender": 0.5}},
}
TITLES = ("Puma Men Grey T-shirt", "Casio Women Steel Watch", "Levis Men Blue Checked Shirt")


def jpeg(seed: int, *, height: int = 64, width: int = 48) -> bytes:
    """A photo of smooth seeded colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 3, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_tiny_bundle(models_dir: Path, *, name: str = "tiny", version: int = 1, with_text: bool = True) -> Path:
    """Write `models_dir/<name>/<version>` and return it. Four attributes; without text the title branch is left out."""
    folder = models_dir / name / str(version)
    for file, data in _model_files(with_text).items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(data)
    manifest = {
        "format_version": 1,
        "name": name,
        "version": version,
        "created": "2026-01-01T00:00:00Z",
        "files": {},
        "inputs": {
            "image": {"height": HEIGHT, "width": WIDTH},
            "text": {"max_tokens": MAX_TOKENS} if with_text else None,
        },
        "preprocessing": {"image": IMAGE_PREPROCESSING_VERSION, "text": TEXT_PREPROCESSING_VERSION},
        "logits_width": LOGITS_WIDTH,
        "runtimes": ["tensorflow", "litert"],
        "batch_buckets": list(BUCKETS),
        "space_id": f"{name}-0123456789abcdef",
        "dimensions": list(DIMENSIONS),
        "held_out": {},
        "training": {},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    seal(folder)
    return folder


def seal(folder: Path, **changes: Any) -> None:
    """Change fields of the manifest, list all files with their present hashes, and hash the manifest."""
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    manifest["files"] = {
        path.relative_to(folder).as_posix(): {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("manifest.json", "manifest.sha256")
    }
    write_manifest(folder, manifest)


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest as it is, with its hash."""
    data = json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(data)
    (folder / "manifest.sha256").write_text(f"{hashlib.sha256(data).hexdigest()}  manifest.json\n")


@cache
def _model_files(with_text: bool) -> dict[str, bytes]:
    tokenizer = TitleTokenizer.train(TITLES, vocabulary_size=VOCABULARY, max_tokens=MAX_TOKENS)
    max_tokens = MAX_TOKENS if with_text else 1
    with tempfile.TemporaryDirectory() as scratch:
        saved = Path(scratch)
        module, serve = _network(max_tokens, with_text)
        _save(module, serve, saved)
        files = {path.relative_to(saved).as_posix(): path.read_bytes() for path in saved.rglob("*") if path.is_file()}
        files["model.tflite"] = _to_tflite(saved)
        index, arrays = _golden(serve, tokenizer, with_text)
    if with_text:
        files["tokenizer.json"] = tokenizer.to_json().encode()
    files["golden.npz"] = arrays
    documents = {
        "labels": LABELS,
        "calibration": CALIBRATION if with_text else CALIBRATION | {"agreement": None},
        "golden": index,
        "metrics": {"test": {"gender": {"accuracy": 0.5}}},
    }
    return files | {f"{file}.json": json.dumps(document).encode() for file, document in documents.items()}


def _network(max_tokens: int, with_text: bool) -> tuple[Any, Any]:
    import tensorflow as tf

    rng = np.random.default_rng(7)
    width = DIMENSIONS[-1]

    def weight(*shape: int, scale: float = 1.0) -> Any:
        return tf.Variable(rng.normal(0.0, scale, shape).astype(np.float32))

    class Network(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.kernel, self.image_dense = weight(3, 3, 3, 8, scale=0.4), weight(8, width)
            self.table, self.text_dense = weight(VOCABULARY, 8), weight(8, width)
            self.head = weight(width, LOGITS_WIDTH)

        @tf.function(  # type: ignore[untyped-decorator]
            input_signature=[
                tf.TensorSpec([None, HEIGHT, WIDTH, 3], tf.uint8, name="image"),
                tf.TensorSpec([None, max_tokens], tf.int32, name="token_ids"),
                tf.TensorSpec([None], tf.bool, name="image_present"),
                tf.TensorSpec([None], tf.bool, name="text_present"),
            ]
        )
        def serve(self, image: Any, token_ids: Any, image_present: Any, text_present: Any) -> dict[str, Any]:
            pixels = tf.cast(image, tf.float32) / 127.5 - 1.0
            features = tf.nn.relu(tf.nn.conv2d(pixels, self.kernel, strides=2, padding="SAME"))
            photo = tf.linalg.matmul(tf.reduce_mean(features, [1, 2]), self.image_dense)
            known = tf.cast(token_ids > 0, tf.float32)[:, :, None]
            pooled = tf.reduce_sum(tf.gather(self.table, token_ids) * known, 1) / (tf.reduce_sum(known, 1) + 1e-3)
            title = tf.linalg.matmul(pooled, self.text_dense) if with_text else photo * 0.0
            both = photo * tf.cast(image_present, tf.float32)[:, None]
            both += title * tf.cast(text_present, tf.float32)[:, None]
            outputs = {}
            for name, value in (("fused", both), ("image", photo), ("text", title)):
                unit = value * tf.math.rsqrt(tf.reduce_sum(value * value, -1, keepdims=True) + 1e-9)
                outputs[f"{name}_embedding"] = unit
                outputs[f"{name}_logits"] = tf.linalg.matmul(unit, self.head)
            outputs["image_in_domain"] = tf.reduce_mean(photo, -1)
            outputs["text_in_domain"] = tf.reduce_mean(title, -1)
            return outputs

    network = Network()
    return network, network.serve


def _save(module: Any, serve: Any, folder: Path) -> None:
    import tensorflow as tf

    tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})


def _to_tflite(saved: Path) -> bytes:
    """Frozen first: a converter given variables writes a file without weights; given bare functions, without names."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    loaded = tf.saved_model.load(str(saved))  # kept: the variables live no longer than it
    signature = loaded.signatures["serving_default"]
    frozen = convert_variables_to_constants_v2(signature)
    names = sorted(signature.structured_outputs)
    specs = signature.structured_input_signature[1]
    inputs = [specs[tensor.name.split(":")[0]] for tensor in frozen.inputs]
    module = tf.Module()
    module.serve = tf.function(lambda *rows: dict(zip(names, frozen(*rows), strict=True)), input_signature=inputs)
    with tempfile.TemporaryDirectory() as scratch:
        _save(module, module.serve, Path(scratch))
        converter = tf.lite.TFLiteConverter.from_saved_model(scratch, signature_keys=["serving_default"])
        return bytes(converter.convert())


def _golden(serve: Any, tokenizer: TitleTokenizer, with_text: bool) -> tuple[dict[str, Any], bytes]:
    cases: list[dict[str, str | None]] = [
        {"name": "both", "photo": "photo_both", "title": TITLES[0]},
        {"name": "photo", "photo": "photo_photo", "title": None},
    ]
    if with_text:
        cases.append({"name": "title", "photo": None, "title": TITLES[1]})
    else:
        cases[0]["title"] = None
    count = len(cases)
    inputs: dict[str, NDArray[Any]] = {
        "image": np.zeros((count, HEIGHT, WIDTH, 3), np.uint8),
        "token_ids": np.zeros((count, MAX_TOKENS if with_text else 1), np.int32),
        "image_present": np.array([case["photo"] is not None for case in cases]),
        "text_present": np.array([case["title"] is not None for case in cases]),
    }
    arrays: dict[str, NDArray[Any]] = {}
    for index, case in enumerate(cases):
        if (photo := case["photo"]) is not None:
            encoded = jpeg(index)
            arrays[photo] = np.frombuffer(encoded, np.uint8)
            inputs["image"][index] = decode_photo(encoded, height=HEIGHT, width=WIDTH, max_pixels=10_000)
        if (title := case["title"]) is not None:
            inputs["token_ids"][index] = tokenizer.encode(title)
    arrays |= {f"input_{name}": rows for name, rows in inputs.items()}
    arrays |= {name: output.numpy() for name, output in serve(**inputs).items()}
    tolerance = {"min_cosine": 0.9999, "max_probability_gap": 0.01, "top1_margin": 0.05}
    buffer = io.BytesIO()
    # numpy's stub lets `allow_pickle` take part in the keywords
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return {
        "format_version": 1,
        "cases": cases,
        "tolerance": {"tensorflow": tolerance, "litert": tolerance},
    }, buffer.getvalue()
