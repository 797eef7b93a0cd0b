"""A bundle on some rows of a catalogue: the inputs, the truth, and the outputs, each computed once.

Owns which rows can be asked what, and the memory of outputs per set of inputs, so that protocols that look at the same
inputs share one pass of the network. Refuses to know what is measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.engine.answers import PATTERNS, Answerer
from app.engine.items import Pattern
from scripts.data.catalogue import Catalogue, CatalogueError
from scripts.evaluation.figures import NO_LABEL, served_answers, truth_indices
from scripts.served_model import Outputs, ServedModel

PATTERN_TITLES = {"both": "photo + title", "image": "photo only", "text": "title only"}
PROTOCOL_OF_PATTERN = {"both": "P0", "image": "P1", "text": "P2"}


class NotApplicable(Exception):
    """This bundle or these rows cannot be asked this; the message says why."""


class Evaluation:
    """`rows` int64[N] of the catalogue, as one bundle reads them.

    `photos` uint8[N, H, W, 3] and `titles` (N strings) are None for a bundle that does not read them; `truth` int64[N]
    per attribute is the index of the true label, -1 where there is none, -2 where the bundle has no such label.

    Raises:
        CatalogueError: there are no rows, or the photos do not have the size that the bundle reads.
    """

    def __init__(
        self,
        model: ServedModel,
        catalogue: Catalogue,
        rows: NDArray[np.int64],
        *,
        name: str,
        digits: NDArray[np.uint8] | None = None,
        full_size_rows: int = 400,
        seed: int = 7,
        progress: bool = True,
    ) -> None:
        if not len(rows):
            raise CatalogueError(f"the catalogue has no row in split {name!r}")
        self.model, self.catalogue, self.rows, self.name = model, catalogue, rows, name
        self.digits, self.full_size_rows, self.seed = digits, full_size_rows, seed
        self._progress = progress
        size = (model.spec.image_height, model.spec.image_width)
        if model.reads_photos and catalogue.photos.shape[1:3] != size:
            raise CatalogueError(
                f"{model.bundle.name} reads photos of {size}, the catalogue's are {catalogue.photos.shape[1:3]}"
            )
        self.photos = catalogue.photos[rows] if model.reads_photos else None
        self.titles = [catalogue.titles[row] for row in rows] if model.reads_titles else None
        self.photo_present = catalogue.photo_present[rows] & model.reads_photos
        self.title_present = np.array([bool(title.strip()) for title in self.titles or [""] * len(rows)])
        self.truth = truth_indices(
            self.answerer,
            {name: catalogue.labels.get(name, np.full(len(catalogue.split), "", object))[rows] for name in self.attributes},
        )
        self._outputs: dict[str, Outputs] = {}

    @classmethod
    def of_split(
        cls,
        model: ServedModel,
        catalogue: Catalogue,
        split: str,
        *,
        digits: NDArray[np.uint8] | None = None,
        full_size_rows: int = 400,
    ) -> Evaluation:
        """Of all rows of a split. Raises CatalogueError when it has none."""
        rows = np.flatnonzero(catalogue.split == split)
        return cls(model, catalogue, rows, name=split, digits=digits, full_size_rows=full_size_rows)

    @property
    def answerer(self) -> Answerer:
        return self.model.answerer

    @property
    def attributes(self) -> tuple[str, ...]:
        return self.answerer.attributes

    def usable(self, pattern: Pattern) -> NDArray[np.bool_]:
        """bool[N]: the rows that have what the pattern reads."""
        if pattern == "both":
            return np.asarray(self.photo_present & self.title_present)
        return self.photo_present if pattern == "image" else self.title_present

    @property
    def patterns(self) -> list[Pattern]:
        """The patterns that at least one row can be asked in."""
        return [pattern for pattern in PATTERNS if self.usable(pattern).any()]

    def need(self, pattern: Pattern) -> NDArray[np.bool_]:
        """`usable(pattern)`. Raises NotApplicable where no row is."""
        usable = self.usable(pattern)
        if usable.any():
            return usable
        if pattern != "text" and not self.model.reads_photos:
            raise NotApplicable("the bundle reads no photos")
        if pattern != "image" and not self.model.reads_titles:
            raise NotApplicable("the bundle reads no titles")
        raise NotApplicable(f"no row has what is needed: {PATTERN_TITLES[pattern]}")

    @property
    def outputs(self) -> Outputs:
        """Of the rows as they are: photo and title where they have them."""
        return self.changed(f"evaluating on {self.name}")

    def changed(self, name: str, *, photos: NDArray[np.uint8] | None = None, titles: Sequence[str] | None = None) -> Outputs:
        """The outputs of the rows with other photos or titles in place; `name` names the set, the bar and the memory."""
        if name not in self._outputs:
            self._outputs[name] = self.model.run(
                self.photos if photos is None else photos,
                self.titles if titles is None else titles,
                photo_present=self.photo_present,
                progress=name if self._progress else None,
            )
        return self._outputs[name]

    def others(self, name: str, *, photos: NDArray[np.uint8] | None = None, titles: Sequence[str] | None = None) -> Outputs:
        """The outputs of inputs that are no rows of the catalogue, remembered under `name`."""
        if name not in self._outputs:
            self._outputs[name] = self.model.run(photos, titles, progress=name if self._progress else None)
        return self._outputs[name]

    def guesses(self, pattern: Pattern, attribute: str) -> NDArray[np.int64]:
        """int64[N]: the label that the service answers for each row."""
        return served_answers(self.answerer, self.outputs, pattern, attribute)[0]

    def right(self, pattern: Pattern, attribute: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Two bool[N]: whether the answer is right, and whether there is a truth to compare with."""
        target = self.truth[attribute]
        return self.guesses(pattern, attribute) == target, self.usable(pattern) & (target != NO_LABEL)

    @property
    def kind_attribute(self) -> str:
        return self.answerer.kind_attribute

    @property
    def family_attribute(self) -> str:
        return self.answerer.family_attribute

    @property
    def colour_attribute(self) -> str | None:
        """The first attribute whose name says colour; None when there is none."""
        return next((name for name in self.attributes if "colour" in name.lower() or "color" in name.lower()), None)
