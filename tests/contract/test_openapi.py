"""The committed description of the API, and its examples, against the code."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from fastapi import FastAPI
from PIL import Image

from app.api.answers import ClassifyResponse, EmbedResponse, ProblemDocument
from app.api.examples import CLASSIFY_ANSWER, EMBED_ANSWER, EXAMPLE_IMAGE, EXAMPLE_MODEL
from app.api.models import ModelDescriptionAnswer
from app.errors import PROBLEMS
from scripts.export_openapi import OPENAPI_PATH, draw_example_photo, render_openapi


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    from app.main import create_app
    from app.settings import Settings

    app: FastAPI = create_app(Settings())
    return app.openapi()


def _operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, op) for path, item in document["paths"].items() for method, op in item.items()]


def test_the_committed_document_is_the_codes() -> None:
    assert OPENAPI_PATH.read_text("utf-8") == render_openapi(), "run `python -m scripts.export_openapi`"


def test_every_operation_has_a_name_a_description_and_a_successful_example(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in _operations(document)]
    assert names == ["classify", "embed", "list_models", "get_model", "live", "ready", "prometheus_metrics"]
    for path, _, operation in _operations(document):
        assert operation["description"], path
        (example,) = [body["example"] for body in operation["responses"]["200"]["content"].values() if "example" in body]
        assert example
        assert set(operation["responses"]["200"]["headers"]) >= {"X-Request-ID", "Server-Timing"}


def test_examples_of_answers_have_the_answers_shape() -> None:
    ClassifyResponse.model_validate(CLASSIFY_ANSWER)
    EmbedResponse.model_validate(EMBED_ANSWER)
    ModelDescriptionAnswer.model_validate(EXAMPLE_MODEL)


def test_every_problem_is_documented_with_an_example_where_it_occurs(document: dict[str, Any]) -> None:
    seen: set[str] = set()
    for _, _, operation in _operations(document):
        for status, response in operation["responses"].items():
            examples = response.get("content", {}).get("application/problem+json", {}).get("examples", {})
            for code, example in examples.items():
                problem = ProblemDocument.model_validate(example["value"])
                assert problem.code == code
                assert problem.status == int(status) == PROBLEMS[code].status
                seen.add(code)
    # The router's own two have no operation to stand under.
    assert seen == set(PROBLEMS) - {"not_found", "method_not_allowed"}


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [ref for child in node.values() for ref in references(child)]
        return [ref for child in node for ref in references(child)] if isinstance(node, list) else []

    for reference in references(document):
        node: Any = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


def test_the_three_kinds_of_body_are_described(document: dict[str, Any]) -> None:
    for path in ("/v1/classify", "/v1/embed"):
        content = document["paths"][path]["post"]["requestBody"]["content"]
        assert set(content) == {"application/json", "multipart/form-data", "application/x-ndjson"}
        form = content["multipart/form-data"]["schema"]["properties"]
        assert form["image"]["format"] == "binary"
        assert "model" in form


def test_an_item_of_nulls_does_not_satisfy_its_schema(document: dict[str, Any]) -> None:
    """A null field is an absent one, and an item without photo and title is refused."""
    for branch in document["components"]["schemas"]["ItemRequest"]["anyOf"]:
        [name] = branch["required"]
        assert branch["properties"] == {name: {"type": "string", "minLength": 1}}


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/embed"])
def test_a_form_on_the_docs_page_starts_with_nothing_made_up(document: dict[str, Any], path: str) -> None:
    """Swagger UI fills a field without default and example with "string", and sends it."""
    body = document["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"]
    for name, field in body["schema"]["properties"].items():
        assert field.get("format") == "binary" or "default" in field or "example" in field, name
        assert "examples" not in field, name
        assert "anyOf" not in field, f"{name}: an option of a form is left out, never null"
    if path == "/v1/classify":
        assert body["encoding"]["attributes"] == {"style": "form", "explode": True}


def test_the_example_photo_is_the_drawing() -> None:
    stored = Image.open(io.BytesIO(base64.b64decode(EXAMPLE_IMAGE, validate=True))).convert("RGB")
    assert stored.tobytes() == draw_example_photo().convert("RGB").tobytes()
