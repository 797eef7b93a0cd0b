"""A run that was killed ends where an uninterrupted one would have; the schedule and the averages are what they say."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

import scripts.familiar_photos
import scripts.fitting
from app.engine.text import TitleTokenizer
from scripts.batches import Rows, group_titles
from scripts.checkpoints import restore_checkpoint, save_checkpoint
from scripts.config import NetworkConfig, TrainingConfig
from scripts.fitting import EPOCHS_DONE, FIRST_ROUND, TAUGHT, finish_fitting, fit
from scripts.image_augmentation import PhotoMixing
from scripts.labels import build_label_space
from scripts.losses import Recogniser
from scripts.network import build_network
from scripts.optimizer import AveragingAdamW, WarmupCosine
from scripts.rounds import Round, meet_half_way, photo_sizes, rounds
from tests.scripts.conftest import steps_untraced

NETWORK = NetworkConfig(
    image_height=8, image_width=8, widths=(4,), depths=(1,), max_tokens=2, vocabulary_size=257, token_width=4,
    recurrent_width=4, fused_width=8, embedding_width=4, dimensions=(4,), dropout=0.2,
)  # fmt: skip
# Dropout and augmentation on: what is random must survive the interruption too. Two last passes, as the first step of a
# warm-up moves nothing.
TRAINING = TrainingConfig(
    epochs=2, batch_size=16, ema_decay=0.5, image_augmentation="digits", progressive_resizing=False, finishing_passes=2
)
COUNT = 20


class Killed(Exception):
    pass


def run(
    run_dir: Path, *, resume: bool = False, training: TrainingConfig = TRAINING
) -> tuple[list[dict[str, float]], list[NDArray[Any]]]:
    """Train the same tiny catalogue; the history and the final weights."""
    run_dir.mkdir(exist_ok=True)
    keras.utils.set_random_seed(training.seed)
    rng = np.random.default_rng(1)
    kind = rng.integers(0, 2, COUNT)
    titles = [("ab", "xy")[k] for k in kind]  # one piece per byte: what a roughened title loses takes no seed
    table = {"kind": [("steel", "sheep")[k] for k in kind]}
    space = build_label_space(table, range(COUNT), label_columns=("kind",))
    rows = Rows(
        photos=(kind[:, None, None, None] * 200 + rng.integers(0, 50, (COUNT, 8, 8, 3))).astype(np.uint8),
        photo_present=np.ones(COUNT, bool),
        extra_photos=np.zeros((0, 8, 8, 3), np.uint8),
        extra_of_row={},
        titles=titles,
        labels=space.encode(table, COUNT),
        title_group=group_titles(titles),
    )
    tokenizer = TitleTokenizer.train(titles, vocabulary_size=257, max_tokens=2)
    network = build_network(NETWORK, vocabulary_size=tokenizer.vocabulary_size, logits_width=space.logits_width)
    model = Recogniser(network, space, NETWORK, training)
    history = fit(
        model, rows, np.arange(16), np.arange(16, 20), tokenizer=tokenizer, space=space, network=NETWORK,
        training=training, run_dir=run_dir, resume=resume,
    )  # fmt: skip
    finish_fitting(
        model, rows, np.arange(16), np.arange(16, 20), history, tokenizer=tokenizer, space=space, network=NETWORK,
        training=training,
    )  # fmt: skip
    return history, [np.asarray(variable) for variable in network.variables]


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts.familiar_photos, "PASSES", 1)


@pytest.fixture
def eager() -> Iterator[None]:
    with steps_untraced():
        yield


TAUGHT_TRAINING = replace(TRAINING, epochs=1, taught_epochs=2)
UNMIXED_TRAINING = replace(TRAINING, epochs=1, unmixed_epochs=2, mixed_photo_share=0.5)


@dataclass(frozen=True)
class WholeRun:
    """A run that nothing interrupted, every epoch of it kept. Read only: go on with a copy (`go_on`)."""

    folder: Path
    history: list[dict[str, float]]
    weights: list[NDArray[Any]]

    def go_on(self, run_dir: Path, *, killed_after: int | None = None) -> Path:
        """`run_dir`, holding what the run left, or what it had left when it was killed in the epoch after that many."""
        left = self.folder / f"after{killed_after}" if killed_after else self.folder
        return Path(shutil.copytree(left, run_dir, ignore=shutil.ignore_patterns("after*")))


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[TrainingConfig], WholeRun]:
    """The whole run of a training: once, however many tests look at it or go on from its middle."""

    @cache
    def run_once(training: TrainingConfig) -> WholeRun:
        folder = tmp_path_factory.mktemp("whole")
        epochs = iter(range(1, 100))

        def save_and_keep(path: Path, *arguments: Any) -> None:
            save_checkpoint(path, *arguments)
            if path.name == "checkpoint.npz":
                after = folder / f"after{next(epochs)}"
                after.mkdir()
                for left in folder.glob("*.np[yz]"):
                    shutil.copy(left, after)

        with pytest.MonkeyPatch.context() as patch, steps_untraced():
            patch.setattr(scripts.fitting, "KEEPING_SHARE", np.inf)
            patch.setattr(scripts.fitting, "save_checkpoint", save_and_keep)
            history, weights = run(folder, training=training)
        return WholeRun(folder, history, weights)

    return run_once


@pytest.mark.usefixtures("eager")
@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning")
@pytest.mark.parametrize(
    ("training", "killed_after"), [(TRAINING, 1), (TAUGHT_TRAINING, 1), (TAUGHT_TRAINING, 2), (UNMIXED_TRAINING, 2)]
)
def test_a_killed_run_goes_on_after_its_last_whole_epoch_and_ends_the_same(
    training: TrainingConfig,
    killed_after: int,
    whole_run: Callable[[TrainingConfig], WholeRun],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    whole = whole_run(training)
    killed = whole.go_on(tmp_path / "killed", killed_after=killed_after)
    monkeypatch.setattr(scripts.fitting, "KEEPING_SHARE", np.inf)
    resumed_history, resumed_weights = run(killed, resume=True, training=training)

    epochs = training.all_epochs
    assert f"resuming after epoch {killed_after} of {epochs}" in capfd.readouterr().out
    histories = (whole.history, resumed_history)
    without_time = [[{k: v for k, v in entry.items() if k != "seconds"} for entry in history] for history in histories]
    assert len(without_time[0]) == epochs
    assert without_time[1] == [pytest.approx(entry, rel=1e-4, abs=1e-5) for entry in without_time[0]]
    for one, other in zip(whole.weights, resumed_weights, strict=True):
        assert np.allclose(one, other, rtol=1e-4, atol=1e-5)
    assert not list(killed.glob("*.partial*"))


@pytest.mark.usefixtures("eager")
@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning")
@pytest.mark.parametrize("kept", [TAUGHT, FIRST_ROUND])
def test_a_second_round_without_what_it_began_with_is_refused(
    kept: str, whole_run: Callable[[TrainingConfig], WholeRun], tmp_path: Path
) -> None:
    run_dir = whole_run(TAUGHT_TRAINING).go_on(tmp_path / "run")
    (run_dir / kept).unlink()
    with pytest.raises(ValueError, match="start again without --resume"):
        run(run_dir, training=replace(TAUGHT_TRAINING, taught_epochs=3), resume=True)


@pytest.mark.usefixtures("eager")
@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning")
def test_what_follows_the_epochs_can_be_done_later(
    whole_run: Callable[[TrainingConfig], WholeRun], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = whole_run(TRAINING)
    run_dir = whole.go_on(tmp_path / "run")
    (run_dir / "checkpoint.npz").unlink()
    later_history, later_weights = run(run_dir, resume=True)
    assert "resuming after all 2 epochs" in capfd.readouterr().out
    assert [entry["loss"] for entry in later_history] == [entry["loss"] for entry in whole.history]
    for one, other in zip(whole.weights, later_weights, strict=True):
        assert np.allclose(one, other, rtol=1e-4, atol=1e-5)
    with np.load(run_dir / EPOCHS_DONE) as stored:
        kept_bytes = sum(stored[name].nbytes for name in stored.files)
        assert kept_bytes < sum(w.nbytes for w in whole.weights) + 10_000, "no optimiser in it"


@pytest.mark.usefixtures("eager")
@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning")
def test_epochs_that_are_shorter_than_a_look_at_them_are_not_all_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts.fitting, "KEEPING_SHARE", 1e-9)
    history, _ = run(tmp_path, training=replace(TRAINING, epochs=4, finishing_passes=0))
    assert ["val_kind_image" in entry for entry in history] == [True, True, False, True], "the first look may have compiled"


@pytest.mark.usefixtures("eager")
@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning")
def test_a_first_look_that_compiles_does_not_keep_later_epochs_from_being_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    looks = iter([1000.0, 1.0, 1.0, 1.0])

    def look(*arguments: Any, **options: Any) -> dict[str, float]:
        nonlocal now
        now += next(looks)
        return {"val_kind_image": 1.0}

    def epoch_of_three_seconds(*arguments: Any) -> dict[str, float]:
        nonlocal now
        now += 3.0
        return {"loss": 1.0}

    monkeypatch.setattr(scripts.fitting, "validation_accuracy", look)
    monkeypatch.setattr(scripts.fitting, "_one_epoch", epoch_of_three_seconds)
    monkeypatch.setattr("scripts.fitting.time.monotonic", lambda: now)
    monkeypatch.setattr(scripts.fitting, "KEEPING_SHARE", 0.5)
    history, _ = run(tmp_path, training=replace(TRAINING, epochs=4, finishing_passes=0))
    assert ["val_kind_image" in entry for entry in history] == [True] * 4


def test_half_way_is_the_mean() -> None:
    variables = [keras.Variable([1.0, 2.0]), keras.Variable([[4.0]])]
    meet_half_way(variables, [np.array([3.0, 2.0]), np.array([[0.0]])])
    assert [np.asarray(v).tolist() for v in variables] == [[2.0, 2.0], [[2.0]]]


def test_the_second_round_is_gentler_and_at_full_size() -> None:
    training = replace(TAUGHT_TRAINING, epochs=4, learning_rate=0.4, progressive_resizing=True)
    first, second = rounds(replace(NETWORK, image_height=80, image_width=60), training, has_image=True)
    assert (first.start, first.stop, second.start, second.stop) == (0, 4, 4, 6)
    assert (first.learning_rate, second.learning_rate) == (0.4, 0.2)
    assert first.sizes[0] == (48, 36)
    assert second.sizes == [(80, 60)] * 2
    assert (first.is_taught, second.is_taught) == (False, True)
    assert len(rounds(NETWORK, training, has_image=False)) == 1, "there is no photo to learn from"
    assert rounds(NETWORK, replace(training, epochs=0, taught_epochs=0), has_image=True) == []


def test_the_last_round_is_gentle_and_mixes_no_photos() -> None:
    training = replace(UNMIXED_TRAINING, taught_epochs=1, learning_rate=0.4)
    *_, taught, last = rounds(NETWORK, training, has_image=True)
    assert (taught.stop, last.start, last.stop) == (2, 2, 4)
    assert last.learning_rate == pytest.approx(0.08)
    assert (taught.is_mixed, last.is_mixed, last.is_taught) == (True, False, False)
    (alone,) = rounds(NETWORK, replace(UNMIXED_TRAINING, epochs=0), has_image=True)
    assert (alone.start, alone.stop, alone.is_mixed) == (0, 2, False)


def test_a_stretch_is_a_run_of_epochs_with_photos_of_one_size() -> None:
    sizes = [(4, 4), (4, 4), (8, 8), (8, 8), (8, 8)]
    assert list(Round(10, 15, 0.1, sizes).stretches(0)) == [(10, 12), (12, 15)]
    assert list(Round(10, 15, 0.1, sizes).stretches(13)) == [(13, 15)]
    assert list(Round(10, 15, 0.1, sizes).stretches(15)) == []


@pytest.mark.usefixtures("eager")
@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning")
def test_photos_are_mixed_until_the_last_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []
    mix = PhotoMixing.call

    def keep_share(self: PhotoMixing, image: Any, present: Any) -> Any:
        shares.append(self.share * float(self.active))
        return mix(self, image, present)

    monkeypatch.setattr(PhotoMixing, "call", keep_share)
    run(tmp_path, training=replace(UNMIXED_TRAINING, finishing_passes=0))
    first = shares.count(0.5)
    assert first > 0
    assert shares == [0.5] * first + [0.0] * (2 * first)


# ---- checkpoints


def small_model(width: int = 3) -> tuple[keras.Model, list[keras.Optimizer]]:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(width)])
    optimizer = keras.optimizers.SGD(momentum=0.9)
    optimizer.build(model.trainable_variables)
    return model, [optimizer]


def test_a_checkpoint_restores_every_variable_and_the_state(tmp_path: Path) -> None:
    model, optimizers = small_model()
    kept = [np.asarray(v).copy() for v in model.variables]
    save_checkpoint(tmp_path / "checkpoint.npz", model, optimizers, {"history": [{"loss": 1.5}]})
    for variable in [*model.variables, *optimizers[0].variables]:
        variable.assign(np.asarray(variable) + 1)
    assert restore_checkpoint(tmp_path / "checkpoint.npz", model, optimizers) == {"history": [{"loss": 1.5}]}
    for variable, value in zip(model.variables, kept, strict=True):
        assert np.array_equal(np.asarray(variable), value)
    assert int(optimizers[0].iterations) == 0


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint.npz", *small_model(3), {})
    with pytest.raises(ValueError, match="another network"):
        restore_checkpoint(tmp_path / "checkpoint.npz", *small_model(4))


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.npz"
    model, optimizers = small_model()
    save_checkpoint(path, model, optimizers, {"epoch": 1})

    def full_disk(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(path, model, optimizers, {"epoch": 2})
    assert restore_checkpoint(path, model, optimizers) == {"epoch": 1}


# ---- schedule, averages, sizes


def test_the_learning_rate_rises_to_its_peak_and_falls_to_nothing() -> None:
    schedule = WarmupCosine(0.1, warmup_steps=10, total_steps=110)
    rates = [float(schedule(step)) for step in range(0, 121, 5)]
    assert rates[0] == 0.0
    assert rates[1] == pytest.approx(0.05)
    assert max(rates) == rates[2] == pytest.approx(0.1)
    assert rates[2:23] == sorted(rates[2:23], reverse=True)
    assert float(schedule(60)) == pytest.approx(0.05)
    assert rates[-3:] == pytest.approx([0, 0, 0], abs=1e-8)
    again = WarmupCosine.from_config(schedule.get_config())
    assert float(again(33)) == float(schedule(33))


def test_the_averages_stand_in_inside_the_block_alone() -> None:
    variable = keras.Variable(np.zeros(3, np.float32), name="weight")
    optimizer = AveragingAdamW(WarmupCosine(0.1, warmup_steps=0, total_steps=1_000), ema_momentum=0.9)
    optimizer.build([variable])
    for _ in range(5):
        optimizer.apply([np.ones(3, np.float32)], [variable])
    optimizer.finalize_variable_values([variable])
    raw = np.asarray(variable).copy()
    assert (raw < -0.3).all()
    averages: list[NDArray[Any]] = []

    def fail() -> None:
        with optimizer.averaged([variable]):
            averages.append(np.asarray(variable).copy())
            raise Killed

    with pytest.raises(Killed):
        fail()
    (average,) = averages
    assert (average > raw).all(), "the average lags behind"
    assert np.array_equal(np.asarray(variable), raw)
    optimizer.use_averages([variable])
    assert np.array_equal(np.asarray(variable), average)


def test_an_optimizer_begun_anew_does_what_a_new_one_does() -> None:
    def steps(optimizer: AveragingAdamW, variable: keras.Variable) -> list[NDArray[Any]]:
        variable.assign(np.zeros(3, np.float32))
        for step in range(4):
            optimizer.apply([np.full(3, 1.0 + step, np.float32)], [variable])
        with optimizer.averaged([variable]):
            averages = np.asarray(variable).copy()
        return [np.asarray(variable).copy(), averages]

    def optimizer(peak: float) -> tuple[AveragingAdamW, keras.Variable]:
        variable = keras.Variable(np.zeros(3, np.float32), name="weight")
        made = AveragingAdamW(WarmupCosine(peak, warmup_steps=1, total_steps=int(100 * peak)), ema_momentum=0.9)
        made.build([variable])
        return made, variable

    expected = steps(*optimizer(0.3))
    used, variable = optimizer(0.1)
    steps(used, variable)
    used.restart(WarmupCosine(0.3, warmup_steps=1, total_steps=30))
    assert int(used.iterations) == 0
    assert used.get_config()["learning_rate"]["config"]["total_steps"] == 30
    for value, wanted in zip(steps(used, variable), expected, strict=True):
        assert np.allclose(value, wanted, rtol=1e-6)


@pytest.mark.usefixtures("eager")
@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning")
def test_one_compiled_step_serves_all_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Recogniser] = []
    compile_it = Recogniser.compile

    def counted(self: Recogniser, *arguments: Any, **options: Any) -> None:
        compiled.append(self)
        compile_it(self, *arguments, **options)

    monkeypatch.setattr(Recogniser, "compile", counted)
    history, _ = run(tmp_path / "run", training=replace(UNMIXED_TRAINING, finishing_passes=0))
    assert len(history) == 3
    assert len(compiled) == 1


def test_photos_grow_to_full_size_in_multiples_of_four() -> None:
    sizes = photo_sizes(NetworkConfig(image_height=80, image_width=60), TrainingConfig(epochs=20))
    assert len(sizes) == 20
    assert sizes == sorted(sizes)
    assert sizes[0] == (48, 36)
    assert sizes[-8:] == [(80, 60)] * 8
    assert all(height % 4 == 0 and width % 4 == 0 for height, width in sizes)
    fixed = photo_sizes(NetworkConfig(image_height=30, image_width=30), TrainingConfig(epochs=2, progressive_resizing=False))
    assert fixed == [(30, 30)] * 2
