"""`python -m scripts.label` against the running service: a catalogue in, the same catalogue with labels out."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.label.__main__ import main
from tests.e2e.conftest import API_KEY
from tests.e2e.service import ROOT, Service, clean_environment
from tests.tiny_bundle import LABELS, TITLES, jpeg

ROWS = 40


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    """40 rows with photos in `photos/`; row 5 has a title alone, row 6 nothing, row 7 a damaged photo."""
    (tmp_path / "photos").mkdir()
    path = tmp_path / "items.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "title", "photo", "price"])
        for row in range(ROWS):
            title = "" if row in (6, 7) else f'{TITLES[row % 3]}, no. "{row}"'
            writer.writerow([f"sku-{row}", title, f"{row}.jpg", f"{row}.50"])
            if row not in (5, 6):
                (tmp_path / "photos" / f"{row}.jpg").write_bytes(b"\xff\xd8\xffdamaged" if row == 7 else jpeg(row))
    return path


def options(catalogue: Path, service: Service) -> list[str]:
    photos = str(catalogue.parent / "photos")
    columns = ["--text-column", "title", "--image-column", "photo", "--photos", photos]
    return [str(catalogue), "--url", service.url, *columns, "--patience-s", "2", "--batch-items", "7"]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_row_comes_back_with_labels(catalogue: Path, service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(options(catalogue, service)) == 1, "two rows have no labels"
    given, labelled = rows_of(catalogue), rows_of(catalogue.with_name("items.labelled.csv"))
    assert [{name: row[name] for name in given[0]} for row in labelled] == given
    statuses = {row["id"]: row["itemlens_status"] for row in labelled if row["itemlens_status"] != "ok"}
    assert statuses == {"sku-6": "no_photo_no_title", "sku-7": "undecodable_image"}
    assert labelled[5]["itemlens_inputs"] == "text"
    assert labelled[0]["itemlens_gender"] in ("Men", "Women")
    assert 0 < float(labelled[0]["itemlens_gender_confidence"]) <= 1
    assert labelled[0]["itemlens_gender_decision"] in ("accept", "review")
    # The same answer as the item gets by itself.
    photo = (catalogue.parent / "photos" / "0.jpg").read_bytes()
    single = service.client.post("/v1/classify", files={"image": photo}, data={"text": given[0]["title"]}).json()
    assert labelled[0]["itemlens_gender"] == single["results"][0]["attributes"]["gender"]["label"]
    bad = rows_of(catalogue.with_name("items.labelled.csv.bad_rows.csv"))
    assert [(row["line"], row["id"], row["reason"]) for row in bad] == [
        ("7", "sku-5", "missing_photo"),
        ("8", "sku-6", "no_photo_no_title"),
        ("9", "sku-7", "undecodable_image"),
    ]
    said = capsys.readouterr().out
    assert "38 rows labelled, 2 not" in said
    assert not list(catalogue.parent.glob("*.partial"))


def test_the_least_certain_rows_come_first(catalogue: Path, service: Service) -> None:
    assert main([*options(catalogue, service), "--least-certain-first", "--attributes", "gender"]) == 1
    labelled = rows_of(catalogue.with_name("items.labelled.csv"))
    assert len(labelled) == ROWS
    certain = [float(row["itemlens_gender_confidence"]) for row in labelled if row["itemlens_status"] == "ok"]
    assert certain == sorted(certain)
    assert [row["itemlens_status"] == "ok" for row in labelled] == [True] * 38 + [False] * 2


def test_json_lines_and_a_zip_of_photos(tmp_path: Path, service: Service) -> None:
    rows = [{"sku": row, "name": TITLES[row], "tags": ["new"]} for row in range(3)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with zipfile.ZipFile(tmp_path / "shop.zip", "w") as archive:
        for row in range(3):
            archive.writestr(f"images/{row}.jpg", jpeg(row))
    output = tmp_path / "out.jsonl"
    photos = ["--image-pattern", "images/{sku}.jpg", "--photos", str(tmp_path / "shop.zip")]
    arguments = [str(tmp_path / "items.jsonl"), "--text-column", "name", *photos, "--url", service.url, "--top-k", "2"]
    assert main([*arguments, "--output", str(output)]) == 0
    labelled = [json.loads(line) for line in output.read_text().splitlines()]
    assert [{name: row[name] for name in rows[0]} for row in labelled] == rows
    answer = labelled[0]["itemlens"]
    assert answer["inputs"] == ["image", "text"]
    assert list(answer["attributes"]) == LABELS["attributes"]
    assert len(answer["attributes"]["gender"]["candidates"]) == 2


def test_a_stopped_run_goes_on_where_it_ended(catalogue: Path, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that were answered are not sent again, and the output is that of a run which was never stopped."""
    from scripts.label import service as module

    whole = catalogue.with_name("whole.csv")
    assert main([*options(catalogue, service), "--output", str(whole)]) == 1
    sent: list[int] = []
    classify = module.LabelService.classify

    def counted(self: module.LabelService, items: Any, asked: Any) -> Any:
        if len(sent) == stop_after:
            raise module.ServiceError("gone")
        sent.append(len(items))
        return classify(self, items, asked)

    monkeypatch.setattr(module.LabelService, "classify", counted)
    stop_after = 2
    arguments = [*options(catalogue, service), "--requests-in-flight", "1"]
    assert main(arguments) == 3
    partial = catalogue.with_name("items.labelled.csv.partial")
    assert len(partial.read_text().splitlines()) == 1 + sum(sent) + 1, "and the row with nothing to send"
    assert main(arguments) == 2, "a partial file is not overwritten unasked"
    first, stop_after = sum(sent), -1
    sent.clear()
    assert main([*arguments, "--resume"]) == 1
    assert first + sum(sent) == ROWS - 1
    assert catalogue.with_name("items.labelled.csv").read_bytes() == whole.read_bytes()
    assert not partial.exists()


