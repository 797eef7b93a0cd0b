"""From a multipart/form-data body to its parts, in memory.

Owns the bounds on parts and their headers. Starlette's own form parser is not used because it spools large files to
disk, and nothing of a request may touch the disk.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import cast

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.errors import ProblemError

_MAX_PARTS = 256
_MAX_HEADERS = 8
_MAX_HEADER_BYTES = 4096


@dataclass(slots=True)
class Part:
    """One field of the form. `has_filename` tells a file from a value; the file's name itself is not kept."""

    name: str = ""
    has_filename: bool = False
    content: bytes = b""


@dataclass(slots=True)
class _Collector:
    parts: list[Part] = field(default_factory=list)
    is_complete: bool = False
    _header: bytearray = field(default_factory=bytearray)
    _value: bytearray = field(default_factory=bytearray)
    _content: bytearray = field(default_factory=bytearray)
    _part: Part = field(default_factory=Part)

    def begin(self) -> None:
        if len(self.parts) >= _MAX_PARTS:
            raise ProblemError("malformed_multipart", f"The form may have at most {_MAX_PARTS} fields.")
        self._part = Part()
        self._content = bytearray()

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        name = self._header.lower()
        if name == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            try:
                self._part.name = options[b"name"].decode("utf-8")
            except (KeyError, UnicodeDecodeError):
                raise ProblemError("malformed_multipart", "A field of the form has no readable name.") from None
            self._part.has_filename = bool(options.get(b"filename"))
        elif name == b"content-transfer-encoding" and bytes(self._value.strip().lower()) not in (b"binary", b"8bit", b"7bit"):
            raise ProblemError("malformed_multipart", "Send the form's files as they are, without a transfer encoding.")
        self._header.clear()
        self._value.clear()

    def data(self, data: bytes, start: int, end: int) -> None:
        self._content += memoryview(data)[start:end]

    def end_part(self) -> None:
        if not self._part.name:
            raise ProblemError("malformed_multipart", "A field of the form has no readable name.")
        self._part.content = bytes(self._content)
        self._content = bytearray()
        self.parts.append(self._part)

    def end(self) -> None:
        self.is_complete = True


def _without_preamble(body: bytes | bytearray, boundary: bytes) -> bytes | bytearray:
    """From the first line on that is the boundary: what stands before it is to be ignored (RFC 2046, 5.1.1), unless it is a
    field whose boundary was forgotten, which must not be lost in silence."""
    first = re.search(rb"(?:\A|\n)(--" + re.escape(boundary) + rb")(?=\r\n|--)", body)
    if first is None or not first.start(1):
        return body
    if b"content-disposition" in body[: first.start(1)].lower():
        raise ProblemError("malformed_multipart", "The form's first field has no boundary before it.")
    return body[first.start(1) :]


def parse_multipart(body: bytes | bytearray, content_type: bytes) -> list[Part]:
    """The form's fields in order. Raises `ProblemError` `malformed_multipart`."""
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise ProblemError("malformed_multipart", "The Content-Type names no boundary; let an HTTP library build the form.")
    if not body.startswith(b"--" + boundary + b"\r\n"):
        body = _without_preamble(body, boundary)
    collector = _Collector()
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": collector.begin,
                "on_header_field": collector.header_field,
                "on_header_value": collector.header_value,
                "on_header_end": collector.header_end,
                "on_part_data": collector.data,
                "on_part_end": collector.end_part,
                "on_end": collector.end,
            },
            max_header_count=_MAX_HEADERS,
            max_header_size=_MAX_HEADER_BYTES,
        )
        parser.write(cast("bytes", body))  # it looks for bytes and calls back with slices, which both have
    except FormParserError:
        raise ProblemError("malformed_multipart", "The form is not valid multipart/form-data.") from None
    if not collector.is_complete:
        raise ProblemError("malformed_multipart")
    return collector.parts
