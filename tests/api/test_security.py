"""API keys, and that nothing of a request's content leaves by another door."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from app.api_keys import ApiKeys
from app.main import create_app
from app.security import sent_key
from app.settings import Settings
from tests.conftest import FakeEngine, draw_photo, in_base64, open_client

pytestmark = pytest.mark.anyio

ONE = {"items": [{"text": "red"}]}
KEY = "k3y-CANARY-KEY"


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture
async def guarded(engine: FakeEngine, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    keys = tmp_path / "keys"
    keys.write_text(f"# storefront\n{digest('from-file').upper()}  # 2026\n\n")
    settings = Settings.model_validate({"api_keys_sha256": f"{digest(KEY)}, {digest('second')}", "api_keys_file": keys})
    async with open_client(create_app(settings, engine=engine)) as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": KEY},
        {"X-API-Key": "second"},
        {"X-API-Key": "from-file"},
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer  {KEY}"},
    ],
)
async def test_an_allowed_key_is_let_in(guarded: httpx.AsyncClient, headers: dict[str, str]) -> None:
    assert (await guarded.post("/v1/classify", json=ONE, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": KEY + "x"},
        {"X-API-Key": digest(KEY)},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": "Bearer"},
        {"Authorization": KEY},
        {"X-API-Key": "wrong", "Authorization": f"Bearer {KEY}"},
    ],
)
async def test_anything_else_is_401_before_the_body_is_read(guarded: httpx.AsyncClient, headers: dict[str, str]) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        read += 1
        yield b"{}"

    response = await guarded.post("/v1/classify", content=body(), headers=headers)
    assert (response.status_code, response.json()["code"]) == (401, "unauthorized")
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert read == 0
    assert KEY not in response.text


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/fashion", "/nothing", "/health", "/docsx"])
async def test_every_other_path_needs_a_key(guarded: httpx.AsyncClient, path: str) -> None:
    assert (await guarded.get(path)).status_code == 401


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/docs", "/docs/errors", "/openapi.json"])
async def test_probes_metrics_and_documentation_are_open(guarded: httpx.AsyncClient, path: str) -> None:
    assert (await guarded.get(path)).status_code == 200


async def test_metrics_can_be_closed_and_documentation_switched_off(engine: FakeEngine) -> None:
    settings = Settings(api_keys_sha256=(digest(KEY),), metrics_require_key=True, docs_enabled=False)
    async with open_client(create_app(settings, engine=engine)) as client:
        assert (await client.get("/metrics")).status_code == 401
        assert (await client.get("/metrics", headers={"X-API-Key": KEY})).status_code == 200
        assert (await client.get("/docs")).status_code == 404
        assert (await client.get("/openapi.json")).status_code == 404


async def test_without_keys_the_service_is_open(client: httpx.AsyncClient) -> None:
    assert (await client.post("/v1/classify", json=ONE)).status_code == 200


def test_every_digest_is_compared_whatever_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append(right)
        return left == right

    monkeypatch.setattr("hmac.compare_digest", compare)
    keys = ApiKeys(digest(key) for key in "abc")
    assert keys.match(b"a") == hashlib.sha256(b"a").digest()
    assert keys.match(b"d") is None
    assert len(compared) == 6


def test_the_header_of_its_own_wins_over_authorization() -> None:
    assert sent_key({b"x-api-key": b"a", b"authorization": b"Bearer b"}) == b"a"


async def test_nothing_of_a_requests_content_reaches_logs_metrics_errors_or_disk(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    settings = Settings(api_keys_sha256=(digest(KEY),), log_level="debug", log_format="json", max_body_bytes=200_000)
    photo = draw_photo() + b"CANARY-EXIF"
    title = "CANARY-TITLE"
    answers = []
    async with open_client(create_app(settings, engine=FakeEngine())) as client:
        client.headers["X-API-Key"] = KEY
        bodies: list[object] = [
            {"items": [{"text": title, "image": in_base64(photo)}]},
            {"items": [{"text": title, title: title}]},
            {"items": [{"text": [title]}, {"image": title}, {"id": title + " !", "text": "a"}]},
            {"items": [{"text": title * 50}]},
            {"items": title, "model": title, "top_k": title, title + " x": 1},
            {"items": [{"text": "a", "CANARY_NAME": 1}], "CANARY_NAME": 1},
            {"items": [{"image_url": f"https://{title}/"}]},
            [title],
        ]
        for path in ("/v1/classify", "/v1/embed"):
            for body in bodies:
                answers.append(await client.post(path, json=body))
            answers.append(
                await client.post(path, content=f'{{"{title}'.encode(), headers={"content-type": "application/json"})
            )
            answers.append(await client.post(path, content=title.encode(), headers={"content-type": title}))
            answers.append(
                await client.post(
                    path, files={"image": (f"{title}.png", photo)}, data={"text": title, "x": title, "CANARY_NAME": "1"}
                )
            )
            answers.append(await client.post(path, files={"image": (f"{title}.png", photo[:60])}))
            answers.append(await client.post(f"{path}?model={title}&{title}=1", json={"items": []}))
            answers.append(await client.post(path, content=b"x" * 300_000, headers={"content-type": "application/json"}))
            ndjson = {"content-type": "application/x-ndjson"}
            lines = f'{{"text": "{title}"}}\n{{"text": {title}}}\n'.encode()
            answers.append(await client.post(path, content=lines, headers=ndjson))
            answers.append(await client.post(f"{path}?{title}={title}&CANARY_NAME=1", content=lines, headers=ndjson))
        answers.append(await client.get(f"/{title}"))
        answers.append(await client.get(f"/v1/models/{title}"))
        answers.append(await client.get("/v1/models", headers={"X-API-Key": "CANARY-WRONG", "X-Request-ID": f"{title} !"}))
        exposed = (await client.get("/metrics")).text
    for answer in answers:
        assert "CANARY" not in answer.text
        assert "CANARY" not in str(answer.headers)
    captured = capsys.readouterr()
    assert "CANARY" not in exposed
    assert "CANARY" not in captured.out + captured.err
    assert '"event":"request"' in captured.out
    assert list(tmp_path.iterdir()) == []
