"""One command makes a catalogue into a bundle that the service loads, whatever the catalogue lacks."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scripts.train
from app.engine.answers import Answerer
from app.engine.bundle import Bundle, load_bundle
from tests.scripts.conftest import (
    ALL_LABELS,
    EPOCHS,
    PHOTO,
    TITLE,
    MadeRun,
    fitting_within,
    run_training,
    steps_untraced,
    write_shop,
)


def figures(run: MadeRun) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.bundle / "metrics.json").read_text())
    return found


def accuracy(run: MadeRun, pattern: str, attribute: str) -> float:
    return float(figures(run)["patterns"][pattern][attribute]["accuracy"])


# ---- the whole story


def test_the_loss_falls_and_every_epoch_is_recorded(trained: MadeRun) -> None:
    assert trained.status == 0
    history = json.loads((trained.run_dir / "history.json").read_text())
    assert len(history) == EPOCHS
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    assert {"loss", "labels", "pairs", "domain", "seconds", "val_colour_image", "val_material_text"} <= set(history[0])


def test_the_bundle_is_one_the_service_loads(trained: MadeRun) -> None:
    bundle = load_bundle(trained.bundle)
    assert (bundle.name, bundle.version) == ("shop", "1")
    assert bundle.labels.attributes == ["colour", "tone", "material"]
    assert bundle.manifest.runtimes == ["tensorflow", "litert"]
    assert bundle.manifest.dimensions == [4, 8, 16]
    assert bundle.manifest.inputs.image is not None
    assert (bundle.manifest.inputs.image.height, bundle.manifest.inputs.image.width) == (16, 16)
    assert bundle.manifest.training["train_rows"] == 160
    assert bundle.quality["split"] == "test"
    expected = {"saved_model.pb", "model.tflite", "tokenizer.json", "golden.npz", "MODEL_CARD.md", "metrics.json"}
    assert expected <= set(bundle.manifest.files)
    assert [path.name for path in trained.bundle.parent.iterdir()] == ["1"], "no temporary folder is left"


def test_the_photo_decides_one_attribute_and_the_title_the_other(trained: MadeRun) -> None:
    assert accuracy(trained, "image", "colour") > 0.75
    assert accuracy(trained, "text", "material") > 0.75
    assert accuracy(trained, "both", "colour") > 0.7
    assert accuracy(trained, "both", "material") > 0.7
    assert accuracy(trained, "image", "material") < 0.6
    assert accuracy(trained, "text", "colour") < 0.6
    assert accuracy(trained, "image", "tone") >= accuracy(trained, "image", "colour")


def test_the_saved_model_gives_the_golden_answers_where_nothing_of_ours_is_installed(trained: MadeRun, tmp_path: Path) -> None:
    program = """
import sys
import numpy as np
import tensorflow as tf

loaded = tf.saved_model.load(sys.argv[1])
signature = loaded.signatures["serving_default"]
golden = np.load(sys.argv[2])
names = sorted(signature.structured_input_signature[1])
outputs = signature(**{name: tf.constant(golden["input_" + name]) for name in names})
ours = [m for m in sys.modules if m.split(".")[0] in ("app", "scripts")]
gap = max(float(np.abs(outputs[name].numpy() - golden[name]).max()) for name in outputs)
print(names, sorted(outputs), ours, gap < 1e-4, len(golden["image_in_domain"]))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, str(trained.bundle), str(trained.bundle / "golden.npz")],
        capture_output=True, text=True, check=True, cwd=tmp_path, timeout=300,
    )  # fmt: skip
    inputs = ["image", "image_present", "text_present", "token_ids"]
    outputs = ["fused_embedding", "fused_logits", "image_embedding", "image_in_domain", "image_logits"]
    outputs += ["text_embedding", "text_in_domain", "text_logits"]
    assert done.stdout.split("\n")[-2] == f"{inputs} {outputs} [] True 18"


def test_the_run_leaves_its_logs_and_pictures_beside_the_bundle_not_in_it(trained: MadeRun) -> None:
    written = {path.name for path in trained.run_dir.iterdir()}
    assert {"history.json", "metrics.json", "checkpoint.npz", "bad_rows.csv", "curves.png", "predictions.png"} <= written
    assert not list(trained.bundle.rglob("*.png"))
    assert (trained.run_dir / "metrics.json").read_bytes() == (trained.bundle / "metrics.json").read_bytes()


