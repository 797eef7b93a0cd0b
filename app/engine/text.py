"""Titles to token ids; the one path for training and serving.

Owns cleaning and tokenising. Refuses to know batches, models and HTTP. Bump `TEXT_PREPROCESSING_VERSION` whenever the
tokens of any title would change.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEXT_PREPROCESSING_VERSION = 1
PADDING_ID = 0

_SPACES = re.compile(r"\s+")
# Longer than any title in a shop, short enough that cleaning costs microseconds.
_MAX_CLEAN_CHARS = 512


def canonical_title(text: str) -> str:
    """A title in its own case: NFKC, no control or invisible characters, single spaces.

    Two spellings of one text (composed or decomposed accents, full-width letters) give one result.
    """
    text = unicodedata.normalize("NFKC", text[: 4 * _MAX_CLEAN_CHARS])
    if not text.isascii() or not text.isprintable():
        # Cc control, Cf invisible (zero-width, bidi), Cs lone surrogates, Co/Cn private and unassigned.
        text = "".join(c if unicodedata.category(c)[0] != "C" else " " if c in "\t\n\r\v\f" else "" for c in text)
        # What was invisible may have kept a letter from its accent.
        text = unicodedata.normalize("NFKC", text)
    return _SPACES.sub(" ", text).strip()


def clean_title(text: str) -> str:
    """What the tokenizer reads: `canonical_title` in lower case, cut."""
    return canonical_title(text).lower()[:_MAX_CLEAN_CHARS]


class TitleTokenizer:
    """Byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909): every string has tokens, none is unknown.

    Id 0 is padding. Titles longer than `max_tokens` are cut.
    """

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self.max_tokens = max_tokens
        # It would keep 10,000 words that it has cut, of any length that a client chooses: 55 MiB, and no faster for titles.
        tokenizer.model._resize_cache(0)
        # A title may spell padding's name. No bundle has learnt from one that does, so none meets other tokens than it knows.
        tokenizer.encode_special_tokens = True

    @classmethod
    def from_json(cls, data: bytes | str, max_tokens: int) -> TitleTokenizer:
        """Read `tokenizer.json`. Raises ValueError when it is not one."""
        try:
            tokenizer = Tokenizer.from_str(data if isinstance(data, str) else data.decode())
        except Exception as error:
            raise ValueError("not a tokenizer.json") from error
        return cls(tokenizer, max_tokens)

    @classmethod
    def train(cls, titles: Iterable[str], *, vocabulary_size: int, max_tokens: int) -> TitleTokenizer:
        """Learn the pieces from `titles` (raw; cleaned here)."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            min_frequency=2,
            special_tokens=["<pad>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator((clean_title(title) for title in titles), trainer)
        return cls(tokenizer, max_tokens)

    @property
    def vocabulary_size(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def to_json(self) -> str:
        return str(self._tokenizer.to_str())

    def encode(self, title: str) -> NDArray[np.int32]:
        """Token ids int32[max_tokens], padded with 0."""
        row = np.zeros(self.max_tokens, np.int32)
        ids = self._tokenizer.encode(clean_title(title)).ids[: self.max_tokens]
        row[: len(ids)] = ids
        return row

    def encode_many(self, titles: Iterable[str], *, dropout: float = 0.0) -> NDArray[np.int32]:
        """Token ids int32[N, max_tokens]. `dropout` leaves out merges at random (BPE-dropout, Provilkov et al. 2020,
        arXiv:1910.13267), which makes training robust to misspellings; serving never uses it."""
        cleaned = [clean_title(title) for title in titles]
        self._tokenizer.model.dropout = dropout or None
        try:
            encodings = self._tokenizer.encode_batch(cleaned)
        finally:
            self._tokenizer.model.dropout = None
        rows = np.zeros((len(cleaned), self.max_tokens), np.int32)
        for row, encoding in zip(rows, encodings, strict=True):
            ids = encoding.ids[: self.max_tokens]
            row[: len(ids)] = ids
        return rows
