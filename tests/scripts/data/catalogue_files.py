"""Small real catalogues on disk: photos of one colour, tables around them."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from scripts.config import CatalogueConfig, NetworkConfig, PhotoSource, RunConfig
from scripts.data.catalogue import Catalogue, load_catalogue

HEADER = ["id", "category", "title"]


def photo_bytes(shade: int, *, size: tuple[int, int] = (30, 40), kind: str = "PNG") -> bytes:
    """A photo (width, height) of the one grey `shade`."""
    file = BytesIO()
    Image.new("RGB", size, (shade, shade, shade)).save(file, kind)
    return file.getvalue()


def write_photos(folder: Path, shades: Mapping[str, int]) -> Path:
    for name, shade in shades.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo_bytes(shade))
    return folder


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_csv(path: Path, rows: Sequence[Sequence[object]], header: Sequence[str] = HEADER) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def table_config(path: Path, *photos: Path, network: NetworkConfig | None = None, **catalogue: Any) -> RunConfig:
    """A config for `id,category,title` with photos by id, 8 high and 6 wide."""
    base = CatalogueConfig(
        path=path,
        image_column="id" if photos else None,
        photos=tuple(PhotoSource(photo) for photo in photos),
        text_column="title",
        label_columns=("category",),
    )
    return RunConfig("shop", replace(base, **catalogue), network or NetworkConfig(image_height=8, image_width=6))


def load(config: RunConfig, tmp_path: Path, *, limit: int | None = None) -> Catalogue:
    return load_catalogue(config, cache_dir=tmp_path / "cache", limit=limit)
