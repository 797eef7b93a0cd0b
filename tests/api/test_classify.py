"""`POST /v1/classify` as a storefront sees it."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest

from app.api.answers import ClassifyResponse
from app.engine.errors import ItemUnavailableError
from tests.conftest import FakeEngine, draw_photo, in_base64

pytestmark = pytest.mark.anyio

PHOTO = in_base64(draw_photo("red"))


async def classify(client: httpx.AsyncClient, *items: Any, **options: Any) -> httpx.Response:
    return await client.post("/v1/classify", json={"items": list(items), **options})


async def test_photo_and_title_are_answered_as_documented(client: httpx.AsyncClient) -> None:
    response = await classify(client, {"id": "sku-1", "image": PHOTO, "text": "Puma Men Grey T-shirt"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    ClassifyResponse.model_validate_json(response.content)
    body = response.json()
    assert body["model"] == {"name": "fashion", "version": "1"}
    (result,) = body["results"]
    assert (result["index"], result["id"], result["status"]) == (0, "sku-1", "ok")
    assert result["inputs"] == ["image", "text"]
    assert result["attributes"]["baseColour"]["label"] == "Red"
    assert result["agreement"] == {"score": 0.123457, "conflicts": []}


async def test_photo_alone_has_no_agreement_and_null_label_where_not_applicable(client: httpx.AsyncClient) -> None:
    result = (await classify(client, {"image": PHOTO})).json()["results"][0]
    assert "agreement" not in result
    assert "id" not in result
    assert result["attributes"]["titleLength"] == {
        "label": None,
        "confidence": 0.75,
        "decision": "not_applicable",
        "candidates": [],
    }


async def test_options_reach_the_engine(client: httpx.AsyncClient) -> None:
    response = await classify(client, {"image": PHOTO}, attributes=["baseColour"], top_k=2, precision=0.9, version="1")
    attributes = response.json()["results"][0]["attributes"]
    assert list(attributes) == ["baseColour"]
    assert len(attributes["baseColour"]["candidates"]) == 2


async def test_five_candidates_by_default(client: httpx.AsyncClient) -> None:
    result = (await classify(client, {"text": "red"})).json()["results"][0]
    assert len(result["attributes"]["baseColour"]["candidates"]) == 5


@pytest.mark.parametrize(("precision", "decision"), [(0.5, "accept"), (0.98, "review")])
async def test_precision_decides_between_accept_and_review(client: httpx.AsyncClient, precision: float, decision: str) -> None:
    result = (await classify(client, {"text": "red"}, precision=precision)).json()["results"][0]
    assert result["attributes"]["baseColour"]["decision"] == decision


@pytest.mark.parametrize(
    "encoded",
    [
        PHOTO,
        PHOTO.rstrip("="),
        base64.urlsafe_b64encode(draw_photo("red")).decode(),
        f"data:image/png;base64,{PHOTO}",
        f"dAtA:image/png;charset=x;base64,{PHOTO}",
    ],
)
async def test_base64_in_every_common_spelling_is_the_same_photo(client: httpx.AsyncClient, encoded: str) -> None:
    response = await classify(client, {"image": encoded})
    assert response.json()["results"][0]["attributes"]["baseColour"]["label"] == "Red"


async def test_url_safe_alphabet_is_really_exercised() -> None:
    photos = [draw_photo(colour) for colour in ("red", "white", "#123456", "#fedcba", "navy", "teal")]
    assert any(set("-_") & set(base64.urlsafe_b64encode(photo).decode()) for photo in photos)


async def test_one_bad_item_fails_alone(client: httpx.AsyncClient) -> None:
    bad: list[Any] = [
        "not an object",
        {},
        {"id": "ok-id", "image": 5},
        {"id": "bad id!", "text": "x"},
        {"id": "u", "image_url": "https://example.org/a.jpg"},
        {"text": "red", "titel": "x"},
        {"image": "@@@"},
        {"image": in_base64(b"GIF89a....")},
        {"image": in_base64(draw_photo(image_format="JPEG")[:200])},
        {"text": "x" * 201},
        None,
        {"text": "  ", "image": ""},
    ]
    response = await classify(client, {"id": "good", "text": "red"}, *bad)
    assert response.status_code == 200
    ClassifyResponse.model_validate_json(response.content)
    results = response.json()["results"]
    assert results[0]["status"] == "ok"
    assert [result["index"] for result in results] == list(range(len(bad) + 1))
    assert [result["error"]["code"] for result in results[1:]] == [
        "invalid_item",
        "empty_item",
        "invalid_item",
        "invalid_item",
        "image_url_not_allowed",
        "invalid_item",
        "invalid_base64",
        "unsupported_image_type",
        "undecodable_image",
        "text_too_long",
        "invalid_item",
        "empty_item",
    ]
    assert results[3]["id"] == "ok-id"
    assert results[3]["error"]["errors"][0]["pointer"] == "/items/3/image"
    assert "id" not in results[4]
    assert results[6]["error"]["errors"] == [
        {"pointer": "/items/6", "detail": "There is an unknown field here; allowed: id, image, image_url, text"}
    ]
    assert results[9]["error"]["errors"][0]["pointer"] == "/items/9/image"


async def test_all_items_may_fail_and_the_request_still_succeeds(client: httpx.AsyncClient) -> None:
    response = await classify(client, {}, {"image": "%"})
    assert response.status_code == 200
    assert [result["status"] for result in response.json()["results"]] == ["error", "error"]


@pytest.mark.parametrize(
    ("item", "status", "code"),
    [
        (7, 422, "invalid_item"),
        ({}, 422, "empty_item"),
        ({"image": "%"}, 422, "invalid_base64"),
        ({"image_url": "https://example.org/a.jpg"}, 422, "image_url_not_allowed"),
        ({"image": in_base64(b"plain text")}, 415, "unsupported_image_type"),
        ({"image": in_base64(draw_photo(image_format="JPEG")[:200])}, 422, "undecodable_image"),
        ({"text": "x" * 201}, 422, "text_too_long"),
        ({"image": "A" * 14_000_000}, 413, "image_too_large"),
    ],
)
async def test_a_single_item_answers_with_its_own_status(client: httpx.AsyncClient, item: Any, status: int, code: str) -> None:
    response = await classify(client, item)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == code
    assert response.json()["status"] == status


async def test_a_model_without_text_branch_refuses_a_title_alone(client: httpx.AsyncClient) -> None:
    response = await classify(client, {"text": "seven"}, model="mnist")
    assert (response.status_code, response.json()["code"]) == (422, "input_not_supported")
    both = await classify(client, {"text": "seven", "image": PHOTO}, model="mnist")
    assert both.json()["results"][0]["inputs"] == ["image"]


@pytest.mark.parametrize(
    ("image", "hint"),
    [
        ("https://example.org/shoe.jpg", "address"),
        (PHOTO[:40] + "\n" + PHOTO[40:], "line breaks"),
        ("data:image/png,rawbytes", "base64"),
        ("data:image/png;base64", "base64"),
    ],
)
async def test_a_wrong_image_text_says_what_is_wrong(client: httpx.AsyncClient, image: str, hint: str) -> None:
    response = await classify(client, {"image": image})
    assert response.json()["code"] == "invalid_base64"
    assert hint in response.json()["errors"][0]["detail"]


async def test_null_is_absent(client: httpx.AsyncClient) -> None:
    response = await classify(client, {"id": None, "image": None, "text": "red"}, model=None, top_k=None)
    assert response.status_code == 200
    assert response.json()["results"][0]["inputs"] == ["text"]


@pytest.mark.parametrize(
    ("options", "status", "code", "pointer"),
    [
        ({"model": "nope"}, 404, "unknown_model", "/model"),
        ({"version": "9"}, 404, "unknown_model", "/version"),
        ({"version": 1}, 422, "invalid_request", "/version"),
        ({"attributes": ["nope"]}, 422, "unknown_attribute", "/attributes/0"),
        ({"attributes": []}, 422, "invalid_request", "/attributes"),
        ({"attributes": [5]}, 422, "invalid_request", "/attributes/0"),
        ({"top_k": 0}, 422, "invalid_request", "/top_k"),
        ({"top_k": "3"}, 422, "invalid_request", "/top_k"),
        ({"top_k": True}, 422, "invalid_request", "/top_k"),
        ({"top_k": 2.5}, 422, "invalid_request", "/top_k"),
        ({"precision": 0.4999}, 422, "invalid_request", "/precision"),
        ({"precision": 1}, 422, "invalid_request", "/precision"),
        ({"topk": 3}, 422, "invalid_request", ""),
        ({"a secret title as a key": 3}, 422, "invalid_request", ""),
    ],
)
async def test_a_bad_option_fails_the_request_and_is_pointed_at(
    client: httpx.AsyncClient, options: dict[str, Any], status: int, code: str, pointer: str
) -> None:
    requests: list[list[dict[str, str]]] = [[{"text": "red"}, {"text": "blue"}], [{}], [{}, {}]]
    for items in requests:  # whatever is wrong with the items as well
        response = await classify(client, *items, **options)
        assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.json()["errors"][0]["pointer"] == pointer
    assert "secret" not in response.text


async def test_a_slip_in_a_name_is_recognised(client: httpx.AsyncClient) -> None:
    response = await classify(client, {"text": "red"}, topk=3)
    assert "`top_k`" in response.json()["errors"][0]["detail"]


@pytest.mark.parametrize("body", [[], 5, "x", {"items": {}}, {"items": []}, {}])
async def test_an_envelope_of_another_shape_is_refused(client: httpx.AsyncClient, body: Any) -> None:
    response = await client.post("/v1/classify", json=body)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


async def test_an_item_that_cannot_be_read_now_says_when_to_come_again(
    client: httpx.AsyncClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_no_room(*_: object) -> None:
        raise ItemUnavailableError("There is no room for a photo of this kind now.")

    monkeypatch.setattr(engine, "_classify_one", find_no_room)
    alone = await classify(client, {"image": PHOTO})
    assert (alone.status_code, alone.json()["code"], alone.headers["retry-after"]) == (503, "overloaded", "1")
    among_others = await classify(client, {"image": PHOTO}, {"text": "red"})
    assert among_others.status_code == 200
    assert among_others.json()["results"][0]["error"]["status"] == 503


async def test_64_items_are_accepted_and_65_are_not(client: httpx.AsyncClient) -> None:
    assert (await classify(client, *[{"text": "red"}] * 64)).status_code == 200
    response = await classify(client, *[{"text": "red"}] * 65)
    assert (response.status_code, response.json()["code"]) == (422, "too_many_items")
    assert response.json()["errors"][0]["pointer"] == "/items"


async def test_options_in_the_query_of_a_json_request_are_not_silently_ignored(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/classify?top_k=1&utm_source=x", json={"items": [{"text": "red"}]})
    assert response.status_code == 422
    assert [error["pointer"] for error in response.json()["errors"]] == ["/top_k"]
    assert (await client.post("/v1/classify?utm=1", json={"items": [{"text": "red"}]})).status_code == 200


async def test_overload_is_503_with_retry_after(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.overloads_left = 1
    response = await classify(client, {"text": "red"})
    assert (response.status_code, response.json()["code"]) == (503, "overloaded")
    assert response.headers["retry-after"] == "3"


async def test_a_whole_number_may_have_a_point(client: httpx.AsyncClient) -> None:
    """JSON Schema's `integer` is a number without a fraction."""
    response = await client.post(
        "/v1/classify", content=b'{"items": [{"text": "red"}], "top_k": 2.0}', headers={"Content-Type": "application/json"}
    )
    assert len(response.json()["results"][0]["attributes"]["baseColour"]["candidates"]) == 2


