"""From an `Item` to a row of model input, off the event loop.

Owns the checks of one item, the choice of what is read (photo, title) and of the thread that decodes its photo and tokenises
its title. Refuses to know batching, outputs and HTTP.
"""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from app.engine.batcher import Batcher
from app.engine.errors import (
    EmptyItemError,
    ImageTooLargeError,
    InputNotSupportedError,
    ItemError,
    ItemFailedError,
    TextTooLongError,
    without_frames,
)
from app.engine.fair_threads import FairThreads
from app.engine.items import EmbeddingModality, Item, Modality
from app.engine.masking import mask_personal_data
from app.engine.photo_decoder import HeavierPhotoError, PhotoDecoder, Weight
from app.engine.priority import give_way
from app.engine.runtimes.base import ModelSpec
from app.engine.settings import EngineSettings
from app.engine.submission import ItemRow, Submission
from app.engine.text import TitleTokenizer, canonical_title
from app.metrics import DECODE_DURATION_SECONDS, record

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ItemReader:
    """Turns items into rows for one model. `reads_image` and `tokenizer` say which branches the model has."""

    settings: EngineSettings
    spec: ModelSpec
    reads_image: bool
    tokenizer: TitleTokenizer | None
    blank: dict[str, NDArray[Any]]
    """One row per input of an item without photo and title."""

    @classmethod
    def of(
        cls, spec: ModelSpec, settings: EngineSettings, *, reads_image: bool, tokenizer: TitleTokenizer | None
    ) -> ItemReader:
        blank = {name: rows[0] for name, rows in spec.blank_batch(1).items()}
        return cls(settings=settings, spec=spec, reads_image=reads_image, tokenizer=tokenizer, blank=blank)

    @property
    def inputs(self) -> tuple[Modality, ...]:
        image: tuple[Modality, ...] = ("image",) if self.reads_image else ()
        return image if self.tokenizer is None else (*image, "text")

    def read(self, item: Item, modality: EmbeddingModality, photos: PhotoDecoder, *, at_most: Weight = Weight.LARGE) -> ItemRow:
        """The row of one item; `fused` reads all that is there, `image` and `text` that input alone. CPU-bound.

        A title with nothing left after masking and cleaning counts as absent. What the model has no branch for is ignored
        where there is something else to read. `at_most`: see `PhotoDecoder.decode`.

        Raises EmptyItemError, InputNotSupportedError, TextTooLongError or what `PhotoDecoder.decode` raises.
        """
        if item.image is not None and len(item.image) > self.settings.max_image_bytes:
            raise ImageTooLargeError(
                f"The photo has more than {self.settings.max_image_bytes} bytes; send a smaller one.", field="image"
            )
        if item.text is not None and _is_longer(item.text, self.settings.max_text_chars):
            raise TextTooLongError(
                f"The title has more than {self.settings.max_text_chars} characters; shorten it.", field="text"
            )
        has_title = item.text is not None and not item.text.isspace() and item.text != ""
        has_photo = item.image is not None or item.image_source is not None
        if not has_photo and not has_title:
            raise EmptyItemError("The item has neither a photo nor a title; send at least one.")
        image = item.image if self.reads_photos(modality) else None
        tokens = None
        if has_title and self.tokenizer is not None and modality != "image":
            title = item.text or ""
            if self.settings.mask_personal_data:
                # Of every spelling alike: a letter apart from its accent would end an e-mail address for the mask alone.
                title = mask_personal_data(canonical_title(title))
            tokens = self.tokenizer.encode(title)
            if not tokens.any():
                tokens = None
                if not has_photo:
                    raise EmptyItemError("The title has no readable characters; send a photo or another title.", field="text")
        if image is None and tokens is None:
            raise self._nothing_to_read(modality)
        values = dict(self.blank)
        inputs: tuple[Modality, ...] = ()
        if image is not None:
            values["image"] = photos.decode(image, height=self.spec.image_height, width=self.spec.image_width, at_most=at_most)
            values["image_present"] = _PRESENT
            inputs += ("image",)
        if tokens is not None:
            values["token_ids"] = tokens
            values["text_present"] = _PRESENT
            inputs += ("text",)
        return ItemRow(values, inputs)

    def reads_photos(self, modality: EmbeddingModality) -> bool:
        """Whether photos matter at all; a title's embedding needs none."""
        return self.reads_image and modality != "text"

    def _nothing_to_read(self, modality: EmbeddingModality) -> InputNotSupportedError:
        if modality == "fused":
            wanted, field = ("photos", "text") if self.reads_image else ("titles", "image")
            return InputNotSupportedError(f"This model reads {wanted} only; send one.", field=field)
        needed = "photo" if modality == "image" else "title"
        return InputNotSupportedError(f"An embedding of the {modality} needs an item with a {needed}.", field=modality)


def _is_longer(text: str, most_chars: int) -> bool:
    """In characters of its composed form, so that both spellings of an accent count the same. A few marks at most make one."""
    if len(text) <= most_chars or len(text) > 4 * most_chars:
        return len(text) > most_chars
    return len(unicodedata.normalize("NFC", text)) > most_chars


