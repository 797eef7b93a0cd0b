"""Which versions should be served, decided on folders alone: nothing is loaded here."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog.testing

from app.engine.errors import BundleError
from app.engine.rollout import Rollout
from app.engine.serving_plan import Refusal, ServingPlan, VersionKey
from app.engine.settings import EngineSettings

Served = dict[str, list[str]]


def add(models_dir: Path, place: str, content: str = "") -> Path:
    """A folder that looks like a version from outside; `content` decides its digest."""
    folder = models_dir / place
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.sha256").write_text(f"{hashlib.sha256((place + content).encode()).hexdigest()}  manifest.json\n")
    return folder


def rollout_of(models_dir: Path, **settings: str | int) -> Rollout:
    return Rollout(EngineSettings(models_dir=models_dir, **settings))  # type: ignore[arg-type]


def versions(plan: ServingPlan | None) -> Served | None:
    return None if plan is None else {name: [key.version for key in keys] for name, keys in plan.models.items()}


def serve(rollout: Rollout, *, at_once: bool = True, bad: frozenset[str] = frozenset(), temporary: bool = False) -> Served:
    """Look and take every step; versions named in `bad` are refused. Returns what is served then."""
    rollout.look(at_once=at_once)
    while (plan := rollout.proposal()) is not None:
        keys = {key for key in plan.versions() if f"{key.name}/{key.version}" in bad}
        if rollout.plan is not None:
            keys -= set(rollout.plan.versions())
        if keys:
            rollout.refuse([Refusal(key, f"{key.name}/{key.version}: bad", temporary) for key in sorted(keys)])
        else:
            rollout.adopt(plan)
    return versions(rollout.plan) or {}


def refused(rollout: Rollout) -> list[str]:
    assert rollout.plan is not None
    return [f"{refusal.key.name}/{refusal.key.version}" for refusal in rollout.plan.refused]


def test_the_newest_versions_are_kept_and_the_newest_is_the_default(tmp_path: Path) -> None:
    for version in (9, 10, 1, 2):
        add(tmp_path, f"shoes/{version}")
    assert serve(rollout_of(tmp_path)) == {"shoes": ["10", "9"]}
    assert serve(rollout_of(tmp_path, max_versions_per_model=1)) == {"shoes": ["10"]}
    assert serve(rollout_of(tmp_path, max_versions_per_model=9)) == {"shoes": ["10", "9", "2", "1"]}


def test_a_pinned_default_stays_the_default_when_newer_ones_appear(tmp_path: Path) -> None:
    add(tmp_path, "shoes/1")
    add(tmp_path, "shoes/2")
    rollout = rollout_of(tmp_path, default_version="1")
    assert serve(rollout) == {"shoes": ["1", "2"]}
    add(tmp_path, "shoes/3")
    assert serve(rollout) == {"shoes": ["1", "3"]}
    shutil.rmtree(tmp_path / "shoes" / "1")
    assert serve(rollout) == {"shoes": ["1", "3"]}, "the operator named it, so it outlives its folder"


def test_the_pin_is_for_the_default_model_alone(tmp_path: Path) -> None:
    for place in ("fashion/1", "fashion/2", "shoes/1", "shoes/2"):
        add(tmp_path, place)
    assert serve(rollout_of(tmp_path, default_version="1")) == {"fashion": ["1", "2"], "shoes": ["2", "1"]}


def test_a_model_that_arrives_later_does_not_become_the_default_model(tmp_path: Path) -> None:
    add(tmp_path, "shoes/1")
    rollout = rollout_of(tmp_path)
    serve(rollout)
    add(tmp_path, "fashion/1")
    assert serve(rollout) == {"fashion": ["1"], "shoes": ["1"]}
    assert rollout.plan is not None
    assert rollout.plan.default_model == "shoes"
    assert [key.name for key in rollout.plan.versions()] == ["shoes", "fashion"]


def test_a_bad_version_is_refused_once_and_tried_again_when_its_files_change(tmp_path: Path) -> None:
    add(tmp_path, "shoes/1")
    rollout = rollout_of(tmp_path)
    serve(rollout)
    folder = add(tmp_path, "shoes/2")
    assert serve(rollout, bad=frozenset({"shoes/2"})) == {"shoes": ["1"]}
    assert refused(rollout) == ["shoes/2"]
    for _ in range(2):
        rollout.look(at_once=True)
        assert rollout.proposal() is None, "no further attempt"
    (folder / "labels.json").write_text("mended")
    assert serve(rollout) == {"shoes": ["2", "1"]}
    assert refused(rollout) == []


def test_a_version_refused_for_want_of_memory_is_tried_again_when_asked(tmp_path: Path) -> None:
    add(tmp_path, "shoes/1")
    rollout = rollout_of(tmp_path)
    serve(rollout)
    add(tmp_path, "shoes/2")
    assert serve(rollout, bad=frozenset({"shoes/2"}), temporary=True) == {"shoes": ["1"]}
    assert serve(rollout, at_once=False) == {"shoes": ["1"]}
    assert serve(rollout, at_once=True) == {"shoes": ["2", "1"]}


def test_at_the_start_the_newest_that_passes_is_served(tmp_path: Path) -> None:
    for version in (1, 2, 3):
        add(tmp_path, f"shoes/{version}")
    rollout = rollout_of(tmp_path)
    assert serve(rollout, bad=frozenset({"shoes/3"})) == {"shoes": ["2", "1"]}
    assert refused(rollout) == ["shoes/3"]


def test_a_new_model_of_which_no_version_passes_disturbs_nobody(tmp_path: Path) -> None:
    add(tmp_path, "shoes/1")
    rollout = rollout_of(tmp_path)
    serve(rollout)
    add(tmp_path, "hats/1")
    assert serve(rollout, bad=frozenset({"hats/1"})) == {"shoes": ["1"]}
    assert refused(rollout) == ["hats/1"]


def test_a_folder_that_disappears_is_retired_unless_it_is_the_last(tmp_path: Path) -> None:
    for version in (1, 2, 3):
        add(tmp_path, f"shoes/{version}")
    rollout = rollout_of(tmp_path)
    assert serve(rollout) == {"shoes": ["3", "2"]}
    shutil.rmtree(tmp_path / "shoes" / "3")
    assert serve(rollout) == {"shoes": ["2", "1"]}
    shutil.rmtree(tmp_path / "shoes")
    assert serve(rollout) == {"shoes": ["2", "1"]}


def test_a_model_whose_folder_is_taken_away_is_retired_unless_it_is_the_default(tmp_path: Path) -> None:
    add(tmp_path, "shoes/1")
    add(tmp_path, "hats/1")
    rollout = rollout_of(tmp_path, default_model="shoes")
    assert serve(rollout) == {"shoes": ["1"], "hats": ["1"]}
    shutil.rmtree(tmp_path / "hats" / "1")
    add(tmp_path, "hats/2")
    assert serve(rollout, bad=frozenset({"hats/2"})) == {"shoes": ["1"], "hats": ["1"]}, "a bad one is no wish to have none"
    shutil.rmtree(tmp_path / "hats")
    assert serve(rollout) == {"shoes": ["1"]}, "a new worker could not load it"
    shutil.rmtree(tmp_path / "shoes")
    assert serve(rollout) == {"shoes": ["1"]}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is unreadable to root")
def test_a_folder_of_somebody_else_is_no_model(tmp_path: Path) -> None:
    add(tmp_path, "shoes/1")
    (tmp_path / "lost+found").mkdir(mode=0o000)
    assert serve(rollout_of(tmp_path)) == {"shoes": ["1"]}


def test_what_cannot_be_read_for_a_while_keeps_its_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(tmp_path, "shoes/1")
    add(tmp_path, "hats/1")
    rollout = rollout_of(tmp_path, default_model="shoes")
    assert serve(rollout) == {"shoes": ["1"], "hats": ["1"]}
    iterdir = Path.iterdir

    def refuse(folder: Path) -> Iterator[Path]:
        if folder.name in ("hats", "lost+found"):
            raise PermissionError(13, "Permission denied")
        return iterdir(folder)

    (tmp_path / "lost+found").mkdir()
    monkeypatch.setattr(Path, "iterdir", refuse)
    with structlog.testing.capture_logs() as logs:
        add(tmp_path, "shoes/2")
        for _ in range(3):
            assert serve(rollout, at_once=False)["hats"] == ["1"]
        assert serve(rollout_of(tmp_path)) == {"shoes": ["2", "1"]}
    assert versions(rollout.plan) == {"shoes": ["2", "1"], "hats": ["1"]}
    warned = [entry["model"] for entry in logs if entry["event"] == "model_folder_unreadable"]
    assert warned == ["hats", "lost+found"] * 2, "once each by the first, once each by the second"


@pytest.mark.skipif(sys.platform == "win32", reason="names are text there")
def test_a_folder_whose_name_is_no_text_is_no_model(tmp_path: Path) -> None:
    add(tmp_path, "shoes/1")
    os.makedirs(os.fsencode(tmp_path) + b"/hats\xff/1")
    assert serve(rollout_of(tmp_path)) == {"shoes": ["1"]}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes by name here")
def test_neither_a_pipe_nor_a_link_to_everything_holds_a_look_up(tmp_path: Path) -> None:
    add(tmp_path, "shoes/1")
    (tmp_path / "shoes" / "2").mkdir()
    os.mkfifo(tmp_path / "shoes" / "2" / "manifest.sha256")
    (tmp_path / "shoes" / "3").symlink_to("/")
    started = time.monotonic()
    rollout_of(tmp_path).look(at_once=True)
    assert time.monotonic() - started < 5


def test_a_roll_back_switches_before_it_loads_anything(tmp_path: Path) -> None:
    for version in (1, 2, 3):
        add(tmp_path, f"shoes/{version}")
    rollout = rollout_of(tmp_path)
    serve(rollout)
    shutil.rmtree(tmp_path / "shoes" / "3")
    rollout.look(at_once=True)
    plan = rollout.proposal()
    assert versions(plan) == {"shoes": ["2"]}
    assert plan is not None
    rollout.adopt(plan)
    assert versions(rollout.proposal()) == {"shoes": ["2", "1"]}


def test_the_last_good_version_outlives_its_folder_when_only_bad_ones_are_left(tmp_path: Path) -> None:
    add(tmp_path, "shoes/1")
    rollout = rollout_of(tmp_path)
    serve(rollout)
    add(tmp_path, "shoes/2")
    shutil.rmtree(tmp_path / "shoes" / "1")
    assert serve(rollout, bad=frozenset({"shoes/2"})) == {"shoes": ["1"]}


def test_other_files_under_the_same_number_are_another_version(tmp_path: Path) -> None:
    add(tmp_path, "shoes/1", "before")
    rollout = rollout_of(tmp_path)
    serve(rollout)
    assert rollout.plan is not None
    before = rollout.plan.models["shoes"]
    add(tmp_path, "shoes/1", "after")
    serve(rollout, bad=frozenset({"shoes/1"}))
    assert rollout.plan.models["shoes"] == before, "the new files are bad: what is in memory stays"
    add(tmp_path, "shoes/1", "after, mended")
    serve(rollout)
    assert rollout.plan.models["shoes"] != before


def test_what_still_changes_is_left_alone_until_it_has_settled(tmp_path: Path) -> None:
    add(tmp_path, "shoes/1")
    rollout = rollout_of(tmp_path)
    serve(rollout)
    folder = add(tmp_path, "shoes/2")
    assert not rollout.look()
    assert rollout.proposal() is None
    (folder / "model.tflite").write_bytes(b"more of it has been copied")
    assert not rollout.look()
    assert rollout.proposal() is None
    assert rollout.look()
    assert versions(rollout.proposal()) == {"shoes": ["2", "1"]}


def test_a_folder_that_is_gone_for_one_look_is_not_retired(tmp_path: Path) -> None:
    add(tmp_path, "shoes/1")
    folder = add(tmp_path, "shoes/2")
    rollout = rollout_of(tmp_path)
    serve(rollout)
    folder.rename(tmp_path / "aside")
    assert not rollout.look()
    assert rollout.proposal() is None
    (tmp_path / "aside").rename(folder)
    rollout.look()
    assert rollout.proposal() is None


def test_an_unreadable_models_folder_changes_nothing(tmp_path: Path) -> None:
    add(tmp_path / "models", "shoes/1")
    rollout = rollout_of(tmp_path / "models")
    serve(rollout)
    (tmp_path / "models").rename(tmp_path / "elsewhere")
    assert serve(rollout) == {"shoes": ["1"]}


@pytest.mark.parametrize("content", [None, "1", "shoes", "shoes/new", ".hidden/1", "shoes/0", "shoes/.1.tmp"])
def test_a_folder_without_models_is_refused(tmp_path: Path, content: str | None) -> None:
    if content:
        (tmp_path / content).mkdir(parents=True)
    with pytest.raises(BundleError, match="no model here"):
        serve(rollout_of(tmp_path))


def test_a_start_that_cannot_be_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such folder"):
        serve(rollout_of(tmp_path / "nowhere"))
    add(tmp_path, "shoes/1")
    with pytest.raises(BundleError, match="no model hats; there are shoes"):
        serve(rollout_of(tmp_path, default_model="hats"))
    with pytest.raises(BundleError, match=r"the pinned version of model shoes does not pass: .*there is no shoes/7"):
        serve(rollout_of(tmp_path, default_version="7"))
    with pytest.raises(BundleError, match="does not pass: shoes/1: bad"):
        serve(rollout_of(tmp_path, default_version="1"), bad=frozenset({"shoes/1"}))
    with pytest.raises(BundleError, match="no version of model shoes passes: shoes/1: bad"):
        serve(rollout_of(tmp_path), bad=frozenset({"shoes/1"}))


def test_a_plan_survives_its_way_through_json() -> None:
    one, two = VersionKey("shoes", "1", "ab"), VersionKey("shoes", "2", "cd")
    plan = ServingPlan(3, "shoes", {"shoes": (two, one)}, (Refusal(VersionKey("hats", "1", ""), "hats/1: bad", True),))
    assert ServingPlan.from_document(plan.document()) == plan
