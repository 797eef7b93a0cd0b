"""What an operator may choose of photos by address.

Owns these fields, as `app.settings` does for the rest; nothing reads this class but through `app.settings.Settings`.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode

from app.fetch.photo_url import parse_hosts


class FetchSettings(BaseSettings):
    """The part of `Settings` that concerns `image_url`."""

    image_url_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Hosts from which photos may be fetched (`image_url`), by name, or `*.example.com` for all below one; "
        "separated by commas. Only over https on port 443, and only from public addresses. Empty: `image_url` is refused, "
        "so that nobody makes the service reach out by accident.",
    )
    image_url_timeout_s: float = Field(
        5.0,
        gt=0,
        le=60,
        description="Seconds that fetching one photo may take, look-up and handshake included; never beyond the request's own "
        "deadline. An image host answers in tenths.",
    )
    max_image_fetches: int = Field(
        16,
        ge=1,
        le=1024,
        description="Most photos that one worker fetches at once: as many connections to one image host as it will bear.",
    )
    max_fetched_bytes: int = Field(
        192 * 1024 * 1024,
        ge=1024,
        le=64 * 1024**3,
        description="Most bytes of fetched photos that one worker holds at once, until they are read; one that is still "
        "coming counts as the largest allowed. The next fetch waits for room, which one photo always has. 192 MiB: 16 photos "
        "of 10 MiB under way, and 32 MiB for those that wait to be decoded.",
    )
    max_fetching_items: int = Field(
        128,
        ge=1,
        le=65_536,
        description="Most items of one worker whose photo is not there yet; more are refused with 503. Two full requests: a "
        "slow image host must not fill the queue for everybody.",
    )

    @field_validator("image_url_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: Any) -> Any:
        return parse_hosts(value.split(",") if isinstance(value, str) else value)
