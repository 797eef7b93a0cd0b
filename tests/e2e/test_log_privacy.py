"""Nothing of a request's content reaches the log, standard error, the metrics or an answer; what is logged is JSON."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.e2e.service import Service
from tests.tiny_bundle import jpeg

CANARY = "kanarienvogel"


@pytest.fixture(scope="module")
def chatty(tiny_models: Path) -> Iterator[Service]:
    """A service that logs all that it ever would."""
    with Service(tiny_models, LOG_LEVEL="debug") as running:
        yield running


def photo_with_canaries() -> bytes:
    """Names the canary in EXIF, in a comment and in a text chunk's place for XMP."""
    image = Image.open(io.BytesIO(jpeg(1)))
    exif = Image.Exif()
    exif[0x013B] = f"{CANARY}-artist"
    exif[0x010E] = f"{CANARY}-description"
    notes = PngInfo()
    notes.add_itxt("XML:com.adobe.xmp", f"<x>{CANARY}-xmp</x>")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif, pnginfo=notes)
    return buffer.getvalue()


def test_no_content_leaves_the_process(chatty: Service) -> None:
    photo = photo_with_canaries()
    image = base64.b64encode(photo).decode()
    assert CANARY.encode() in photo
    title, item_id = f"{CANARY} shirt", f"{CANARY}-id"
    key = {"X-API-Key": f"{CANARY}-key", "Authorization": f"Bearer {CANARY}-token", "Cookie": f"a={CANARY}-cookie"}
    good = {"id": item_id, "image": image, "text": title}
    ndjson = "\n".join([json.dumps(good), json.dumps({"text": title, f"{CANARY} field": 1}), f'{{"{CANARY}', ""])
    client = chatty.client
    last = 0
    answers = []
    for path in ("/v1/classify", "/v1/embed"):
        for arguments in (
            {"json": {"items": [good, good | {"x": CANARY}, {"text": title * 500}]}},
            {"json": {"items": [good], "model": CANARY}},
            {"json": {"items": [good], "attributes": [CANARY], "space": CANARY}},
            {"json": {"items": [good], f"{CANARY} key": CANARY}},
            {"json": {"items": [{"image": image[:-400] + "AAAA", "text": title}]}},
            {"json": {"items": [{"image": f"data:image/png;base64,{CANARY}!"}]}},
            {"json": {"items": [{"image_url": f"https://{CANARY}.example/a.jpg"}]}},
            {"content": f'{{"items": [{{"text": "{title}"'},
            {"files": {"image": (f"{CANARY}.png", photo)}, "data": {"text": title, "id": item_id}},
            {"files": {"image": (f"{CANARY}.png", b"no photo")}},
            {"files": {"image": (f"{CANARY}.png", photo), f"{CANARY} field": (None, "1")}},
            {"content": ndjson, "headers": {"Content-Type": "application/x-ndjson"}},
        ):
            last += 1
            headers = key | arguments.pop("headers", {}) | {"X-Request-ID": f"request-{last}"}  # type: ignore[operator]
            if "content" in arguments:
                headers.setdefault("Content-Type", "application/json")
            answers.append(client.post(path, params={"q": CANARY}, headers=headers, **arguments))
            assert chatty.wait_for_request(f"request-{last}")["route"] == path
    for path in (f"/{CANARY}", f"/v1/models/{CANARY}", f"/docs/static/{CANARY}.js", f"/v1/models?{CANARY}={CANARY}"):
        answers.append(client.get(path, headers=key | {"User-Agent": CANARY, "Referer": CANARY}))
    answers.append(client.get("/health/live", headers={"X-Request-ID": f"{CANARY} is no request id"}))
    metrics = client.get("/metrics").text
    assert {answer.status_code for answer in answers} >= {200, 400, 404, 415, 422}
    assert chatty.stop() == 0

    said = "\n".join([*chatty.lines, *chatty.error_lines, metrics])
    assert CANARY not in said
    # Nor the photo, encoded or not.
    assert image[:60] not in said
    assert "Traceback" not in said
    for answer in answers:
        # What matches the pattern of an id, and that alone, comes back.
        assert CANARY not in answer.text.replace(item_id, "")
        assert CANARY not in str(answer.headers)
    events = chatty.events()
    assert sum(event["event"] == "request" for event in events) >= len(answers)
    assert all({"event", "level", "timestamp", "logger"} <= event.keys() for event in events)
