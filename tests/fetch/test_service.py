"""`image_url` through the API: what is answered, what is refused, and what nobody ever hears of."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.engine.engine import open_engine
from app.engine.settings import EngineSettings
from app.main import create_app
from app.settings import Settings, SettingsError, load_settings
from tests.conftest import FakeEngine, draw_photo, in_base64, open_client
from tests.fetch.photo_host import HOST, Connected, Network, PhotoHost, ok

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent.parent
SETTINGS = Settings(image_url_hosts=(HOST,), log_level="debug", log_format="json")
URL = f"https://{HOST}"
NDJSON = {"content-type": "application/x-ndjson"}


@pytest.fixture
async def fetching(photo_host: PhotoHost, network: Network) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service that may fetch from `photo_host`."""
    photo_host.answers |= {
        "/red.png": ok(draw_photo("red")),
        "/green.jpg": ok(draw_photo("green", "JPEG"), "Content-Type: text/plain"),
        "/page": ok(b"<html>a page</html>", "Content-Type: image/jpeg"),
        "/cut.jpg": ok(draw_photo("green", "JPEG")[:200]),
        "/large": ok(bytes(100_001)),
        "/moved": b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n",
    }
    async with open_client(create_app(SETTINGS, engine=FakeEngine(), fetcher=network.fetcher(photo_host))) as client:
        yield client


async def classify(client: httpx.AsyncClient, *items: dict[str, Any]) -> httpx.Response:
    return await client.post("/v1/classify", json={"items": list(items)})


def colour_of(result: dict[str, Any]) -> Any:
    return result["attributes"]["baseColour"]["label"]


async def test_photos_are_fetched_for_one_item_for_many_and_for_lines(fetching: httpx.AsyncClient) -> None:
    (red,) = (await classify(fetching, {"image_url": f"{URL}/red.png", "id": "a"})).json()["results"]
    assert (red["id"], red["inputs"], colour_of(red)) == ("a", ["image"], "Red")
    items: list[dict[str, Any]] = [
        {"image_url": f"{URL}/green.jpg", "text": "a shirt"},
        {"image": in_base64(draw_photo("blue")), "image_url": ""},
        {"image_url": f"{URL}/red.png"},
    ]
    results = (await classify(fetching, *items)).json()["results"]
    assert [colour_of(result) for result in results] == ["Green", "Blue", "Red"]
    assert results[0]["inputs"] == ["image", "text"]
    lines = "\n".join(json.dumps(item) for item in items)
    answer = await fetching.post("/v1/classify", content=lines, headers=NDJSON)
    assert [colour_of(json.loads(line)) for line in answer.text.splitlines()] == ["Green", "Blue", "Red"]
    by_address, by_value = (
        await fetching.post(
            "/v1/embed", json={"items": [{"image_url": f"{URL}/red.png"}, {"image": in_base64(draw_photo("red"))}]}
        )
    ).json()["results"]
    assert by_address["embedding"] == by_value["embedding"]


FAILURES = [
    ("/page", 415, "unsupported_image_type"),
    ("/cut.jpg", 422, "undecodable_image"),
    ("/large", 413, "image_too_large"),
    ("/moved", 422, "image_not_fetched"),
]


async def test_a_failure_is_its_items_own_and_points_to_the_address(fetching: httpx.AsyncClient) -> None:
    for target, status, code in FAILURES:
        answer = await classify(fetching, {"image_url": URL + target})
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert answer.json()["errors"][0]["pointer"] == "/items/0/image_url"
        assert HOST not in answer.text
    items = [{"text": "red"}, *({"image_url": URL + target} for target, *_ in FAILURES)]
    results = (await classify(fetching, *items)).json()["results"]
    assert [result["status"] for result in results] == ["ok", *["error"] * len(FAILURES)]
    assert results[4]["error"]["errors"][0]["pointer"] == "/items/4/image_url"
    lines = "\n".join(json.dumps(item) for item in items)
    answer = await fetching.post("/v1/classify", content=lines, headers=NDJSON)
    problems = [json.loads(line).get("error", {}) for line in answer.text.splitlines()]
    assert [problem.get("code") for problem in problems] == [None, *(code for *_, code in FAILURES)]
    assert problems[4]["errors"][0]["pointer"] == "/image_url"


