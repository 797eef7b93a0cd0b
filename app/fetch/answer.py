"""One HTTP/1.1 request for a photo, and its answer read within limits.

Owns what is sent and what counts as an answer: 200 with a body, unencoded, no longer than allowed. Refuses to follow a
redirect, to believe a content type and to know connections.
"""

from __future__ import annotations

import asyncio

import httptools

from app import __version__
from app.fetch.photo_url import PhotoUrl

_CHUNK_BYTES = 64 * 1024
_MAX_HEAD_BYTES = 64 * 1024


class BadAnswerError(Exception):
    """The host answered with something else than a photo."""


class AnswerTooLargeError(Exception):
    """The photo has more bytes than allowed; no more than those were taken."""


def request_for(url: PhotoUrl) -> bytes:
    """The request's bytes. Named formats, since some hosts choose one by what is accepted."""
    lines = (
        f"GET {url.target} HTTP/1.1",
        f"Host: {url.host}",
        f"User-Agent: Itemlens/{__version__}",
        "Accept: image/jpeg, image/png, image/webp",
        "Accept-Encoding: identity",
        "Connection: close",
    )
    return "\r\n".join((*lines, "", "")).encode("ascii")


async def read_photo(reader: asyncio.StreamReader, *, max_bytes: int) -> bytes:
    """The answer's body. Raises `BadAnswerError`, `AnswerTooLargeError`, OSError."""
    answer = _Answer(max_bytes)
    received = 0
    while not answer.is_complete:
        chunk = await reader.read(_CHUNK_BYTES)
        if not chunk:
            if answer.has_length or not answer.has_head:
                raise BadAnswerError
            break
        received += len(chunk)
        # What frames a body comes on top of it; a host that sends as much again is up to something else.
        if received > (2 * max_bytes + _MAX_HEAD_BYTES if answer.has_head else _MAX_HEAD_BYTES):
            raise BadAnswerError
        answer.feed(chunk)
    return bytes(answer.body)


class _Answer:
    """What the parser reports. Errors are kept until its call returns, since it would wrap them in its own."""

    def __init__(self, max_bytes: int) -> None:
        self.body = bytearray()
        self.has_head = False
        self.has_length = False
        """Whether the head says where the body ends; without, the end of the connection does."""
        self.is_complete = False
        self._max_bytes = max_bytes
        self._is_interim = False
        self._error: Exception | None = None
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, chunk: bytes) -> None:
        try:
            self._parser.feed_data(chunk)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            raise BadAnswerError from None
        if self._error is not None:
            raise self._error

    # --- called by the parser ---

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.has_head:
            return  # a trailer
        name = name.lower()
        if name == b"content-encoding" and value.strip().lower() != b"identity":
            # Not asked for, and inflating what a stranger sends is a risk of its own.
            self._error = BadAnswerError()
        elif name == b"content-length":
            self.has_length = True
            if len(value) > 18 or (value.isdigit() and int(value) > self._max_bytes):
                self._error = self._error or AnswerTooLargeError()
        elif name == b"transfer-encoding":
            self.has_length = True

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self._is_interim = 100 <= status < 200
        if self._is_interim:
            self._error, self.has_length = None, False
            return
        self.has_head = True
        if status != 200:
            self._error = BadAnswerError()

    def on_body(self, data: bytes) -> None:
        if len(self.body) + len(data) > self._max_bytes:
            self._error = self._error or AnswerTooLargeError()
        elif self._error is None:
            self.body += data

    def on_message_complete(self) -> None:
        self.is_complete = self.is_complete or not self._is_interim