@pytest.mark.parametrize("top_k", ["5.5", "+5", " 5", "1_0", "0x5", "05", "5.", "\u0665", "1" * 33, "1e400"])
async def test_a_number_in_a_form_is_spelled_as_in_json(client: httpx.AsyncClient, top_k: str) -> None:
    response = await client.post("/v1/classify", files={"text": (None, "red"), "top_k": (None, top_k)})
    assert (response.status_code, response.json()["errors"][0]["pointer"]) == (422, "/top_k")


@pytest.mark.parametrize("top_k", ["2", "2.0", "2e0", "0.2e+1"])
async def test_every_spelling_of_json_is_the_same_number_in_a_form(client: httpx.AsyncClient, top_k: str) -> None:
    response = await client.post("/v1/classify", files={"text": (None, "red"), "top_k": (None, top_k)})
    assert len(response.json()["results"][0]["attributes"]["baseColour"]["candidates"]) == 2


async def test_a_thousand_broken_keys_are_one_finding(client: httpx.AsyncClient) -> None:
    item = b'{"text": "a", ' + b", ".join(b'"\\ud83d%d": 1' % number for number in range(1000)) + b"}"
    response = await client.post(
        "/v1/classify", content=b'{"items": [' + item + b"]}", headers={"Content-Type": "application/json"}
    )
    assert (response.status_code, len(response.json()["errors"])) == (422, 1)


