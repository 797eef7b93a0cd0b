"""Which versions should be served: what the models folder holds, what was refused, and the next step from here to there.

Owns the scan, the choice of the default and of the versions kept beside it, and the list of refusals. Loads nothing and
serves nothing: a plan goes to whoever does (`app.engine.registry`), and comes back adopted or with refusals. One
process decides for itself; with several workers their parent decides for all.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from app.engine.errors import BundleError
from app.engine.plain_file import read_plain_file
from app.engine.serving_plan import Refusal, ServingPlan, VersionKey
from app.engine.settings import EngineSettings

logger = structlog.get_logger(__name__)

# What people expect of a shop service where the folder holds several models.
_PREFERRED_DEFAULT = "fashion"

_MAX_FILES = 1000
"""A bundle has some fifteen."""

Found = tuple[VersionKey, tuple[Any, ...]]
"""A version folder and its fingerprint: path, size, times and inode of every file."""


class Rollout:
    """Not thread-safe; its owner calls one method at a time."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._seen: dict[tuple[str, str], Found] = {}
        self._settled: dict[tuple[str, str], Found] = {}
        self._refused: dict[tuple[str, str], tuple[Found, Refusal]] = {}
        self._last_generation = 0
        self._is_blind = False
        self._unreadable: set[str] = set()
        self.plan: ServingPlan | None = None
        """What is served; None before the first adoption."""

    def look(self, *, at_once: bool = False) -> bool:
        """Read the folder. Returns False when something has changed that may be half copied: look again soon.

        A change counts when two looks in a row show it; with `at_once` (at start, or when the operator says so) it counts
        now, and what was refused for want of memory may be tried again.

        Raises BundleError at the first look when there is no folder or no model; later that is logged, and what is
        loaded stays.
        """
        try:
            seen, unreadable = _scan(self._settings.models_dir)
        except (OSError, BundleError) as error:
            if self.plan is None:
                raise BundleError(str(error)) from error
            if not self._is_blind:
                logger.error("models_folder_unreadable", reason=str(error))
            self._is_blind = True
            return True
        self._is_blind = False
        for name in sorted(unreadable - self._unreadable):
            logger.warning("model_folder_unreadable", model=name)
        self._unreadable = unreadable
        # What it held, as far as is known, it still holds.
        seen |= {place: found for place, found in self._seen.items() if place[0] in unreadable}
        is_settled = True
        for place in seen.keys() | self._settled.keys():
            if at_once or seen.get(place) == self._seen.get(place):
                if place in seen:
                    self._settled[place] = seen[place]
                else:
                    del self._settled[place]
            else:
                is_settled = False
        self._seen = seen
        for place, (found, refusal) in list(self._refused.items()):
            if found != self._settled.get(place) or (at_once and refusal.is_temporary):
                del self._refused[place]
        return is_settled

    def proposal(self) -> ServingPlan | None:
        """The next plan, under a number never used before; None when what is served is what should be.

        Raises BundleError, before anything is served, when a model has no version left that may pass.
        """
        names = {name for name, _ in self._settled}
        if self.plan is None:
            if not names:
                raise BundleError(f"{self._settings.models_dir}: no model here; expected <name>/<version>/manifest.json")
            default_model = self._settings.default_model or (_PREFERRED_DEFAULT if _PREFERRED_DEFAULT in names else min(names))
            if default_model not in names:
                there = ", ".join(sorted(names))
                raise BundleError(f"{self._settings.models_dir}: no model {default_model}; there are {there}")
        else:
            # A model that arrives later must not change what requests without a name are answered by.
            default_model = self.plan.default_model
            names |= self.plan.models.keys()
        models = {}
        for name in sorted(names):
            keys = self._choose(name, is_default_model=name == default_model)
            if keys:
                models[name] = keys
            elif self.plan is None:
                reasons = [refusal.reason for (model, _), (_, refusal) in self._refused.items() if model == name]
                raise BundleError(f"no version of model {name} passes: {reasons[0]}")
        models = self._switch_first(models)
        refused = tuple(refusal for _, (_, refusal) in sorted(self._refused.items(), key=lambda entry: entry[0]))
        now = self.plan
        if now is not None and (models, refused) == (now.models, now.refused):
            return None
        self._last_generation += 1
        return ServingPlan(self._last_generation, default_model, models, refused)

    def refuse(self, refusals: Sequence[Refusal]) -> None:
        """Take note, and log, that versions of a proposal cannot be served. They are not proposed again until their files
        change."""
        for refusal in refusals:
            key = refusal.key
            found = self._settled.get((key.name, key.version))
            if found is not None:
                self._refused[key.name, key.version] = found, refusal
            logger.error("model_version_refused", model=key.name, version=key.version, reason=refusal.reason)

    def adopt(self, plan: ServingPlan) -> None:
        """`plan` is what is served from now on."""
        before = {} if self.plan is None else self.plan.models
        self.plan = plan
        if plan.models != before:
            versions = {name: [key.version for key in keys] for name, keys in plan.models.items()}
            logger.info("models_served", generation=plan.generation, versions=versions)

    def _choose(self, name: str, *, is_default_model: bool) -> tuple[VersionKey, ...]:
        """The versions of one model, the default first; none where none may pass."""
        served = () if self.plan is None else self.plan.models.get(name, ())
        by_version = {key.version: key for key in served}
        usable: dict[str, VersionKey] = {}
        for (model, version), found in self._settled.items():
            if model != name:
                continue
            if (model, version) not in self._refused:
                usable[version] = found[0]
            elif version in by_version:
                # Its files were replaced by bad ones: what is in memory is still good.
                usable[version] = by_version[version]
        newest_first = sorted(usable, key=int, reverse=True)
        pinned = self._settings.default_version if is_default_model else None
        if pinned is not None:
            if pinned in by_version:
                # The operator named it: it outlives its folder.
                usable.setdefault(pinned, by_version[pinned])
            if pinned not in usable:
                refusal = self._refused.get((name, pinned))
                reason = refusal[1].reason if refusal else f"{self._settings.models_dir}: there is no {name}/{pinned}"
                raise BundleError(f"the pinned version of model {name} does not pass: {reason}")
            newest_first = [pinned, *(version for version in newest_first if version != pinned)]
        if not usable:
            # The folder of all its versions is gone: an operator has taken the model away. A new worker could not load it.
            is_gone = not is_default_model and all(model != name for model, _ in self._settled)
            return () if is_gone else served
        return tuple(usable[version] for version in newest_first[: self._settings.max_versions_per_model])

    def _switch_first(self, models: dict[str, tuple[VersionKey, ...]]) -> dict[str, tuple[VersionKey, ...]]:
        """Where a default changes to one that is in memory already, as at a roll-back, what else is to be loaded must not
        delay the switch: it is left to the plan after."""
        if self.plan is None or models.keys() != self.plan.models.keys():
            return models
        loaded = {key for keys in self.plan.models.values() for key in keys}
        is_switch = any(keys[0] != self.plan.models[name][0] for name, keys in models.items())
        if not is_switch or not all(keys[0] in loaded for keys in models.values()):
            return models
        return {name: tuple(key for key in keys if key in loaded) for name, keys in models.items()}


