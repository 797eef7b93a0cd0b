"""Pictures of an evaluation: what is mixed up, how honest the confidences are, what is found, and where it fails.

Owns what is drawn into a run's folder. Nothing is drawn into a bundle or the repository, as the photos are a data set's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from app.engine.items import Pattern
from scripts.evaluation.calibration import confidences, reliability
from scripts.evaluation.evaluation import PATTERN_TITLES, Evaluation, NotApplicable
from scripts.evaluation.figures import NO_LABEL
from scripts.evaluation.phone import phone_photo
from scripts.evaluation.retrieval import text_to_image
from scripts.pictures import pyplot

WORST_CLASSES = 20
SHOWN_QUERIES = 10
SHOWN_MISTAKES = 24


def draw_evaluation(folder: Path, evaluation: Evaluation) -> list[Path]:
    """Everything that applies, as PNGs in `folder`; gives the files."""
    folder.mkdir(parents=True, exist_ok=True)
    drawings: list[tuple[str, Callable[[Path], None]]] = []
    for pattern in evaluation.patterns:
        drawings.append((f"confusion-{pattern}", lambda path, p=pattern: draw_confusion(path, evaluation, p)))  # type: ignore[misc]
        drawings.append((f"mistakes-{pattern}", lambda path, p=pattern: draw_mistakes(path, evaluation, p)))  # type: ignore[misc]
    drawings += [
        ("reliability", lambda path: draw_reliability(path, evaluation)),
        ("retrieval", lambda path: draw_retrieval(path, evaluation)),
        ("phone", lambda path: draw_phone(path, evaluation)),
    ]
    drawn = []
    for name, draw in tqdm(drawings, desc="pictures", unit="picture"):
        path = folder / f"{name}-{evaluation.name}.png"
        try:
            draw(path)
        except NotApplicable:
            continue
        drawn.append(path)
    return drawn


def confusion(
    truth: NDArray[np.int64], guess: NDArray[np.int64], classes: int = WORST_CLASSES
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(labels int64[K], counts int64[K, K] of truth by answer) of the classes in most mistakes, K <= `classes`."""
    wrong = (truth != guess) & (truth >= 0)
    labels, counts = np.unique(np.concatenate([truth[wrong], guess[wrong]]), return_counts=True)
    worst = np.sort(labels[np.argsort(-counts, kind="stable")[:classes]])
    table = np.array([[int(((truth == row) & (guess == column)).sum()) for column in worst] for row in worst], np.int64)
    return worst, table.reshape(len(worst), len(worst))


def draw_confusion(path: Path, evaluation: Evaluation, pattern: Pattern) -> None:
    """The classes of the finest kind that are mixed up most; shares of each true class. NotApplicable without mistakes."""
    name = evaluation.kind_attribute
    chosen = evaluation.usable(pattern) & (evaluation.truth[name] != NO_LABEL)
    guess = evaluation.guesses(pattern, name)[chosen]
    worst, counts = confusion(evaluation.truth[name][chosen], guess)
    if not len(worst):
        raise NotApplicable("there is no mistake to draw")
    labels = [evaluation.answerer.attribute_labels[name][label] for label in worst]
    totals = np.array([max(1, int((evaluation.truth[name][chosen] == label).sum())) for label in worst])
    plt = pyplot()
    side = 3 + 0.42 * len(worst)
    figure, axis = plt.subplots(figsize=(side, side))
    axis.imshow(counts / totals[:, None], cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(counts), strict=True):
        share = counts[row, column] / totals[row]
        axis.text(column, row, counts[row, column], ha="center", va="center", fontsize=7, color="w" if share > 0.5 else "k")
    axis.set_xticks(range(len(labels)), labels, rotation=90, fontsize=8)
    axis.set_yticks(range(len(labels)), [f"{text} ({n})" for text, n in zip(labels, totals, strict=True)], fontsize=8)
    axis.set(xlabel="answered", ylabel="true (rows)")
    axis.set_title(f"{name} from {PATTERN_TITLES[pattern]}: the {len(labels)} classes in most mistakes", fontsize=10)
    _save(figure, path)


