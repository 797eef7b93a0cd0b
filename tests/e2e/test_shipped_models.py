"""The models that the repository ships, asked over HTTP about real test items, as a shop would: right answers are counted.

Needs the data: `ITEMLENS_DATA` names a folder with `fashion/` and `mnist/`; without it, `../shared/data` beside the
repository is taken where it exists.
"""

from __future__ import annotations

import base64
import csv
import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.e2e.service import ROOT, Service

pytestmark = pytest.mark.data

ITEMS = 200
BATCH = 40
# Far from what the models reach (their cards), near enough that a wrong preprocessing or a swapped label cannot hide.
LEAST_RIGHT_DIGITS = 0.98
LEAST_RIGHT_WITH_TITLE = 0.93
LEAST_RIGHT_PHOTO_ONLY = 0.75

Item = dict[str, str]


def data_folder(name: str) -> Path:
    named = os.environ.get("ITEMLENS_DATA")
    folder = (Path(named) if named else ROOT.parent / "shared" / "data") / name
    if not folder.is_dir():
        pytest.skip(f"no {name} data: let ITEMLENS_DATA name the folder that holds {name}/")
    return folder


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


@pytest.fixture(scope="module")
def products() -> list[dict[str, str]]:
    """The test split's rows with their detailed photo, evenly spaced over the file, as columns of the CSV by name."""
    folder = data_folder("fashion")
    with zipfile.ZipFile(folder / "images_224.zip") as archive:
        detailed = set(archive.namelist())
    with (folder / "styles.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test" and row["productDisplayName"]]
    rows = [row for row in rows if f"images_224/{row['id']}.jpg" in detailed]
    assert len(rows) >= ITEMS
    return [rows[at] for at in np.linspace(0, len(rows) - 1, ITEMS).astype(int)]


def read_photos(products: Sequence[dict[str, str]], archive_name: str) -> list[bytes]:
    with zipfile.ZipFile(data_folder("fashion") / f"{archive_name}.zip") as archive:
        return [archive.read(f"{archive_name}/{row['id']}.jpg") for row in products]


def as_a_camera_writes_it(photo: bytes) -> bytes:
    """A 224x224 squashed photo in its own 3:4 shape again, at 1080x1440."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(photo)) as squashed:
        squashed.resize((1080, 1440), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def ask(service: Service, model: str, items: Sequence[Item]) -> list[dict[str, Any]]:
    served = [entry["name"] for entry in service.client.get("/v1/models").json()["models"]]
    if model not in served:
        pytest.skip(f"models/{model} is not shipped yet")
    results: list[dict[str, Any]] = []
    for start in range(0, len(items), BATCH):
        response = service.post("/v1/classify", {"items": items[start : start + BATCH], "model": model, "top_k": 1})
        assert response.status_code == 200, response.text
        results += response.json()["results"]
    assert all(result["status"] == "ok" for result in results)
    assert [result["id"] for result in results] == [item["id"] for item in items]
    return results


def share_right(results: Sequence[dict[str, Any]], attribute: str, labels: Sequence[str]) -> float:
    given = [result["attributes"][attribute]["label"] for result in results]
    return float(np.mean([label == right for label, right in zip(given, labels, strict=True)]))


def test_digits(shipped_service: Service) -> None:
    with np.load(data_folder("mnist") / "mnist.npz") as arrays:
        digits, labels = arrays["x_test"][:ITEMS], [str(label) for label in arrays["y_test"][:ITEMS]]
    items = []
    for number, digit in enumerate(digits):
        buffer = io.BytesIO()
        Image.fromarray(digit).save(buffer, "PNG")
        items.append({"id": f"digit-{number}", "image": in_base64(buffer.getvalue())})
    right = share_right(ask(shipped_service, "mnist", items), "digit", labels)
    assert right >= LEAST_RIGHT_DIGITS


@pytest.fixture(scope="module")
def big_photos(products: list[dict[str, str]]) -> list[bytes]:
    """Of every second product."""
    return [as_a_camera_writes_it(photo) for photo in read_photos(products[::2], "images_224")]


def share_of_right_types(
    service: Service, products: Sequence[dict[str, str]], photos: Sequence[bytes] | None, *, titles: bool
) -> float:
    items: list[Item] = [{"id": row["id"]} for row in products]
    if photos is not None:
        for item, photo in zip(items, photos, strict=True):
            item["image"] = in_base64(photo)
    if titles:
        for item, row in zip(items, products, strict=True):
            item["text"] = row["productDisplayName"]
    results = ask(service, "fashion", items)
    inputs = [name for name, there in (("image", photos is not None), ("text", titles)) if there]
    # A title that contradicts its photo is left out; of a catalogue's own that may happen to one in hundreds.
    assert sum(result["inputs"] == inputs for result in results) >= 0.99 * len(results)
    return share_right(results, "articleType", [row["articleType"] for row in products])


@pytest.mark.parametrize(("titles", "least_right"), [(True, LEAST_RIGHT_WITH_TITLE), (False, LEAST_RIGHT_PHOTO_ONLY)])
def test_products_by_photo(shipped_service: Service, products: list[dict[str, str]], titles: bool, least_right: float) -> None:
    photos = read_photos(products, "images")
    assert share_of_right_types(shipped_service, products, photos, titles=titles) >= least_right


def test_products_by_title(shipped_service: Service, products: list[dict[str, str]]) -> None:
    assert share_of_right_types(shipped_service, products, None, titles=True) >= LEAST_RIGHT_WITH_TITLE


@pytest.mark.parametrize(("titles", "least_right"), [(True, LEAST_RIGHT_WITH_TITLE), (False, LEAST_RIGHT_PHOTO_ONLY)])
def test_products_by_big_photo(
    shipped_service: Service, products: list[dict[str, str]], big_photos: list[bytes], titles: bool, least_right: float
) -> None:
    assert share_of_right_types(shipped_service, products[::2], big_photos, titles=titles) >= least_right
