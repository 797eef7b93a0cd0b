"""`POST /v1/embed`."""

from __future__ import annotations

import base64
import struct
from typing import Any

import httpx
import pytest

from app.api.answers import EmbedResponse
from tests.conftest import SPACE_ID, draw_photo, in_base64

pytestmark = pytest.mark.anyio


async def embed(client: httpx.AsyncClient, *items: Any, **options: Any) -> httpx.Response:
    return await client.post("/v1/embed", json={"items": list(items), **options})


async def test_an_embedding_is_answered_as_documented(client: httpx.AsyncClient) -> None:
    response = await embed(client, {"id": "sku-1", "image": in_base64(draw_photo()), "text": "red"})
    EmbedResponse.model_validate_json(response.content)
    body = response.json()
    assert (body["model"]["name"], body["space_id"], body["dimensions"]) == ("fashion", SPACE_ID, 16)
    vector = body["results"][0]["embedding"]
    assert len(vector) == 16
    assert sum(x * x for x in vector) == pytest.approx(1, abs=1e-5)


async def test_base64_carries_exactly_the_same_float32(client: httpx.AsyncClient) -> None:
    as_floats = (await embed(client, {"text": "red"})).json()["results"][0]["embedding"]
    as_text = (await embed(client, {"text": "red"}, encoding="base64")).json()["results"][0]["embedding"]
    raw = base64.b64decode(as_text, validate=True)
    assert list(struct.unpack(f"<{len(raw) // 4}f", raw)) == as_floats


async def test_modality_and_dimensions_reach_the_engine(client: httpx.AsyncClient) -> None:
    item = {"image": in_base64(draw_photo()), "text": "red"}
    body = (await embed(client, item, modality="text", dimensions=8)).json()
    assert body["dimensions"] == len(body["results"][0]["embedding"]) == 8
    assert body["results"][0]["inputs"] == ["text"]


async def test_the_space_of_the_clients_index_is_served_and_another_is_409(client: httpx.AsyncClient) -> None:
    assert (await embed(client, {"text": "red"}, space=SPACE_ID)).status_code == 200
    response = await embed(client, {"text": "red"}, space="fashion-old")
    assert (response.status_code, response.json()["code"]) == (409, "space_conflict")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"dimensions": 9}, "unknown_dimensions"),
        ({"dimensions": 0}, "invalid_request"),
        ({"modality": "audio"}, "invalid_request"),
        ({"modality": "text", "model": "mnist"}, "input_not_supported"),
        ({"encoding": "hex"}, "invalid_request"),
        ({"top_k": 3}, "invalid_request"),
    ],
)
async def test_a_bad_option_is_422(client: httpx.AsyncClient, options: dict[str, Any], code: str) -> None:
    response = await embed(client, {"text": "red"}, **options)
    assert (response.status_code, response.json()["code"]) == (422, code)


async def test_one_bad_item_fails_alone(client: httpx.AsyncClient) -> None:
    results = (await embed(client, {"image": in_base64(b"text")}, {"text": "red"})).json()["results"]
    assert [result["status"] for result in results] == ["error", "ok"]
