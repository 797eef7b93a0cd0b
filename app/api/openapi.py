"""What the OpenAPI document says beyond what FastAPI sees.

Owns the description of hand-parsed bodies, of every error with an example, of the common headers and of the keys.
Refuses to describe anything twice: schemas come from the models that check requests, errors from the one table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from app import __version__
from app.api.answers import ClassifyLine, EmbedLine, FailedItem, ProblemDocument
from app.api.examples import (
    CLASSIFY_ANSWER,
    CLASSIFY_REQUESTS,
    EMBED_ANSWER,
    EMBED_REQUESTS,
    EXAMPLE_MODEL,
    FORM_REQUEST,
    PHOTO_ONLY,
    TITLE_ONLY,
)
from app.api.schemas import ClassifyOptions, ClassifyRequest, EmbedOptions, EmbedRequest, ItemRequest, ModelOptions
from app.errors import ERRORS_PATH, PROBLEM_MEDIA_TYPE, ProblemError

__all__ = ["EXAMPLE_MODEL", "classify_documentation", "embed_documentation", "install", "problems", "success"]

_REF = "#/components/schemas/{model}"
_COMMON = ("unauthorized", "internal_error", "not_ready")
_ITEM = (
    "invalid_item",
    "empty_item",
    "invalid_base64",
    "image_url_not_allowed",
    "image_not_fetched",
    "input_not_supported",
    "unsupported_image_type",
    "image_too_large",
    "undecodable_image",
    "text_too_long",
)
_GROUPS: Mapping[str, tuple[str, ...]] = {
    "common": _COMMON,
    "recognition": (
        *_COMMON,
        "malformed_json",
        "malformed_multipart",
        "unknown_model",
        "body_stalled",
        "body_too_large",
        "unsupported_media_type",
        "invalid_request",
        "invalid_header",
        "too_many_items",
        "unknown_attribute",
        "quota_exceeded",
        *_ITEM,
        "overloaded",
        "deadline_exceeded",
    ),
}
_POINTED: Mapping[str, str] = {
    "invalid_request": "/top_k",
    "unknown_attribute": "/attributes",
    "unknown_dimensions": "/dimensions",
    "unknown_model": "/model",
    "invalid_item": "/items/0/text",
    "invalid_base64": "/items/0/image",
    "undecodable_image": "/items/0/image",
    "image_too_large": "/items/0/image",
    "unsupported_image_type": "/items/0/image",
    "text_too_long": "/items/0/text",
    "image_url_not_allowed": "/items/0/image_url",
    "image_not_fetched": "/items/0/image_url",
}
_DESCRIPTION = f"""Open `POST /v1/classify` below and press **Execute**: it sends a small photo with its title. From a
shell, with a photo of your own:

```
curl -F image=@shoe.jpg -F text='Nike running shoe' http://127.0.0.1:8000/v1/classify
```

