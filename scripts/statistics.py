"""The few statistics that calibration and evaluation share, written out because scipy would be a heavy guest for them.

Owns: binomial bounds, calibration error, macro-F1, ranking quality, a small logistic regression.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def binomial_lower_bound(hits: int, trials: int, confidence: float) -> float:
    """Exact one-sided lower bound on a proportion (Clopper and Pearson 1934), by bisection on the binomial tail."""
    if hits == 0:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if _upper_tail(hits, trials, middle) > 1 - confidence:
            high = middle
        else:
            low = middle
    return low


def shows_proportion(hits: int, trials: int, proportion: float, confidence: float) -> bool:
    """Whether `binomial_lower_bound` reaches `proportion`, without looking for the bound itself."""
    return hits > 0 and _upper_tail(hits, trials, proportion) <= 1 - confidence


def _upper_tail(hits: int, trials: int, p: float) -> float:
    """P(X >= hits) for X ~ Binomial(trials, p); summed over the misses, which are few where it matters."""
    if p <= 0.0 or p >= 1.0:
        return float(p >= 1.0)
    misses = np.arange(trials - hits + 1)
    log_choose = np.concatenate([[0.0], np.cumsum(np.log((trials - misses[:-1]) / misses[1:]))])
    return float(np.exp(log_choose + (trials - misses) * math.log(p) + misses * math.log1p(-p)).sum())


def expected_calibration_error(confidence: NDArray[Any], right: NDArray[np.bool_], bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over equal-count bins, each gap debiased by its own sampling noise
    (Kumar et al. 2019, arXiv:1909.10155), as a share of one."""
    if not len(confidence):
        return float("nan")
    order = np.argsort(confidence)
    total = 0.0
    for chosen in np.array_split(order, min(bins, max(1, len(order) // 10))):
        accuracy, sure = float(right[chosen].mean()), float(confidence[chosen].mean())
        noise = accuracy * (1 - accuracy) / max(1, len(chosen) - 1)
        gap = math.sqrt(max(0.0, (accuracy - sure) ** 2 - noise))
        total += gap * len(chosen) / len(order)
    return total


def macro_f1(truth: NDArray[np.int64], guess: NDArray[np.int64], min_count: int = 10) -> float:
    """Mean F1 over the classes with at least `min_count` true items; NaN when there is none."""
    scores = []
    for label, count in zip(*np.unique(truth, return_counts=True), strict=True):
        if count < min_count:
            continue
        hits = float(((truth == label) & (guess == label)).sum())
        scores.append(2 * hits / (count + float((guess == label).sum())))
    return float(np.mean(scores)) if scores else float("nan")


def area_under_roc(positive: NDArray[Any], negative: NDArray[Any]) -> float:
    """Probability that a positive scores above a negative, ties counting half (Mann and Whitney 1947)."""
    if not len(positive) or not len(negative):
        return float("nan")
    order = np.sort(negative)
    below = np.searchsorted(order, positive, side="left")
    not_above = np.searchsorted(order, positive, side="right")
    return float((below + not_above).mean() / 2 / len(negative))


def logistic_regression(x: Floats, y: Floats, *, ridge: float, steps: int = 50) -> tuple[Floats, float]:
    """Weights float64[F] and bias of a ridge-penalised logistic regression, by Newton's method."""
    design = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    penalty = np.eye(design.shape[1]) * ridge
    penalty[-1, -1] = 1e-6
    weights = np.zeros(design.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        gradient = design.T @ (p - y) + penalty @ weights
        hessian = (design * (p * (1 - p))[:, None]).T @ design + penalty
        step = np.linalg.solve(hessian, gradient)
        weights -= step
        if float(np.abs(step).max()) < 1e-8:
            break
    return weights[:-1], float(weights[-1])
