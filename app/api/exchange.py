"""One request from bytes to answer, for JSON and forms.

Owns the rules of a batch: an error of the envelope fails the request, an error inside an item fails that item alone,
and a request with one item answers with that item's failure. Bulk requests are handed to `app.api.bulk`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, cast
from urllib.parse import parse_qsl

from fastapi import Request
from pydantic_core import to_json
from starlette.responses import Response

from app.api.answer_text import merge_objects, write_result
from app.api.body import AbandonedOnDisconnect, Pace, has_come, is_alone, read_body
from app.api.bulk import BulkResponse
from app.api.deps import Engine, fetcher_of, open_engine_of, settings_of
from app.api.inline_photos import parse_with_photos
from app.api.items import ReceivedItem, item_problem, make_item, receive_item
from app.api.multipart import Part, parse_multipart
from app.api.operations import AnswerT, Operation, OptionsT
from app.api.schemas import ITEM_FIELDS, ItemRequest
from app.api.validation import validate, validate_strings
from app.edge import RequestContext, context_of
from app.engine.errors import DeadlineExceededError, ItemError
from app.errors import FieldError, ProblemError, quota_problem
from app.settings import Settings

if TYPE_CHECKING:
    from app.fetch.fetcher import PhotoFetcher

_MAX_QUERY_FIELDS = 256


@dataclass(frozen=True, slots=True)
class _Batch(Generic[OptionsT]):
    options: OptionsT
    items: Sequence[ReceivedItem]


async def answer(request: Request, operation: Operation[OptionsT, AnswerT]) -> Response:
    """Read, check, ask the engine, render. Raises `ProblemError`, `EngineError`, `ClientDisconnect`."""
    engine, settings = open_engine_of(request), settings_of(request)
    context = context_of(request.scope)
    timeout_s = requested_timeout_s(context, settings)
    content_type = context.headers.get(b"content-type", b"")
    media_type = content_type.partition(b";")[0].strip().lower()
    if context.headers.get(b"content-encoding", b"").strip().lower() not in (b"", b"identity"):
        detail = "A body with this Content-Encoding is not read here; send it uncompressed. Photos are compressed already."
        raise ProblemError("unsupported_media_type", detail, headers={"Accept-Encoding": "identity"})
    if media_type == b"application/x-ndjson":
        options = validate_strings(operation.options, query_options(request, operation.options))
        return BulkResponse(engine, settings, operation, options, timeout_s=timeout_s, fetcher=fetcher_of(request))
    if media_type not in (b"application/json", b"multipart/form-data"):
        raise _unsupported(media_type)
    _refuse_query_options(request, operation.options)
    pace = Pace(settings.slow_client_timeout_s, settings.min_client_bytes_per_s)
    left_s = timeout_s - context.elapsed_s()
    is_there = has_come(request.scope)
    body = await read_body(request.receive, pace, timeout_s=left_s, is_there=is_there, announced_bytes=context.announced_bytes)
    if media_type == b"application/json":
        batch = _read_json(body, settings, operation, fetcher_of(request))
    else:
        batch = _read_form(parse_multipart(body, content_type), operation)
    del body
    context.items = len(batch.items)
    async with AbandonedOnDisconnect(request.scope, request.receive):
        return await _answer_batch(batch, engine, operation, context, timeout_s, may_hold_loop=is_alone(request.scope))


async def _answer_batch(
    batch: _Batch[OptionsT],
    engine: Engine,
    operation: Operation[OptionsT, AnswerT],
    context: RequestContext,
    timeout_s: float,
    *,
    may_hold_loop: bool,
) -> Response:
    is_single = len(batch.items) == 1
    _charge(context, len(batch.items))
    remaining_s = timeout_s - context.elapsed_s()
    if remaining_s <= 0:
        raise DeadlineExceededError("The deadline passed while the body was read; allow more time.")
    valid = [received.item for received in batch.items if received.item is not None]
    reply = await operation.run(engine, valid, batch.options, remaining_s, may_hold_loop=may_hold_loop)
    context.model = reply.model.name
    context.timing = reply.timing
    answers = iter(reply.results)
    results = []
    for index, received in enumerate(batch.items):
        outcome = received.problem if received.problem is not None else next(answers)
        if isinstance(outcome, ItemError):
            outcome = item_problem(outcome, received)
        if is_single and isinstance(outcome, ProblemError):
            raise outcome
        said = outcome if isinstance(outcome, ProblemError) else operation.result(outcome, batch.options)
        results.append(write_result(index, received.id, said))
    text = merge_objects(to_json(operation.head(reply)), b'{"results":[%b]}' % b",".join(results))
    return _JsonText(text)


class _JsonText(Response):
    """JSON that is there already. What the base class makes of its options costs more than sending it."""

    def __init__(self, text: bytes) -> None:
        self.status_code = 200
        self.background = None
        self.body = text
        self.raw_headers = [(b"content-length", b"%d" % len(text)), (b"content-type", b"application/json")]


def _charge(context: RequestContext, items: int) -> None:
    """Count the items against the caller's quota, but for the one that the request counted as. Raises `ProblemError`."""
    quota = context.quota
    if quota is None or items <= 1:
        return
    if items > quota.items_per_minute or (wait_s := quota.take(items - 1)):
        # The next attempt will count as one again before its items do.
        raise quota_problem(quota.items_per_minute, 0.0 if items > quota.items_per_minute else wait_s + quota.interval_s, items)


