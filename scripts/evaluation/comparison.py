"""Two bundles, or one bundle in two runtimes, on the same rows: which differences are real?

Owns the paired bootstrap. A difference counts as real where the 95 % interval of its mean over resampled rows excludes 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.evaluation.evaluation import Evaluation, NotApplicable
from scripts.evaluation.figures import Quality

RESAMPLES = 10_000


def paired_bootstrap(
    first: NDArray[np.bool_], second: NDArray[np.bool_], *, seed: int = 1, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """`n`, both accuracies (`first`, `second`), `change` (second less first) with its 95 % interval `low`, `high`, and
    whether it is `real`, from bool[N] each: was the answer to row i right?

    Percentile bootstrap over rows (Efron 1979). A row adds -1, 0 or 1 to the change, so resampling rows is drawing how
    many of each there are from a multinomial distribution, which is what is done.
    """
    count = len(first)
    change = second.astype(np.int8) - first.astype(np.int8)
    shares = np.array([(change == -1).mean(), (change == 0).mean(), (change == 1).mean()])
    drawn = np.random.default_rng(seed).multinomial(count, shares, size=resamples)
    means = (drawn[:, 2] - drawn[:, 0]) / count
    low, high = (float(value) for value in np.quantile(means, (0.025, 0.975)))
    return {
        "n": count,
        "first": float(first.mean()),
        "second": float(second.mean()),
        "change": float(change.mean()),
        "low": low,
        "high": high,
        "real": low > 0 or high < 0,
    }


def compare(first: Evaluation, second: Evaluation) -> Quality:
    """`paired_bootstrap` per input pattern and attribute that both know, over the rows that have a label; `only_first` and
    `only_second` name the attributes that one lacks.

    Raises NotApplicable when they have no attribute or no input pattern in common.
    """
    common = [name for name in first.attributes if name in second.attributes]
    patterns: Quality = {}
    for pattern in first.patterns:
        if pattern not in second.patterns:
            continue
        figures: Quality = {}
        for name in common:
            (right, known), (other_right, other_known) = first.right(pattern, name), second.right(pattern, name)
            chosen = known & other_known
            if chosen.any():
                figures[name] = paired_bootstrap(right[chosen], other_right[chosen])
        if figures:
            patterns[pattern] = figures
    if not patterns:
        raise NotApplicable("the two have no attribute and input in common")
    return {
        "first": _name(first),
        "second": _name(second),
        "split": first.name,
        "rows": len(first.rows),
        "patterns": patterns,
        "only_first": [name for name in first.attributes if name not in common],
        "only_second": [name for name in second.attributes if name not in common],
    }


def _name(evaluation: Evaluation) -> str:
    bundle = evaluation.model.bundle
    return f"{bundle.name} {bundle.version} ({evaluation.model.runtime.name})"
