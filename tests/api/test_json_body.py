"""What counts as JSON: hostile and careless bodies are 400 or 422, never 500."""

from __future__ import annotations

import json

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.json_body import parse_json
from app.errors import ProblemError

JSON = {"content-type": "application/json"}
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"items": [{"text": "a"}],}',
        b'{"items": [{"text": "a"}]} x',
        b'{"items": [{"text": "a"}], "precision": NaN}',
        b'{"items": [{"text": "a"}], "precision": -Infinity}',
        b'{"items": [{"text": "\\ud800"}], "items": []}',
        b'{"items": [{"text": "\\ud800"}], "precision": NaN}',
        b'{"items": [{"text": "\\ud800"}],}',
        b'{"items": [{"text": "\\ud800 \xed\xa0\x80"}]}',
        b'{"items": [{"text": "\xff\xfe"}]}',
        b'{"items": [{"text": "\x01"}]}',
        b'{"items": [{"text": "a", "text": "b"}]}',
        b'{"items": [{"text": "a"}], "items": [{"text": "b"}]}',
        b'{"items": [{"text": "say \\"a\\"", "id": "1", "id": "2"}]}',
        b'\xef\xbb\xbf{"items": [{"text": "a"}]}',
        '{"items": [{"text": "a"}]}'.encode("utf-16"),
        b"[" * 100_000,
        b'{"items": ' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"items": [{"text": "\\ud83d"}], "x": ' + b"[" * 300 + b"]" * 300 + b"}",
        b'{"items": [{"text": "\\ud83d\\ude00"}], "x": ' + b"[" * 300 + b"]" * 300 + b"}",
        b'{"top_k": ' + b"9" * 5000 + b"}",
        b"\x00\x01\x02",
    ],
)
async def test_a_body_that_is_not_json_is_400(client: httpx.AsyncClient, body: bytes) -> None:
    for path in ("/v1/classify", "/v1/embed"):
        response = await client.post(path, content=body, headers=JSON)
        expected = ("malformed_json", 400) if body != b"[" * 100_000 else ("invalid_request", 422)
        assert (response.json()["code"], response.status_code) in (expected, ("malformed_json", 400))
        assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.anyio
@pytest.mark.parametrize(
    "body",
    [
        b"null",
        b'{"items": [{"text": "a"}], "precision": 1e999}',
        b'{"items": [{"text": "a"}], "top_k": 1e3}',
        b'{"items": [{"text": "a"}], "top_k": 99999999999999999999999}',
        b'{"items": [{"text": 1e999}]}',
        b'{"items": [' + b"[]," * 200_000 + b"[]]}",
        b'{"items": [{"text": "a"}], "": 1}',
        '{"items": [{"text": "a"}], "\u202e": 1}'.encode(),
    ],
)
async def test_json_that_makes_no_sense_is_422(client: httpx.AsyncClient, body: bytes) -> None:
    response = await client.post("/v1/classify", content=body, headers=JSON)
    assert response.status_code == 422, response.text


@pytest.mark.anyio
@pytest.mark.parametrize(
    "text", [r"\u0022 \" \\ \/ \n", r"\u0000", "\u202e\u200b", "😀", r"\ud83d\ude00", "é" * 50, "a,[{:" * 20]
)
async def test_unusual_titles_are_answered(client: httpx.AsyncClient, text: str) -> None:
    body = f'{{"items": [{{"text": "{text}"}}]}}'.encode()
    response = await client.post("/v1/classify", content=body, headers=JSON)
    assert response.status_code == 200, response.text


@given(_values)
def test_valid_json_is_read_as_the_standard_library_reads_it(value: object) -> None:
    for kind in (bytes, bytearray):  # a large body comes as the second
        assert parse_json(kind(json.dumps(value).encode()), max_values=10_000) == value


@given(st.text(), st.text(), st.dictionaries(st.text(), st.text(), max_size=3))
def test_a_repeated_key_is_found_wherever_it_is(key: str, text: str, others: dict[str, str]) -> None:
    pairs = [(name, value) for name, value in others.items() if name != key] + [(key, text), (key, text)]
    inner = "{" + ", ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in pairs) + "}"
    for kind in (bytes, bytearray):
        with pytest.raises(ProblemError) as caught:
            parse_json(kind(f'{{"items": [{inner}]}}'.encode()), max_values=10_000)
        assert caught.value.type.code == "malformed_json"


def test_a_message_names_the_place_and_quotes_nothing() -> None:
    with pytest.raises(ProblemError) as caught:
        parse_json(b'{"text": "secret title", }', max_values=100)
    assert "line 1 column" in caught.value.detail
    assert "secret" not in caught.value.detail
