"""Nothing of a request's content reaches the log, standard error, the metrics or an answer; what is logged is JSON."""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from scripts.soak.photo_corpus import jpeg_segment, many_scans, tiff
from tests.e2e.service import Service
from tests.tiny_bundle import jpeg

CANARY = "kanarienvogel"


# What is masked in a title must not show either, nor the numbers that a broken EXIF block holds.
PERSONAL = ("jane@kanarienvogel.example", "+91 98765 40321", "DE89 3704 0044 0532 0130 00", "4111 1111 1111 1111")


@pytest.fixture(scope="module")
def temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def chatty(tiny_models: Path, temporary_folder: Path, module_monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A service that logs all that it ever would."""
    module_monkeypatch.setenv("TMPDIR", str(temporary_folder))
    with Service(tiny_models, LOG_LEVEL="debug") as running:
        yield running


@pytest.fixture(scope="module")
def module_monkeypatch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def canary_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x013B] = f"{CANARY}-artist"
    exif[0x010E] = f"{CANARY}-description"
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 30.0, 12.5), 0x1D: f"{CANARY}-gps"})
    return exif


def photo_with_canaries() -> bytes:
    """Names the canary in EXIF, GPS among it, in a comment and in a text chunk's place for XMP."""
    notes = PngInfo()
    notes.add_itxt("XML:com.adobe.xmp", f"<x>{CANARY}-xmp</x>")
    notes.add_text("Comment", f"{CANARY}-comment", zip=True)
    buffer = io.BytesIO()
    Image.open(io.BytesIO(jpeg(1))).save(buffer, "PNG", exif=canary_exif(), pnginfo=notes)
    return buffer.getvalue()


def other_photos() -> Iterator[bytes]:
    """The canary in a JPEG and a WebP, in ones whose metadata or pixels are broken, and in ones for the decoding process."""
    image = Image.open(io.BytesIO(jpeg(1)))
    for image_format in ("JPEG", "WEBP"):
        buffer = io.BytesIO()
        options = {"comment": f"{CANARY}-comment"} if image_format == "JPEG" else {}
        image.save(buffer, image_format, exif=canary_exif(), xmp=f"<x>{CANARY}-xmp</x>".encode(), **options)
        photo = buffer.getvalue()
        yield photo
        yield photo[:-30]
        yield photo.replace(b"\x8f\x00", b"\xff\xff").replace(b"MM\x00*", b"MM\xff*")
    broken = tiff([(0x10E, 2, 60_000, struct.pack(">I", 26))], CANARY.encode() * 9)
    yield jpeg(1)[:2] + jpeg_segment(0xE1, b"Exif\0\0" + broken) + jpeg(1)[2:]
    comment = jpeg_segment(0xFE, CANARY.encode())
    large = many_scans(40)
    yield large[:2] + comment + large[2:]
    yield large[:2] + comment * 6000 + large[2:]
    yield large[:2] + comment + large[2 : len(large) // 2]


def test_no_content_leaves_the_process(chatty: Service, temporary_folder: Path) -> None:
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
            {"content": b"--x\r\nA\xa7: 1", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
            {"content": ndjson, "headers": {"Content-Type": "application/x-ndjson"}},
        ):
            last += 1
            headers = key | arguments.pop("headers", {}) | {"X-Request-ID": f"request-{last}"}  # type: ignore[operator]
            if "content" in arguments:
                headers.setdefault("Content-Type", "application/json")
            answers.append(client.post(path, params={"q": CANARY}, headers=headers, **arguments))
            assert chatty.wait_for_request(f"request-{last}")["route"] == path
    for photo_number, other in enumerate(other_photos()):
        assert CANARY.encode() in other
        headers = key | {"X-Request-ID": f"photo-{photo_number}"}
        answers.append(client.post("/v1/classify", headers=headers, files={"image": (f"{CANARY}.jpg", other)}))
    for value in PERSONAL:
        answers.append(client.post("/v1/embed", headers=key, json={"items": [{"text": f"shirt {value}", "id": "sku-1"}]}))
        answers.append(client.post("/v1/classify", headers=key, json={"items": [{"text": value}]}))
    hidden = f"{CANARY}\x00\u202e\u200b\u2066\x1b[31m shirt"
    answers.append(client.post("/v1/classify", headers=key, json={"items": [{"text": hidden}], f"{CANARY}\u202e": 1}))
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
    assert not any(value in said for value in PERSONAL)
    # Written out or escaped: what hides or turns text around.
    assert not any(
        mark in said for hidden in ("\x00", "\u202e", "\u200b", "\u2066", "\x1b") for mark in (hidden, ascii(hidden)[1:-1])
    )
    for path_on_disk in temporary_folder.rglob("*"):
        if path_on_disk.is_file():
            assert CANARY.encode() not in path_on_disk.read_bytes()
            assert photo[:40] not in path_on_disk.read_bytes()
    for answer in answers:
        # What matches the pattern of an id, and that alone, comes back.
        assert CANARY not in answer.text.replace(item_id, "")
        assert CANARY not in str(answer.headers)
    events = chatty.events()
    # The parser of forms would tell each byte that it stumbles over.
    assert not any(event["logger"].startswith("python_multipart") for event in events)
    assert sum(event["event"] == "request" for event in events) >= len(answers)
    assert all({"event", "level", "timestamp", "logger"} <= event.keys() for event in events)
