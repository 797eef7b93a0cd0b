"""Which rows train, which choose thresholds, which test: never two alike on both sides.

Owns grouping and the deterministic split. Refuses to know files and columns.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
HELD_OUT_SHARE = 0.1
# A photo on more rows than this is a placeholder ("no picture yet"), not the same product.
_MAX_ROWS_PER_PHOTO = 20


def group_rows(titles: Sequence[str], photo_hashes: Sequence[str]) -> list[str]:
    """A group key per row: equal where the titles are equal (case and spaces aside) or the photos are identical.

    Rows with neither are groups of their own. A photo that more than 20 rows share joins only rows without a title.
    """
    uses = Counter(photo_hashes)
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    keys: list[str] = []
    for row, (title, photo) in enumerate(zip(titles, photo_hashes, strict=True)):
        title = " ".join(title.casefold().split())
        key = f"title {title}" if title else f"photo {photo}" if photo else f"row {row}"
        if title and photo and uses[photo] <= _MAX_ROWS_PER_PHOTO:
            # The title names the group where there is one, so that a re-encoded photo does not move it.
            first, second = sorted((root(key), root(f"photo {photo}")), key=lambda k: (k.startswith("photo "), k))
            parent[second] = first
        keys.append(key)
    return [root(key) for key in keys]


def split_rows(groups: Sequence[str], *, seed: int) -> NDArray[np.str_]:
    """About 80/10/10 by a hash of (seed, group): a group stays whole, and stays where it is when rows are added.

    Groups that hold more than a tenth of the rows train. With at least three groups every split has a row; with two
    there is no test, with one only train.
    """
    rows_of = _rows_of(groups)
    order = sorted(rows_of, key=lambda group: _position(group, seed))
    split_of: dict[str, str] = {}
    for group in order:
        position = _position(group, seed)
        large = len(rows_of[group]) > max(1, HELD_OUT_SHARE * len(groups))
        held_out = "test" if position < HELD_OUT_SHARE else "val" if position < 2 * HELD_OUT_SHARE else "train"
        split_of[group] = "train" if large else held_out
    if len(order) < 3:
        order.sort(key=lambda group: -len(rows_of[group]))
        split_of = dict(zip(order, ("train", "val"), strict=False))
    else:  # a small set: whoever came out empty takes the smallest group of the largest split
        for wanted in SPLITS:
            if wanted not in split_of.values():
                giver = Counter(split_of.values()).most_common(1)[0][0]
                candidates = [group for group in order if split_of[group] == giver]
                split_of[min(candidates, key=lambda group: len(rows_of[group]))] = wanted
    return np.array([split_of[group] for group in groups], dtype="<U5")


def complete_split(split: NDArray[np.str_], groups: Sequence[str], *, seed: int) -> tuple[NDArray[np.str_], list[str]]:
    """A given split with what it lacks (train excepted) carved out of train by whole groups, and notes on what was done.

    Also notes how many training groups (same title or same photo) reappear in the given held-out rows.
    """
    notes: list[str] = []
    given = set(split)
    shared = {g for g, s in zip(groups, split, strict=True) if s == "train"} & {
        g for g, s in zip(groups, split, strict=True) if s != "train"
    }
    if shared:
        leaked = sum(1 for g, s in zip(groups, split, strict=True) if g in shared and s != "train")
        notes.append(
            f"{leaked} held-out rows share a title or photo with a training row under the given split; their scores flatter"
        )
    completed = split.copy()
    for missing in ("val", "test"):
        if missing in given:
            continue
        train = np.flatnonzero(completed == "train")
        carved = split_rows([groups[int(row)] for row in train], seed=seed + SPLITS.index(missing))
        taken = train[carved == "val"]
        completed[taken] = missing
        notes.append(f"the given split has no {missing} rows; {len(taken)} were taken out of train")
    return completed, notes


def _rows_of(groups: Sequence[str]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        rows[group].append(row)
    return rows


def _position(group: str, seed: int) -> float:
    digest = hashlib.blake2b(f"{seed}\n{group}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
