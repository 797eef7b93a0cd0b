"""One title gives one row of tokens, however it was typed."""

from __future__ import annotations

import os
import random
import string
import threading
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.text import PADDING_ID, TitleTokenizer, canonical_title, clean_title
from scripts.benchmark.processes import resident_mib

TITLES = ["Puma Men Grey T-shirt", "Puma Men Blue T-shirt", "Nike Women Running Shoes", "Café au Lait Mug", "Casio Watch"] * 3
MAX_TOKENS = 12
TOKENIZER = TitleTokenizer.train(TITLES, vocabulary_size=320, max_tokens=MAX_TOKENS)

anything = st.text(st.characters(exclude_categories=()), max_size=60)


# ---- cleaning


def test_case_and_spaces_do_not_matter() -> None:
    assert clean_title("  PUMA\tMen\u00a0\u2003 Grey\r\nT-Shirt ") == "puma men grey t-shirt"


@pytest.mark.parametrize("title", ["Café Crème", "Ångström Hemd", "한국어 셔츠", "Ⅳ ﬁne", "ÅŞÇİ"])
def test_composed_and_decomposed_spellings_are_one(title: str) -> None:
    assert clean_title(unicodedata.normalize("NFD", title)) == clean_title(unicodedata.normalize("NFC", title))


def test_full_width_letters_are_ordinary_letters() -> None:
    assert clean_title("Ｐｕｍａ　Ｍｅｎ　１２") == "puma men 12"


@pytest.mark.parametrize(
    "invisible",
    ["\x00", "\x07", "\x7f", "\x9b", "\u200b", "\u200d", "\u2060", "\ufeff", "\u202e", "\u2066", "\ud800", "\ue000"],
)
def test_what_cannot_be_seen_vanishes(invisible: str) -> None:
    assert clean_title(f"Pu{invisible}ma {invisible}Shoe{invisible}") == "puma shoe"
    assert clean_title(f"cafe{invisible}\u0301") == "café"


@given(anything)
def test_a_clean_title_is_clean(title: str) -> None:
    cleaned = clean_title(title)
    assert clean_title(cleaned) == cleaned
    assert not any(unicodedata.category(character)[0] == "C" for character in cleaned)
    assert cleaned == " ".join(cleaned.split())


@given(anything)
def test_the_normal_form_of_a_title_does_not_matter(title: str) -> None:
    assert clean_title(unicodedata.normalize("NFD", title)) == clean_title(unicodedata.normalize("NFC", title))


@given(anything)
def test_the_canonical_form_is_on_the_way_to_the_clean_one(title: str) -> None:
    assert clean_title(canonical_title(title)) == clean_title(title)
    assert canonical_title(unicodedata.normalize("NFD", title)) == canonical_title(unicodedata.normalize("NFC", title))


def test_an_endless_title_is_cut() -> None:
    assert len(clean_title("x" * 1_000_000)) <= 1000
    assert clean_title("ﷺ" * 1_000)  # one character that normalises to eighteen


# ---- tokens


@pytest.mark.parametrize("title", ["<pad>", "<PAD>", "Bag <pad> Black", "<pad><pad>"])
def test_the_name_of_padding_is_no_padding(title: str) -> None:
    for tokenizer in (TOKENIZER, TitleTokenizer.from_json(TOKENIZER.to_json(), MAX_TOKENS)):
        ids = tokenizer.encode(title)
        assert (ids != PADDING_ID).sum() >= len(title.split())
        assert PADDING_ID not in ids[: (ids != PADDING_ID).sum()]
        assert (tokenizer.encode_many([title]) == ids).all()


@given(anything)
def test_any_string_has_tokens(title: str) -> None:
    row = TOKENIZER.encode(title)
    assert row.shape == (MAX_TOKENS,)
    assert row.dtype == np.int32
    assert ((row >= 0) & (row < TOKENIZER.vocabulary_size)).all()
    assert bool((row != PADDING_ID).any()) == bool(clean_title(title)), "a title is absent when nothing of it is left"
    padding = np.flatnonzero(row == PADDING_ID)
    assert not len(padding) or (row[padding[0] :] == PADDING_ID).all(), "padding comes last"


@given(st.lists(anything, max_size=5))
def test_many_titles_are_encoded_as_each_alone(titles: list[str]) -> None:
    rows = TOKENIZER.encode_many(titles)
    assert rows.shape == (len(titles), MAX_TOKENS)
    for row, title in zip(rows, titles, strict=True):
        assert np.array_equal(row, TOKENIZER.encode(title))


def test_the_words_of_training_are_short_and_unlike_words_differ() -> None:
    known, unknown = TOKENIZER.encode("puma men"), TOKENIZER.encode("zqxv jkw")
    assert (known != PADDING_ID).sum() < (unknown != PADDING_ID).sum()
    assert not np.array_equal(TOKENIZER.encode("puma grey"), TOKENIZER.encode("puma blue"))


def test_a_long_title_is_cut_at_max_tokens() -> None:
    title = "Nike Women Running Shoes " * 20
    row = TOKENIZER.encode(title)
    assert (row != PADDING_ID).all()
    longer = TitleTokenizer.from_json(TOKENIZER.to_json(), 40).encode(title)
    assert np.array_equal(longer[:MAX_TOKENS], row)


@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_tokenizer_survives_its_file(as_bytes: bool) -> None:
    text = TOKENIZER.to_json()
    again = TitleTokenizer.from_json(text.encode() if as_bytes else text, MAX_TOKENS)
    assert again.vocabulary_size == TOKENIZER.vocabulary_size
    for title in [*TITLES[:5], "Ünknown ✓ 日本", "", "\u200b"]:
        assert np.array_equal(again.encode(title), TOKENIZER.encode(title))


@pytest.mark.parametrize("data", ["", "not JSON", "{}", "[]", '{"model": {"type": "BPE"}}', b"\xff\xfe", b"\x00"])
def test_what_is_no_tokenizer_is_refused(data: bytes | str) -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        TitleTokenizer.from_json(data, MAX_TOKENS)


def test_training_is_reproducible() -> None:
    assert TitleTokenizer.train(TITLES, vocabulary_size=320, max_tokens=MAX_TOKENS).to_json() == TOKENIZER.to_json()


def test_dropout_changes_the_pieces_and_leaves_no_trace() -> None:
    plain = TOKENIZER.encode_many(TITLES)
    rough = TOKENIZER.encode_many(TITLES, dropout=0.9)
    assert not np.array_equal(rough, plain)
    assert np.array_equal(TOKENIZER.encode_many(TITLES), plain)
    assert TOKENIZER.to_json() == TitleTokenizer.from_json(TOKENIZER.to_json(), MAX_TOKENS).to_json()
    assert '"dropout":null' in TOKENIZER.to_json().replace(" ", "")


def test_one_tokenizer_serves_several_threads() -> None:
    expected = [TOKENIZER.encode(title) for title in TITLES]
    wrong: list[str] = []

    def encode() -> None:
        for title, row in zip(TITLES * 20, expected * 20, strict=True):
            if not np.array_equal(TOKENIZER.encode(title), row):
                wrong.append(title)

    threads = [threading.Thread(target=encode) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc, as Linux has it")
def test_words_that_were_cut_are_not_kept() -> None:
    """Any client could fill the memory with them."""
    chance = random.Random(1)
    words = ["".join(chance.choices(string.ascii_lowercase, k=250)) for _ in range(10_000)]
    TOKENIZER.encode(words[0])
    before = resident_mib(os.getpid())
    for word in words:
        TOKENIZER.encode(word)
    assert resident_mib(os.getpid()) - before < 10