_PRESENT = np.array(True)


class DecodePool:
    """Reads items and hands them to a batcher. What may wait here is bounded by the batchers' admission.

    Where decoding and the runtime have one thread each, they have one core between them: the runtime's own thread then reads
    the items that it takes. That is one hop fewer, and batches fill, where a decoder in front of the runtime would hand over
    one item at a time. A photo that takes more than some 50 ms is still read by a thread of its own.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self.photos = PhotoDecoder(settings)
        # In turn: a request of many slow photos must not hold up another's only one.
        self._threads = FairThreads(settings.effective_decode_threads, name="decode", initializer=give_way)
        # Large photos wait for their process on a thread of their own, and nothing else waits behind them.
        self._large = FairThreads(1, name="decode-large", initializer=give_way)
        self._reads_in_runtime = settings.effective_decode_threads == settings.effective_runtime_threads == 1

    def start(
        self,
        reader: ItemReader,
        batcher: Batcher,
        submission: Submission,
        items: Sequence[Item],
        *,
        modality: EmbeddingModality,
        indices: Sequence[int] | None = None,
        on_read: Callable[[int], None] | None = None,
        may_hold_loop: bool = False,
    ) -> None:
        """Read the items at `indices` (None: all) of an admitted submission; each is settled or put to the runtime. `on_read`
        is told, from any thread, of each that will not be looked at again, but for those that nobody waits for. Returns at
        once, unless this thread may be held (`may_hold_loop`): a lone item is then answered in it, where decoding and the
        runtime share a thread that has nothing to do."""
        reading = _Reading(self, reader, batcher, submission, items, modality, on_read)
        indices = range(len(items)) if indices is None else indices
        if self._reads_in_runtime:
            if may_hold_loop and len(items) == 1 and batcher.answer_here(submission, reading.read_quickly):
                return
            batcher.put_unread(submission, indices, reading.read_at_once)
            return
        # Photos cost milliseconds each and are spread; titles cost microseconds and share one hop.
        titles = [index for index in indices if items[index].image is None]
        for index in indices:
            if items[index].image is not None:
                self._threads.submit(submission, partial(reading.settle, index, Weight.ORDINARY))
        if titles:
            self._threads.submit(submission, partial(reading.settle_all, titles))

    def settle_later(self, reading: _Reading, index: int, weight: Weight) -> None:
        """Settle an item on a thread that may take as long as its photo does."""
        threads = self._large if weight is Weight.LARGE else self._threads
        threads.submit(reading.submission, partial(reading.settle, index, weight))

    def close(self) -> None:
        """Wait for the threads to end. Every submission must have been settled or abandoned before."""
        self._threads.shutdown()
        self._large.shutdown()
        self.photos.close()


@dataclass(frozen=True, slots=True)
class _Reading:
    """The items of one submission while they are read. No closures that name each other: these would be a circle, in which
    every request's photo waited for the garbage collector."""

    pool: DecodePool
    reader: ItemReader
    batcher: Batcher
    submission: Submission
    items: Sequence[Item]
    modality: EmbeddingModality
    on_read: Callable[[int], None] | None

    def read(self, index: int, at_most: Weight) -> ItemRow | ItemError | None:
        """None: it has gone to another thread."""
        outcome = self._read(index, at_most)
        if outcome is not None and self.on_read is not None:
            self.on_read(index)
        return outcome

    def _read(self, index: int, at_most: Weight) -> ItemRow | ItemError | None:
        started = time.perf_counter()
        try:
            row = self.reader.read(self.items[index], self.modality, self.pool.photos, at_most=at_most)
        except HeavierPhotoError as heavier:
            self.pool.settle_later(self, index, heavier.weight)
            return None
        except ItemError as error:
            return without_frames(error)
        except Exception as error:  # a defect of ours; the type alone holds nothing of the item
            logger.error("item_not_readable", error=type(error).__name__)
            return ItemFailedError("The item could not be read; the others are not affected.")
        if "image" in row.inputs:
            seconds = time.perf_counter() - started
            record(DECODE_DURATION_SECONDS, seconds)
            timing = self.submission.timing
            timing.decode_ms = max(timing.decode_ms, seconds * 1000)
        return row

    def read_quickly(self, index: int) -> ItemRow | ItemError | None:
        """As far as it takes milliseconds; else another thread does."""
        return self.read(index, Weight.QUICK)

    def read_at_once(self, index: int) -> ItemRow | ItemError | None:
        """As far as it takes no longer than a batch may wait for it."""
        return self.read(index, Weight.LIGHT)

    def settle(self, index: int, at_most: Weight) -> None:
        if self.submission.is_unwanted():
            self.batcher.drop(self.submission, index)
            return
        outcome = self.read(index, at_most)
        if isinstance(outcome, ItemRow):
            self.batcher.put(self.submission, index, outcome)
        elif outcome is not None:
            self.batcher.fail(self.submission, index, outcome)

    def settle_all(self, indices: Sequence[int]) -> None:
        for index in indices:
            self.settle(index, Weight.ORDINARY)