def test_the_figures_hold_what_the_readers_look_for(trained: MadeRun) -> None:
    found = figures(trained)
    assert found["rows"] == 60
    assert set(found["patterns"]) == {"both", "image", "text"}
    assert found["litert"]["min_cosine"] > 0.95
    assert set(found["litert"]["same_label"]) == {"colour", "tone", "material"}
    assert {"noise photos", "gibberish titles"} <= set(found["abstaining"])
    assert found["patterns"]["both"]["material"]["n"] == 54, "a tenth of the rows has no material"


# ---- what a catalogue may lack


def decisions(bundle: Bundle, outputs: dict[str, np.ndarray[Any, Any]], *, image: bool) -> set[str]:
    answerer = Answerer(bundle.labels_json, bundle.calibration_json)
    found: set[str] = set()
    for row in range(len(outputs["fused_logits"])):
        answer = answerer.classify(
            {name: value[row] for name, value in outputs.items()},
            image_present=image, text_present=not image, attributes=answerer.attributes, top_k=1, precision=0.5,
        )  # fmt: skip
        found |= {attribute.decision for attribute in answer.attributes.values()}
    return found


@pytest.fixture
def fit_untraced() -> Iterator[None]:
    with fitting_within(steps_untraced):
        yield


@pytest.mark.usefixtures("fit_untraced")
@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning")
@pytest.mark.parametrize("branch", ["photo", "title"])
def test_a_small_catalogue_of_one_input_and_one_label_column_trains_and_exports(branch: str, tmp_path: Path) -> None:
    shop = write_shop(tmp_path / "shop", train=40, val=3, test=8)
    columns = (PHOTO, 'label_columns = ["colour"]') if branch == "photo" else (TITLE, 'label_columns = ["material"]')
    run = run_training(shop, tmp_path, name=branch, columns=columns, epochs=1, batch_size=40)
    assert run.status == 0
    bundle = load_bundle(run.bundle)
    assert (bundle.manifest.inputs.image is None) == (branch == "title")
    assert (bundle.manifest.inputs.text is None) == (branch == "photo")
    assert (bundle.tokenizer_json is None) == (branch == "photo")
    assert bundle.labels.attributes == (["colour"] if branch == "photo" else ["material"])
    assert bundle.calibration_json["agreement"] is None
    assert set(figures(run)["patterns"]) == {"image" if branch == "photo" else "text"}
    # Three validation rows show nothing, so nothing may be accepted.
    golden = bundle.golden_arrays()
    outputs = {name: golden[name] for name in golden if name.rsplit("_", 1)[-1] in ("logits", "domain", "embedding")}
    assert decisions(bundle, outputs, image=branch == "photo") == {"review"}


@pytest.mark.usefixtures("fit_untraced")
@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning")
def test_a_run_that_was_taught_stops_after_its_epochs_and_goes_on_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = write_shop(tmp_path / "shop", train=40, val=10, test=8)
    teachers = '[teachers]\ncount = 1\nepochs = 1\nstem = "small"\nwidths = [4]\ndepths = [1]\nbatch_size = 40\n'
    stopped = run_training(shop, tmp_path, epochs=1, batch_size=40, network=teachers, flags=["--stop-after-epochs"])
    assert stopped.status == 0
    assert not stopped.bundle.exists()
    assert "go on with --resume" in capsys.readouterr().out
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "runs").mkdir(parents=True)
    shutil.copytree(stopped.run_dir, elsewhere / "runs" / stopped.name)
    shutil.rmtree(elsewhere / "runs" / stopped.name / "teacher1")
    run = run_training(shop, elsewhere, epochs=1, batch_size=40, network=teachers, flags=["--resume"])
    assert run.status == 0
    assert load_bundle(run.bundle).manifest.training["epochs"] == 1
    said = capsys.readouterr().out
    assert "resuming after all 1 epochs" in said
    assert "teacher 1" not in said


