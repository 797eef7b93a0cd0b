"""Everything that can go wrong inside the engine, drawn:

    EngineError
    ├── ItemError                    one item is at fault; its neighbours are answered
    │   ├── EmptyItemError           neither photo nor title
    │   ├── InputNotSupportedError   the model has no branch for what was sent
    │   ├── UnsupportedImageTypeError
    │   ├── ImageTooLargeError       bytes or pixels
    │   ├── UndecodableImageError
    │   ├── ImageNotFetchedError     from where the item says it is
    │   ├── TextTooLongError
    │   ├── ItemUnavailableError     what this item needs cannot be had now
    │   └── ItemFailedError          a defect of ours met this item
    ├── RequestError                 the request as a whole cannot be answered
    │   ├── UnknownModelError        name or version
    │   ├── UnknownAttributeError
    │   ├── UnknownDimensionsError
    │   └── SpaceConflictError
    ├── UnavailableError             our side; carries `retry_after_s`
    │   ├── OverloadedError
    │   └── NotReadyError
    ├── DeadlineExceededError        the caller's time ran out
    └── BundleError                  a model folder is refused
        └── NoRoomError              for want of memory: the folder may be fine

Owns the tree and the stable `code` of each leaf. Refuses to know status codes: one table in `app.errors` maps them.
A message says what to do and never repeats what the client sent.
"""

from __future__ import annotations

from typing import ClassVar, TypeVar

ErrorT = TypeVar("ErrorT", bound=Exception)


def without_frames(error: ErrorT) -> ErrorT:
    """An error that is answered, or kept as an item's outcome: without the frames that it came through, which hold the photo,
    and often the error, so that all of it would wait for the garbage collector."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


def is_want_of_threads(error: BaseException) -> bool:
    """Whether the system let no further thread be started. Python says so in these words alone."""
    return isinstance(error, RuntimeError) and str(error) == "can't start new thread"


class EngineError(Exception):
    """Root of the tree. `code` is stable: clients branch on it."""

    code: ClassVar[str] = "internal_error"

    def __init__(self, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        """Which field of the item or request is at fault (`image`, `text`, `model`, …), if one is."""


class ItemError(EngineError):
    """One item of a request is at fault."""

    code = "invalid_item"


class EmptyItemError(ItemError):
    code = "empty_item"


class InputNotSupportedError(ItemError):
    code = "input_not_supported"


class UnsupportedImageTypeError(ItemError):
    code = "unsupported_image_type"


class ImageTooLargeError(ItemError):
    code = "image_too_large"


class UndecodableImageError(ItemError):
    code = "undecodable_image"


class ImageNotFetchedError(ItemError):
    code = "image_not_fetched"


class TextTooLongError(ItemError):
    code = "text_too_long"


class ItemFailedError(ItemError):
    """A defect of ours met this item: the runtime failed on it alone, or gave numbers that are none."""

    code = "internal_error"


class RequestError(EngineError):
    """The request as a whole cannot be answered."""

    code = "invalid_request"


class UnknownModelError(RequestError):
    code = "unknown_model"


class UnknownAttributeError(RequestError):
    code = "unknown_attribute"


class UnknownDimensionsError(RequestError):
    code = "unknown_dimensions"


class UnsupportedModalityError(RequestError):
    """The model embeds no such thing, whatever the item."""

    code = "input_not_supported"


class SpaceConflictError(RequestError):
    code = "space_conflict"


class UnavailableError(EngineError):
    """Our side cannot answer now. `retry_after_s` is a whole number of seconds, at least 1."""

    code = "unavailable"

    def __init__(self, detail: str, *, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_s = max(1, retry_after_s)


class OverloadedError(UnavailableError):
    code = "overloaded"


class NotReadyError(UnavailableError):
    code = "not_ready"


class ItemUnavailableError(ItemError, UnavailableError):
    """What this item needs beside the others cannot be had now."""

    code = "overloaded"


class DeadlineExceededError(EngineError):
    code = "deadline_exceeded"


class BundleError(EngineError):
    """A model folder is refused; the message is one line that names the folder and the reason."""

    code = "bundle_refused"


class NoRoomError(BundleError):
    """There is not enough memory for one more version; the folder may be fine."""
