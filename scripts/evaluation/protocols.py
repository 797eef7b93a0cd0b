"""Which protocols there are, and all figures of a bundle.

Owns the order, the names, and the shape of the quality that is printed, stored in `metrics.json` and compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from scripts.evaluation.agreement import measure_agreement
from scripts.evaluation.calibration import measure_calibration
from scripts.evaluation.class_words import measure_hidden_class_words
from scripts.evaluation.decisions import measure_decisions
from scripts.evaluation.evaluation import PATTERN_TITLES, Evaluation, NotApplicable
from scripts.evaluation.figures import UNSEEN_LABEL, Quality, answers, attribute_quality, decision_quality
from scripts.evaluation.full_size import measure_full_size
from scripts.evaluation.hierarchy import measure_hierarchy
from scripts.evaluation.misleading_titles import measure_misleading_titles
from scripts.evaluation.noise import measure_noise
from scripts.evaluation.out_of_domain import foreign_abstaining, measure_out_of_domain
from scripts.evaluation.phone import measure_phone
from scripts.evaluation.retrieval import measure_retrieval
from scripts.evaluation.unseen_brands import measure_unseen_brands

PROTOCOLS: Mapping[str, Callable[[Evaluation], Quality]] = {
    "P3": measure_hidden_class_words,
    "P5": measure_noise,
    "P6": measure_phone,
    "full-size": measure_full_size,
    "P7": measure_misleading_titles,
    "unseen-brands": measure_unseen_brands,
    "retrieval": measure_retrieval,
    "calibration": measure_calibration,
    "decisions": measure_decisions,
    "out-of-domain": measure_out_of_domain,
    "hierarchy": measure_hierarchy,
}
"""What is measured besides P0, P1 and P2, by the name that `--protocols` takes."""


def measure_all(evaluation: Evaluation, protocols: Sequence[str] = ()) -> Quality:
    """The figures of P0 to P2, what abstains, agreement, and those of `protocols` (names of `PROTOCOLS`).

    JSON-ready: `model`, `version`, `split`, `rows`, `runtime`; `patterns` (P0, P1, P2 as "both", "image", "text");
    `abstaining`; `agreement` (None where it cannot be asked); `notes`; and, where protocols were asked for, `protocols`
    with their figures and `left_out` with the reason of each that does not apply.
    """
    bundle = evaluation.model.bundle
    quality: Quality = {
        "model": bundle.name,
        "version": bundle.version,
        "split": evaluation.name,
        "rows": len(evaluation.rows),
        "runtime": evaluation.model.runtime.name,
        "patterns": {},
        "abstaining": {},
        "agreement": None,
    }
    notes = _notes(evaluation)
    if notes:
        quality["notes"] = notes
    for pattern in evaluation.patterns:
        usable = evaluation.usable(pattern)
        figures = attribute_quality(evaluation.answerer, evaluation.outputs, evaluation.truth, pattern, usable)
        given = answers(
            evaluation.answerer,
            {name: value[usable] for name, value in evaluation.outputs.items()},
            image=pattern != "text",
            text=pattern != "image",
        )
        truth = {name: target[usable] for name, target in evaluation.truth.items()}
        decisions, abstaining = decision_quality(evaluation.answerer, given, truth)
        for name, entry in figures.items():
            entry.update(decisions[name])
        quality["patterns"][pattern] = figures
        quality["abstaining"][f"{evaluation.name}, {PATTERN_TITLES[pattern]}"] = abstaining
    quality["abstaining"] |= foreign_abstaining(evaluation)
    left_out: dict[str, str] = {}
    try:
        quality["agreement"] = measure_agreement(evaluation)
    except NotApplicable as reason:
        left_out["agreement"] = str(reason)
    if protocols:
        quality["protocols"] = {}
        for name in (name for name in PROTOCOLS if name in protocols):
            try:
                quality["protocols"][name] = PROTOCOLS[name](evaluation)
            except NotApplicable as reason:
                left_out[name] = str(reason)
        quality["left_out"] = left_out
    return quality


def _notes(evaluation: Evaluation) -> list[str]:
    """What a reader must know before believing the figures."""
    notes = []
    held_out = [str(entry) for entry in evaluation.model.bundle.manifest.held_out.get("splits", [])]
    entry = next((entry for entry in held_out if entry.split(" ")[0] == evaluation.name), None)
    if entry is None:
        notes.append(f"the bundle does not say that {evaluation.name!r} was held out of its training: figures may flatter it")
    elif entry != evaluation.name:
        notes.append(f"the bundle names as held out: {entry}")
    unknown = {name: count for name, target in evaluation.truth.items() if (count := int((target == UNSEEN_LABEL).sum()))}
    if unknown:
        listed = ", ".join(f"{name} {count}" for name, count in unknown.items())
        notes.append(f"rows whose label the bundle does not know, counted as wrong: {listed}")
    return notes
