"""The allowed API keys: SHA-256 digests from the settings and from a file that may change while the service runs.

Owns reading, comparing and renewing them. Refuses to know requests, and to hold, log or echo a key.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from collections.abc import Iterable
from pathlib import Path

import structlog

from app.engine.plain_file import read_plain_file

log = structlog.stdlib.get_logger("itemlens.keys")

POLL_S = 1.0
"""How often the file is looked at. One `stat` a second costs nothing, and a revoked key should not live long."""

MAX_KEY_FILE_BYTES = 1024 * 1024
"""Ten thousand keys and what is said beside them. Each is compared with each request's."""


class KeyFileError(Exception):
    """The file holds no usable digests; the message says what to do and repeats nothing of it."""


def parse_digests(values: Iterable[str]) -> tuple[str, ...]:
    """Hex SHA-256 digests, stripped and lower-cased; blanks are skipped. Raises ValueError without repeating a
    value."""
    digests = tuple(value.strip().lower() for value in values if value.strip())
    if not all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests):
        raise ValueError("each must be the key's SHA-256 as 64 hex digits (`printf %s KEY | sha256sum`)")
    return digests


def read_digests(path: Path) -> tuple[str, ...]:
    """The digests of a file, one a line, `#` starting a comment; at least one. Raises `KeyFileError`."""
    try:
        data = read_plain_file(path, at_most=MAX_KEY_FILE_BYTES + 1)
        lines = data.decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise KeyFileError("the file cannot be read; name a readable text file with one hex SHA-256 a line") from None
    if len(data) > MAX_KEY_FILE_BYTES:
        raise KeyFileError(f"the file has more than {MAX_KEY_FILE_BYTES:,} bytes; name one with one hex SHA-256 a line")
    try:
        digests = parse_digests(line.split("#", 1)[0] for line in lines)
    except ValueError as error:
        raise KeyFileError(str(error)) from None
    if not digests:
        # An empty secret must not open the service.
        raise KeyFileError("the file holds no digest; unset the variable to serve without keys")
    return digests


class ApiKeys:
    """The allowed keys. None at all means open to everyone, which a file can neither cause nor end.

    `digests`: hex, always allowed. `path`: a file with more; whoever makes this object has read it once, see `refresh`.
    """

    def __init__(self, digests: Iterable[str] = (), path: Path | None = None) -> None:
        self._fixed = tuple(digests)
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self._is_failing = False
        self._allowed = _sorted(self._fixed)
        if path is not None:
            self._seen = _signature(path)
            self._allowed = _sorted((*self._fixed, *read_digests(path)))

    def __bool__(self) -> bool:
        return bool(self._allowed)

    def __len__(self) -> int:
        return len(self._allowed)

    def match(self, key: bytes) -> bytes | None:
        """The key's digest (32 bytes) if it is allowed. Every digest is compared, each in constant time, so that timing
        tells neither match nor place."""
        digest = hashlib.sha256(key).digest()
        found = False
        for allowed in self._allowed:
            found |= hmac.compare_digest(digest, allowed)
        return digest if found else None

    def refresh(self) -> bool:
        """Read the file again if it has changed, or could not be used the last time; whether that gave new keys. A file that
        cannot be used changes nothing and is reported once."""
        if self._path is None:
            return False
        signature = _signature(self._path)
        is_known = signature == self._seen
        if is_known and not self._is_failing:
            return False
        self._seen = signature
        try:
            allowed = _sorted((*self._fixed, *read_digests(self._path)))
        except KeyFileError as error:
            if not is_known:
                log.error("api_keys_kept", reason=str(error), keys=len(self._allowed))
            self._is_failing = True
            return False
        self._is_failing = False
        if allowed == self._allowed:
            return False
        self._allowed = allowed
        log.info("api_keys_renewed", keys=len(allowed))
        return True

    async def watch(self) -> None:
        """Refresh for ever, off the event loop; cancel it to stop."""
        while self._path is not None:
            await asyncio.sleep(POLL_S)
            await asyncio.to_thread(self.refresh)


def _sorted(digests: Iterable[str]) -> tuple[bytes, ...]:
    return tuple(sorted({bytes.fromhex(digest) for digest in digests}))


def _signature(path: Path) -> tuple[int, ...] | None:
    """Changes when the file does, or who may read it. Its inode is part of it: a mounted secret is renewed by switching a
    link."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size
