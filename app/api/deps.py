"""What routes are given: the engine, as far as HTTP knows it, and the settings.

Owns the `Engine` protocol, which is all this package may ask of the engine; tests serve a small one of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Protocol, cast

from fastapi import Depends, Request

from app.engine.errors import NotReadyError, OverloadedError
from app.engine.items import Classification, EmbeddingModality, EmbeddingReply, HeldVersion, Item, ModelDescription, Reply
from app.settings import Settings

if TYPE_CHECKING:
    from app.fetch.fetcher import PhotoFetcher


class Engine(Protocol):
    """Items in, answers out. Raises `RequestError`, `UnavailableError`, `DeadlineExceededError`; item errors are
    results.

    `items` may be empty: the request's options are then checked all the same, and the reply says which model would have
    answered. `model`, `version`: None means the default. `timeout_s`: seconds from now. `may_hold_loop`: nobody else waits for
    this event loop, so an item may be answered in its thread.
    """

    async def classify(
        self,
        items: Sequence[Item],
        *,
        model: str | None,
        version: str | None,
        attributes: Sequence[str] | None,
        top_k: int,
        precision: float,
        timeout_s: float | None,
        may_hold_loop: bool,
    ) -> Reply[Classification]: ...

    async def embed(
        self,
        items: Sequence[Item],
        *,
        model: str | None,
        version: str | None,
        modality: EmbeddingModality | None,
        dimensions: int | None,
        space_id: str | None,
        timeout_s: float | None,
        may_hold_loop: bool,
    ) -> EmbeddingReply: ...

    def hold(self, *, model: str | None, version: str | None, space_id: str | None) -> AbstractContextManager[HeldVersion]:
        """Choose a version and keep it, until the block ends, for calls that name it."""

    def is_overloaded(self) -> bool:
        """Whether it is worth asking `overload`."""

    def overload(self) -> OverloadedError | None:
        """What any request would be refused with now, whatever it asks for. Each question counts as a request."""

    def models(self) -> Sequence[ModelDescription]: ...

    def describe(self, name: str) -> ModelDescription: ...

    def is_ready(self) -> bool: ...

    async def close(self) -> None: ...


def open_engine_of(request: Request) -> Engine:
    """The open engine. Raises `NotReadyError` before start-up is over and while stopping."""
    engine = request.app.state.engine
    if engine is None:
        raise NotReadyError("The service is starting or stopping; send again after the time in Retry-After.")
    return cast(Engine, engine)


async def _get_engine(request: Request) -> Engine:
    return open_engine_of(request)


def settings_of(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


def fetcher_of(request: Request) -> PhotoFetcher | None:
    """What fetches photos by `image_url`; None where the operator has allowed no host."""
    return cast("PhotoFetcher | None", request.app.state.fetcher)


EngineDep = Annotated[Engine, Depends(_get_engine)]
"""For routes that are not in a hurry: resolving dependencies costs a request 60 us, a tenth of what it costs altogether."""
