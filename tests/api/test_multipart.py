"""Forms: what `curl -F` sends."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.api.multipart import parse_multipart
from app.errors import ProblemError
from app.settings import Settings
from tests.conftest import FakeEngine, draw_photo

pytestmark = pytest.mark.anyio

PHOTO = ("shoe.png", draw_photo("blue"), "image/png")
BOUNDARY = "multipart/form-data; boundary=XX"


async def test_photo_title_and_options_of_one_item(client: httpx.AsyncClient) -> None:
    response = await client.post(
        "/v1/classify",
        files={"image": PHOTO},
        data={"text": "Nike running shoe", "id": "sku-1", "attributes": ["baseColour"], "top_k": "2", "model": "fashion"},
    )
    assert response.status_code == 200, response.text
    (result,) = response.json()["results"]
    assert (result["id"], result["inputs"]) == ("sku-1", ["image", "text"])
    assert result["attributes"]["baseColour"]["label"] == "Blue"
    assert len(result["attributes"]["baseColour"]["candidates"]) == 2
    assert list(result["attributes"]) == ["baseColour"]


async def test_a_form_and_json_give_the_same_answer(client: httpx.AsyncClient) -> None:
    form = await client.post("/v1/embed", files={"text": (None, "Nike running shoe"), "dimensions": (None, "8")})
    as_json = await client.post("/v1/embed", json={"items": [{"text": "Nike running shoe"}], "dimensions": 8})
    assert form.json() == as_json.json()


async def test_untouched_form_fields_are_absent(client: httpx.AsyncClient) -> None:
    response = await client.post(
        "/v1/classify", files={"image": ("", b""), "text": (None, "red"), "version": (None, ""), "id": (None, "")}
    )
    assert response.status_code == 200, response.text
    assert response.json()["results"][0]["inputs"] == ["text"]


@pytest.mark.parametrize("encoding", [b"8bit", b"8bit ", b" \t7bit\t", b"Binary"])
def test_white_space_is_no_part_of_a_transfer_encoding(encoding: bytes) -> None:
    head = b'--XX\r\nContent-Disposition: form-data; name="text"\r\nContent-Transfer-Encoding: ' + encoding
    [part] = parse_multipart(head + b"\r\n\r\nred\r\n--XX--\r\n", BOUNDARY.encode())
    assert part.content == b"red"


async def test_a_large_photo_stays_off_the_disk(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a temporary file was opened")

    monkeypatch.setattr("tempfile.SpooledTemporaryFile.rollover", refuse)
    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    padded = draw_photo() + bytes(5_000_000)
    response = await client.post("/v1/classify", files={"image": ("a.png", padded)})
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("files", "status", "code", "pointer"),
    [
        ([("image", PHOTO), ("image", PHOTO)], 422, "invalid_request", "/image"),
        ([("text", (None, "a")), ("text", (None, "b"))], 422, "invalid_request", "/text"),
        ([("text", (None, "a")), ("top_k", (None, "1")), ("top_k", (None, "2"))], 422, "invalid_request", "/top_k"),
        ([("text", (None, "a")), ("top_k", (None, "many"))], 422, "invalid_request", "/top_k"),
        ([("text", (None, "a")), ("precision", (None, "nan"))], 422, "invalid_request", "/precision"),
        ([("text", (None, "a")), ("colour", (None, "red"))], 422, "invalid_request", ""),
        ([("text", (None, "a")), ("id", (None, "no spaces"))], 422, "invalid_item", "/id"),
        ([("text", (None, b"\xff"))], 422, "invalid_request", "/text"),
        ([("image_url", (None, "https://example.org/a.jpg"))], 422, "image_url_not_allowed", "/image_url"),
        ([("id", (None, "sku"))], 422, "empty_item", None),
        ([("image", ("a.txt", b"plain"))], 415, "unsupported_image_type", "/image"),
    ],
)
async def test_a_bad_form_is_refused_with_its_field(
    client: httpx.AsyncClient, files: Any, status: int, code: str, pointer: str | None
) -> None:
    response = await client.post("/v1/classify", files=files)
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    if pointer is not None:
        assert response.json()["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--XX\r\n"),
        (BOUNDARY, b""),
        (BOUNDARY, b"no boundary at all"),
        (BOUNDARY, b'--XX\r\nContent-Disposition: form-data; name="text"\r\n\r\nred'),
        (BOUNDARY, b"--XX\r\nContent-Disposition: form-data\r\n\r\nred\r\n--XX--\r\n"),
        (BOUNDARY, b"--XX\r\n\r\nred\r\n--XX--\r\n"),
        (BOUNDARY, b'--XX\r\nContent-Disposition: form-data; name="\xff"\r\n\r\nred\r\n--XX--\r\n'),
        (BOUNDARY, b"--XX\r\n" + b"A: b\r\n" * 50 + b"\r\nred\r\n--XX--\r\n"),
        (BOUNDARY, b'--XX\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n' * 300 + b"--XX--\r\n"),
        (
            BOUNDARY,
            b'--XX\r\nContent-Disposition: form-data; name="image"\r\nContent-Transfer-Encoding: base64\r\n\r\nx\r\n--XX--\r\n',
        ),
        (f"multipart/form-data; boundary={'X' * 1000}", b"--XX\r\n"),
    ],
)
async def test_a_broken_form_is_400(client: httpx.AsyncClient, content_type: str, body: bytes) -> None:
    response = await client.post("/v1/classify", content=body, headers={"content-type": content_type})
    assert (response.status_code, response.json()["code"]) == (400, "malformed_multipart"), response.text


@pytest.mark.parametrize(
    "before", [b"", b"\r\n", b"\n", b"\r\n\n", b"A form.\r\n", b"A form.\n", b"--xy\r\n", b"x--x\r\nA form --x--\r\n\r\n"]
)
def test_what_stands_before_the_first_boundary_is_ignored(before: bytes) -> None:
    fields = {"text": b"Blue Jeans", "top_k": b"3"}
    parts = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), value)
        for name, value in fields.items()
    )
    found = parse_multipart(before + parts + b"--x--\r\n", b"multipart/form-data; boundary=x")
    assert {part.name: part.content for part in found} == fields


def test_a_field_without_a_boundary_before_it_is_no_preamble_of_the_next() -> None:
    lost = b'Content-Disposition: form-data; name="image"\r\n\r\nx\r\n'
    form = lost + b'--x\r\nContent-Disposition: form-data; name="text"\r\n\r\nred\r\n--x--\r\n'
    with pytest.raises(ProblemError) as refused:
        parse_multipart(form, b"multipart/form-data; boundary=x")
    assert "no boundary before it" in refused.value.detail


async def test_the_bodys_limit_holds_for_forms(engine: FakeEngine) -> None:
    from app.main import create_app
    from tests.conftest import open_client

    app: FastAPI = create_app(Settings(max_body_bytes=2048), engine=engine)
    async with open_client(app) as client:
        response = await client.post("/v1/classify", files={"image": ("a.png", bytes(4096))})
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")