def requested_timeout_s(context: RequestContext, settings: Settings) -> float:
    """The caller's deadline in seconds from the request's arrival. Raises `ProblemError` `invalid_header`."""
    sent = context.headers.get(b"x-request-timeout-ms")
    if sent is None:
        return settings.request_timeout_ms / 1000
    most = settings.max_request_timeout_ms
    if not (sent.isdigit() and len(sent) <= 9 and 1 <= int(sent) <= most):
        detail = f"X-Request-Timeout-Ms must be a whole number from 1 to {most:,}."
        raise ProblemError("invalid_header", detail, errors=[FieldError("/X-Request-Timeout-Ms", detail)])
    return int(sent) / 1000


def query_options(request: Request, options: type[OptionsT]) -> Mapping[str, str | list[str]]:
    """The query as options; a repeated `attributes` is a list. Raises `ProblemError` for anything else repeated."""
    try:
        pairs = parse_qsl(
            request.scope["query_string"].decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_MAX_QUERY_FIELDS,
        )
    except ValueError:
        detail = f"The query cannot be read: percent-encode it as UTF-8, {_MAX_QUERY_FIELDS} parameters at most."
        raise ProblemError("invalid_request", detail, errors=[FieldError("", detail)]) from None
    return _collect(pairs, options)


def _refuse_query_options(request: Request, options: type[OptionsT]) -> None:
    """An option that would silently do nothing is refused; other parameters (a gateway's) are left alone."""
    if not request.scope["query_string"]:
        return
    misplaced = sorted(options.model_fields.keys() & request.query_params.keys())
    if misplaced:
        raise ProblemError(
            "invalid_request",
            "Options go into the body here; the query is for application/x-ndjson.",
            errors=[FieldError(f"/{name}", "Given in the query; move it into the body") for name in misplaced],
        )


def _read_json(
    body: bytes | bytearray, settings: Settings, operation: Operation[OptionsT, Any], fetcher: PhotoFetcher | None
) -> _Batch[OptionsT]:
    limit = settings.max_image_bytes
    value, photos = parse_with_photos(body, max_values=settings.max_json_values, max_image_bytes=limit)
    envelope = validate(operation.envelope, value)
    values: list[Any] = cast(Any, envelope).items
    most = settings.max_request_items
    if len(values) > most:
        detail = f"At most {most:,} items a request; split it or send application/x-ndjson."
        raise ProblemError("too_many_items", detail, errors=[FieldError("/items", f"At most {most:,}")])
    return _Batch(
        envelope,
        [
            receive_item(value, f"/items/{i}", max_image_bytes=limit, fetcher=fetcher, photos=photos)
            for i, value in enumerate(values)
        ],
    )


def _read_form(parts: Sequence[Part], operation: Operation[OptionsT, Any]) -> _Batch[OptionsT]:
    image: bytes | None = None
    pairs: list[tuple[str, str]] = []
    for part in parts:
        if part.name == "image":
            if image is not None:
                raise ProblemError(
                    "invalid_request",
                    "A form carries one item; send several as application/json.",
                    errors=[FieldError("/image", "Given more than once")],
                )
            image = part.content
            continue
        try:
            pairs.append((part.name, part.content.decode("utf-8")))
        except UnicodeDecodeError:
            name = part.name if part.name in operation.options.model_fields or part.name in ITEM_FIELDS else ""
            raise ProblemError(
                "invalid_request",
                "A field of the form is not UTF-8 text.",
                errors=[FieldError(f"/{name}" if name else "", "Should be UTF-8 text")],
            ) from None
    # A form sends an untouched field as an empty one.
    pairs = [(name, value) for name, value in pairs if value != ""]
    item_pairs = [(name, value) for name, value in pairs if name in ITEM_FIELDS]
    option_pairs = [(name, value) for name, value in pairs if name not in ITEM_FIELDS]
    options = validate_strings(
        operation.options, _collect(option_pairs, operation.options), also_known=ITEM_FIELDS - {"image_url"}
    )
    try:
        item = validate_strings(ItemRequest, _collect(item_pairs, ItemRequest), code="invalid_item")
        if item.image_url is not None:
            detail = "A form carries the photo itself, in image."
            raise ProblemError("image_url_not_allowed", detail, errors=[FieldError("/image_url", detail)])
        received = ReceivedItem(item.id, "", make_item(image, item.text, ""))
    except ProblemError as problem:
        received = ReceivedItem(None, "", problem=problem)
    return _Batch(options, [received])


def _collect(pairs: Sequence[tuple[str, str]], model: type[Any]) -> dict[str, str | list[str]]:
    collected: dict[str, str | list[str]] = {}
    for name, value in pairs:
        if name == "attributes":
            cast("list[str]", collected.setdefault(name, [])).append(value)
        elif name in collected and name in model.model_fields:
            raise ProblemError("invalid_request", errors=[FieldError(f"/{name}", "Given more than once")])
        else:
            collected[name] = value
    return collected


def _unsupported(media_type: bytes) -> ProblemError:
    accepted = "application/json, multipart/form-data or application/x-ndjson"
    missing = "The request has no Content-Type" if not media_type else "The request's Content-Type is not read here"
    detail = f"{missing}; send {accepted}. For JSON, add the header Content-Type: application/json."
    return ProblemError("unsupported_media_type", detail, headers={"Accept": accepted.replace(" or ", ", ")})
