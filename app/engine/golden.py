"""Golden answers: does this service, on this machine, say what the exported model said?

Owns the comparison of two sets of outputs, which the exporter uses for its parity checks too, and the replay of a
bundle's golden cases at start-up. Refuses to know how outputs are served.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine.bundle import Bundle
from app.engine.bundle_schema import Tolerance
from app.engine.errors import BundleError, ItemError
from app.engine.images import decode_photo
from app.engine.runtimes.base import (
    EMBEDDING_NAMES,
    IN_DOMAIN_NAMES,
    INPUT_NAMES,
    OUTPUT_NAMES,
    Arrays,
    Runtime,
)
from app.engine.text import TitleTokenizer

# Two builds of libjpeg round differently by a grey level or two; other preprocessing differs by tens.
_MAX_PIXEL_GAP = 2
_MAX_MEAN_PIXEL_GAP = 0.5
# Golden photos are small; the cap only keeps a damaged one from being expensive.
_MAX_GOLDEN_PIXELS = 50_000_000


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far apart two sets of outputs are. `failure` says in one line what broke the tolerance, if anything did."""

    max_probability_gap: float
    min_cosine: float
    top1_changes: int
    failure: str | None


def compare_outputs(
    expected: Arrays,
    actual: Arrays,
    *,
    heads: Sequence[slice],
    tolerance: Tolerance,
    image_present: NDArray[np.bool_],
    text_present: NDArray[np.bool_],
    names: Sequence[str] | None = None,
) -> Comparison:
    """Compare outputs of N items, named and shaped as in models/README.md.

    Per head the softmax probabilities, per embedding the cosine, per in-domain score the probability; `top1_changes`
    counts heads that name another label although the expected margin to the runner-up exceeds `tolerance.top1_margin`.
    `image_*` counts where the photo is present, `text_*` where the title is. `names` are used in `failure`.
    """
    labels = list(names) if names is not None else [f"item {index}" for index in range(len(image_present))]
    read = {"fused": image_present | text_present, "image": image_present, "text": text_present}
    gaps: list[tuple[float, str]] = [(0.0, "")]
    cosines: list[tuple[float, str]] = [(1.0, "")]
    changes: list[str] = []
    for name in OUTPUT_NAMES:
        rows = np.flatnonzero(read[name.split("_")[0]])
        if not rows.size:
            continue
        want, got = expected[name][rows].astype(np.float64), actual[name][rows].astype(np.float64)
        if not np.isfinite(got).all():
            return Comparison(1.0, -1.0, 0, f"{name} is not finite")
        if name in EMBEDDING_NAMES:
            cosine = (want * got).sum(1) / np.maximum(np.linalg.norm(want, axis=1) * np.linalg.norm(got, axis=1), 1e-12)
            worst = int(cosine.argmin())
            cosines.append((float(cosine[worst]), f"{labels[rows[worst]]}, {name}"))
        elif name in IN_DOMAIN_NAMES:
            gap = np.abs(_sigmoid(want) - _sigmoid(got))
            gaps.append((float(gap.max()), f"{labels[rows[gap.argmax()]]}, {name}"))
        else:
            for head in heads:
                p, q = _softmax(want[:, head]), _softmax(got[:, head])
                gap = np.abs(p - q).max(axis=1)
                gaps.append((float(gap.max()), f"{labels[rows[gap.argmax()]]}, {name}[{head.start}:{head.stop}]"))
                changed = (p.argmax(1) != q.argmax(1)) & (_margin(p) > tolerance.top1_margin)
                changes += [f"{labels[row]}, {name}[{head.start}:{head.stop}]" for row in rows[changed]]
    gap_worst, cosine_worst = max(gaps), min(cosines)
    failure = None
    if changes:
        failure = f"{changes[0]}: another label comes first"
    elif gap_worst[0] > tolerance.max_probability_gap:
        failure = f"{gap_worst[1]}: probability is off by {gap_worst[0]:.4f}, allowed {tolerance.max_probability_gap}"
    elif cosine_worst[0] < tolerance.min_cosine:
        failure = f"{cosine_worst[1]}: cosine is {cosine_worst[0]:.6f}, needed {tolerance.min_cosine}"
    return Comparison(gap_worst[0], cosine_worst[0], len(changes), failure)


