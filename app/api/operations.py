"""The two things a client can ask of items, in one shape, so that JSON, forms and bulk need no second copy.

Owns which options go to which engine method, and which rendering its answers get.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Generic, Protocol, TypeVar, cast

from pydantic_core import to_json

from app.api.answer_text import write_classification
from app.api.answers import render_embedding, render_model
from app.api.deps import Engine
from app.api.schemas import ClassifyEnvelope, ClassifyOptions, EmbedEnvelope, EmbedOptions, ModelOptions
from app.engine.items import Classification, Embedding, EmbeddingReply, HeldVersion, Item, Reply

OptionsT = TypeVar("OptionsT", bound=ModelOptions)
AnswerT = TypeVar("AnswerT")


class Operation(Protocol, Generic[OptionsT, AnswerT]):
    """`options` and `envelope` are the request's schemas; `run` asks the engine, `hold` keeps the version that a stream begins
    with; the rest renders the reply: `head` what all results have in common, `result` a JSON object of what one item is."""

    options: type[OptionsT]
    envelope: type[OptionsT]

    async def run(
        self, engine: Engine, items: Sequence[Item], options: OptionsT, timeout_s: float, *, may_hold_loop: bool = False
    ) -> Reply[AnswerT]: ...

    def hold(self, engine: Engine, options: OptionsT) -> AbstractContextManager[HeldVersion]: ...

    def head(self, reply: Reply[AnswerT]) -> dict[str, Any]: ...

    def result(self, answer: AnswerT, options: OptionsT) -> bytes: ...


class ClassifyOperation:
    options: type[ClassifyOptions] = ClassifyOptions
    envelope: type[ClassifyOptions] = ClassifyEnvelope

    async def run(
        self, engine: Engine, items: Sequence[Item], options: ClassifyOptions, timeout_s: float, *, may_hold_loop: bool = False
    ) -> Reply[Classification]:
        return await engine.classify(
            items,
            model=options.model,
            version=options.version,
            attributes=options.attributes,
            top_k=options.top_k,
            precision=options.precision,
            timeout_s=timeout_s,
            may_hold_loop=may_hold_loop,
        )

    def hold(self, engine: Engine, options: ClassifyOptions) -> AbstractContextManager[HeldVersion]:
        return engine.hold(model=options.model, version=options.version, space_id=None)

    def head(self, reply: Reply[Classification]) -> dict[str, Any]:
        return {"model": render_model(reply.model)}

    def result(self, answer: Classification, options: ClassifyOptions) -> bytes:
        return write_classification(answer)


class EmbedOperation:
    options: type[EmbedOptions] = EmbedOptions
    envelope: type[EmbedOptions] = EmbedEnvelope

    async def run(
        self, engine: Engine, items: Sequence[Item], options: EmbedOptions, timeout_s: float, *, may_hold_loop: bool = False
    ) -> Reply[Embedding]:
        return await engine.embed(
            items,
            model=options.model,
            version=options.version,
            modality=options.modality,
            dimensions=options.dimensions,
            space_id=options.space,
            timeout_s=timeout_s,
            may_hold_loop=may_hold_loop,
        )

    def hold(self, engine: Engine, options: EmbedOptions) -> AbstractContextManager[HeldVersion]:
        return engine.hold(model=options.model, version=options.version, space_id=options.space)

    def head(self, reply: Reply[Embedding]) -> dict[str, Any]:
        reply = cast(EmbeddingReply, reply)
        return {"model": render_model(reply.model), "space_id": reply.space_id, "dimensions": reply.dimensions}

    def result(self, answer: Embedding, options: EmbedOptions) -> bytes:
        return to_json(render_embedding(answer, as_base64=options.encoding == "base64"))


CLASSIFY = ClassifyOperation()
EMBED = EmbedOperation()
