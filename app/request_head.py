"""What a request's head must be like so that no two readers take it in two ways.

Owns the checks that the parser leaves out, and the refusal of what never becomes a request. Refuses to know bodies, routes and
sockets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus

from app.edge import SECURITY_HEADERS


class Refusal(Exception):
    """Raised while a message is parsed: the rest of the connection is not read. `reason` is a label of a metric."""

    def __init__(self, status: int, reason: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.reason = reason
        self.text = text

    def anew(self) -> Refusal:
        """To be raised. An exception raised again and again keeps every frame that it ever left, connection and all."""
        return Refusal(self.status, self.reason, self.text)


MALFORMED = Refusal(400, "malformed", "The request is not well-formed HTTP (RFC 9112).")
REPEATED = Refusal(400, "malformed", "A header that can be meant in one way alone came twice; send it once.")
_SINGLE = frozenset({b"content-type", b"content-encoding", b"x-request-timeout-ms", b"authorization", b"x-api-key"})
"""Of which one reader takes the first and another the last. The parser sees to Content-Length itself."""
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:%\[\]-]*")
"""RFC 3986, section 3.2.2, with a port or without."""


def check_head(version: str, headers: Sequence[tuple[bytes, bytes]]) -> None:
    """`headers`: names in lower case, with their values. Raises `Refusal`."""
    names = [name for name, _ in headers]
    hosts = [value for name, value in headers if name == b"host"]
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if version == "1.1":
        # RFC 9112, section 3.2; and 6.1: no other coding is understood here, and a body must not be read as if it had none.
        well_formed = len(hosts) == 1 and codings in ([], [b"chunked"])
    elif version == "1.0":
        well_formed = len(hosts) <= 1 and not codings  # section 6.1: it may have been smuggled
    else:
        well_formed = False
    if not well_formed or not all(_HOST.fullmatch(host) for host in hosts):
        raise MALFORMED.anew()
    if len(set(names)) < len(names) and any(names.count(name) > 1 for name in _SINGLE):
        raise REPEATED.anew()


def bare_answer(refusal: Refusal) -> bytes:
    """A whole answer in plain text for what never becomes a request."""
    text = (refusal.text + "\n").encode("ascii")
    retry = b"retry-after: 1\r\n" if refusal.status == HTTPStatus.SERVICE_UNAVAILABLE else b""
    return b"".join(
        (
            b"HTTP/1.1 %d %s\r\n" % (refusal.status, HTTPStatus(refusal.status).phrase.encode("ascii")),
            b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n" % len(text),
            retry,
            *(b"%s: %s\r\n" % header for header in SECURITY_HEADERS),
            b"\r\n",
            text,
        )
    )
