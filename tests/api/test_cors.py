"""Pages of other origins: nothing by default, and no more than the list says."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from pydantic import ValidationError

from app.main import create_app
from app.settings import Settings
from tests.conftest import FakeEngine, open_client

pytestmark = pytest.mark.anyio

ORIGIN = "https://admin.example.com"
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "content-type,x-api-key",
}
ONE = {"items": [{"text": "red"}]}


@pytest.fixture
async def allowing(engine: FakeEngine) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings.model_validate({"cors_origins": f"{ORIGIN}, http://localhost:3000", "api_keys_sha256": "a" * 64})
    async with open_client(create_app(settings, engine=engine)) as client:
        yield client


async def test_a_preflight_is_answered_without_a_key(allowing: httpx.AsyncClient) -> None:
    response = await allowing.options("/v1/classify", headers=PREFLIGHT)
    assert response.status_code == 204
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in response.headers["access-control-allow-methods"]
    assert {"content-type", "x-api-key"} <= set(response.headers["access-control-allow-headers"].lower().split(", "))
    assert "access-control-allow-credentials" not in response.headers
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_answers_and_refusals_can_be_read_by_listed_origins_alone(allowing: httpx.AsyncClient) -> None:
    for origin in (ORIGIN, "http://localhost:3000"):
        response = await allowing.post("/v1/classify", json=ONE, headers={"Origin": origin})
        assert response.status_code == 401  # the key is still needed, and its lack can be read
        assert response.headers["access-control-allow-origin"] == origin
        assert response.headers["vary"] == "Origin"
        assert "Retry-After" in response.headers["access-control-expose-headers"]
    for origin in ("https://evil.example.com", "https://admin.example.com.evil.com", "http://admin.example.com", "null"):
        for response in (
            await allowing.get("/health/live", headers={"Origin": origin}),
            await allowing.options("/v1/classify", headers=PREFLIGHT | {"Origin": origin}),
        ):
            assert not [name for name in response.headers if name.startswith("access-control")]


async def test_nothing_is_allowed_by_default(client: httpx.AsyncClient) -> None:
    for response in (
        await client.options("/v1/classify", headers=PREFLIGHT),
        await client.post("/v1/classify", json=ONE, headers={"Origin": ORIGIN}),
    ):
        assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("origin", ["*", "admin.example.com", "https://admin.example.com/", "https://a/b", "ftp://a", "null"])
async def test_what_is_no_origin_is_refused_at_the_start(origin: str) -> None:
    with pytest.raises(ValidationError, match="each must be scheme, host"):
        Settings.model_validate({"cors_origins": origin})
