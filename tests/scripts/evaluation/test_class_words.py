"""Class words are found however shops write them, and nothing else is."""

from __future__ import annotations

import pytest

from scripts.evaluation.class_words import hide_class_words, label_word_stems

STEMS = label_word_stems(["Tshirts", "Navy Blue", "Grey", "Women", "Men", "Flip Flops", "Watches", "Sarees", "Jewellery"])


@pytest.mark.parametrize(
    ("title", "left"),
    [
        ("Puma Men Grey T-shirt", "puma"),
        ("Puma Mens Gray Tees", "puma"),
        ("Puma Man's Navy Tee", "puma"),
        ("Biba Women's T Shirt", "biba"),
        ("Biba Womens tshirts", "biba"),
        ("Biba Ladies T-Shirts", "biba"),
        ("Biba Navy-Blue/Gray Top", "biba top"),
        ("Casio Steel Wristwatch", "casio steel"),
        ("Fabindia Sari", "fabindia"),
        ("Reebok flip-flops", "reebok"),
        ("Reebok Flip Flop Slippers", "reebok"),
        ("Voylla Jewelry Box", "voylla box"),
        ("Menswear Wrangler", "menswear wrangler"),
        ("Grey", ""),
        ("", ""),
    ],
)
def test_words_that_name_a_label_are_hidden(title: str, left: str) -> None:
    assert hide_class_words(title, STEMS) == left


def test_other_names_are_hidden_only_where_a_label_has_them() -> None:
    stems = label_word_stems(["Watches"])
    assert hide_class_words("Ladies Tee", stems) == "ladies tee"


def test_a_compound_keeps_its_other_part() -> None:
    assert hide_class_words("grey/steel watch-box", STEMS) == "steel box"
