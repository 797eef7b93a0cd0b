"""A model bundle on disk: verified first, parsed second (models/README.md).

Owns the checks of `models/<name>/<version>/`: hashes before any parser sees a byte of a model file, then the JSON files
against their schemas and against each other. Refuses to know runtimes, batching and what the numbers mean. Nothing is
unpickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from app.engine.bundle_schema import Calibration, GoldenIndex, Labels, Manifest, Quality
from app.engine.errors import BundleError
from app.engine.images import IMAGE_PREPROCESSING_VERSION
from app.engine.runtimes.base import ModelSpec
from app.engine.text import TEXT_PREPROCESSING_VERSION

MANIFEST = "manifest.json"
MANIFEST_HASH = "manifest.sha256"
_REQUIRED = ("labels.json", "calibration.json", "golden.json", "golden.npz")
_RUNTIME_FILE = {"tensorflow": "saved_model.pb", "litert": "model.tflite"}
_EXECUTABLE_SUFFIXES = (".h5", ".hdf5", ".keras", ".pkl", ".pickle", ".joblib", ".pt", ".pth")
"""Nothing of the service reads them; whoever finds one in a bundle might."""
# Largest tables of labels are kilobytes; what is read into memory whole stays bounded.
_MAX_JSON_BYTES = 32 * 1024 * 1024
_MAX_REASON_CHARS = 500
# A model without an image branch still has the input; see models/README.md.
_NO_IMAGE_SIDE = 8
_NO_TEXT_TOKENS = 1

SchemaT = TypeVar("SchemaT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle. `labels_json` and `calibration_json` are the parsed files, `digest` the SHA-256 of the
    manifest, which stands for every byte of the bundle."""

    path: Path
    digest: str
    manifest: Manifest
    labels: Labels
    labels_json: Mapping[str, Any]
    calibration_json: Mapping[str, Any]
    golden: GoldenIndex
    tokenizer_json: bytes | None = field(repr=False)
    quality: Mapping[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> str:
        return str(self.manifest.version)

    def golden_arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of `golden.npz`, read (and hashed) again: they are needed once, at start-up."""
        data = _read_verified(self.path, "golden.npz", self.manifest)
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            _refuse(self.path, "golden.npz is not a plain numpy archive", error)

    def spec(self) -> ModelSpec:
        """The signature's shapes."""
        image, text = self.manifest.inputs.image, self.manifest.inputs.text
        return ModelSpec(
            folder=self.path,
            image_height=image.height if image else _NO_IMAGE_SIDE,
            image_width=image.width if image else _NO_IMAGE_SIDE,
            max_tokens=text.max_tokens if text else _NO_TEXT_TOKENS,
            logits_width=self.manifest.logits_width,
            embedding_width=self.manifest.dimensions[-1],
            batch_buckets=tuple(self.manifest.batch_buckets),
        )


def load_bundle(path: Path) -> Bundle:
    """Verify and read the bundle in `path`, a folder `<name>/<version>`.

    Raises BundleError, one line naming the folder and the reason: a missing, unlisted, changed or linked file, a path
    that leaves the folder, an unknown format, other preprocessing code, or a JSON file that does not fit.
    """
    manifest_bytes = _read_manifest(path)
    manifest = _parse(path, MANIFEST, manifest_bytes, Manifest)
    _verify_files(path, manifest)
    _verify_identity(path, manifest)
    read = {name: _read_verified(path, name, manifest) for name in _REQUIRED if name.endswith(".json")}
    labels = _parse(path, "labels.json", read["labels.json"], Labels)
    if labels.logits_width != manifest.logits_width:
        _refuse(path, f"labels.json covers {labels.logits_width} logits, manifest.json says {manifest.logits_width}")
    calibration = _parse(path, "calibration.json", read["calibration.json"], Calibration)
    golden = _parse(path, "golden.json", read["golden.json"], GoldenIndex)
    for runtime in manifest.runtimes:
        if runtime not in golden.tolerance:
            _refuse(path, f"golden.json has no tolerance for {runtime}")
    has_text, quality = "tokenizer.json" in manifest.files, Quality({})
    if "metrics.json" in manifest.files:
        quality = _parse(path, "metrics.json", _read_verified(path, "metrics.json", manifest), Quality)
    return Bundle(
        path=path,
        digest=hashlib.sha256(manifest_bytes).hexdigest(),
        manifest=manifest,
        labels=labels,
        labels_json=labels.model_dump(mode="json"),
        calibration_json=calibration.model_dump(mode="json"),
        golden=golden,
        tokenizer_json=_read_verified(path, "tokenizer.json", manifest) if has_text else None,
        quality=quality.root,
    )


def _read_manifest(path: Path) -> bytes:
    for name in (MANIFEST, MANIFEST_HASH):
        if (path / name).is_symlink() or not (path / name).is_file():
            _refuse(path, f"{name} is missing or not a plain file")
    data = _read(path, MANIFEST)
    digest = hashlib.sha256(data).hexdigest().encode()
    # As `sha256sum` writes it, in text or binary mode, and not a byte otherwise.
    if re.fullmatch(rb"%b [ *]%b\r?\n" % (digest, re.escape(MANIFEST.encode())), _read(path, MANIFEST_HASH)) is None:
        _refuse(path, f"{MANIFEST} does not have the hash in {MANIFEST_HASH}; copy the bundle again")
    return data


def _verify_files(path: Path, manifest: Manifest) -> None:
    for name in manifest.files:
        if name in (MANIFEST, MANIFEST_HASH) or any(part in ("", ".", "..") for part in name.split("/")) or "\\" in name:
            _refuse(path, "manifest.json lists a path that is not inside the bundle")
    for name in manifest.files:
        if name.lower().endswith(_EXECUTABLE_SUFFIXES):
            _refuse(path, f"{name} is of a kind that can run code when it is read; export the model again without it")
    found = set(_walk(path)) - {MANIFEST, MANIFEST_HASH}
    for name in sorted(found - set(manifest.files)):
        _refuse(path, f"{name} is not listed in manifest.json; remove it")
    for name in sorted(set(manifest.files) - found):
        _refuse(path, f"{name} is missing; copy the bundle again")
    for name, entry in manifest.files.items():
        if (path / name).stat().st_size != entry.bytes:
            _refuse(path, f"{name} does not have the size in manifest.json; copy the bundle again")
        with (path / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
                _refuse(path, f"{name} does not have the hash in manifest.json; copy the bundle again")
    required = [*_REQUIRED, *(_RUNTIME_FILE[runtime] for runtime in manifest.runtimes)]
    for name in required:
        if name not in manifest.files:
            _refuse(path, f"{name} is missing from manifest.json; export the model again")
    if ("tokenizer.json" in manifest.files) != (manifest.inputs.text is not None):
        _refuse(path, "tokenizer.json must be there exactly when inputs.text is")


def _verify_identity(path: Path, manifest: Manifest) -> None:
    if (manifest.name, str(manifest.version)) != (path.parent.name, path.name):
        _refuse(path, f"manifest.json says {manifest.name}/{manifest.version}; move it to the folder of that name")
    ours = {"image": IMAGE_PREPROCESSING_VERSION, "text": TEXT_PREPROCESSING_VERSION}
    theirs = manifest.preprocessing.model_dump()
    for modality in ("image", "text"):
        if getattr(manifest.inputs, modality) is not None and theirs[modality] != ours[modality]:
            _refuse(
                path,
                f"trained with {modality} preprocessing {theirs[modality]}, this service has {ours[modality]}; "
                "train and export the model again",
            )


def _walk(path: Path) -> Iterator[str]:
    """Every file below `path`, relative, with `/`. Refuses whatever is neither a plain file nor a folder."""
    for folder, folders, files in os.walk(path, followlinks=False):
        for entry in (Path(folder, name) for name in (*folders, *files)):
            mode = entry.lstat().st_mode
            name = entry.relative_to(path).as_posix()
            if stat.S_ISREG(mode):
                yield name
            elif not stat.S_ISDIR(mode):
                _refuse(path, f"{name} is a link or no plain file")


def _read(path: Path, name: str) -> bytes:
    try:
        if (path / name).stat().st_size > _MAX_JSON_BYTES:
            _refuse(path, f"{name} has more than {_MAX_JSON_BYTES} bytes")
        return (path / name).read_bytes()
    except OSError as error:
        _refuse(path, f"{name} cannot be read", error)


def _read_verified(path: Path, name: str, manifest: Manifest) -> bytes:
    """The bytes that are parsed are the bytes that were hashed, even if the file changes in between."""
    data = _read(path, name)
    if hashlib.sha256(data).hexdigest() != manifest.files[name].sha256:
        _refuse(path, f"{name} does not have the hash in manifest.json; copy the bundle again")
    return data


def _json(path: Path, name: str, data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        _refuse(path, f"{name} is not JSON", error)


def _parse(path: Path, name: str, data: bytes, schema: type[SchemaT]) -> SchemaT:
    if name == MANIFEST:
        document = _json(path, name, data)
        version = document.get("format_version") if isinstance(document, dict) else None
        if version != 1:
            _refuse(path, f"bundle format {version!r} is unknown; this service reads format 1")
    try:
        return schema.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the document"
        _refuse(path, f"{name}: {place}: {first['msg']}", error)


def _refuse(path: Path, reason: str, cause: Exception | None = None) -> NoReturn:
    # Names of files and words of a manifest are anybody's; the reason goes into logs, messages and answers.
    line = f"{path.parent.name}/{path.name}: {reason}".encode("utf-8", "backslashreplace").decode()
    raise BundleError(line if len(line) <= _MAX_REASON_CHARS else line[:_MAX_REASON_CHARS] + "...") from cause