def _scan(models_dir: Path) -> tuple[dict[tuple[str, str], Found], set[str]]:
    """Every version folder by (name, version), and the names of folders that cannot be read. Whatever is not
    `<name>/<positive integer>/` is not a model."""
    if not models_dir.is_dir():
        raise BundleError(f"{models_dir}: no such folder; set the models folder to one that holds <name>/<version>/")
    found: dict[tuple[str, str], Found] = {}
    unreadable: set[str] = set()
    for folder in models_dir.iterdir():
        if folder.name.startswith(".") or not _is_text(folder.name):
            continue
        own: dict[tuple[str, str], Found] = {}
        try:
            for entry in folder.iterdir() if folder.is_dir() else ():
                number = entry.name
                if number.isdecimal() and number.isascii() and not number.startswith("0") and entry.is_dir():
                    key = VersionKey(folder.name, number, _stated_digest(entry))
                    own[folder.name, number] = key, _fingerprint(entry)
        except OSError:  # such as another user's lost+found
            unreadable.add(folder.name)
        else:
            found |= own
    return found, unreadable


def _is_text(name: str) -> bool:
    """Whether it can be a model's name in an answer; names of files are bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _stated_digest(folder: Path) -> str:
    """The manifest's hash as `manifest.sha256` states it; loading checks it. Empty where it cannot be read."""
    try:
        data = read_plain_file(folder / "manifest.sha256", at_most=64)
        return data.decode("ascii")
    except (OSError, ValueError):
        return ""


def _fingerprint(folder: Path) -> tuple[Any, ...]:
    """Of `_MAX_FILES` files at most: a link to somewhere else may have millions below it."""
    files: list[tuple[Any, ...]] = []
    for parent, _, names in os.walk(folder):
        for name in names[: _MAX_FILES - len(files)]:
            path = os.path.join(parent, name)
            try:
                stat = os.lstat(path)
            except OSError:
                files.append((path,))
            else:
                files.append((path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino))
        if len(files) >= _MAX_FILES:
            break
    return tuple(sorted(files))
