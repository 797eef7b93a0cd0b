"""The command that prints how good a bundle is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.evaluate import main
from scripts.evaluation.protocols import PROTOCOLS
from tests.scripts.conftest import MadeRun
from tests.tiny_bundle import write_tiny_bundle


@pytest.fixture(autouse=True)
def few_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handful of unfamiliar pictures is as good as hundreds for seeing that they are asked."""
    monkeypatch.setattr("scripts.evaluation.out_of_domain.DRAWN_ITEMS", 8)


QUICK = ("--protocols", "hierarchy", "--no-pictures")


def evaluate(run: MadeRun, shop: Path, tmp_path: Path, *flags: str) -> int:
    return main([str(run.bundle), "--config", str(shop / "shop.toml"), "--runs", str(tmp_path), "--runtime", "litert", *flags])


def test_it_prints_and_writes_the_figures_of_a_split(
    trained: MadeRun, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(trained, shop, tmp_path, *QUICK, "--split", "val", "--json", str(tmp_path / "quality.json")) == 0
    quality = json.loads((tmp_path / "quality.json").read_text())
    assert (quality["split"], quality["rows"], quality["runtime"]) == ("val", 60, "litert")
    colour = quality["patterns"]["both"]["colour"]
    shown = capsys.readouterr().out
    assert "photo + title" in shown
    assert f"val accuracy: {100 * colour['accuracy']:.2f} % (colour, photo + title)" in shown


def test_it_agrees_with_the_figures_in_the_bundle(trained: MadeRun, shop: Path, tmp_path: Path) -> None:
    assert evaluate(trained, shop, tmp_path, *QUICK, "--json", str(tmp_path / "quality.json")) == 0
    measured = json.loads((tmp_path / "quality.json").read_text())
    stored = json.loads((trained.bundle / "metrics.json").read_text())
    for pattern, attributes in stored["patterns"].items():
        for name, entry in attributes.items():
            assert measured["patterns"][pattern][name]["accuracy"] == pytest.approx(entry["accuracy"], abs=0.04)


def test_every_protocol_is_measured_or_left_out_with_a_reason(
    trained: MadeRun, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(trained, shop, tmp_path, "--split", "val", "--json", str(tmp_path / "quality.json")) == 0
    quality = json.loads((tmp_path / "quality.json").read_text())
    assert set(quality["protocols"]) | (set(quality["left_out"]) - {"agreement"}) == set(PROTOCOLS)
    # Sixty rows are too few to calibrate agreement on.
    assert set(quality["left_out"]) == {"agreement", "full-size", "unseen-brands"}
    assert "held_out.brands" in quality["left_out"]["unseen-brands"]
    shown = capsys.readouterr().out
    for heading in ("P0,", "P1,", "P2,", "P3,", "P5,", "P6,", "P7,", "retrieval", "calibration", "decisions", "out of domain"):
        assert f"\n{heading}" in shown, heading
    assert shown.rstrip().splitlines()[-1].startswith("val accuracy: ")
    drawn = {path.name for path in (tmp_path / "shop").iterdir()}
    assert {"reliability-val.png", "retrieval-val.png", "phone-val.png", "predictions-val.png"} <= drawn


def test_protocols_can_be_chosen(trained: MadeRun, shop: Path, tmp_path: Path) -> None:
    json_file = tmp_path / "deep" / "quality.json"
    assert (
        evaluate(trained, shop, tmp_path, "--split", "val", "--protocols", "P3", "--no-pictures", "--json", str(json_file)) == 0
    )
    assert set(json.loads(json_file.read_text())["protocols"]) == {"P3"}
    assert not (tmp_path / "shop").exists(), "no pictures were asked for"


def test_two_runtimes_of_one_bundle_are_compared_row_by_row(
    trained: MadeRun, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--config", str(shop / "shop.toml"), "--runs", str(tmp_path), "--split", "val", "--json", str(tmp_path / "c.json")]
    bundle = str(trained.bundle)
    assert main(["--compare", bundle, bundle, "--runtime", "tensorflow", "litert", *flags]) == 0
    comparison = json.loads((tmp_path / "c.json").read_text())
    assert (comparison["first"], comparison["second"]) == ("shop 1 (tensorflow)", "shop 1 (litert)")
    assert set(comparison["patterns"]) == {"both", "image", "text"}
    assert comparison["patterns"]["image"]["colour"]["n"] == 60
    assert not any(entry["real"] for figures in comparison["patterns"].values() for entry in figures.values())
    assert "really better in 0, really worse in 0" in capsys.readouterr().out


def test_a_bundle_without_titles_is_compared_on_what_both_read(trained: MadeRun, shop: Path, tmp_path: Path) -> None:
    other = write_tiny_bundle(tmp_path / "models", with_text=False)
    flags = ["--config", str(shop / "shop.toml"), "--runs", str(tmp_path), "--split", "val", "--runtime", "litert"]
    assert main(["--compare", str(trained.bundle), str(other), *flags]) == 1, "no attribute in common"
    assert main([str(other), *flags, "--json", str(tmp_path / "q.json")]) == 0
    quality = json.loads((tmp_path / "q.json").read_text())
    assert quality["patterns"] == {"image": {}}, "the catalogue has none of its labels"
    for name in ("P3", "P7", "retrieval", "agreement"):
        assert quality["left_out"][name] == "the bundle reads no titles", name


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "name one bundle, or two"),
        (["a", "--compare", "a", "b"], "name one bundle, or two"),
        (["a", "--runtime", "litert", "tensorflow"], "--runtime takes one name"),
        (["a", "--protocols", "P4"], "invalid choice: 'P4'"),
        (["a", "--full-size-rows", "0"], "at least 1"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(flags)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_file_that_is_no_digits_is_refused_in_one_line(
    trained: MadeRun, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "digits.npz").write_bytes(b"no archive")
    assert evaluate(trained, shop, tmp_path, "--split", "val", "--digits", str(tmp_path / "digits.npz")) == 1
    assert "digits.npz is no mnist.npz" in capsys.readouterr().err


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_folder_that_is_no_bundle_is_refused_in_one_line(
    split: str, trained: MadeRun, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main([str(tmp_path), "--config", str(shop / "shop.toml"), "--runs", str(tmp_path), "--split", split])
    assert status == 1
    assert capsys.readouterr().err.startswith("evaluate: ")
