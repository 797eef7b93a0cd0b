"""One HTTP/1.1 keep-alive connection, as cheap as Python allows: a socket, bytes out, bytes in.

Owns the framing of answers (Content-Length and chunked). Refuses to know what is in them.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_RECEIVE_BYTES = 256 * 1024
# A whole request with its photo fits, so that one system call sends it.
_SEND_BUFFER_BYTES = 1024 * 1024


class ConnectionLostError(Exception):
    """The server closed the connection or sent what is not HTTP."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    head: bytes
    """Status line and headers, without the blank line after them."""
    body: bytes


class Connection:
    """Non-blocking once open; at most one request under way. Raises OSError when the server is not there."""

    __slots__ = ("_incoming", "_outgoing", "items", "mark", "sent_at_s", "socket")

    def __init__(self, port: int, *, timeout_s: float = 10.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self.socket.setblocking(False)
        self._outgoing: memoryview | None = None
        self._incoming = bytearray()
        self.sent_at_s = 0.0
        """When the request under way was, or should have been, sent."""
        self.items = 0
        self.mark: bytes | None = None

    def send(self, wire: bytes) -> bool:
        """Begin a request. Returns whether all of it is sent; if not, call `flush` when the socket can be written."""
        self._outgoing = memoryview(wire)
        return self.flush()

    def flush(self) -> bool:
        """Go on sending. Raises ConnectionLostError."""
        while self._outgoing:
            try:
                sent = self.socket.send(self._outgoing)
            except BlockingIOError:
                return False
            except OSError as error:
                raise ConnectionLostError from error
            self._outgoing = self._outgoing[sent:]
        self._outgoing = None
        return True

    @property
    def is_sent(self) -> bool:
        """Whether no part of a request is left to send. An answer may come before."""
        return not self._outgoing

    def receive(self) -> Answer | None:
        """Read what is there; the answer once it is whole. Raises ConnectionLostError."""
        try:
            data = self.socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            raise ConnectionLostError from error
        if not data:
            raise ConnectionLostError
        self._incoming += data
        answer = parse_answer(self._incoming)
        if answer is not None:
            self._incoming.clear()
        return answer

    def close(self) -> None:
        self.socket.close()


def parse_answer(received: bytes | bytearray) -> Answer | None:
    """The answer in `received`, which holds nothing after it; None while it is not whole. Raises ConnectionLostError."""
    head_end = received.find(b"\r\n\r\n")
    if head_end < 0:
        return None
    if not received.startswith(b"HTTP/1.") or not received[9:12].isdigit():
        raise ConnectionLostError
    head = bytes(received[:head_end])
    status = int(head[9:12])
    start = head_end + 4
    length = _LENGTH.search(head)
    if length is not None:
        end = start + int(length[1])
        return Answer(status, head, bytes(received[start:end])) if len(received) >= end else None
    if _CHUNKED.search(head) is not None:
        # However it ends, it ends so. To follow the chunks at each read of a long answer would take the square of its length.
        if not received.endswith(b"\r\n\r\n"):
            return None
        body = _unchunked(bytes(received[start:]))
        return None if body is None else Answer(status, head, body)
    if status in (204, 304):
        return Answer(status, head, b"")
    raise ConnectionLostError


def _unchunked(data: bytes) -> bytes | None:
    """The body of a chunked answer, or None while its last chunk is missing."""
    parts: list[bytes] = []
    at = 0
    while True:
        line_end = data.find(b"\r\n", at)
        if line_end < 0:
            return None
        try:
            size = int(data[at:line_end].split(b";")[0], 16)
        except ValueError:
            raise ConnectionLostError from None
        at = line_end + 2
        if len(data) < at + size + 2:
            return None
        if size == 0:
            return b"".join(parts)
        parts.append(data[at : at + size])
        at += size + 2
