"""`MODEL_CARD.md` from the numbers of a run: what it is, how it was made, how good it is, what it is not for.

Owns the card's words. Every figure in it comes from `metrics.json` or the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scripts.config import RunConfig

RUNTIMES = {"litert": "LiteRT, as it is served by default", "tensorflow": "TensorFlow"}
TITLES = {"both": "photo + title", "image": "photo only", "text": "title only"}


def model_card(config: RunConfig, manifest: Mapping[str, Any], quality: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """The card as Markdown with the usual YAML header."""
    training = manifest["training"]
    splits = ", ".join(f"{name} {count:,}" for name, count in data["rows_per_split"].items())
    lines = [
        "---",
        f"model_name: {manifest['name']}",
        f"version: {manifest['version']}",
        "library_name: keras",
        "pipeline_tag: image-text-classification",
        "---",
        "",
        f"# {manifest['name']} {manifest['version']}",
        "",
        *([config.description.strip(), ""] if config.description else []),
        "## Training",
        "",
        f"- Command: `{training['command']}`",
        f"- Seed {training['seed']}, {training['epochs']} epochs, {training['seconds']} s of fitting on the "
        f"{training['backend']} backend, {training['parameters'] / 1e6:.2f} M parameters",
        *([f"- {training['note']}"] if training.get("note") else []),
        f"- Rows: {splits}; {data['rows_dropped']:,} dropped. Calibrated on val; test was never trained or tuned on.",
        f"- Embedding space `{manifest['space_id']}`, prefixes {', '.join(map(str, manifest['dimensions']))}",
        "",
        f"## Quality on {quality['split']} ({quality['rows']:,} rows, on {RUNTIMES[quality['runtime']]})",
    ]
    for pattern, figures in quality["patterns"].items():
        lines += [
            "",
            f"### {TITLES[pattern]}",
            "",
            "| attribute | n | accuracy | macro-F1 (n ≥ 10) | ECE | accepted at precision 0.98 | of them right |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, entry in figures.items():
            lines.append(
                f"| {name} | {entry['n']:,} | {_percent(entry['accuracy'])} | {_decimal(entry['macro_f1'])} | "
                f"{_percent(entry['ece'])} | {_percent(entry['accepted_share'])} | {_percent(entry['accepted_precision'])} |"
            )
    lines += ["", "Abstaining: " + ", ".join(f"{k} {_percent(v)}" for k, v in quality["abstaining"].items()) + "."]
    if quality.get("agreement"):
        found = quality["agreement"]
        lines += ["", f"Agreement: AUROC {found['auroc']:.3f} between matching titles and titles of another kind."]
    if quality.get("litert"):
        parity = quality["litert"]
        worst = min(parity["same_label"].items(), key=lambda item: item[1])
        lines += [
            "",
            f"LiteRT against TensorFlow on {parity['rows']:,} rows: least cosine {parity['min_cosine']:.4f}; same label "
            f"in at least {_percent(worst[1])} of the rows ({worst[0]} differs most).",
        ]
    lines += [
        "",
        "## Limits",
        "",
        "- It knows the labels in `labels.json` and nothing else; what looks like none of them is answered `abstain`.",
        "- Confidences hold for items like those it was trained on. On another shop's photos, measure before accepting.",
        "- `accept` means that the validation data show the asked precision with 95 % confidence; where they cannot, the "
        "decision is `review`.",
        "",
    ]
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
