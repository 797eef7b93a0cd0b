from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest

from scripts.data.errors import CatalogueError
from scripts.data.table import read_table

WANTED = {"id": "the image column", "title": "the text column"}


def read(path: Path, **more: str) -> list[tuple[str, ...]]:
    table = read_table(path, required=WANTED, text_column="title", **more)
    return list(zip(*table.columns.values(), strict=True))


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separator_is_found(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "items.csv"
    path.write_text(f'id{separator}price{separator}title\n1{separator}"2,5; | 3"{separator}Blue shirt\n')
    assert read(path) == [("1", "Blue shirt")]


def test_bom_and_windows_line_ends_leave_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_bytes(b"\xef\xbb\xbfid,title\r\n1,Chaussures \xc3\xa9t\xc3\xa9\r\n\r\n2,B\r\n")
    assert read(path) == [("1", "Chaussures été"), ("2", "B")]


def test_latin1_is_read_and_noted(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_bytes("id,title\n1,Café 5€\n".encode("cp1252"))
    table = read_table(path, required=WANTED, text_column="title")
    assert table.columns["title"] == ["Café 5€"]
    assert any("not UTF-8" in note for note in table.notes)


def test_utf16_of_spreadsheets_is_read(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_bytes("id\ttitle\n1\tCafé\n".encode("utf-16"))
    assert read(path) == [("1", "Café")]


def test_gzip_is_read(tmp_path: Path) -> None:
    path = tmp_path / "items.csv.gz"
    path.write_bytes(gzip.compress(b"id,title\n1,A\n"))
    assert read(path) == [("1", "A")]


def test_truncated_gzip_is_a_catalogue_error(tmp_path: Path) -> None:
    path = tmp_path / "items.csv.gz"
    path.write_bytes(gzip.compress(b"id,title\n" + b"1,A\n" * 1000)[:-20])
    with pytest.raises(CatalogueError, match="cannot be read"):
        read(path)


def test_unquoted_separators_in_the_last_text_column_are_repaired(tmp_path: Path) -> None:
    path = tmp_path / "styles.csv"
    path.write_text("id,price,title\n1,5,Shirt, blue, large\n2,6,Shoe\n")
    table = read_table(path, required=WANTED, text_column="title")
    assert table.columns["title"] == ["Shirt, blue, large", "Shoe"]
    assert [(i.line, i.row_id, i.reason) for i in table.issues] == [(2, "1", "repaired")]


def test_surplus_fields_that_belong_nowhere_make_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("id,title,price\n1,Shirt, blue,5\n2,Shoe,6\n")
    table = read_table(path, required=WANTED, text_column="title")
    assert table.columns["id"] == ["2"]
    assert (table.rows_read, [i.reason for i in table.issues]) == (2, ["too_many_columns"])


def test_trailing_separators_are_no_surplus(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("id,title\n1,Shirt,,\n")
    table = read_table(path, required=WANTED, text_column="title")
    assert (table.columns["title"], table.issues) == (["Shirt"], [])


def test_too_few_fields_make_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("id,price,title\n1,5\n2,6,Shoe\n")
    table = read_table(path, required=WANTED)
    assert (table.columns["id"], table.lines) == (["2"], [3])
    assert [(i.line, i.reason) for i in table.issues] == [(2, "too_few_columns")]


def test_line_numbers_follow_fields_that_span_lines(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text('id,title\n1,"two\nlines"\n2,B\n')
    assert read_table(path, required=WANTED).lines == [2, 4]


def test_a_quote_that_never_closes_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text('id,title\n1,A\n2,"5 inch\n' + "3,B\n" * 2000)
    with pytest.raises(CatalogueError, match=r"line 3 .* never closed"):
        read(path)


def test_huge_fields_are_read_and_the_global_limit_is_put_back(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text(f"id,description,title\n1,{'x' * 300_000},A\n")
    before = csv.field_size_limit()
    assert read(path) == [("1", "A")]
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("name", ["items.jsonl", "items.ndjson", "items.JSONL"])
def test_jsonl_values_become_strings(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    rows = [{"id": 7, "title": " A ", "tags": ["x"]}, {"id": 8.0, "title": None}, {"id": "9"}]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert read(path) == [("7", "A"), ("8", ""), ("9", "")]


def test_bad_json_lines_are_listed_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text('{"id": 1, "title": "A"}\n{"id": 2\n[3]\n{"id": {"x": 1}, "title": "B"}\n' + "[" * 100_000 + "\n")
    table = read_table(path, required=WANTED)
    assert table.columns["id"] == ["1"]
    assert [(i.line, i.reason) for i in table.issues] == [
        (2, "not_json"), (3, "not_json"), (4, "not_plain_value"), (5, "not_json"),
    ]  # fmt: skip
    assert table.rows_read == 5


@pytest.mark.parametrize("text", ["id,titel\n1,A\n", '{"id": 1, "titel": "A"}\n'])
def test_a_wrong_column_names_those_that_exist_and_the_nearest(tmp_path: Path, text: str) -> None:
    path = tmp_path / ("items.jsonl" if text.startswith("{") else "items.csv")
    path.write_text(text)
    with pytest.raises(CatalogueError) as caught:
        read(path)
    message = str(caught.value)
    assert "'title' (the text column)" in message
    assert "Did you mean 'titel'?" in message
    assert "id, titel" in message
    assert "\n" not in message


def test_absent_optional_columns_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("id,title\n1,A\n")
    assert list(read_table(path, required=WANTED, optional=["brand"]).columns) == ["id", "title"]


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="--data"):
        read(tmp_path / "none.csv")


def test_unknown_kind_of_file_names_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "items.xlsx"
    path.write_bytes(b"PK")
    with pytest.raises(CatalogueError, match=r"\.csv, \.tsv, \.jsonl, \.ndjson"):
        read(path)


@pytest.mark.parametrize(("name", "text"), [("a.csv", "id,title\n"), ("a.jsonl", "\n"), ("b.csv", "")])
def test_a_table_without_rows_is_refused(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(CatalogueError):
        read(path)
