"""Which addresses of photos are allowed: their form, and the operator's list of hosts.

Owns both, as text alone. Refuses to resolve a name or to open a connection: what is refused here has touched no network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

MAX_URL_CHARS = 4096
"""Signed addresses of object stores with a session token come to about 2,000."""
_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# At least two labels, the last with a letter first: no way of writing an IP address (127.1, 0x7f.1, 2130706433) is a name.
_NAME = rf"(?:{_LABEL}\.)+(?=[a-z]){_LABEL}"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_NAME}")
_WILDCARD = re.compile(rf"(?=.{{1,253}}\Z)\*\.{_NAME}")
# What RFC 3986 allows, and the brackets and bars that browsers leave as they are. No user name, no other port than 443, no
# escapes in the host; the fragment is the reader's own business and is not sent.
_URL = re.compile(
    r"[Hh][Tt][Tt][Pp][Ss]://(?P<host>[A-Za-z0-9.-]+)(?::443)?"
    r"(?P<target>(?:[/?][A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=%|]*)?)(?:\#[!-~]*)?"
)


class ForbiddenUrlError(Exception):
    """The address is not allowed. The message says what is, and repeats nothing of it."""


@dataclass(frozen=True, slots=True)
class PhotoUrl:
    """`host`: a lower-case DNS name of the list; `target`: path and query as sent to it."""

    host: str
    target: str


class HostList:
    """Hosts by their exact name, or `*.example.com` for every name below example.com."""

    def __init__(self, patterns: Iterable[str]) -> None:
        patterns = tuple(patterns)
        self._names = frozenset(pattern for pattern in patterns if not pattern.startswith("*"))
        self._suffixes = tuple(pattern[1:] for pattern in patterns if pattern.startswith("*"))

    def allows(self, host: str) -> bool:
        return host in self._names or host.endswith(self._suffixes)


def parse_hosts(values: Iterable[str]) -> tuple[str, ...]:
    """Host patterns, stripped and lower-cased; blanks are skipped. Raises ValueError."""
    patterns = tuple(value.strip().lower() for value in values if value.strip())
    if not all(_HOST.fullmatch(pattern) or _WILDCARD.fullmatch(pattern) for pattern in patterns):
        raise ValueError("each must be a host's full name, `images.example.com`, or `*.example.com` for all below it")
    return patterns


def parse_url(url: str, hosts: HostList) -> PhotoUrl:
    """Raises `ForbiddenUrlError`."""
    match = _URL.fullmatch(url) if len(url) <= MAX_URL_CHARS else None
    if match is None:
        raise ForbiddenUrlError(
            f"The address has to be https://host/path of at most {MAX_URL_CHARS:,} characters, percent-encoded, without a user "
            "name and without a port."
        )
    host = match["host"].lower()
    if not (_HOST.fullmatch(host) and hosts.allows(host)):
        raise ForbiddenUrlError("The operator does not allow photos from this host; send the photo in image.")
    target = match["target"]
    return PhotoUrl(host, target if target.startswith("/") else f"/{target}")
