"""One HTTP/1.1 request for a photo, and its answer read within limits.

Owns what is sent and what counts as an answer: 200 with a body, unencoded, no longer than allowed. Refuses to follow a
redirect, to believe a content type and to know connections.
"""

from __future__ import annotations

import httptools

from app import __version__
from app.fetch.photo_url import PhotoUrl

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


class Answer:
    """Fed with what comes until it `is_over`: complete, or known to be none. Then it says what it was."""

    def __init__(self, max_bytes: int) -> None:
        self.is_over = False
        self._max_bytes = max_bytes
        self._received_bytes = 0
        self._body = bytearray()
        self._has_head = self._has_length = self._is_interim = self._is_complete = False
        """`_has_length`: the head says where the body ends; without, the end of the connection does."""
        # A type: an error that was raised would hold the frames, and these the photo, that it went through.
        self._error: type[Exception] | None = None
        # There while something comes: it holds this, as this holds it, and the photo would wait for the garbage collector.
        self._parser: httptools.HttpResponseParser | None = None

    def feed(self, data: bytes) -> None:
        if self.is_over:
            return
        self._received_bytes += len(data)
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._error = self._error or BadAnswerError
        # What frames a body comes on top of it; a host that sends as much again is up to something else.
        if self._received_bytes > (2 * self._max_bytes + _MAX_HEAD_BYTES if self._has_head else _MAX_HEAD_BYTES):
            self._error = self._error or BadAnswerError
        if self._is_complete or self._error is not None:
            self._finish()

    def end(self, *, is_orderly: bool) -> None:
        """No more will come. `is_orderly`: the host has ended the connection, which did not break."""
        if not self.is_over and not (is_orderly and self._has_head and not self._has_length):
            self._error = BadAnswerError
        self._finish()

    def photo(self) -> bytes:
        """The body of an answer that is over. Raises `BadAnswerError`, `AnswerTooLargeError`."""
        # What is wrong behind the end of a whole answer is no part of it.
        if self._error is not None and not self._is_complete:
            raise self._error
        return bytes(self._body)

    def _finish(self) -> None:
        self.is_over = True
        self._parser = None

    # --- called by the parser, which would wrap what is raised here in an error of its own ---

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._has_head:
            return  # a trailer
        name = name.lower()
        if name == b"content-encoding" and value.strip().lower() != b"identity":
            # Not asked for, and inflating what a stranger sends is a risk of its own.
            self._error = BadAnswerError
        elif name == b"content-length":
            self._has_length = True
            if len(value) > 18 or (value.isdigit() and int(value) > self._max_bytes):
                self._error = self._error or AnswerTooLargeError
        elif name == b"transfer-encoding":
            self._has_length = True

    def on_headers_complete(self) -> None:
        if self._has_head:
            return  # of another answer
        assert self._parser is not None  # noqa: S101  (it is what calls)
        status = self._parser.get_status_code()
        self._is_interim = 100 <= status < 200
        if self._is_interim:
            self._error, self._has_length = None, False
            return
        self._has_head = True
        if status != 200:
            self._error = BadAnswerError

    def on_body(self, data: bytes) -> None:
        if self._is_complete or self._error is not None:
            return
        if len(self._body) + len(data) > self._max_bytes:
            self._error = AnswerTooLargeError
        else:
            self._body += data

    def on_message_complete(self) -> None:
        self._is_complete = self._is_complete or (self._error is None and not self._is_interim)
