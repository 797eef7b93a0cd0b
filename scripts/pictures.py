"""Pictures of a run: learning curves, and answers on photos of the evaluated split.

Owns what is drawn into the run's folder; nothing is drawn into a bundle or the repository, as the photos are a data set's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scripts.data.catalogue import Catalogue
from scripts.evaluation.figures import answers
from scripts.served_model import ServedModel


def draw_run(
    run_dir: Path, model: ServedModel, catalogue: Catalogue, history: Sequence[dict[str, float]], *, split: str
) -> None:
    """`curves.png` and `predictions.png` in `run_dir`."""
    draw_curves(run_dir / "curves.png", history)
    draw_predictions(run_dir / "predictions.png", model, catalogue, split)


def pyplot() -> Any:
    """Imported late, as it is slow, and told to need no screen."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def draw_curves(path: Path, history: Sequence[dict[str, float]]) -> None:
    """Losses and validation accuracies over the epochs."""
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5))
    epochs = range(1, len(history) + 1)
    for name in ("loss", "labels", "pairs", "domain"):
        if history and name in history[0]:
            left.plot(epochs, [entry[name] for entry in history], label=name)
    left.set(xlabel="epoch", title="training loss and its parts", yscale="log")
    if history:
        left.legend()
    judged = [(epoch, entry) for epoch, entry in enumerate(history, 1) if any(name.startswith("val_") for name in entry)]
    names = judged[0][1] if judged else {}
    first = [name.removeprefix("val_").rsplit("_", 1)[0] for name in names if name.startswith("val_")]
    for attribute in list(dict.fromkeys(first))[:4]:
        for pattern, style in (("fused", "-"), ("image", "--"), ("text", ":")):
            name = f"val_{attribute}_{pattern}"
            if name in names:
                right.plot(
                    [epoch for epoch, _ in judged], [entry[name] for _, entry in judged], style, label=f"{attribute}, {pattern}"
                )
    right.set(xlabel="epoch", title="validation accuracy", ylim=(0, 1))
    if first:
        right.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_predictions(path: Path, model: ServedModel, catalogue: Catalogue, split: str, count: int = 24) -> None:
    """Photos of the split with their titles, the model's answers, and the truth where it differs."""
    plt = pyplot()
    path.parent.mkdir(parents=True, exist_ok=True)
    chosen = np.flatnonzero((catalogue.split == split) & (catalogue.photo_present | (not model.reads_photos)))
    if not len(chosen):
        return
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(count, len(chosen))).astype(int)]
    photos = catalogue.photos[chosen] if model.reads_photos else None
    titles = [catalogue.titles[i] for i in chosen] if model.reads_titles else None
    has_titles = titles is not None and any(titles)
    outputs = model.run(photos, titles)
    given = answers(model.answerer, outputs, image=model.reads_photos, text=has_titles)
    name = model.answerer.attributes[0]
    columns = 6
    rows = -(-len(chosen) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.1 * columns, 3.0 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, i, answer in zip(axes.flat, range(len(chosen)), given, strict=False):
        if photos is not None:
            axis.imshow(photos[i])
        found = answer.attributes[name]
        truth = str(catalogue.labels[name][chosen[i]]) if name in catalogue.labels else "unknown"
        title = titles[i][:26] if titles is not None else ""
        axis.set_title(
            f"{title}\n{found.label} {found.confidence:.2f}\n{found.decision}"
            + ("" if found.label == truth else f"\nis {truth}"),
            fontsize=7,
            y=1.0,  # said, as looking for a place among the ticks of an axis that is off takes longer than all the rest
            parse_math=False,  # a title may hold prices
            color="black" if found.label == truth else "crimson",
        )
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=1 - 0.6 / (3.0 * rows), wspace=0.05, hspace=0.25)
    figure.savefig(path, dpi=110)
    plt.close(figure)