def draw_reliability(path: Path, evaluation: Evaluation) -> None:
    """Accuracy over confidence per attribute, a line per input pattern."""
    if not evaluation.patterns:
        raise NotApplicable("no row has a photo or a title")
    plt = pyplot()
    columns = min(5, len(evaluation.attributes))
    rows = -(-len(evaluation.attributes) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.8 * columns, 2.9 * rows), squeeze=False)
    for axis in axes.flat[len(evaluation.attributes) :]:
        axis.axis("off")
    for axis, name in zip(axes.flat, evaluation.attributes, strict=False):
        axis.plot([0, 1], [0, 1], color="0.8", linewidth=1)
        for pattern in evaluation.patterns:
            confidence, right = confidences(evaluation, pattern, name)
            if len(confidence):
                bins = reliability(confidence, right)
                axis.plot(
                    [entry["confidence"] for entry in bins],
                    [entry["accuracy"] for entry in bins],
                    ".-",
                    markersize=4,
                    linewidth=1,
                    label=f"{PATTERN_TITLES[pattern]}, {len(confidence):,}",
                )
        axis.set(xlim=(0, 1.02), ylim=(0, 1.02))
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
        if len(axis.lines) > 1:
            axis.legend(fontsize=6, loc="upper left")
    figure.supxlabel("confidence", fontsize=9)
    figure.supylabel("accuracy", fontsize=9)
    _save(figure, path)


def draw_retrieval(path: Path, evaluation: Evaluation) -> None:
    """Titles and the ten photos found for each; a green frame marks a product of that title."""
    titles, found, relevant = text_to_image(evaluation)
    shown = np.linspace(0, len(titles) - 1, min(SHOWN_QUERIES, len(titles))).astype(int)
    plt = pyplot()
    figure, axes = plt.subplots(len(shown), found.shape[1], figsize=(found.shape[1], len(shown) * 1.6), squeeze=False)
    assert evaluation.photos is not None
    for axis_row, query in zip(axes, shown, strict=True):
        axis_row[0].set_title(titles[query][:90], fontsize=8, loc="left", parse_math=False)
        for axis, row, hit in zip(axis_row, found[query], relevant[query], strict=True):
            _photo(axis, evaluation.photos[row])
            for spine in axis.spines.values():
                spine.set(visible=True, color="tab:green" if hit else "0.85", linewidth=3 if hit else 0.5)
    # A title is wider than its photo; fitting the layout to it would shrink them all.
    figure.subplots_adjust(left=0.01, right=0.99, top=0.98, bottom=0.01, wspace=0.05, hspace=0.25)
    _save(figure, path, fit_layout=False)


def draw_mistakes(path: Path, evaluation: Evaluation, pattern: Pattern) -> None:
    """The wrong answers that the bundle is surest of, of the finest kind. NotApplicable without mistakes."""
    name = evaluation.kind_attribute
    rows = np.flatnonzero(evaluation.usable(pattern) & (evaluation.truth[name] != NO_LABEL))
    confidence, right = confidences(evaluation, pattern, name)
    hardest = rows[[place for place in np.argsort(-confidence) if not right[place]][:SHOWN_MISTAKES]]
    if not len(hardest):
        raise NotApplicable("there is no mistake to draw")
    sure = dict(zip(rows.tolist(), confidence.tolist(), strict=True))
    labels = evaluation.answerer.attribute_labels[name]
    plt = pyplot()
    columns = 6
    rows_shown = -(-len(hardest) // columns)
    figure, axes = plt.subplots(rows_shown, columns, figsize=(2.2 * columns, 3.3 * rows_shown), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    guesses = evaluation.guesses(pattern, name)[hardest]
    for axis, row, guess in zip(axes.flat, hardest, guesses, strict=False):
        if evaluation.photos is not None:
            _photo(axis, evaluation.photos[row])
        title = evaluation.titles[row][:34] if evaluation.titles is not None else ""
        truth = str(evaluation.catalogue.labels[name][evaluation.rows[row]])
        axis.set_title(f"{title}\n{labels[guess]} {sure[int(row)]:.2f}\nis {truth}", fontsize=7, parse_math=False)
    _save(figure, path)


def draw_phone(path: Path, evaluation: Evaluation) -> None:
    """Photos above what the phone simulation makes of them."""
    rows = np.flatnonzero(evaluation.need("image"))
    rows = rows[np.linspace(0, len(rows) - 1, min(12, len(rows))).astype(int)]
    assert evaluation.photos is not None
    plt = pyplot()
    figure, axes = plt.subplots(2, len(rows), figsize=(1.2 * len(rows), 3.4), squeeze=False)
    for column, row in enumerate(rows):
        _photo(axes[0, column], evaluation.photos[row])
        _photo(axes[1, column], phone_photo(evaluation.photos[row], evaluation.seed + int(row)))
    _save(figure, path)


def _photo(axis: Any, photo: Sequence[Any] | NDArray[np.uint8]) -> None:
    axis.imshow(photo)
    axis.set(xticks=[], yticks=[])


def _save(figure: Any, path: Path, *, fit_layout: bool = True) -> None:
    if fit_layout:
        figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot().close(figure)
