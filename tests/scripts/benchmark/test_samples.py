from __future__ import annotations

import base64
import json
from io import BytesIO

import pytest
from PIL import Image

from app.api.multipart import parse_multipart
from scripts.benchmark import samples
from scripts.benchmark.contenders import label_of

DRAWN = samples.draw_samples(3)


def _body(wire: bytes) -> bytes:
    head, body = wire.split(b"\r\n\r\n", 1)
    assert f"Content-Length: {len(body)}".encode() in head
    return body


def test_photos_are_as_large_as_a_shops_and_all_different() -> None:
    assert len({sample.photo for sample in DRAWN}) == len({sample.title for sample in DRAWN}) == 3
    for sample in DRAWN:
        assert 52_000 < len(sample.photo) <= samples.PHOTO_BYTES
        with Image.open(BytesIO(sample.photo)) as photo:
            assert (photo.format, photo.size) == ("JPEG", (600, 800))
    assert samples.draw_samples(1) == DRAWN[:1]


def test_other_sizes_keep_the_bytes_per_pixel() -> None:
    (small,) = samples.draw_samples(1, size=(300, 400))
    assert len(small.photo) == pytest.approx(samples.PHOTO_BYTES / 4, rel=0.1)


def test_requests_carry_the_sample() -> None:
    sample = DRAWN[0]
    encoded = base64.b64encode(sample.photo).decode()
    item = {"image": encoded, "text": sample.title}
    assert json.loads(_body(samples.service_json(DRAWN)[0].wire)) == {"items": [item]}
    assert json.loads(_body(samples.item_json(DRAWN, "/x")[0].wire)) == item
    batch = samples.service_batch(DRAWN)
    assert batch.items == len(json.loads(_body(batch.wire))["items"]) == 3
    stream = samples.service_stream(DRAWN)
    assert b"\r\ncontent-type: application/x-ndjson\r\n" in stream.wire.lower()
    assert [json.loads(line) for line in _body(stream.wire).splitlines()] == json.loads(_body(batch.wire))["items"]
    tensors = json.loads(_body(samples.open_inference_json(DRAWN, "m")[0].wire))["inputs"]
    assert [tensor["data"] for tensor in tensors] == [[encoded], [sample.title]]
    form = samples.service_multipart(DRAWN)[0].wire
    content_type = next(line for line in form.split(b"\r\n") if line.startswith(b"Content-Type")).split(b": ")[1]
    parts = {part.name: part.content for part in parse_multipart(_body(form), content_type)}
    assert parts == {"image": sample.photo, "text": sample.title.encode()}


def test_the_label_is_found_in_every_servers_answer() -> None:
    answer = {"attributes": {"articleType": {"label": "Shoes"}}}
    wrapped = [
        answer,
        [answer],
        {"results": [answer]},
        {"outputs": [{"data": [json.dumps(answer)]}]},
    ]
    assert [label_of(json.dumps(value).encode()) for value in wrapped] == ["Shoes"] * 4
    assert [label_of(body) for body in (b"", b"[]", b'{"detail": 1}', b'{"results": []}')] == [None] * 4
