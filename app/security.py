"""Who may call: the check of a request's API key.

Owns where a key is needed, how it is sent, and what is refused before a body is read: a wrong key, and a right one whose quota
is used up. Refuses to know which keys there are, and to log, echo or store one. All keys may do the same.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api_keys import ApiKeys
from app.edge import context_of, is_bulk, refuse_unread
from app.errors import ProblemError, quota_problem
from app.quota import KeyQuota, QuotaTable

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


class ApiKeyGuard:
    """Answer 401 unless the path is open or the key is allowed, and 429 when the key's quota is used up. Reading about models
    (GET) costs no item."""

    def __init__(self, app: ASGIApp, *, keys: ApiKeys, metrics_require_key: bool, quotas: QuotaTable | None = None) -> None:
        self.app = app
        self.keys = keys
        self.quotas = quotas
        self.open_paths = _OPEN_PATHS if metrics_require_key else _OPEN_PATHS | {"/metrics"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self.keys or self._is_open(scope["path"]):
            await self.app(scope, receive, send)
            return
        context = context_of(scope)
        key = sent_key(context.headers)
        digest = None if key is None else self.keys.match(key)
        problem = ProblemError("unauthorized", headers=_CHALLENGE) if digest is None else None
        if digest is not None and self.quotas is not None and scope["method"] not in ("GET", "HEAD"):
            context.quota = KeyQuota(self.quotas, digest)
            # A stream waits for each of its lines instead.
            wait_s = 0.0 if is_bulk(context.headers) else context.quota.take()
            if wait_s:
                problem = quota_problem(self.quotas.items_per_minute, wait_s)
        if problem is None:
            await self.app(scope, receive, send)
            return
        await refuse_unread(problem, scope, receive, send)

    def _is_open(self, path: str) -> bool:
        return path in self.open_paths or path.startswith(_OPEN_PREFIXES)
