"""Rows come back as they went in, and a row that cannot be read says why in its place."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from scripts.data.errors import CatalogueError
from scripts.label.catalogue import CatalogueFile


def written(folder: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def test_a_csv_keeps_its_fields_as_they_are(tmp_path: Path) -> None:
    catalogue = CatalogueFile(written(tmp_path, "a.csv", 'id;title\n007;" Grey ; ""fine"" shirt"\n\n8;Krähe\n'))
    assert (catalogue.columns, catalogue.separator, catalogue.rows) == (("id", "title"), ";", 2)
    first, second = catalogue
    assert first.values == {"id": "007", "title": ' Grey ; "fine" shirt'}
    assert first.cell("title") == 'Grey ; "fine" shirt'
    assert (second.number, second.line, second.cell("title")) == (1, 4, "Krähe")


def test_rows_of_another_length_are_named_not_dropped(tmp_path: Path) -> None:
    catalogue = CatalogueFile(written(tmp_path, "a.csv", "id,title\n1\n2,b,c\n3,d,\n4,e\n"))
    assert [row.problem for row in catalogue] == ["too_few_columns", "too_many_columns", "", ""]


def test_json_lines_keep_their_types(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", '{"id": 7.0, "tags": ["a"], "ok": true}\nnonsense\n[1]\n{"title": "b"}\n')
    catalogue = CatalogueFile(path)
    rows = list(catalogue)
    assert rows[0].values == {"id": 7.0, "tags": ["a"], "ok": True}
    assert [rows[0].cell(name) for name in ("id", "tags", "ok", "none")] == ["7", "", "", ""]
    assert [row.problem for row in rows] == ["", "not_json", "not_json", ""]
    assert catalogue.columns == ("id", "tags", "ok", "title")


def test_packed_and_old_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress("id,title\n1,café\n".encode("cp1252")))
    catalogue = CatalogueFile(tmp_path / "a.csv.gz")
    assert [row.cell("title") for row in catalogue] == ["café"]
    assert "Latin-1" in catalogue.note


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.xlsx", "x", "not a known kind"),
        ("a.csv", "id,title\n", "no rows"),
        ("a.csv", "id,id\n1,2\n", "two columns 'id'"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(CatalogueError, match=message):
        CatalogueFile(written(tmp_path, name, text))
