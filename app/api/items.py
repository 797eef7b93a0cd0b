"""From one item of a request to an engine `Item`, or to the problem that this item alone has.

Owns `data:` URIs, `id` and which photo addresses are taken. Refuses to look into a photo or a title, and to fetch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.api.base64_text import decode_base64
from app.api.schemas import ItemRequest
from app.api.validation import validate
from app.edge import CLIENT_ID
from app.engine.errors import ItemError, without_frames
from app.engine.items import Item, PhotoSource
from app.errors import FieldError, ProblemError, problem_from
from app.fetch.photo_url import ForbiddenUrlError

if TYPE_CHECKING:
    from app.fetch.fetcher import PhotoFetcher

_NO_PHOTOS: Mapping[str, bytes] = {}
_DATA_URI = re.compile(r"data:[^,]{0,256},", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ReceivedItem:
    """An item of a request in its place: either `item` or `problem` is set. `pointer` leads to it in the body."""

    id: str | None
    pointer: str
    item: Item | None = None
    problem: ProblemError | None = None

    def __post_init__(self) -> None:
        if self.problem is not None:
            without_frames(self.problem)


def receive_item(
    value: Any, pointer: str, *, max_image_bytes: int, fetcher: PhotoFetcher | None, photos: Mapping[str, bytes] = _NO_PHOTOS
) -> ReceivedItem:
    """Check one parsed item. Never raises for what a client sent: the finding is the item's `problem`. `fetcher`: None where
    `image_url` is switched off. `photos`: see `app.api.inline_photos`."""
    item_id = _valid_id(value)
    try:
        request = validate(ItemRequest, value, pointer=pointer, code="invalid_item")
        source = _source_of(request, pointer, fetcher) if request.image_url else None
        image = None
        if request.image and (image := photos.get(request.image)) is None:
            image = decode_image_text(request.image, f"{pointer}/image", max_image_bytes=max_image_bytes)
        return ReceivedItem(item_id, pointer, make_item(image, request.text, pointer, source))
    except ProblemError as problem:
        return ReceivedItem(item_id, pointer, problem=problem)


def make_item(image: bytes | None, text: str | None, pointer: str, source: PhotoSource | None = None) -> Item:
    """An empty photo or a blank title is an absent one. Raises `ProblemError` `empty_item` when nothing is left."""
    text = text if text and not text.isspace() else None
    if not image and text is None and source is None:
        raise ProblemError("empty_item", errors=[FieldError(pointer, "Send image, text, or both")])
    return Item(image=image or None, text=text, image_source=source)


def item_problem(error: ItemError, received: ReceivedItem) -> ProblemError:
    """The engine's finding as the item's problem. Of a photo that came by its address, the address is what is pointed to."""
    if error.field == "image" and received.item is not None and received.item.image_source is not None:
        error.field = "image_url"
    return problem_from(error, received.pointer)


def _source_of(request: ItemRequest, pointer: str, fetcher: PhotoFetcher | None) -> PhotoSource:
    place = f"{pointer}/image_url"
    if fetcher is None:
        detail = "Switched off by the operator; send the photo in image"
        raise ProblemError("image_url_not_allowed", errors=[FieldError(place, detail)])
    if request.image:
        raise ProblemError("invalid_item", errors=[FieldError(place, "Send image or image_url, not both")])
    try:
        return fetcher.source_of(request.image_url or "")
    except ForbiddenUrlError as error:
        raise ProblemError("image_url_not_allowed", str(error), errors=[FieldError(place, str(error))]) from None


def decode_image_text(encoded: str, pointer: str, *, max_image_bytes: int) -> bytes:
    """The photo's bytes. Raises `ProblemError` `invalid_base64` or `image_too_large`."""
    if encoded[:5].lower() == "data:":
        match = _DATA_URI.match(encoded)
        if match is None or not match.group().lower().endswith(";base64,"):
            raise _invalid(pointer, "A data: URI has to hold base64: data:image/jpeg;base64,…")
        encoded = encoded[match.end() :]
    # Checked before decoding: a photo over the limit costs nothing.
    if len(encoded) // 4 * 3 > max_image_bytes + 2:
        raise ProblemError(
            "image_too_large",
            f"The photo may have at most {max_image_bytes:,} bytes; scale it down.",
            errors=[FieldError(pointer, f"At most {max_image_bytes:,} bytes")],
        )
    try:
        return decode_base64(encoded)
    except ValueError:
        pass
    if encoded[:8].lower().startswith(("http://", "https://")):
        raise _invalid(pointer, "Holds an address; send the photo itself in base64")
    if any(character in encoded for character in "\n\r \t"):
        raise _invalid(pointer, "Holds line breaks or spaces; encode without them (base64 -w0)")
    raise _invalid(pointer, "Not base64; encode the file's bytes")


def _invalid(pointer: str, detail: str) -> ProblemError:
    return ProblemError("invalid_base64", errors=[FieldError(pointer, detail)])


def _valid_id(value: Any) -> str | None:
    item_id = value.get("id") if isinstance(value, dict) else None
    return item_id if isinstance(item_id, str) and CLIENT_ID.fullmatch(item_id) else None
