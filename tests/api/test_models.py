"""`GET /v1/models` and `GET /v1/models/{name}`."""

from __future__ import annotations

import httpx
import pytest

from app.api.models import ModelDescriptionAnswer

pytestmark = pytest.mark.anyio


async def test_models_are_listed_with_what_a_client_needs(client: httpx.AsyncClient) -> None:
    models = (await client.get("/v1/models")).json()["models"]
    assert [model["name"] for model in models] == ["fashion", "mnist"]
    fashion = models[0]
    ModelDescriptionAnswer.model_validate(fashion)
    assert fashion["versions"] == [
        {"version": "1", "state": "ready", "is_default": True},
        {"version": "2", "state": "refused", "is_default": False, "reason": "wrong hash of labels.json"},
    ]
    assert fashion["attributes"]["titleLength"] == ["long", "short"]
    assert fashion["hierarchy"]["paths"] == [["long", "Red"], ["short", "Blue"]]
    assert fashion["dimensions"] == [8, 16]
    assert "hierarchy" not in models[1]


async def test_one_model_is_the_lists_entry(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()["models"][1]
    assert (await client.get("/v1/models/mnist")).json() == listed


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/fashion", "/v1/models/mnist"])
async def test_head_says_how_long_the_answer_to_get_is(client: httpx.AsyncClient, path: str) -> None:
    get, head = await client.get(path), await client.head(path)
    assert head.headers["content-length"] == get.headers["content-length"] == str(len(get.content))


@pytest.mark.parametrize("name", ["nope", "%2e%2e", "a%00b", "é", "x" * 5000])
async def test_an_unknown_model_is_404(client: httpx.AsyncClient, name: str) -> None:
    response = await client.get(f"/v1/models/{name}")
    assert (response.status_code, response.json()["code"]) == (404, "unknown_model")
    assert "errors" not in response.json()