@pytest.mark.usefixtures("fit_untraced")
@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning")
def test_a_run_without_epochs_trains_no_teachers(trained: MadeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop = write_shop(tmp_path / "shop", train=40, val=10, test=8)
    teachers = '[teachers]\ncount = 1\nepochs = 1\nstem = "small"\nwidths = [4]\ndepths = [1]\n'
    run = run_training(shop, tmp_path, epochs=0, network=teachers, flags=["--from", str(trained.bundle)])
    assert run.status == 0
    assert "teacher 1" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("branch", "lost", "kept"), [("image", "colour", "material"), ("text", "material", "colour")])
def test_without_a_branch_its_own_attribute_is_lost(
    branch: str, lost: str, kept: str, shop: Path, trained: MadeRun, tmp_path: Path
) -> None:
    run = run_training(shop, tmp_path, epochs=EPOCHS, flags=["--without", branch])
    assert run.status == 0
    bundle = load_bundle(run.bundle)
    assert getattr(bundle.manifest.inputs, branch) is None
    assert bundle.calibration_json["agreement"] is None
    (pattern,) = figures(run)["patterns"]
    assert pattern == ("text" if branch == "image" else "image")
    assert accuracy(run, pattern, lost) < accuracy(trained, "both", lost) - 0.2
    assert accuracy(run, pattern, kept) > 0.7


# ---- what goes wrong says so


def refused(shop: Path, work: Path, capsys: pytest.CaptureFixture[str], **choices: Any) -> str:
    run = run_training(shop, work, epochs=1, **choices)
    assert run.status == 1
    assert not list(run.models.rglob("*")), "nothing is written"
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("train: ")
    return message


def test_a_catalogue_without_rows_to_report_on_is_refused_before_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = write_shop(tmp_path / "shop", train=20, val=0, test=0)
    with (shop / "items.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    with (shop / "items.csv").open("w", newline="") as file:  # one title is one product, which no split may part
        csv.writer(file).writerows([header, *([*row[:2], "bowl", *row[3:]] for row in rows)])
    assert "--report-split" in refused(shop, tmp_path, capsys)


def test_labels_that_no_bundle_can_hold_are_refused_before_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = write_shop(tmp_path / "shop", train=20, val=5, test=5)
    table = (shop / "items.csv").read_text()
    (shop / "items.csv").write_text(table.replace(",steel,", f",{'steel ' * 50},"))
    assert "labels.json" in refused(shop, tmp_path, capsys)


def test_a_run_of_no_epochs_needs_a_bundle_to_go_on_with(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--from" in refused(shop, tmp_path, capsys, flags=("--epochs", "0"))


def test_a_missing_column_is_named(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(shop, tmp_path, capsys, columns=(PHOTO, TITLE, 'label_columns = ["brand"]'))
    assert "brand" in message


def test_a_stopped_run_says_how_to_go_on(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scripts.train, "fit", stop)
    assert run_training(shop, tmp_path, epochs=1, columns=(PHOTO, TITLE, ALL_LABELS)).status == 130
    assert "--resume" in capsys.readouterr().err


def test_the_help_shows_the_presets(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        scripts.train.main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for word in ("--preset", "fashion:", "mnist:", "--resume", "--without"):
        assert word in shown


def test_processes_are_counted_and_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    assert scripts.train.parse_arguments(["--preset", "fashion", "--processes", "3"]).processes == 3
    with pytest.raises(SystemExit):
        scripts.train.parse_arguments(["--preset", "fashion", "--processes", "-1"])
    assert "must be from 0 to 256" in capsys.readouterr().err


def test_the_recorded_command_says_nothing_of_stops() -> None:
    words = ["--preset", "fashion", "--stop-after-epochs", "--resume"]
    assert scripts.train.command(scripts.train.parse_arguments(words)) == "python -m scripts.train --preset fashion"


def test_the_recorded_command_repeats_the_run(trained: MadeRun) -> None:
    command = load_bundle(trained.bundle).manifest.training["command"]
    assert command.startswith("python -m scripts.train --config ")
    assert "--resume" not in command


@pytest.mark.parametrize("words", [["--data", "/home/me/secret"], ["--data=/home/me/secret"]])
def test_the_recorded_command_does_not_say_where_the_data_lay(words: list[str]) -> None:
    recorded = scripts.train.command(scripts.train.parse_arguments(["--preset", "fashion", *words]))
    assert "secret" not in recorded
    assert "FOLDER" in recorded
