"""What is sent: photos drawn by code with a camera's texture, titles, and whole HTTP requests made of them beforehand.

Owns the bytes on the wire. Refuses to know sockets and servers.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from scripts.drawn_products import draw_products

PHOTO_SIZE = 600, 800
"""Width and height in pixels of a shop's photo."""
PHOTO_BYTES = 58_000
_BRANDS = ("Puma", "Nike", "Adidas", "Levis", "Fastrack", "Baggit", "Wrangler", "Reebok")
_BOUNDARY = "itemlens-benchmark-7MA4YWxkTrZu0gW"


@dataclass(frozen=True, slots=True)
class Sample:
    """An encoded JPEG and its title."""

    photo: bytes
    title: str


@dataclass(frozen=True, slots=True)
class Request:
    """A whole HTTP/1.1 request. `failure_mark`: bytes that an answer of status 200 holds only where an item failed."""

    wire: bytes
    items: int = 1
    failure_mark: bytes | None = None


def draw_samples(count: int, *, size: tuple[int, int] = PHOTO_SIZE, seed: int = 1) -> list[Sample]:
    """Different photos of about `PHOTO_BYTES` bytes at 600x800; other sizes keep the bytes per pixel. The same for the
    same seed and Pillow."""
    random = np.random.default_rng(seed)
    products = draw_products()
    wanted_bytes = PHOTO_BYTES * size[0] * size[1] // (PHOTO_SIZE[0] * PHOTO_SIZE[1])
    samples = []
    for index in range(count):
        product = products[index % len(products)]
        drawn = Image.open(BytesIO(product.encoded)).convert("RGB").resize(size, Image.Resampling.BICUBIC)
        _, rest = product.title.split(" ", 1)
        title = f"{_BRANDS[index // len(products) % len(_BRANDS)]} {rest}" if index >= len(products) else product.title
        samples.append(Sample(_encode(_textured(drawn, random), wanted_bytes), title))
    return samples


def _textured(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Sensor noise two pixels wide: flat drawings would decode faster than any photo."""
    width, height = image.size
    noise = random.normal(0, 12, (height // 2, width // 2, 3))
    wide = noise.repeat(2, axis=0).repeat(2, axis=1)
    pixels = np.asarray(image, np.float32)
    pixels[: wide.shape[0], : wide.shape[1]] += wide.astype(np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8), "RGB")


def _encode(image: Image.Image, wanted_bytes: int) -> bytes:
    """As JPEG with the best quality that stays within `wanted_bytes`."""
    low, high = 5, 95
    best = b""
    while low <= high:
        quality = (low + high) // 2
        buffer = BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        if len(buffer.getvalue()) <= wanted_bytes or not best:
            best = buffer.getvalue()
        low, high = (quality + 1, high) if len(buffer.getvalue()) <= wanted_bytes else (low, quality - 1)
    return best


# --- Requests ---


def service_json(samples: Sequence[Sample]) -> list[Request]:
    """One item each, as JSON with base64."""
    return [service_batch([sample]) for sample in samples]


def service_batch(samples: Sequence[Sample]) -> Request:
    """One request with all items."""
    items = [_item(sample) for sample in samples]
    return Request(_post_json("/v1/classify", {"items": items}), len(samples), b'"status":"error"')


def service_stream(samples: Sequence[Sample]) -> Request:
    """One request with all items, a line of NDJSON each."""
    lines = [json.dumps(_item(sample)) + "\n" for sample in samples]
    wire = _post("/v1/classify", "application/x-ndjson", "".join(lines).encode())
    return Request(wire, len(samples), b'"status":"error"')


def service_multipart(samples: Sequence[Sample]) -> list[Request]:
    """One item each, as a form."""
    requests = []
    for sample in samples:
        body = b"".join(
            (
                f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="item.jpg"\r\n'.encode(),
                b"Content-Type: image/jpeg\r\n\r\n",
                sample.photo,
                f'\r\n--{_BOUNDARY}\r\nContent-Disposition: form-data; name="text"\r\n\r\n{sample.title}\r\n'.encode(),
                f"--{_BOUNDARY}--\r\n".encode(),
            )
        )
        requests.append(Request(_post("/v1/classify", f"multipart/form-data; boundary={_BOUNDARY}", body)))
    return requests


def item_json(samples: Sequence[Sample], path: str) -> list[Request]:
    """One item each, as the plain object that most servers read."""
    return [Request(_post_json(path, _item(sample))) for sample in samples]


def item_list_json(samples: Sequence[Sample], path: str) -> list[Request]:
    """One item each, in a list named `items`."""
    return [Request(_post_json(path, {"items": [_item(sample)]})) for sample in samples]


def open_inference_json(samples: Sequence[Sample], model: str) -> list[Request]:
    """One item each, as the Open Inference Protocol (version 2) writes two string tensors."""
    requests = []
    for sample in samples:
        inputs = [
            {"name": name, "shape": [1], "datatype": "BYTES", "data": [value]}
            for name, value in (("image", _base64(sample)), ("text", sample.title))
        ]
        requests.append(Request(_post_json(f"/v2/models/{model}/infer", {"inputs": inputs})))
    return requests


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n\r\n".encode()


def _item(sample: Sample) -> dict[str, str]:
    """As the service, and most servers, read one."""
    return {"image": _base64(sample), "text": sample.title}


def _base64(sample: Sample) -> str:
    return base64.b64encode(sample.photo).decode("ascii")


def _post_json(path: str, value: object) -> bytes:
    return _post(path, "application/json", json.dumps(value, separators=(",", ":")).encode())


def _post(path: str, content_type: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
