"""Who may call: API keys, kept as SHA-256 digests alone.

Owns the check and where it applies; it runs before a body is read. Refuses to know what a key may do (all keys are
equal) and to log, echo or store a key.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from app.edge import context_of
from app.errors import ProblemError, problem_response

_OPEN_PREFIXES = ("/health/", "/docs/")
_OPEN_PATHS = frozenset({"/docs", "/openapi.json"})
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="itemlens"'}


def sent_key(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The key of a request: `X-API-Key`, else `Authorization: Bearer`; None if there is neither."""
    key = headers.get(b"x-api-key")
    if key is not None:
        return key
    scheme, _, credentials = headers.get(b"authorization", b"").partition(b" ")
    return credentials.strip() if scheme.lower() == b"bearer" and credentials.strip() else None


class ApiKeys:
    """The allowed keys, as 32-byte SHA-256 digests. None at all means open to everyone."""

    def __init__(self, digests: frozenset[bytes]) -> None:
        self._digests = tuple(sorted(digests))

    def __bool__(self) -> bool:
        return bool(self._digests)

    def allow(self, key: bytes) -> bool:
        """Compare with every digest, each in constant time, so that timing tells neither match nor place."""
        digest = hashlib.sha256(key).digest()
        found = False
        for allowed in self._digests:
            found |= hmac.compare_digest(digest, allowed)
        return found


class ApiKeyGuard:
    """Answer 401 unless the path is open or the key is allowed."""

    def __init__(self, app: ASGIApp, *, keys: ApiKeys, metrics_require_key: bool) -> None:
        self.app = app
        self.keys = keys
        self.open_paths = _OPEN_PATHS if metrics_require_key else _OPEN_PATHS | {"/metrics"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self.keys or self._is_open(scope["path"]):
            await self.app(scope, receive, send)
            return
        context = context_of(scope)
        key = sent_key(context.headers)
        if key is not None and self.keys.allow(key):
            await self.app(scope, receive, send)
            return
        problem = ProblemError("unauthorized", headers=_CHALLENGE)
        context.code = problem.type.code
        await problem_response(problem, context.request_id)(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        return path in self.open_paths or path.startswith(_OPEN_PREFIXES)
