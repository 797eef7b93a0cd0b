"""The rounds of a run: which epochs, at what learning rate, on photos of what size, and what becomes of two rounds' weights.

Owns the plan. Refuses to know how an epoch is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.config import NetworkConfig, TrainingConfig


@dataclass(frozen=True)
class Round:
    """Epochs `start` to `stop` under one schedule; `sizes` are height and width of each epoch's photos."""

    start: int
    stop: int
    learning_rate: float
    sizes: list[tuple[int, int]]
    is_taught: bool = False
    is_mixed: bool = True

    def stretches(self, first: int) -> Iterator[tuple[int, int]]:
        """From epoch `first` on, the epochs in a row that see photos of one size: the first, and the one after the last."""
        start = max(first, self.start)
        for epoch in range(start + 1, self.stop + 1):
            if epoch == self.stop or self.sizes[epoch - self.start] != self.sizes[start - self.start]:
                yield start, epoch
                start = epoch


def rounds(network: NetworkConfig, training: TrainingConfig, *, has_image: bool) -> list[Round]:
    """The first round, and where they are asked for and there are photos a second one taught by its result and a last one
    without mixed photos. None without epochs."""
    full = (network.image_height, network.image_width)
    rate, result, stop = training.learning_rate, [], 0

    def add(epochs: int, learning_rate: float, sizes: list[tuple[int, int]], **kind: bool) -> None:
        nonlocal stop
        if epochs:
            result.append(Round(stop, stop + epochs, learning_rate, sizes, **kind))
        stop += epochs

    add(training.epochs, rate, photo_sizes(network, training) if network.image_height else [full] * training.epochs)
    if has_image:
        add(training.taught_epochs, rate / 2, [full] * training.taught_epochs, is_taught=True)
        add(training.unmixed_epochs, rate / 5, [full] * training.unmixed_epochs, is_mixed=False)
    return result


def photo_sizes(network: NetworkConfig, training: TrainingConfig) -> list[tuple[int, int]]:
    """Height and width of the photos of each epoch, a multiple of four."""
    full = (network.image_height, network.image_width)
    shares = []
    for epoch in range(training.epochs):
        done = epoch / max(1, training.epochs)
        shares.append(1.0 if not training.progressive_resizing or done >= 0.6 else 0.6 if done < 0.35 else 0.8)
    return [full if s == 1.0 else (max(8, round(full[0] * s / 4) * 4), max(8, round(full[1] * s / 4) * 4)) for s in shares]


def meet_half_way(variables: Sequence[Any], others: Sequence[NDArray[Any]]) -> None:
    """Put the mean of the variables and the others in place of the variables.

    A second round that starts where the first one ended stays in its valley, and half way between the two is better than either
    on what the first one saw, and nearly as good as the second on what only that one saw (Wortsman et al. 2021,
    arXiv:2109.01903).
    """
    for variable, other in zip(variables, others, strict=True):
        variable.assign((np.asarray(variable) + other) / 2)
