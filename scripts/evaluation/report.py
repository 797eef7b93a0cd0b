"""Figures as tables on a terminal.

Owns the words and the columns. Every table is rendered from the JSON-ready figures alone, so that stored ones print too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scripts.evaluation.evaluation import PATTERN_TITLES, PROTOCOL_OF_PATTERN
from scripts.evaluation.figures import Quality

Cells = Sequence[str]


def print_quality(quality: Quality) -> None:
    """All figures as tables, and the split's accuracy in the last line."""
    print("\n".join(quality_lines(quality)))


def quality_lines(quality: Quality) -> Iterator[str]:
    """The lines of `print_quality`."""
    yield ""
    yield f"{quality['model']} {quality['version']} on {quality['rows']} rows of {quality['split']} ({quality['runtime']})"
    for note in quality.get("notes", ()):
        yield f"note: {note}"
    for pattern, figures in quality["patterns"].items():
        yield from table(
            f"{PROTOCOL_OF_PATTERN[pattern]}, {PATTERN_TITLES[pattern]}",
            ("n", "accuracy", "macro-F1", "ECE", "accepted at .98", "of them right"),
            {
                name: (*_attribute_cells(entry), percent(entry["accepted_share"]), percent(entry["accepted_precision"]))
                for name, entry in figures.items()
            },
        )
    yield ""
    yield "abstaining: " + ", ".join(f"{name} {percent(share)}" for name, share in quality["abstaining"].items())
    if quality["agreement"]:
        yield from _agreement_lines(quality["agreement"])
    for name, figures in quality.get("protocols", {}).items():
        yield from _LINES[name](figures)
    if quality.get("left_out"):
        yield ""
        yield "left out:"
        yield from (f"  {name}: {reason}" for name, reason in quality["left_out"].items())
    first = next((pattern for pattern, figures in quality["patterns"].items() if figures), None)
    if first:
        name, entry = next(iter(quality["patterns"][first].items()))
        yield ""
        yield f"{quality['split']} accuracy: {percent(entry['accuracy'])} ({name}, {PATTERN_TITLES[first]})"


def comparison_lines(comparison: Quality) -> Iterator[str]:
    """The two side by side; `*` marks the differences that are real."""
    first, second = comparison["first"], comparison["second"]
    yield ""
    yield f"A: {first}, B: {second}, on {comparison['rows']} rows of {comparison['split']}"
    for pattern, figures in comparison["patterns"].items():
        yield from table(
            f"{PROTOCOL_OF_PATTERN[pattern]}, {PATTERN_TITLES[pattern]}",
            ("n", "A", "B", "B - A, points", "95 % interval", "real"),
            {
                name: (
                    str(entry["n"]),
                    percent(entry["first"]),
                    percent(entry["second"]),
                    points(entry["change"]),
                    f"{points(entry['low'])} to {points(entry['high'])}",
                    "*" if entry["real"] else "",
                )
                for name, entry in figures.items()
            },
        )
    for side, key in (("A", "only_first"), ("B", "only_second")):
        if comparison[key]:
            yield f"only {side} answers: {', '.join(comparison[key])}"
    yield ""
    entries = [entry for figures in comparison["patterns"].values() for entry in figures.values()]
    better = sum(entry["real"] and entry["change"] > 0 for entry in entries)
    worse = sum(entry["real"] and entry["change"] < 0 for entry in entries)
    yield f"of {len(entries)} rows B is really better in {better}, really worse in {worse} (95 % each: one in 20 by chance)"


def table(title: str, columns: Cells, rows: Mapping[str, Cells]) -> Iterator[str]:
    """An empty line, the title with its columns, and a line per row."""
    widths = [max(len(column), *(len(row[place]) for row in rows.values()), 0) + 2 for place, column in enumerate(columns)]
    first = max([len(title), *(len(name) + 2 for name in rows)])
    yield ""
    yield f"{title:<{first}}" + "".join(f"{column:>{width}}" for column, width in zip(columns, widths, strict=True))
    for name, row in rows.items():
        yield f"  {name:<{first - 2}}" + "".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def points(value: float | None) -> str:
    """A difference of shares in percentage points."""
    return "-" if value is None else f"{100 * value:+.2f}"


def decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _attribute_cells(entry: Mapping[str, Any]) -> list[str]:
    return [str(entry["n"]), percent(entry["accuracy"]), decimal(entry["macro_f1"]), percent(entry["ece"])]


def _agreement_lines(found: Quality) -> Iterator[str]:
    kinds = {"another kind": found, "the same kind, another colour": found.get("other_colour")}
    for kind, entry in kinds.items():
        if entry:
            yield (
                f"agreement: AUROC {entry['auroc']:.3f} against titles of {kind} (n {entry['n']}); conflicts shown for "
                f"{percent(entry['conflicts_matching'])} of matching and {percent(entry['conflicts_swapped'])} of swapped pairs"
            )


def _changed(title: str, figures: Quality) -> Iterator[str]:
    for pattern, attributes in figures.items():
        if pattern in PATTERN_TITLES:
            yield from table(
                f"{title}, {PATTERN_TITLES[pattern]}",
                ("n", "accuracy", "macro-F1", "ECE", "change, points"),
                {name: (*_attribute_cells(entry), points(entry["change"])) for name, entry in attributes.items()},
            )


def _hidden_class_words(figures: Quality) -> Iterator[str]:
    yield from _changed(f"P3, class words hidden ({percent(figures['hidden_words'])} of all words)", figures)


def _noise(figures: Quality) -> Iterator[str]:
    yield from _changed("P5, noise", figures)


def _phone(figures: Quality) -> Iterator[str]:
    yield from _changed("P6, phone simulation", figures)


