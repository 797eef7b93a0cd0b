"""The documentation: local files alone, runnable examples, every error explained."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.api.docs import _MEDIA_TYPES, _STATIC
from app.errors import PROBLEMS
from tests.conftest import open_client

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("path", ["/docs", "/docs/errors"])
async def test_a_page_loads_nothing_from_elsewhere(client: httpx.AsyncClient, path: str) -> None:
    page = await client.get(path)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert links
    for link in links:
        assert "//" not in link
        assert (await client.get(httpx.URL(f"http://itemlens{path}").join(link))).status_code == 200
    assert not re.search(r"https?://", page.text)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    # The policy forbids inline scripts, so there must be none.
    assert not re.search(r"<script(?![^>]*src=)", page.text)
    assert not re.search(r"\son\w+=", page.text)


async def test_the_scripts_fetch_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    script = (await client.get("/docs/static/docs.js")).text
    assert not re.search(r"https?://", script)
    assert "validatorUrl: null" in script
    style = (await client.get("/docs/static/swagger-ui.css")).text
    assert not re.search(r"url\(['\"]?(?:https?:)?//", style)
    assert "@import" not in style


@pytest.mark.parametrize("name", sorted(_MEDIA_TYPES))
async def test_every_file_is_served_with_its_type(client: httpx.AsyncClient, name: str) -> None:
    response = await client.get(f"/docs/static/{name}")
    assert response.headers["content-type"].startswith(_MEDIA_TYPES[name])
    assert response.content == (_STATIC / name).read_bytes()


@pytest.mark.parametrize("name", ["nope.js", "..%2fdocs.py", "swagger-ui.LICENSE", "%2fetc%2fpasswd"])
async def test_no_other_file_is_served(client: httpx.AsyncClient, name: str) -> None:
    assert (await client.get(f"/docs/static/{name}")).status_code == 404


def test_the_vendored_files_come_with_their_licence() -> None:
    assert "Apache License" in (_STATIC / "swagger-ui.LICENSE").read_text("utf-8")
    assert (_STATIC / "swagger-ui.NOTICE").exists()
    assert (_STATIC / "swagger-ui-bundle.js.LICENSE.txt").exists()


async def test_every_problem_has_its_section(client: httpx.AsyncClient) -> None:
    page = (await client.get("/docs/errors")).text
    assert set(re.findall(r'<section id="(\w+)">', page)) == set(PROBLEMS)


def _request_examples(document: dict[str, Any]) -> list[tuple[str, str, Any]]:
    found = []
    for path, operations in document["paths"].items():
        for content_type, body in operations.get("post", {}).get("requestBody", {}).get("content", {}).items():
            examples = [entry["value"] for entry in body.get("examples", {}).values()]
            found += [(path, content_type, example) for example in [*examples, body.get("example")] if example]
    return found


async def test_every_request_example_runs(app: FastAPI) -> None:
    examples = _request_examples(app.openapi())
    assert {content_type for _, content_type, _ in examples} == {
        "application/json",
        "multipart/form-data",
        "application/x-ndjson",
    }
    async with open_client(app) as client:
        for path, content_type, example in examples:
            if content_type == "application/json":
                response = await client.post(path, json=example)
                assert all(result["status"] == "ok" for result in response.json()["results"]), response.text
            elif content_type == "multipart/form-data":
                response = await client.post(path, files={name: (None, value) for name, value in example.items()})
            else:
                response = await client.post(path, content=example, headers={"content-type": content_type})
                assert '"error"' not in response.text
            assert response.status_code == 200, response.text
