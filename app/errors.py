"""What a failure looks like over HTTP: one table from stable codes to statuses, and RFC 9457 problem documents.

Owns the table, the exception that HTTP code raises, and the translation of the engine's errors. Refuses to know routes
and to repeat anything a client sent. A problem's `type` is a page that this service itself serves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response

from app.engine.errors import EngineError, UnavailableError

PROBLEM_MEDIA_TYPE = "application/problem+json"
ERRORS_PATH = "/docs/errors"


@dataclass(frozen=True, slots=True)
class ProblemType:
    """One kind of failure. `meaning` and `remedy` are for the page behind `type`; `example` is a typical detail."""

    code: str
    status: int
    title: str
    meaning: str
    remedy: str
    example: str


def _table(*types: ProblemType) -> Mapping[str, ProblemType]:
    return {problem.code: problem for problem in types}


P = ProblemType
PROBLEMS: Mapping[str, ProblemType] = _table(
    P("malformed_json", 400, "Malformed JSON", "The body is not JSON in UTF-8, or a key appears twice in one object.",
      "Send what a JSON library writes; NaN, Infinity and byte-order marks are not JSON.",
      "The body is not valid JSON: trailing comma at line 1 column 24."),
    P("malformed_multipart", 400, "Malformed form", "The multipart body cannot be read or ends too early.",
      "Let an HTTP library build the form, and let it set the Content-Type with its boundary.",
      "The form ends before its closing boundary."),
    P("unauthorized", 401, "API key required", "The request carries no API key, or one that is not allowed.",
      "Send the key as `X-API-Key: <key>` or `Authorization: Bearer <key>`.",
      "Send an API key in X-API-Key or as a Bearer token."),
    P("not_found", 404, "Not found", "There is nothing at this path.", "See /docs for what there is.",
      "There is nothing at this path; /docs lists what there is."),
    P("unknown_model", 404, "Unknown model", "No model of this name, or no such version of it, is served.",
      "GET /v1/models lists what is served.", "No model of this name is served; GET /v1/models lists them."),
    P("method_not_allowed", 405, "Method not allowed", "The path exists, but not with this method.",
      "The Allow header names the methods.",
      "This path does not answer to this method; the Allow header names those it does."),
    P("body_stalled", 408, "Body stalled", "The client stopped sending in the middle of the body, or sent it too slowly.",
      "Send again; look at the network if it happens often.",
      "The body came more slowly than 8,192 bytes in 8 s; send it again, or as application/x-ndjson if it takes long to make."),
    P("space_conflict", 409, "Embedding space conflict", "No kept version of the model embeds into the asked space.",
      "Rebuild the index with the model's present `space_id` (GET /v1/models/{name}), or ask for that space's version.",
      "No kept version of this model serves this space; GET /v1/models/{name} names the present one."),
    P("body_too_large", 413, "Body too large", "The body is larger than the service accepts.",
      "Send fewer items a request, smaller photos, or NDJSON.",
      "The body may have at most 33,554,432 bytes; send fewer items."),
    P("image_too_large", 413, "Photo too large", "The photo has too many bytes or pixels.",
      "Scale the photo down; the model sees a small version anyway.", "The photo may have at most 50,000,000 pixels."),
    P("unsupported_media_type", 415, "Unsupported content type",
      "The Content-Type is missing or not one this path reads, or the body has a Content-Encoding.",
      "Send application/json, multipart/form-data or application/x-ndjson, uncompressed.",
      "Send Content-Type: application/json, multipart/form-data or application/x-ndjson."),
    P("unsupported_image_type", 415, "Unsupported photo format", "The photo is not a JPEG, PNG or WebP.",
      "Convert the photo.", "The photo is not a JPEG, PNG or WebP; convert it."),
    P("invalid_request", 422, "Invalid request", "An option or the envelope is not as documented.",
      "Each entry of `errors` points to a place and says what is expected there.",
      "The request does not match its schema; see errors."),
    P("invalid_header", 422, "Invalid header", "A header of this API has a value that is not allowed.",
      "X-Request-Timeout-Ms is a whole number of milliseconds.",
      "X-Request-Timeout-Ms must be a whole number from 1 to 120,000."),
    P("too_many_items", 422, "Too many items", "The request holds more items than the service accepts at once.",
      "Split it, or send application/x-ndjson, which has no such limit.",
      "At most 64 items a request; split it or send NDJSON."),
    P("unknown_attribute", 422, "Unknown attribute", "The model has no attribute of that name.",
      "GET /v1/models/{name} lists the attributes.",
      "The model has no such attribute; GET /v1/models/{name} lists them."),
    P("unknown_dimensions", 422, "Unknown dimensions", "The model's embedding cannot be cut to this length.",
      "GET /v1/models/{name} lists the legal lengths.",
      "The model offers other lengths; GET /v1/models/{name} lists them."),
    P("invalid_item", 422, "Invalid item", "The item is not as documented.",
      "Each entry of `errors` points to a place and says what is expected there.",
      "The item does not match its schema; see errors."),
    P("empty_item", 422, "Empty item", "The item has neither photo nor title.", "Send `image`, `text`, or both.",
      "The item has neither image nor text; send at least one."),
    P("invalid_base64", 422, "Invalid base64", "The photo's text is not base64.",
      "Encode the file's bytes with base64 without line breaks (`base64 -w0`); a data: URI is fine too.",
      "The image is not base64: encode the file's bytes without line breaks."),
    P("image_url_not_allowed", 422, "Photo address not allowed",
      "The operator has not allowed fetching photos from addresses, or not from this one.",
      "Send the photo itself in `image`, or an https address on a host that the operator has allowed.",
      "image_url is switched off by the operator; send the photo in image."),
    P("image_not_fetched", 422, "Photo not fetched",
      "The photo could not be fetched from its address; why is not said, so that nobody can look around through the service.",
      "See that the address answers with the photo itself, quickly, without a redirect or a log-in; or send it in `image`.",
      "The photo could not be fetched from its address; send the photo itself in image."),
    P("input_not_supported", 422, "Input not supported",
      "The model cannot read this kind of input (a title, or a photo).",
      "GET /v1/models/{name} lists its inputs.", "This model reads photos alone; send an image."),
    P("undecodable_image", 422, "Undecodable photo", "The photo is damaged or cut short.",
      "Send the file's bytes unchanged.",
      "The photo cannot be decoded; it is damaged or cut short."),
    P("text_too_long", 422, "Title too long", "The title has too many characters.",
      "Send the title, not the description.",
      "The title has more than 2000 characters; shorten it."),
    P("quota_exceeded", 429, "Quota used up", "The API key has had as many items answered as it may have in this time.",
      "Wait for the seconds in Retry-After, then send again; ask the operator for more if that happens often.",
      "This key may have 600 items a minute answered; send again after the time in Retry-After."),
    P("internal_error", 500, "Internal error", "A fault of the service; it is in its log under the request id.",
      "Tell the operator the request id.", "The service failed; tell its operator the request_id."),
    P("overloaded", 503, "Overloaded", "More work is waiting than can be done in time.",
      "Wait for the seconds in Retry-After, then send again.",
      "The queue is full; send again after the time in Retry-After."),
    P("not_ready", 503, "Not ready", "The service is starting or stopping.",
      "Wait for the seconds in Retry-After, then send again.",
      "The service is not ready; send again after the time in Retry-After."),
    P("deadline_exceeded", 504, "Deadline exceeded", "The answer could not be ready within the caller's deadline.",
      "Allow more time in X-Request-Timeout-Ms, or send fewer items.",
      "The deadline passed before the answer was ready; allow more time or send fewer items."),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FieldError:
    """`pointer`: RFC 6901, into the body (or the name of an option); `detail`: what is expected there."""

    pointer: str
    detail: str


class ProblemError(Exception):
    """Raised by HTTP code to answer with a problem document. `code` is a key of `PROBLEMS`."""

    def __init__(
        self,
        code: str,
        detail: str | None = None,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.type = PROBLEMS[code]
        self.detail = self.type.example if detail is None else detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        super().__init__(code)

    def document(self) -> dict[str, Any]:
        """The problem object, without `request_id`, which only a whole response has."""
        document: dict[str, Any] = {
            "type": f"{ERRORS_PATH}#{self.type.code}",
            "title": self.type.title,
            "status": self.type.status,
            "detail": self.detail,
            "code": self.type.code,
        }
        if self.errors:
            document["errors"] = [{"pointer": error.pointer, "detail": error.detail} for error in self.errors]
        return document


def problem_from(error: EngineError, pointer: str = "") -> ProblemError:
    """Translate an engine error; `pointer` leads to the item ("/items/3"), and is empty for the request."""
    code = next((c.code for c in type(error).__mro__ if issubclass(c, EngineError) and c.code in PROBLEMS), "internal_error")
    if code == "internal_error":
        # What the engine says of its own faults (a folder's name, a library's words) is for the log.
        return ProblemError(code)
    errors = [FieldError(f"{pointer}/{error.field}", error.detail)] if error.field else []
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, UnavailableError) else {}
    return ProblemError(code, error.detail, errors=errors, headers=headers)


def quota_problem(items_per_minute: int, wait_s: float, items: int = 1) -> ProblemError:
    """`wait_s`: until `items` would fit, which more than `items_per_minute` never do."""
    allowed = f"This key may have {items_per_minute:,} items a minute answered"
    if items > items_per_minute:
        return ProblemError("quota_exceeded", f"{allowed}, fewer than this request holds; split it.")
    return ProblemError(
        "quota_exceeded",
        f"{allowed}; send again after the time in Retry-After.",
        headers={"Retry-After": str(math.ceil(wait_s))},
    )


def problem_response(problem: ProblemError, request_id: str) -> Response:
    """The whole answer to a failed request."""
    document = problem.document() | {"request_id": request_id}
    return Response(to_json(document), status_code=problem.type.status, headers=problem.headers, media_type=PROBLEM_MEDIA_TYPE)