def run_all(runtime: Runtime, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
    """The outputs of any number of items, in batches of the largest bucket."""
    step = runtime.buckets[-1]
    parts = [
        runtime.run({name: rows[start : start + step] for name, rows in inputs.items()})
        for start in range(0, len(inputs["image_present"]), step)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in OUTPUT_NAMES}


def replay_golden(bundle: Bundle, runtime: Runtime, tokenizer: TitleTokenizer | None) -> Comparison:
    """Preprocess the golden photos and titles, run the golden inputs, compare. Raises BundleError on a difference."""
    where = f"{bundle.name}/{bundle.version}"
    arrays = bundle.golden_arrays()
    count = len(bundle.golden.cases)
    inputs = {name: _stored(arrays, f"input_{name}", count, where) for name in INPUT_NAMES}
    expected = {name: _stored(arrays, name, count, where) for name in OUTPUT_NAMES}
    for name, (shape, dtype) in bundle.spec().input_shapes().items():
        if inputs[name].shape[1:] != shape or inputs[name].dtype != dtype:
            raise BundleError(f"{where}: golden.npz: input_{name} does not have the signature's shape and type")
    for name, row_shape in bundle.spec().output_shapes().items():
        if expected[name].shape[1:] != row_shape:
            raise BundleError(f"{where}: golden.npz: {name} does not have the signature's shape")
    _check_preprocessing(bundle, arrays, inputs, tokenizer)
    comparison = compare_outputs(
        expected,
        run_all(runtime, inputs),
        heads=bundle.labels.slices,
        tolerance=bundle.golden.tolerance["litert" if runtime.name == "litert" else "tensorflow"],
        image_present=inputs["image_present"],
        text_present=inputs["text_present"],
        names=[case.name for case in bundle.golden.cases],
    )
    if comparison.failure:
        raise BundleError(f"{where}: golden answers differ on {runtime.name}: {comparison.failure}")
    return comparison


def _check_preprocessing(
    bundle: Bundle, arrays: Mapping[str, NDArray[Any]], inputs: Arrays, tokenizer: TitleTokenizer | None
) -> None:
    where, spec = f"{bundle.name}/{bundle.version}", bundle.spec()
    for index, case in enumerate(bundle.golden.cases):
        if case.photo is not None:
            encoded = _stored(arrays, case.photo, None, where).tobytes()
            try:
                pixels = decode_photo(encoded, height=spec.image_height, width=spec.image_width, max_pixels=_MAX_GOLDEN_PIXELS)
            except ItemError as error:
                raise BundleError(f"{where}: golden case {case.name}: the photo cannot be decoded") from error
            gap = np.abs(pixels.astype(np.int16) - inputs["image"][index])
            if gap.max() > _MAX_PIXEL_GAP or gap.mean() > _MAX_MEAN_PIXEL_GAP:
                raise BundleError(
                    f"{where}: golden case {case.name}: the photo decodes to other pixels, off by up to {gap.max()} "
                    f"(mean {gap.mean():.2f}); this service's image preprocessing or libraries differ"
                )
        if (
            case.title is not None
            and tokenizer is not None
            and (tokenizer.encode(case.title).tolist() != inputs["token_ids"][index].tolist())
        ):
            raise BundleError(f"{where}: golden case {case.name}: the title gives other tokens; the tokenizer differs")


def _stored(arrays: Mapping[str, NDArray[Any]], name: str, count: int | None, where: str) -> NDArray[Any]:
    if name not in arrays:
        raise BundleError(f"{where}: golden.npz holds no {name}")
    if count is not None and (arrays[name].ndim == 0 or len(arrays[name]) != count):
        raise BundleError(f"{where}: golden.npz: {name} does not have one row per case")
    return arrays[name]


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.5 * (1.0 + np.tanh(logits / 2.0)))


def _margin(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """The gap between the best and the second-best label; 1 for a head with one label."""
    if probabilities.shape[1] == 1:
        return np.ones(len(probabilities))
    best_two = np.sort(probabilities, axis=1)[:, -2:]
    return np.asarray(best_two[:, 1] - best_two[:, 0])