Every failure is an RFC 9457 `application/problem+json` document with a stable `code`; [{ERRORS_PATH}]({ERRORS_PATH}) lists
them all with what to do. Every answer carries `X-Request-ID` (yours, if you sent one of `[A-Za-z0-9._:-]{{1,128}}`) and
`Server-Timing` (milliseconds of `decode`, `queue`, `model` and `total`)."""
_REQUEST_HEADERS = [
    {
        "name": "X-Request-ID",
        "in": "header",
        "required": False,
        "description": "Your name for the request; comes back, and is in the service's log.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
    },
    {
        "name": "X-Request-Timeout-Ms",
        "in": "header",
        "required": False,
        "description": "Your deadline in milliseconds, from the request's arrival; in bulk, of each line's own work.",
        "schema": {"type": "integer", "minimum": 1},
    },
]
_RESPONSE_HEADERS = {
    "X-Request-ID": {"description": "The request's name in the log.", "schema": {"type": "string"}},
    "Server-Timing": {
        "description": "Milliseconds spent: decode, queue, model, total.",
        "schema": {"type": "string"},
        "example": "decode;dur=1.9, queue;dur=0.3, model;dur=2.4, total;dur=5.1",
    },
}
_BELOW_HTTP = {
    str(status): {"description": f"In plain text: {what}.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    for status, what in ((414, "the path and query are too long"), (431, "the headers are too large or too many"))
}
"""Answers to heads that never become a request (`app.connection_limits`)."""
_DOCUMENTED_MODELS = (ClassifyRequest, EmbedRequest, ItemRequest, ClassifyLine, EmbedLine, FailedItem, ProblemDocument)


def problems(group: str, *codes: str) -> dict[int | str, dict[str, Any]]:
    """`responses` for a group of codes (or one code) and further ones: per status, one example per code."""
    responses: dict[int | str, dict[str, Any]] = {}
    for code in (*_GROUPS.get(group, (group,)), *codes):
        problem = ProblemError(code)
        document = problem.document() | {"request_id": "3f6c1e0a9b7d4c52"}
        if code in _POINTED:
            document["errors"] = [{"pointer": _POINTED[code], "detail": "What is expected there"}]
        status = problem.type.status
        response = responses.setdefault(
            status,
            {"description": "", "content": {PROBLEM_MEDIA_TYPE: {"schema": _ref("ProblemDocument"), "examples": {}}}},
        )
        response["description"] += f"{'; ' if response['description'] else ''}`{code}`: {problem.type.meaning.rstrip('.')}"
        response["content"][PROBLEM_MEDIA_TYPE]["examples"][code] = {"summary": problem.type.title, "value": document}
        if status in (429, 503):
            about = "Seconds to wait; absent where waiting does not help."
            response["headers"] = {"Retry-After": {"description": about, "schema": {"type": "integer"}}}
    return dict(sorted(responses.items(), key=lambda entry: str(entry[0])))


def success(example: Any) -> dict[int | str, dict[str, Any]]:
    """`responses` for 200 with an example."""
    return {200: {"content": {"application/json": {"example": example}}}}


def classify_documentation() -> dict[str, Any]:
    return _body("ClassifyRequest", "ClassifyLine", ClassifyOptions, CLASSIFY_REQUESTS, CLASSIFY_ANSWER)


def embed_documentation() -> dict[str, Any]:
    return _body("EmbedRequest", "EmbedLine", EmbedOptions, EMBED_REQUESTS, EMBED_ANSWER)


def install(app: FastAPI) -> None:
    """Replace `app.openapi` by one that adds what this module owns; the document is built once."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title="Itemlens",
        version=__version__,
        summary="Recognise shop items from a photo, a title, or both.",
        description=_DESCRIPTION,
        routes=app.routes,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    _, definitions = models_json_schema([(model, "validation") for model in _DOCUMENTED_MODELS], ref_template=_REF)
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name, schema in definitions["$defs"].items():
        schemas.setdefault(name, schema)
    for name in ("ClassifyRequest", "EmbedRequest"):
        properties = schemas[name]["properties"]
        properties["items"]["maxItems"] = app.state.settings.max_request_items
        # A null option is an absent one (`validation.without_nulls`).
        schemas[name]["properties"] = {key: value if key == "items" else _nullable(value) for key, value in properties.items()}
    # A null or empty one is an absent one.
    said = {"type": "string", "minLength": 1}
    schemas["ItemRequest"]["anyOf"] = [
        {"required": [name], "properties": {name: said}} for name in ("image", "image_url", "text")
    ]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    components["schemas"] = dict(sorted(schemas.items()))
    components["securitySchemes"] = {
        "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "Bearer": {"type": "http", "scheme": "bearer"},
    }
    for path, operations in document["paths"].items():
        for operation in operations.values():
            # The framework's own refusal of a path, which these paths never meet.
            if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                del operation["responses"]["422"]
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "X-Request-Timeout-Ms":
                    parameter["schema"] = parameter["schema"] | {"maximum": app.state.settings.max_request_timeout_ms}
            if path.startswith("/v1/"):
                # The empty one: a service without keys is open.
                operation["security"] = [{"ApiKey": []}, {"Bearer": []}, {}]
            operation["responses"] |= _BELOW_HTTP
            # Every answer has them; said once per operation, since they would double the length of the page.
            operation["responses"]["200"].setdefault("headers", {}).update(_RESPONSE_HEADERS)
    return document


