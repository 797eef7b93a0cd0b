from __future__ import annotations

import csv
from pathlib import Path

import pytest

from scripts.data.errors import CatalogueError
from scripts.data.report import write_bad_rows
from tests.scripts.data.catalogue_files import load, table_config, write_csv

HEADER = ["id", "category", "title", "part"]


def rows(*counts: tuple[str, str, int]) -> list[list[object]]:
    """(label, split, how many) to rows with a title each."""
    made: list[list[object]] = []
    for label, split, count in counts:
        made += [[f"r{len(made) + k}", label, f"{label} {split} {k}", split] for k in range(count)]
    return made


def test_split_names_are_understood_and_others_are_bad_rows(tmp_path: Path) -> None:
    table = write_csv(
        tmp_path / "items.csv",
        rows(
            ("A", "train", 3),
            ("A", "Training", 1),
            ("A", "valid", 1),
            ("A", "Validation", 1),
            ("A", "DEV", 1),
            ("A", "test", 2),
            ("A", "holdout", 1),
            ("A", "", 1),
        ),
        HEADER,
    )
    report = load(table_config(table, split_column="part"), tmp_path).report
    assert report.rows_per_split == {"train": 4, "val": 3, "test": 2}
    assert [i.detail for i in report.issues if i.reason == "unknown_split"] == ["holdout", "(empty)"]


def test_labels_rare_in_train_become_unknown_everywhere_and_are_counted(tmp_path: Path) -> None:
    table = write_csv(
        tmp_path / "items.csv",
        rows(("A", "train", 5), ("B", "train", 2), ("C", "train", 1), ("A", "val", 1), ("B", "test", 3), ("D", "test", 2)),
        HEADER,
    )
    catalogue = load(table_config(table, split_column="part", min_label_count=3), tmp_path)
    report = catalogue.report
    assert report.label_counts == {"category": {"A": 5}}
    assert report.rare_labels == {"category": {"B": 2, "C": 1}}
    assert report.unlearnable_rows == {"category": {"test": 5}}
    # D was never in train: it keeps its name, so that an evaluation can see what it could not have known.
    assert catalogue.labels["category"].tolist() == ["A"] * 5 + [""] * 3 + ["A"] + [""] * 3 + ["D"] * 2


def test_an_empty_label_column_is_left_out_with_a_note(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "items.csv", [[i, "A", f"t{i}", ""] for i in range(9)], HEADER)
    catalogue = load(table_config(table, label_columns=("category", "part")), tmp_path)
    assert catalogue.config.catalogue.label_columns == ("category",)
    assert any("'part'" in note for note in catalogue.report.notes)


def test_labels_that_differ_in_case_only_are_pointed_out(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "items.csv", rows(("Navy Blue", "train", 2), ("navy  blue", "train", 2)), HEADER)
    report = load(table_config(table, split_column="part"), tmp_path).report
    assert any("Navy Blue / navy  blue" in note for note in report.notes)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_handful_of_rows_loads(tmp_path: Path, count: int) -> None:
    table = write_csv(tmp_path / "items.csv", rows(("A", "", count)), HEADER)
    report = load(table_config(table), tmp_path).report
    assert report.rows_kept == count
    assert report.rows_per_split["train"] >= 1


def test_a_catalogue_without_training_rows_is_refused(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "items.csv", rows(("A", "test", 5)), HEADER)
    with pytest.raises(CatalogueError, match="no row to train on"):
        load(table_config(table, split_column="part"), tmp_path)


def test_a_catalogue_without_any_label_is_refused(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "items.csv", rows(("", "train", 5)), HEADER)
    with pytest.raises(CatalogueError, match="no row to train on"):
        load(table_config(table, split_column="part"), tmp_path)


def test_the_report_shows_reasons_and_writes_every_issue(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "items.csv", rows(("A", "train", 5), ("", "train", 15)), HEADER)
    report = load(table_config(table, split_column="part"), tmp_path).report
    text = "\n".join(report.lines(max_issues=10))
    assert "items.csv: 20 rows read, 5 used (train 3, val 1, test 1)" in text
    assert "15 rows dropped (no_label)" in text
    assert "and 5 more" in text
    write_bad_rows(report, tmp_path / "runs" / "shop" / "bad_rows.csv")
    with (tmp_path / "runs" / "shop" / "bad_rows.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert len(written) == 15
    assert written[0] == {"line": "7", "row_id": "r5", "reason": "no_label", "used": "no", "detail": ""}


def test_a_limit_below_one_is_refused(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "items.csv", rows(("A", "train", 5)), HEADER)
    with pytest.raises(CatalogueError, match="at least 1"):
        load(table_config(table), tmp_path, limit=0)