@pytest.fixture
def strict_service(tiny_models: Path) -> Iterator[Service]:
    """Takes four items and 64 KiB a request."""
    with Service(tiny_models, MAX_REQUEST_ITEMS="4", MAX_BODY_BYTES="65536") as running:
        yield running


def test_a_service_with_lower_limits_gets_smaller_requests(catalogue: Path, strict_service: Service) -> None:
    assert main([*options(catalogue, strict_service), "--batch-items", "32"]) == 1
    labelled = rows_of(catalogue.with_name("items.labelled.csv"))
    assert [row["itemlens_status"] for row in labelled].count("ok") == 38


def test_as_a_command_with_a_key_from_the_environment(catalogue: Path, guarded_service: Service) -> None:
    command = [sys.executable, "-m", "scripts.label", *options(catalogue, guarded_service), "--attributes", "gender"]

    def run(**variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=ROOT, env=clean_environment(**variables), capture_output=True, text=True, timeout=60)

    refused = run()
    assert (refused.returncode, refused.stdout) == (3, "")
    assert refused.stderr.startswith(f"label: {guarded_service.url} refuses the request: 401 unauthorized: ")
    done = run(ITEMLENS_API_KEY=API_KEY)
    assert done.returncode == 1, done.stderr
    assert API_KEY not in done.stdout + done.stderr
    again = run(ITEMLENS_API_KEY=API_KEY)
    assert (again.returncode, "--overwrite" in again.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text-column", "name"], "no column 'name'"),
        ([], "Say what to read"),
        (["--text-column", "title", "--attributes", "size"], "no attribute 'size'"),
        (["--image-column", "photo", "--photos", "nowhere"], "no photo folder or zip"),
        (["--text-column", "title", "--model", "none"], "404 unknown_model"),
        (["--text-column", "title", "--precision", "0.2"], "422 invalid_request"),
    ],
)
def test_a_wrong_option_is_one_clear_line(
    catalogue: Path, service: Service, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([str(catalogue), "--url", service.url, "--patience-s", "1", *arguments]) in (2, 3)
    assert message in capsys.readouterr().err
    assert not list(catalogue.parent.glob("items.labelled.*")), "nothing to clear away before the next try"


def test_a_service_that_is_not_there_is_said_so(catalogue: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(catalogue), "--text-column", "title", "--url", "http://127.0.0.1:9", "--patience-s", "0.1"]
    assert main(arguments) == 3
    assert "http://127.0.0.1:9 does not answer" in capsys.readouterr().err
