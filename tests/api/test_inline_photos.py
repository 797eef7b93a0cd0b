"""Photos that are decoded where they stand change nothing of what a request is answered, but its price."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api import inline_photos
from app.api.inline_photos import parse_with_photos
from app.api.items import ReceivedItem, receive_item
from app.api.json_body import parse_json
from app.errors import ProblemError

MAX_IMAGE_BYTES = 3000
PHOTO = bytes(range(256)) * 8
ENCODED = base64.b64encode(PHOTO).decode()


def received(body: bytes | bytearray, *, quickly: bool) -> list[ReceivedItem] | tuple[str, str]:
    """What a body of items comes to, or the code and the detail of its problem."""
    photos: Mapping[str, bytes] = {}
    try:
        if quickly:
            value, photos = parse_with_photos(body, max_values=200, max_image_bytes=MAX_IMAGE_BYTES)
        else:
            value = parse_json(body, max_values=200)
    except ProblemError as problem:
        return problem.type.code, problem.detail
    values = value if isinstance(value, list) else [value]
    return [
        receive_item(item, f"/items/{place}", max_image_bytes=MAX_IMAGE_BYTES, fetcher=None, photos=photos)
        for place, item in enumerate(values)
    ]


def said(outcome: list[ReceivedItem] | tuple[str, str]) -> Any:
    if isinstance(outcome, tuple):
        return outcome
    return [(item.id, item.item, item.problem.document() if item.problem else None) for item in outcome]


_images = st.one_of(
    st.binary(min_size=760, max_size=3300).map(lambda photo: base64.b64encode(photo).decode()),
    st.binary(min_size=760, max_size=900).map(lambda photo: base64.urlsafe_b64encode(photo).decode().rstrip("=")),
    st.binary(min_size=760, max_size=900).map(lambda photo: "data:image/jpeg;base64," + base64.b64encode(photo).decode()),
    st.sampled_from(["", "QQ==", "A" * 1029, "=" * 1032, "AAA=" * 300, ENCODED[:-1] + "R", ENCODED + "\n", "ü" * 1100]),
    st.sampled_from([None, 7, [ENCODED], {"image": ENCODED}]),
)
_texts = st.sampled_from(["red shirt", '"image":"', '{"image": "' + "A" * 1100 + '"}', "\\", 'a\\"image": "b', "", None])
_items = st.fixed_dictionaries(
    {}, optional={"id": st.sampled_from(["a", "image", "not valid!"]), "text": _texts, "image": _images, "pixels": _images}
)


@given(st.lists(_items, min_size=1, max_size=4), st.sampled_from([None, 1]), st.booleans())
def test_items_are_what_they_are_when_parsed_whole(items: list[dict[str, Any]], indent: int | None, escapes: bool) -> None:
    body = json.dumps(items, indent=indent, ensure_ascii=escapes).encode()
    assert said(received(body, quickly=True)) == said(received(body, quickly=False))
    assert said(received(bytearray(body), quickly=True)) == said(received(body, quickly=False))


@given(st.data())
def test_what_is_no_json_is_described_where_it_was_sent(data: st.DataObject) -> None:
    body = json.dumps([{"image": ENCODED, "text": "red"}, {"image": ENCODED}]).encode()
    at = data.draw(st.integers(0, len(body) - 1))
    damaged = body[:at] + data.draw(st.sampled_from([b"", b"\\", b'"', b"}", b"\0", b"\xff"])) + body[at + 1 :]
    assert said(received(damaged, quickly=True)) == said(received(damaged, quickly=False))


@pytest.mark.parametrize(
    "text",
    [
        '[{"image":"E","image":"E"}]',
        '[{"image":"E","text":"a","text":"b"}]',
        '[{"image":"E"}',
        '[{"image":"E",}]',
        '{"image":"E',
        '"image":"E"',
        '[{"image"\u00a0:"E"}]',
    ],
)
def test_problems_of_the_text_are_the_same(text: str) -> None:
    body = text.replace("E", ENCODED).encode()
    assert isinstance(received(body, quickly=False), tuple)
    assert said(received(body, quickly=True)) == said(received(body, quickly=False))


def test_a_plain_photo_does_not_go_through_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []

    def watched(body: bytes, *, max_values: int) -> Any:
        parsed.append(bytes(body))
        return parse_json(body, max_values=max_values)

    monkeypatch.setattr(inline_photos, "parse_json", watched)
    body = json.dumps([{"image": ENCODED, "text": "one"}, {"text": "two", "image": ENCODED}]).encode()
    found = received(body, quickly=True)
    assert isinstance(found, list)
    assert [item.item.image for item in found if item.item] == [PHOTO, PHOTO]
    assert len(parsed) == 1
    assert len(parsed[0]) < 300


def test_no_more_fields_are_looked_at_than_a_text_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []

    class Watched:
        def match(self, body: bytes, at: int) -> re.Match[bytes] | None:
            looked_at.append(at)
            return value.match(body, at)

    value = inline_photos._VALUE
    monkeypatch.setattr(inline_photos, "_VALUE", Watched())
    for text in (b'"image"' * 10_000, b'{"image":"' + ENCODED.encode() + b'",' + b'"image":"x",' * 10_000):
        looked_at.clear()
        assert said(received(text, quickly=True)) == said(received(text, quickly=False))
        assert len(looked_at) <= 200  # as many as it may have commas and brackets


def test_what_stands_in_a_photos_place_is_never_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inline_photos, "_MARK", "canary")
    for text in ('{"items":[{"pixels":{"image":"E"}}],"image":"E"}', '[{"image":"E","unknown":1}]', '{"id":{"image":"E"}}'):
        assert "canary" not in str(said(received(text.replace("E", ENCODED).encode(), quickly=True)))
