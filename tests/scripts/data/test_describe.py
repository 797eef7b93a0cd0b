from __future__ import annotations

from pathlib import Path

import pytest

from scripts.data.__main__ import main
from tests.scripts.data.catalogue_files import write_csv


def test_the_command_prints_splits_labels_and_bad_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [[i, ("Shirts", "Shoes", "Bags")[i % 3], f"Product {i}"] for i in range(30)] + [[30, "", "No label"]]
    table = write_csv(tmp_path / "items.csv", rows)
    flags = ["--catalogue", str(table), "--text-column", "title", "--label-columns", "category", "--max-labels", "2"]
    assert main([*flags, "--runs", str(tmp_path / "runs"), "--bad-rows", str(tmp_path / "bad.csv")]) == 0
    printed = capsys.readouterr().out
    assert "items.csv: 31 rows read, 30 used" in printed
    assert "1 rows dropped (no_label)" in printed
    assert ", … 1 more" in printed
    assert (tmp_path / "bad.csv").read_text().splitlines()[1:] == ["32,30,no_label,no,"]


def test_a_mistake_is_one_line_and_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--catalogue", str(tmp_path / "none.csv"), "--text-column", "title", "--label-columns", "category"]
    assert main(flags) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("data: There is no file")
    assert captured.err.count("\n") == 1