async def test_what_is_not_allowed_is_said_and_not_looked_up(
    fetching: httpx.AsyncClient, network: Network, photo_host: PhotoHost
) -> None:
    photo = in_base64(draw_photo("red"))
    for item, code, said in (
        ({"image_url": "https://evil.example.org/a.jpg"}, "image_url_not_allowed", "from this host"),
        ({"image_url": f"http://{HOST}/red.png"}, "image_url_not_allowed", "https://host/path"),
        ({"image_url": f"https://{HOST}:8443/red.png"}, "image_url_not_allowed", "without a port"),
        ({"image_url": "https://127.0.0.1/red.png"}, "image_url_not_allowed", "from this host"),
        ({"image_url": f"{URL}/red.png", "image": photo}, "invalid_item", "not both"),
        ({"image_url": f"{URL}/{'a' * 4096}"}, "invalid_item", "4096"),
        ({"image_url": 5}, "invalid_item", "string"),
        ({"image_url": ""}, "empty_item", "image"),
    ):
        answer = await classify(fetching, item)
        assert (answer.status_code, answer.json()["code"]) == (422, code)
        assert said in json.dumps(answer.json()["errors"])
        assert "evil" not in answer.text
    assert network.looked_up == []
    assert photo_host.requests == []


async def test_a_form_carries_its_photo_itself(fetching: httpx.AsyncClient, network: Network) -> None:
    answer = await fetching.post("/v1/classify", files={"image_url": (None, f"{URL}/red.png")})
    assert (answer.status_code, answer.json()["code"]) == (422, "image_url_not_allowed")
    assert "form" in answer.json()["detail"]
    assert network.looked_up == []


async def test_nothing_of_an_address_reaches_logs_metrics_or_errors(
    fetching: httpx.AsyncClient, photo_host: PhotoHost, network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    photo_host.answers |= {"/CANARY?token=CANARY": ok(b"no photo"), "/CANARY/moved": photo_host.answers["/moved"]}
    answers = []
    for url in (
        f"{URL}/CANARY?token=CANARY",
        f"{URL}/CANARY/moved",
        "https://canary.example.org/CANARY",
        "https://CANARY:CANARY@photos.example.com/",
    ):
        answers.append(await classify(fetching, {"image_url": url}))
        answers.append(await classify(fetching, {"image_url": url}, {"text": "red"}))
        answers.append(await fetching.post("/v1/embed", content=json.dumps({"image_url": url}), headers=NDJSON))
    network.addresses[HOST] = ["10.9.8.7"]
    answers.append(await classify(fetching, {"image_url": f"{URL}/CANARY"}))
    said = "".join([*(answer.text + str(answer.headers) for answer in answers), (await fetching.get("/metrics")).text])
    captured = capsys.readouterr()
    assert "image_not_fetched" in said
    assert 'itemlens_image_fetches_total{outcome="forbidden_address"}' in said
    for secret in ("canary", HOST, "10.9.8.7", "example.org"):
        assert secret not in (said + captured.out + captured.err).lower()


async def test_the_shipped_model_says_the_same_of_a_fetched_photo(
    photo_host: PhotoHost, network: Network, tmp_path: Path
) -> None:
    """The whole way but for the name's look-up: TLS over a real socket, the real engine."""
    shutil.copytree(ROOT / "models/mnist", tmp_path / "mnist")
    engine = await open_engine(EngineSettings(models_dir=tmp_path, runtime="litert", runtime_threads=1))
    photo = draw_photo("white", "JPEG")
    photo_host.answers = {"/digit.jpg": ok(photo)}
    async with open_client(create_app(SETTINGS, engine=engine, fetcher=network.fetcher(photo_host))) as client:
        sent, fetched = (await classify(client, {"image": in_base64(photo)}, {"image_url": f"{URL}/digit.jpg"})).json()[
            "results"
        ]
    assert fetched["status"] == "ok"
    assert {**fetched, "index": 0} == sent
    assert len(photo_host.requests) == 1


async def test_without_hosts_every_address_is_refused(client: httpx.AsyncClient, connects: Connected) -> None:
    for url in (f"{URL}/red.png", "http://127.0.0.1/", "nonsense"):
        answer = await classify(client, {"image_url": url})
        assert (answer.status_code, answer.json()["code"]) == (422, "image_url_not_allowed")
        assert "switched off" in answer.json()["detail"]
    assert connects == []


def test_without_hosts_the_code_that_reaches_out_is_not_loaded() -> None:
    program = (
        "import sys; from app.main import create_app; from app.settings import Settings; create_app(Settings());"
        "print([name for name in sys.modules if name in ('app.fetch.fetcher', 'app.fetch.answer', 'httpx')])"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_with_hosts_the_app_has_a_fetcher_of_the_settings() -> None:
    app = create_app(Settings(image_url_hosts=("*.example.com",), image_url_timeout_s=2.0), engine=FakeEngine())
    assert app.state.fetcher._timeout_s == 2.0
    assert app.state.fetcher.source_of("https://a.example.com/")


def test_a_bad_host_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ITEMLENS_IMAGE_URL_HOSTS", "images.example.com, 10.0.0.1")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value).startswith("ITEMLENS_IMAGE_URL_HOSTS: each must be a host's full name")
    assert "10.0.0.1" not in str(caught.value)
    monkeypatch.setenv("ITEMLENS_IMAGE_URL_HOSTS", "Images.example.com, *.cdn.example.net")
    assert load_settings().image_url_hosts == ("images.example.com", "*.cdn.example.net")
