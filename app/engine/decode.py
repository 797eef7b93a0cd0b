"""From an `Item` to a row of model input, in a bounded pool of threads.

Owns the checks of one item, the choice of what is read (photo, title) and the threads that decode photos and tokenise
titles, off the event loop. Refuses to know batching, outputs and HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
)
from app.engine.items import EmbeddingModality, Item, Modality
from app.engine.masking import mask_personal_data
from app.engine.photo_decoder import PhotoDecoder
from app.engine.runtimes.base import ModelSpec
from app.engine.settings import EngineSettings
from app.engine.submission import ItemRow, Submission
from app.engine.text import TitleTokenizer
from app.metrics import DECODE_DURATION_SECONDS

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

    def read(self, item: Item, modality: EmbeddingModality, photos: PhotoDecoder) -> ItemRow:
        """The row of one item; `fused` reads all that is there, `image` and `text` that input alone. CPU-bound.

        A title with nothing left after masking and cleaning counts as absent. What the model has no branch for is ignored
        where there is something else to read.

        Raises EmptyItemError, InputNotSupportedError, TextTooLongError or what `PhotoDecoder.decode` raises.
        """
        if item.image is not None and len(item.image) > self.settings.max_image_bytes:
            raise ImageTooLargeError(
                f"The photo has more than {self.settings.max_image_bytes} bytes; send a smaller one.", field="image"
            )
        if item.text is not None and len(item.text) > self.settings.max_text_chars:
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
            tokens = self.tokenizer.encode(mask_personal_data(title) if self.settings.mask_personal_data else title)
            if not tokens.any():
                tokens = None
                if not has_photo:
                    raise EmptyItemError("The title has no readable characters; send a photo or another title.", field="text")
        if image is None and tokens is None:
            raise self._nothing_to_read(modality)
        values = dict(self.blank)
        inputs: tuple[Modality, ...] = ()
        if image is not None:
            values["image"] = photos.decode(image, height=self.spec.image_height, width=self.spec.image_width)
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

    def takes_long(self, item: Item, modality: EmbeddingModality, photos: PhotoDecoder) -> bool:
        """Whether reading this item would wait for the process that decodes large photos."""
        if item.image is None or not self.reads_photos(modality):
            return False
        return photos.takes_long(item.image, height=self.spec.image_height, width=self.spec.image_width)

    def _nothing_to_read(self, modality: EmbeddingModality) -> InputNotSupportedError:
        if modality == "fused":
            wanted, field = ("photos", "text") if self.reads_image else ("titles", "image")
            return InputNotSupportedError(f"This model reads {wanted} only; send one.", field=field)
        if modality not in self.inputs:
            return InputNotSupportedError(f"This model has no {modality} input.", field="modality")
        needed = "photo" if modality == "image" else "title"
        return InputNotSupportedError(f"An embedding of the {modality} needs an item with a {needed}.", field=modality)


_PRESENT = np.array(True)


class DecodePool:
    """Threads that read items and hand them to a batcher. What may wait here is bounded by the batchers' admission."""

    def __init__(self, settings: EngineSettings) -> None:
        self._photos = PhotoDecoder(settings)
        self._executor = ThreadPoolExecutor(settings.effective_decode_threads, thread_name_prefix="decode")
        # Large photos wait for their process on a thread of their own, and nothing else waits behind them.
        self._large = ThreadPoolExecutor(1, thread_name_prefix="decode-large")

    def start(
        self,
        reader: ItemReader,
        batcher: Batcher,
        submission: Submission,
        items: Sequence[Item],
        *,
        modality: EmbeddingModality,
        indices: Sequence[int] | None = None,
    ) -> None:
        """Read the items at `indices` (None: all) of an admitted submission. Returns at once; each is settled or put to the
        runtime."""
        indices = range(len(items)) if indices is None else indices

        def settle(index: int) -> None:
            if submission.is_unwanted():
                batcher.drop(submission, index)
                return
            started = time.perf_counter()
            try:
                row = reader.read(items[index], modality, self._photos)
            except ItemError as error:
                batcher.fail(submission, index, error)
                return
            except Exception as error:  # a defect of ours; the type alone holds nothing of the item
                logger.error("item_not_readable", error=type(error).__name__)
                batcher.fail(submission, index, ItemFailedError("The item could not be read; the others are not affected."))
                return
            if "image" in row.inputs:
                seconds = time.perf_counter() - started
                DECODE_DURATION_SECONDS.observe(seconds)
                submission.timing.decode_ms = max(submission.timing.decode_ms, seconds * 1000)
            batcher.put(submission, index, row)

        def settle_photo(index: int) -> None:
            if reader.takes_long(items[index], modality, self._photos):
                self._large.submit(settle, index)
            else:
                settle(index)

        def settle_all(indices: Sequence[int]) -> None:
            for index in indices:
                settle(index)

        # Photos cost milliseconds each and are spread; titles cost microseconds and share one hop.
        titles = [index for index in indices if items[index].image is None]
        tasks: list[tuple[Callable[..., None], Any]] = [
            (settle_photo, index) for index in indices if items[index].image is not None
        ]
        if titles:
            tasks.append((settle_all, titles))
        for function, argument in tasks:
            self._executor.submit(function, argument)

    def close(self) -> None:
        """Wait for the threads to end. Every submission must have been settled or abandoned before."""
        self._executor.shutdown(wait=True)
        self._large.shutdown(wait=True)
        self._photos.close()
