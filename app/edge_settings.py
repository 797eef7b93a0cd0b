"""What an operator may choose of the connection and the key: where to listen, TLS, what one connection may cost, who may call.

Owns these fields, with names, units, bounds, defaults and reasons, as `app.settings` does for the rest; nothing reads this
class but through `app.settings.Settings`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode

from app.api_keys import parse_digests

_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-fA-F:]+\](:[0-9]{1,5})?")


class EdgeSettings(BaseSettings):
    """The part of `Settings` that lives at the edge."""

    # --- Where it listens ---
    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address to listen on. Loopback, so that nothing is exposed by accident; `0.0.0.0` or `::` opens "
        "it to the network (set API keys then).",
    )
    port: int = Field(8000, ge=0, le=65535, description="TCP port; 0 takes a free one. 8000 is uvicorn's habit.")
    graceful_shutdown_s: int = Field(
        20,
        ge=0,
        le=600,
        description="Seconds that running requests may still take after SIGTERM. Below Kubernetes' 30 s, after which it kills.",
    )
    keep_alive_s: int = Field(
        75,
        ge=1,
        le=3600,
        description="Seconds an idle connection is kept. Longer than the 60 s of common load balancers, so that they "
        "close first and never meet a closed connection.",
    )
    tls_certificate_file: Path | None = Field(
        None,
        description="PEM file with the certificate and its chain; with it the service speaks TLS 1.2 and 1.3 alone. Read again "
        "on SIGHUP. Unset: plain HTTP, for loopback or behind a proxy that ends TLS.",
    )
    tls_key_file: Path | None = Field(
        None, description="PEM file with the certificate's private key, without a passphrase. Needed with the certificate."
    )

    # --- What one connection may cost ---
    max_connections: int = Field(
        2048,
        ge=8,
        le=1_000_000,
        description="Most open connections of one worker, unfinished TLS handshakes included. When one more comes, the longest "
        "idle one is closed for it, or the oldest handshake where those are more than a quarter; with everybody busy it gets "
        "503. Some 20 kB each; far above what a load balancer opens.",
    )
    max_head_bytes: int = Field(
        16 * 1024,
        ge=1024,
        le=1024 * 1024,
        description="Largest head of a request (its line and its headers), in bytes; more is 431. What most servers accept.",
    )
    max_headers: int = Field(
        100, ge=10, le=10_000, description="Most headers of one request; more is 431. Browsers send twenty, proxies add ten."
    )
    max_url_bytes: int = Field(
        8 * 1024, ge=256, le=64_000, description="Longest path with its query, in bytes; more is 414. nginx's and Apache's."
    )
    slow_client_timeout_s: float = Field(
        8.0,
        gt=0,
        le=3600,
        description="Seconds until a slow client is closed: the whole head must arrive in them, and a body (other than NDJSON) "
        "or an answer must move on by `ITEMLENS_MIN_CLIENT_BYTES_PER_S` in each such span. Outlives a lost packet or "
        "three, and keeps a slow-client attack below 10 s a connection.",
    )
    min_client_bytes_per_s: int = Field(
        1024,
        ge=1,
        le=1024 * 1024 * 1024,
        description="Slowest sending or reading, in bytes a second, that is not taken for an attack. Every modem is faster.",
    )

    # --- Who may call ---
    api_keys_sha256: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Allowed API keys as hex SHA-256 digests, separated by commas; several allow rotation. Empty "
        "(and no file): open to all who reach it.",
    )
    api_keys_file: Path | None = Field(
        None,
        description="File with one such digest per line (`#` starts a comment), for a mounted secret. Read again within two "
        "seconds of a change, so that keys rotate without a restart; a file that cannot be read changes nothing.",
    )
    max_items_per_minute_per_key: int = Field(
        0,
        ge=0,
        le=1_000_000_000,
        description="Items that one API key may have answered per minute over all workers, in bursts of one minute's worth "
        "at most; more is 429, NDJSON waits. Items, because they are what costs; a request counts as one or more. 0: no limit.",
    )
    metrics_require_key: bool = Field(
        False,
        description="Ask for a key at /metrics too. Off: scrapers sit inside the network, and the metrics hold counts alone.",
    )
    docs_enabled: bool = Field(
        True, description="Serve /docs and /openapi.json. On: they say nothing that the public source does not."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origins whose pages may call from a browser, such as `https://admin.example.com`, separated by commas. "
        "Empty: none; a storefront's backend calls, and a key in a page is everybody's.",
    )

    @field_validator("api_keys_sha256", mode="before")
    @classmethod
    def _split_digests(cls, value: Any) -> Any:
        digests = value.split(",") if isinstance(value, str) else value
        return parse_digests(digests)

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: Any) -> Any:
        origins = value.split(",") if isinstance(value, str) else value
        origins = tuple(origin.strip().lower() for origin in origins if origin.strip())
        if not all(_ORIGIN.fullmatch(origin) for origin in origins):
            raise ValueError("each must be scheme, host and, unless it is the scheme's own, port: `https://admin.example.com`")
        return origins
