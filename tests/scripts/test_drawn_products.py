"""The sample pictures are photos as shops have them, and always the same."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.engine.images import decode_photo
from scripts.drawn_products import draw_digits, draw_products, main


def test_products_are_distinct_jpegs_on_white_with_titles() -> None:
    products = draw_products()
    photos = [decode_photo(p.encoded, height=80, width=60, max_pixels=10**6) for p in products]
    for product, photo in zip(products, photos, strict=True):
        assert Image.open(io.BytesIO(product.encoded)).format == "JPEG"
        assert product.title
        assert (photo[0] > 245).all(), "white above"
        assert (photo < 200).any(axis=-1).mean() > 0.05, "something is there"
    assert len({photo.tobytes() for photo in photos}) == len(photos)
    assert len({product.name for product in products}) == len(products)


def test_drawing_twice_gives_the_same_bytes() -> None:
    assert draw_products() == draw_products()
    assert draw_digits() == draw_digits()


def test_digits_are_white_on_black_and_centred() -> None:
    digits = draw_digits()
    assert [digit.name for digit in digits] == [f"digit-{n}" for n in range(10)]
    for digit in digits:
        photo = decode_photo(digit.encoded, height=28, width=28, max_pixels=10**6)[..., 0]
        assert photo[0].max() == 0
        assert photo.max() > 200
        rows, columns = np.flatnonzero(photo.max(axis=1) > 128), np.flatnonzero(photo.max(axis=0) > 128)
        assert abs(rows[0] + rows[-1] - 27) <= 3
        assert abs(columns[0] + columns[-1] - 27) <= 3


def test_the_command_writes_every_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["drawn_products", str(tmp_path / "samples")])
    assert main() == 0
    written = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert "grey-tshirt.jpg" in written
    assert "digit-7.png" in written
    assert len(written) == len(draw_products()) + 10
    assert f"{len(written)} pictures" in capsys.readouterr().out
