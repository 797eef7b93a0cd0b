"""Label columns become heads, and a row's labels the right indices in them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from app.engine.bundle_schema import FlatHead, HierarchyHead, Labels
from scripts.labels import UNKNOWN, LabelSpace, applicability, build_label_space

ROWS = [
    # master, sub, article, gender, sleeve, brand
    ("Apparel", "Topwear", "Tshirts", "Men", "Short", "Puma"),
    ("Apparel", "Topwear", "Tshirts", "Women", "Short", "Nike"),
    ("Apparel", "Topwear", "Shirts", "Men", "Long", ""),
    ("Apparel", "Bottomwear", "Jeans", "Women", "", "Levis"),
    ("Accessories", "Watches", "Watches", "", "", "Casio"),
    ("Accessories", "Topwear", "Shirts", "Men", "Long", ""),  # contradicts: shirts are apparel
    ("Accessories", "Watches", "Watches", "Women", "", ""),
    ("Apparel", "Topwear", "Shirts", "Women", "Long", ""),
]
COLUMNS = ("master", "sub", "article", "gender", "sleeve", "brand")
LEVELS = COLUMNS[:3]
TABLE = {name: [row[i] for row in ROWS] for i, name in enumerate(COLUMNS)}


def space_of(table: dict[str, list[str]] = TABLE, rows: int = len(ROWS)) -> LabelSpace:
    return build_label_space(table, range(rows), label_columns=COLUMNS[:5], auxiliary_columns=("brand",), hierarchy=LEVELS)


def test_every_finest_label_has_one_path_and_rows_that_disagree_are_counted() -> None:
    space = space_of()
    assert space.heads[0].paths == (
        ("Accessories", "Watches", "Watches"),
        ("Apparel", "Bottomwear", "Jeans"),
        ("Apparel", "Topwear", "Shirts"),
        ("Apparel", "Topwear", "Tshirts"),
    )
    assert space.contradicting_rows == 1


def test_a_middle_label_has_one_parent_even_where_leaves_disagree() -> None:
    table = {
        "top": ["A", "A", "B", "B", "B"],
        "middle": ["m", "m", "m", "m", "m"],
        "leaf": ["x", "x", "y", "y", "y"],
    }
    space = build_label_space(table, range(5), label_columns=("top", "middle", "leaf"), hierarchy=("top", "middle", "leaf"))
    assert space.heads[0].paths == (("B", "m", "x"), ("B", "m", "y"))
    assert space.contradicting_rows == 2


def test_published_heads_come_first_and_auxiliary_ones_are_cut_off() -> None:
    space = space_of()
    assert [head.levels for head in space.heads] == [LEVELS, ("gender",), ("sleeve",), ("brand",)]
    assert [(head.offset, head.size) for head in space.heads] == [(0, 4), (4, 2), (6, 2), (8, 4)]
    assert (space.logits_width, space.published_width) == (12, 8)
    assert space.attributes == ("article", "sub", "master", "gender", "sleeve")


def test_labels_are_encoded_and_decoded_to_themselves() -> None:
    space = space_of()
    encoded = space.encode(TABLE, len(ROWS))
    assert encoded.shape == (len(ROWS), 6)
    for column, name in enumerate(space.columns):
        labels = space.labels_of(name)
        for row, index in enumerate(encoded[:, column]):
            if TABLE[name][row] == "":
                assert index == UNKNOWN
            elif not (row == 5 and name == "master"):
                assert labels[index] == TABLE[name][row]
    assert space.labels_of("master")[encoded[5, 0]] == "Apparel", "the fine label is believed"


def test_a_known_fine_label_fills_in_its_parents_and_a_coarse_one_stands_alone() -> None:
    table = {name: ["", "", "", ""] for name in COLUMNS}
    table["article"][0] = "Jeans"
    table["sub"][1] = "Topwear"
    table["master"][2], table["article"][2] = "Apparel", "Never seen"
    encoded = space_of().encode(table, 4)
    space = space_of()
    named = [
        [space.labels_of(level)[index] if index >= 0 else "" for level, index in zip(LEVELS, row, strict=False)]
        for row in encoded
    ]
    assert named == [["Apparel", "Bottomwear", "Jeans"], ["Apparel", "Topwear", ""], ["Apparel", "", ""], ["", "", ""]]
    assert (encoded[:, 3:] == UNKNOWN).all()


def test_only_training_rows_make_labels() -> None:
    space = space_of(rows=4)
    assert space.labels_of("article") == ("Jeans", "Shirts", "Tshirts")
    encoded = space.encode(TABLE, len(ROWS))
    assert encoded[4, 2] == UNKNOWN
    assert encoded[5, 2] != UNKNOWN


def test_a_column_without_labels_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match="colour"):
        build_label_space({"colour": ["", ""]}, range(2), label_columns=("colour",))
    with pytest.raises(ValueError, match="hierarchy"):
        build_label_space({"a": ["x", ""], "b": ["", "y"]}, range(2), label_columns=("a", "b"), hierarchy=("a", "b"))


def test_an_unknown_attribute_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        space_of().labels_of("price")


# ---- applicability


def many(article: str, count: int, sleeves: int) -> list[tuple[str, ...]]:
    """`count` rows of an article, `sleeves` of them with a sleeve length."""
    parents = {"Watches": ("Accessories", "Watches"), "Rings": ("Accessories", "Jewellery"), "Shirts": ("Apparel", "Topwear")}
    master, sub = parents.get(article, ("Accessories", "Jewellery"))
    return [(master, sub, article, "Men", "Long" if i < sleeves else "", "") for i in range(count)]


def learned(rows: list[tuple[str, ...]]) -> dict[str, dict[str, bool]]:
    """Per attribute that does not apply everywhere: whether it applies, by article."""
    table = {name: [row[i] for row in rows] for i, name in enumerate(COLUMNS)}
    space = build_label_space(table, range(len(rows)), label_columns=COLUMNS[:5], hierarchy=LEVELS)
    flags = applicability(space, space.encode(table, len(rows)), np.arange(len(rows)))
    articles = [path[-1] for path in space.heads[0].paths]
    return {name: dict(zip(articles, values, strict=True)) for name, values in flags.items()}


def test_a_watch_has_no_sleeve_length() -> None:
    rows = many("Watches", 60, sleeves=0) + many("Shirts", 60, sleeves=40)
    assert learned(rows) == {"sleeve": {"Watches": False, "Shirts": True}}


def test_a_stray_label_does_not_make_an_attribute_apply() -> None:
    assert learned(many("Watches", 200, sleeves=1) + many("Shirts", 60, sleeves=40))["sleeve"]["Watches"] is False


def test_a_rare_article_borrows_from_its_parents() -> None:
    rows = many("Watches", 60, sleeves=0) + many("Shirts", 60, sleeves=60) + many("Rings", 30, sleeves=0)
    assert learned([*rows, *many("Anklets", 3, sleeves=0)])["sleeve"]["Anklets"] is False


def test_with_too_few_rows_an_attribute_applies() -> None:
    assert learned(many("Watches", 5, sleeves=0) + many("Shirts", 60, sleeves=60)) == {}


def test_without_a_hierarchy_everything_applies() -> None:
    table = {"colour": ["red", ""] * 50, "size": ["", ""] * 49 + ["", "S"]}
    space = build_label_space(table, range(100), label_columns=("colour", "size"))
    assert applicability(space, space.encode(table, 100), np.arange(100)) == {}


# ---- labels.json


def test_the_published_labels_pass_the_bundles_schema() -> None:
    space = space_of()
    document = space.to_json({"sleeve": np.array([False, False, True, True]).tolist()})
    labels = Labels.model_validate_json(json.dumps(document))
    assert labels.logits_width == space.published_width
    hierarchy, gender, sleeve = labels.heads
    assert isinstance(hierarchy, HierarchyHead)
    assert hierarchy.levels == list(LEVELS)
    assert isinstance(gender, FlatHead)
    assert isinstance(sleeve, FlatHead)
    assert sleeve.labels == ["Long", "Short"]
    assert "brand" not in json.dumps(document)