async def test_half_a_surrogate_pair_fails_its_item_alone(client: httpx.AsyncClient) -> None:
    """As clients write that cut a title in the middle of an emoji."""
    body = b'{"items": [{"text": "red"}, {"text": "blue \\ud83d"}, {"text": "red \\ud83d\\ude00"}]}'
    response = await client.post("/v1/classify", content=body, headers={"Content-Type": "application/json"})
    good, bad, whole = response.json()["results"]
    assert (good["status"], whole["status"]) == ("ok", "ok")
    assert (bad["error"]["code"], bad["error"]["errors"][0]["pointer"]) == ("invalid_item", "/items/1/text")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b'{"items": [{"image": "\\ud83d"}]}', "/items/0/image"),
        (b'{"items": [{"image_url": "https://\\udc00.org/"}]}', "/items/0/image_url"),
        (b'{"items": [{"text": "a", "id": "\\ud83d"}]}', "/items/0/id"),
        (b'{"items": [{"text": "a", "\\ud83d": "b"}]}', "/items/0"),
        (b'{"items": [{"text": "a"}], "model": "\\ud83d"}', "/model"),
        (b'{"items": [{"text": "a"}], "\\ud83d": 1}', ""),
        (b'{"items": [{"text": "a"}], "attributes": ["\\ud83d"]}', "/attributes/0"),
        (b'{"items": ["\\ud83d"]}', "/items/0"),
    ],
)
async def test_half_a_surrogate_pair_is_text_nowhere(client: httpx.AsyncClient, body: bytes, pointer: str) -> None:
    response = await client.post("/v1/classify", content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["errors"][0]["pointer"]) == (422, pointer)