def _body(
    request: str, line: str, options: type[ModelOptions], examples: dict[str, Any], answer: dict[str, Any]
) -> dict[str, Any]:
    # `openapi_extra` is merged into what FastAPI derives, so the answers' examples and bulk lines can be added here.
    option_schemas = _without_null(options.model_json_schema(ref_template=_REF)["properties"])
    form_properties = {
        "image": {"type": "string", "format": "binary", "description": "Photo: JPEG, PNG or WebP."},
        "text": {"type": "string", "description": "Title.", "example": FORM_REQUEST["text"]},
        "id": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$", "example": FORM_REQUEST["id"]},
        **_left_empty(option_schemas),
    }
    lines = "".join(f'{{"id": "{item["id"]}", {_line_rest(item)}}}\n' for item in (PHOTO_ONLY, TITLE_ONLY))
    return {
        "parameters": [*_REQUEST_HEADERS, *_query_parameters(option_schemas)],
        "requestBody": {
            "required": True,
            "description": "JSON carries many items, a form one, NDJSON (one item a line, options in the query) any number.",
            "content": {
                "application/json": {"schema": _ref(request), "examples": examples},
                "multipart/form-data": {
                    "schema": {"type": "object", "properties": form_properties, "additionalProperties": False},
                    "example": FORM_REQUEST,
                    # One field per attribute; the page would join them with commas.
                    "encoding": {"attributes": {"style": "form", "explode": True}} if "attributes" in option_schemas else {},
                },
                "application/x-ndjson": {"schema": _ref("ItemRequest"), "example": lines},
            },
        },
        "responses": {
            "200": {
                "description": "One result per item, in order.",
                "content": {
                    "application/json": {"example": answer},
                    "application/x-ndjson": {"schema": {"anyOf": [_ref(line), _ref("FailedItem")]}},
                },
            }
        },
    }


def _line_rest(item: Mapping[str, str]) -> str:
    return ", ".join(f'"{name}": "{value}"' for name, value in item.items() if name != "id")


def _nullable(schema: Mapping[str, Any]) -> dict[str, Any]:
    about = {key: value for key, value in schema.items() if key in ("title", "description", "default", "examples")}
    rest = {key: value for key, value in schema.items() if key not in about}
    return dict(schema) if "anyOf" in schema else about | {"anyOf": [rest, {"type": "null"}]}


def _without_null(option_schemas: Mapping[str, Any]) -> dict[str, Any]:
    """An option of a form or a query is left out, never null."""
    return {
        name: {key: value for key, value in schema.items() if key not in ("anyOf", "default")} | schema["anyOf"][0]
        if "anyOf" in schema
        else schema
        for name, schema in option_schemas.items()
    }


def _left_empty(option_schemas: Mapping[str, Any]) -> dict[str, Any]:
    """The page fills a form's fields with defaults or examples, or makes some up; what nobody asked for stays empty."""
    filled = {}
    for name, schema in option_schemas.items():
        filled[name] = {key: value for key, value in schema.items() if key != "examples"}
        if "default" not in schema:
            filled[name]["example"] = [] if schema.get("type") == "array" else ""
    return filled


def _query_parameters(option_schemas: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": f"For application/x-ndjson alone. {schema.get('description', '')}",
            "schema": {key: value for key, value in schema.items() if key not in ("description", "examples", "default")},
        }
        for name, schema in option_schemas.items()
    ]


def _ref(model: str) -> dict[str, str]:
    return {"$ref": _REF.format(model=model)}
