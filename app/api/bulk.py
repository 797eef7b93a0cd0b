"""Bulk: items in as NDJSON lines, results out as lines, in order, while the request is still being sent.

Owns back-pressure. One task reads lines and starts their work, one writes results in order; between them stands a
bounded queue. A client that does not read stops the writer, the full queue stops the reader, and the server then stops
taking bytes from the socket. What moves neither way for `stall_timeout_s` is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal

import structlog
from pydantic_core import to_json
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.answer_text import merge_objects, write_result
from app.api.deps import Engine
from app.api.inline_photos import parse_with_photos
from app.api.items import ReceivedItem, receive_item
from app.api.line_work import LineWork, Outcome
from app.api.lines import read_lines
from app.api.operations import AnswerT, Operation, OptionsT
from app.body_budget import BodyLease
from app.edge import RequestContext, context_of
from app.engine.items import Item, Reply
from app.errors import FieldError, ProblemError
from app.settings import Settings

if TYPE_CHECKING:
    from app.fetch.fetcher import PhotoFetcher

log = structlog.stdlib.get_logger("itemlens.bulk")

_LINE_OVERHEAD_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class _Work(Generic[AnswerT]):
    """A line whose work has begun. `held_bytes`: of the budget for bodies, until its result is written."""

    received: ReceivedItem
    task: asyncio.Task[Outcome[AnswerT]]
    held_bytes: int


class BulkResponse(Response, Generic[OptionsT, AnswerT]):
    """Streams the answer to an NDJSON request. The status is sent with the first result, so that a body that cannot be read
    still answers with its own status; later failures are lines."""

    media_type = "application/x-ndjson"

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        operation: Operation[OptionsT, AnswerT],
        options: OptionsT,
        *,
        timeout_s: float,
        fetcher: PhotoFetcher | None,
    ) -> None:
        self.fetcher = fetcher
        self.engine = engine
        self.settings = settings
        self.operation = operation
        self.options = options
        self.timeout_s = timeout_s
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # One stream, one version: a switch half-way would mix two models' answers, or two spaces.
        with self.operation.hold(self.engine, self.options) as held:
            self.options = self.options.model_copy(update={"model": held.model.name, "version": held.model.version})
            # Without items: what is wrong with the options fails the request, whatever its first lines are.
            await self.operation.run(self.engine, [], self.options, self.timeout_s)
            await self._stream(held.is_short, scope, receive, send)

    async def _stream(self, is_short: Callable[[], bool], scope: Scope, receive: Receive, send: Send) -> None:
        context = context_of(scope)
        context.items = 0
        body = context.body
        assert body is not None  # noqa: S101  (the edge gives every request that may have a body one)
        connection: dict[str, Any] = scope.get("extensions", {}).get("itemlens.connection", {})
        if connection.get("is_lost", False):
            raise ClientDisconnect
        if "stream" in connection:
            connection["stream"]()  # who reads it is watched here
        # The work of a line is a task; the queue bounds how many there are, in order.
        window: asyncio.Queue[_Work[AnswerT] | ProblemError | None]
        # Besides what it holds, one item is being written and one waits to be put.
        window = asyncio.Queue(max(1, self.settings.bulk_window_items - 2))
        writer = asyncio.current_task()
        assert writer is not None  # noqa: S101  (a coroutine always runs in a task)
        lines = LineWork(
            self._ask,
            is_short=is_short,
            timeout_s=self.timeout_s,
            patience_s=self.settings.stall_timeout_s,
            most_lines=self.settings.bulk_window_items,
        )
        has_gone = is_done = False

        def abandon() -> None:
            nonlocal has_gone
            # The end of the answer looks the same to the reader; and two may say it.
            if not (has_gone or is_done):
                has_gone = True
                writer.cancel()

        async def read() -> None:
            try:
                async for line in read_lines(
                    receive, body, max_line_bytes=self._max_line_bytes(body), stall_timeout_s=self.settings.stall_timeout_s
                ):
                    await _wait_for_quota(context)
                    received = self._receive_line(line.content)
                    work = _Work(received, asyncio.create_task(lines.answer(received)), line.held_bytes)
                    try:
                        await window.put(work)
                    except asyncio.CancelledError:
                        work.task.cancel()
                        raise
                await window.put(None)
                while (await receive())["type"] != "http.disconnect":
                    pass
                raise ClientDisconnect
            except ClientDisconnect:
                abandon()
            except ProblemError as problem:
                await window.put(problem)
            except Exception:
                log.exception("bulk_reader_failed", request_id=context.request_id)
                await window.put(ProblemError("internal_error"))

        if "on_lost" in connection:
            # The reader would notice only when it asks for more: not while it waits for the quota or for a place in the window.
            connection["on_lost"] = abandon
        reader = asyncio.create_task(read())
        try:
            await self._write(window, body, context, scope, send)
        except asyncio.CancelledError:
            if has_gone and writer.uncancel() == 0:
                raise ClientDisconnect from None
            raise
        finally:
            is_done = True
            if "on_lost" in connection:
                connection["on_lost"] = None
            reader.cancel()
            while not window.empty():
                entry = window.get_nowait()
                if isinstance(entry, _Work):
                    entry.task.cancel()

    async def _write(
        self,
        window: asyncio.Queue[_Work[AnswerT] | ProblemError | None],
        body: BodyLease,
        context: RequestContext,
        scope: Scope,
        send: Send,
    ) -> None:
        index = 0
        while (entry := await window.get()) is not None:
            if isinstance(entry, ProblemError):
                if not context.response_started:
                    raise entry
                context.code = entry.type.code
                await self._send_line(index, None, entry, None, context, scope, send)
                break
            try:
                outcome = await entry.task
            except asyncio.CancelledError:
                entry.task.cancel()
                raise
            if not context.response_started and outcome.reply is not None:
                context.model = outcome.reply.model.name
                context.timing = outcome.reply.timing
            await self._send_line(index, entry.received.id, outcome.problem, outcome.reply, context, scope, send)
            body.give(entry.held_bytes)
            index += 1
            context.items = index
        if not context.response_started:
            detail = "The body holds no item; send one JSON object a line."
            raise ProblemError("invalid_request", detail, errors=[FieldError("", detail)])
        await self._send(b"", context, scope, send, more=False)
        if context.code is not None:
            # The rest of the body never came, so the connection cannot carry another request.
            await _end_connection(scope, "close")

    async def _send_line(
        self,
        index: int,
        item_id: str | None,
        problem: ProblemError | None,
        reply: Reply[AnswerT] | None,
        context: RequestContext,
        scope: Scope,
        send: Send,
    ) -> None:
        said: bytes | ProblemError
        if problem is not None:
            said = problem
        else:
            assert reply is not None  # noqa: S101  (a line without a problem has an answer)
            answer: Any = reply.results[0]
            said = merge_objects(to_json(self.operation.head(reply)), self.operation.result(answer, self.options))
        await self._send(write_result(index, item_id, said) + b"\n", context, scope, send, more=True)

    async def _send(self, body: bytes, context: RequestContext, scope: Scope, send: Send, *, more: bool) -> None:
        try:
            async with asyncio.timeout(self.settings.stall_timeout_s):
                if not context.response_started:
                    headers = [(b"content-type", b"application/x-ndjson")]
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": body, "more_body": more})
        except TimeoutError:
            # Closing would wait for the client to read what is buffered, so the connection is cut where the server can.
            await _end_connection(scope, "abort")
            raise ClientDisconnect from None

    async def _ask(self, item: Item) -> Reply[AnswerT]:
        return await self.operation.run(self.engine, [item], self.options, self.timeout_s)

    def _max_line_bytes(self, body: BodyLease) -> int:
        """A photo in base64 and a title in escapes; and no more than finds room beside the lines of others."""
        item_bytes = self.settings.max_image_bytes * 4 // 3 + self.settings.max_text_chars * 12 + _LINE_OVERHEAD_BYTES
        return min(item_bytes, body.max_line_bytes)

    def _receive_line(self, line: bytes | ProblemError) -> ReceivedItem:
        if isinstance(line, ProblemError):
            return ReceivedItem(None, "", problem=line)
        try:
            limit = self.settings.max_image_bytes
            value, photos = parse_with_photos(line, max_values=self.settings.max_json_values, max_image_bytes=limit)
        except ProblemError as problem:
            return ReceivedItem(None, "", problem=problem)
        return receive_item(value, "", max_image_bytes=limit, fetcher=self.fetcher, photos=photos)


async def _wait_for_quota(context: RequestContext) -> None:
    """Until the caller's key may have one more item: a stream can wait, so that it is slowed and not refused."""
    while context.quota is not None and (wait_s := context.quota.take()):
        await asyncio.sleep(wait_s)


async def _end_connection(scope: Scope, how: Literal["close", "abort"]) -> None:
    connection = scope.get("extensions", {}).get("itemlens.connection")
    if connection is not None:
        connection[how]()
        # Lets the server notice before the request is over.
        await asyncio.sleep(0)
