"""What a soak sends: ordinary requests and hostile ones, as bytes on the wire.

Owns the mix. Refuses to know sockets, and what is expected of an answer beyond whether the sender meant well.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from scripts.benchmark.samples import Sample, draw_samples, get, service_batch, service_json, service_multipart
from scripts.soak.photo_corpus import hostile_photos, mutations

Manner = Literal["reads", "hangs up", "dribbles", "deaf"]
"""What the sender does after it has sent: take the answer, leave, go on byte by byte, or ask and take nothing."""
_BODY_LIMIT = 32 * 1024 * 1024
_CHUNK = b"100000\r\n" + b" " * 0x100000 + b"\r\n"


@dataclass(frozen=True, slots=True)
class Shot:
    """One thing to send. `kind`: for the account of what became of it."""

    kind: str
    wire: bytes
    manner: Manner = "reads"
    repeats: int = 1
    """How often the wire's `tail` follows it: a large body is made while it is sent."""
    tail: bytes = b""
    is_hostile: bool = False


class Traffic:
    """A never-ending, seeded choice; `hostile_share` of it is hostile. Everything is drawn by code."""

    def __init__(self, *, hostile_share: float, seed: int) -> None:
        self._chance = random.Random(seed)
        self._hostile_share = hostile_share
        self._samples = draw_samples(16, seed=seed + 1)
        self._forms = [request.wire for request in service_multipart(self._samples)]
        self._jsons = [request.wire for request in service_json(self._samples)]
        self._batches = [service_batch(self._samples[start : start + 8]).wire for start in (0, 8)]
        titles = [{"items": [{"text": sample.title}]} for sample in self._samples]
        self._titles = [_post("/v1/classify", title) for title in titles]
        self._embeds = [_post("/v1/embed", title | {"encoding": "base64"}) for title in titles]
        self._asking = [wire.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n", 1) for wire in self._titles]
        self._lines = [_lines(self._samples[start : start + 4]) for start in range(0, 16, 4)]
        self._photos = [photo for _, photo in hostile_photos()] + list(mutations(300, seed=seed + 2))
        self._ordinary: list[tuple[str, Sequence[bytes]]] = [
            *[("form", self._forms)] * 8,
            *[("json", self._jsons)] * 4,
            *[("titles", self._titles)] * 4,
            *[("embed", self._embeds)] * 2,
            ("batch", self._batches),
            ("lines", self._lines),
            ("asks for leave", self._asking),
            ("models", [get("/v1/models"), get("/v1/models/fashion"), get("/health/ready"), get("/metrics")]),
        ]
        self._hostile: list[Callable[[], Shot]] = [
            *[self._bad_photo] * 8,
            *[self._bad_body] * 6,
            *[self._bad_http] * 6,
            *[self._leaver] * 6,
            *[self._wrong_request] * 4,
            self._slow_sender,
            self._slow_reader,
            self._too_large,
        ]

    def next(self) -> Shot:
        if self._chance.random() < self._hostile_share:
            return self._chance.choice(self._hostile)()
        kind, wires = self._chance.choice(self._ordinary)
        return Shot(kind, self._chance.choice(wires))

    def rejected(self, count: int) -> list[Shot]:
        """Requests that are all refused, one large body without a length among every ten."""
        shots = []
        for number in range(count):
            if number % 10 == 0:
                shots.append(self._too_large())
            else:
                bad = [b"{", b'{"items": []}', b'{"items": [{"image": "AAAA"}]}', b'{"items": [{"text": 1}]}'][number % 4]
                shots.append(_hostile("rejected", _post_bytes("/v1/classify", "application/json", bad)))
        return shots

    # --- hostile ---------------------------------------------------------------------------------------------------

    def _bad_photo(self) -> Shot:
        photo = self._chance.choice(self._photos)
        sample = Sample(photo, "Puma Men Grey T-shirt")
        make = self._chance.choice((service_multipart, service_json))
        return _hostile("bad photo", make([sample])[0].wire)

    def _bad_body(self) -> Shot:
        """A body that was cut, changed or doubled, with a length that is right."""
        wire = self._chance.choice(self._chance.choice((self._forms, self._jsons, self._titles)))
        head, _, body = wire.partition(b"\r\n\r\n")
        content_type = head.split(b"Content-Type: ", 1)[1].split(b"\r\n", 1)[0].decode()
        return _hostile("bad body", _post_bytes("/v1/classify", content_type, self._damaged(body)))

    def _bad_http(self) -> Shot:
        """What may be no HTTP at all; its sender ends with half a connection, so that nothing waits for its rest."""
        return _hostile("bad HTTP", self._damaged(self._chance.choice(self._titles)[:600]))

    def _damaged(self, data: bytes) -> bytes:
        damaged = bytearray(data)
        for _ in range(self._chance.choice((1, 1, 2, 4))):
            at = self._chance.randrange(len(damaged) + 1)
            match self._chance.randrange(4):
                case 0:
                    damaged[at : at + 1] = self._chance.randbytes(1)
                case 1:
                    del damaged[at : at + self._chance.randint(1, 40)]
                case 2:
                    damaged[at:at] = damaged[at : at + self._chance.randint(1, 60)]
                case _:
                    del damaged[at:]
        return bytes(damaged)

    def _leaver(self) -> Shot:
        """Hangs up in the head, in the body, or while its answer is worked out."""
        wire = self._chance.choice(self._forms)
        reach = self._chance.choice((len(wire), 200, len(wire) - 1))
        return _hostile("leaver", wire[: self._chance.randint(1, reach)] if reach != len(wire) else wire, manner="hangs up")

    def _wrong_request(self) -> Shot:
        wire = self._chance.choice(
            (
                get("/nothing/here"),
                get("/v1/classify"),
                _post_bytes("/v1/classify", "text/plain", b"Puma"),
                _post_bytes("/v1/classify?x=%ff", "application/x-ndjson", b"[\n"),
                _post("/v1/classify", {"items": [{"text": "a"}], "model": "nobody"}),
                _post("/v1/embed", {"items": [{"text": "a" * 50_000}]}),
                _post("/v1/classify", {"items": [{}] * 200}),
                _post("/v1/classify", {"items": [{"text": "\u202e" * 100, "id": "x" * 300}]}),
                get("/v1/models").replace(b"Accept:", b"X-A: " + b"a" * 20_000 + b"\r\nAccept:"),
            )
        )
        return _hostile("wrong request", wire)

    def _slow_sender(self) -> Shot:
        wire = self._chance.choice(self._titles)
        return _hostile("slow sender", wire[: self._chance.choice((30, len(wire) - 20))], manner="dribbles")

    def _slow_reader(self) -> Shot:
        return _hostile("slow reader", get("/docs/static/swagger-ui-bundle.js") * 4, manner="deaf")

    def _too_large(self) -> Shot:
        if self._chance.random() < 0.5:
            return _hostile("too large", _head("/v1/classify", "application/json", f"Content-Length: {_BODY_LIMIT + 1}"))
        wire = _head("/v1/classify", "application/json", "Transfer-Encoding: chunked")
        return Shot("too large", wire, repeats=_BODY_LIMIT // 0x100000 + 1, tail=_CHUNK, is_hostile=True)


def _hostile(kind: str, wire: bytes, *, manner: Manner = "reads") -> Shot:
    return Shot(kind, wire, manner, is_hostile=True)


def _head(path: str, content_type: str, framing: str) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\n{framing}\r\n\r\n".encode()


def _post_bytes(path: str, content_type: str, body: bytes) -> bytes:
    return _head(path, content_type, f"Content-Length: {len(body)}") + body


def _post(path: str, value: object) -> bytes:
    return _post_bytes(path, "application/json", json.dumps(value).encode())


def _lines(samples: Sequence[Sample]) -> bytes:
    body = b"".join(json.dumps({"text": sample.title}).encode() + b"\n" for sample in samples)
    return _post_bytes("/v1/classify", "application/x-ndjson", body * 4)