def _full_size(figures: Quality) -> Iterator[str]:
    sizes = figures["sizes"]
    for pattern in next(iter(sizes.values())):
        yield from table(
            f"P6, full-size photos ({figures['n']} rows), {PATTERN_TITLES[pattern]}",
            ("n", *sizes),
            {
                name: (str(entry["n"]), *(percent(size[pattern][name]["accuracy"]) for size in sizes.values()))
                for name, entry in next(iter(sizes.values()))[pattern].items()
            },
        )
        pairs = figures["same_label"]
        attributes = next(iter(pairs.values()))[pattern]
        yield from table(
            f"same label, {PATTERN_TITLES[pattern]}",
            tuple(attributes),
            {pair: [percent(share) for share in entry[pattern].values()] for pair, entry in pairs.items()},
        )


def _misleading_titles(figures: Quality) -> Iterator[str]:
    kinds = figures["kinds"]
    yield from table(
        "P7, photo and a title that is",
        ("photo alone", *kinds),
        {
            name: (
                percent(entry["accuracy"]),
                *(
                    f"{points(kind['attributes'][name]['change'])}{'' if kind['attributes'][name]['within_max_loss'] else ' !'}"
                    for kind in kinds.values()
                ),
            )
            for name, entry in figures["photo_alone"].items()
        }
        | {"titles left out": ("", *(percent(kind["left_out"]) for kind in kinds.values()))},
    )
    yield f"  (points against the photo alone; ! where more than {100 * figures['max_loss']:.1f} are lost)"


def _unseen_brands(figures: Quality) -> Iterator[str]:
    for pattern, attributes in figures.items():
        if pattern in PATTERN_TITLES:
            yield from table(
                f"{figures['brands']} unseen brands, {PATTERN_TITLES[pattern]}",
                ("n", "accuracy", "macro-F1", "ECE", "against seen brands", "at equal mix"),
                {
                    name: (*_attribute_cells(entry), points(entry["change"]), points(entry["change_at_equal_mix"]))
                    for name, entry in attributes.items()
                },
            )


def _retrieval(figures: Quality) -> Iterator[str]:
    found = figures["text_to_image"]
    yield ""
    yield f"retrieval (trained {figures['trained']})"
    yield (
        f"  title to photo: R@1 {decimal(found['recall_at_1'])}, R@10 {decimal(found['recall_at_10'])}, "
        f"MRR {decimal(found['mrr'])} ({found['queries']} titles, {found['gallery']} photos)"
    )
    for name, entry in figures["name_to_product"].items():
        yield (
            f"  {name} to product: P@1 {decimal(entry['precision_at_1'])}, P@10 {decimal(entry['precision_at_10'])}, "
            f"mean {decimal(entry['mean'])} ({entry['queries']} names)"
        )


def _calibration(figures: Quality) -> Iterator[str]:
    names = list(dict.fromkeys(name for pattern in figures["patterns"].values() for name in pattern))

    def cell(entry: Mapping[str, Any] | None) -> str:
        if entry is None:
            return "-"
        chance = "" if entry["chance_limit"] is None else f" (chance {100 * entry['chance_limit']:.2f})"
        return f"{percent(entry['ece'])}{chance}{'' if entry['holds'] else ' !'}"

    yield from table(
        "calibration error",
        [PROTOCOL_OF_PATTERN[pattern] for pattern in figures["patterns"]],
        {name: [cell(pattern.get(name)) for pattern in figures["patterns"].values()] for name in names},
    )
    worst = "" if figures["worst"] is None else f"; the worst with n >= 1,000 is {percent(figures['worst'])}"
    yield f"  {figures['failing']} of {figures['cells']} are over {percent(figures['goal'])} or over chance (!){worst}"


def _decisions(figures: Quality) -> Iterator[str]:
    precisions = figures["precisions"]
    for pattern in next(iter(precisions.values()), {}):
        yield from table(
            f"decisions, {PATTERN_TITLES[pattern]}: right / covered at",
            tuple(precisions),
            {
                name: [
                    f"{percent(entry['precision'])} / {percent(entry['coverage'])}{' !' if entry['misses'] else ''}"
                    if (entry := patterns[pattern][name])["accepted"]
                    else "-"
                    for patterns in precisions.values()
                ]
                for name in next(iter(precisions.values()))[pattern]
            },
        )
    yield (
        f"  {figures['missing']} of {figures['accepting']} accepting cells ({figures['cells']} in all) miss the asked "
        "precision by more than two standard errors (!)"
    )


def _out_of_domain(figures: Quality) -> Iterator[str]:
    yield from table(
        "out of domain",
        ("n", "AUROC", "abstaining"),
        {
            kind: (str(entry["n"]), f"{entry['auroc']:.4f}", percent(entry["abstaining"]))
            for kind, entry in figures["kinds"].items()
        },
    )
    for modality, name in (("image", "photos"), ("text", "titles")):
        if modality in figures:
            yield f"  {name}: mean AUROC {figures[modality]['mean_auroc']:.4f}, least {figures[modality]['least_auroc']:.4f}"


def _hierarchy(figures: Quality) -> Iterator[str]:
    checked = sum(entry["n"] for entry in figures["patterns"].values())
    yield ""
    yield f"hierarchy: {figures['contradictions']} contradictions in {checked} answers"


_LINES = {
    "P3": _hidden_class_words,
    "P5": _noise,
    "P6": _phone,
    "full-size": _full_size,
    "P7": _misleading_titles,
    "unseen-brands": _unseen_brands,
    "retrieval": _retrieval,
    "calibration": _calibration,
    "decisions": _decisions,
    "out-of-domain": _out_of_domain,
    "hierarchy": _hierarchy,
}
