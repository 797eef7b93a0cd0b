"""Fill the parts of README.md that are facts of somewhere else: the settings, the shipped models' figures, the benchmark's.

    python -m scripts.render_readme            rewrite README.md
    python -m scripts.render_readme --check    exit with 1 if it is out of date

Owns the blocks between `<!-- name -->` and `<!-- /name -->`, and nothing else of the README.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from hashlib import sha256
from pathlib import Path

from app.settings_reference import settings_table

REPOSITORY = Path(__file__).resolve().parent.parent
INPUTS = {"both": "photo + title", "image": "photo only", "text": "title only"}
# Beside the first attribute, which every model has, the README shows these.
SHOWN = ("masterCategory", "baseColour", "gender")


def render(readme: str, repository: Path) -> str:
    """The README with its blocks filled in. Raises ValueError when a block is missing."""
    blocks = {
        "settings": settings_table(),
        "models": models_table(repository / "models"),
        "benchmark": goals_table(repository / "docs" / "benchmark.json", repository / "models"),
    }
    for name, content in blocks.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not pattern.search(readme):
            raise ValueError(f"README.md has no block {name!r}")
        # A function, since the content may hold backslashes.
        readme = pattern.sub(lambda found, text=content: f"{found[1]}{text.strip()}\n{found[2]}", readme)  # type: ignore[misc]
    return readme


def models_table(models: Path) -> str:
    """A line per shipped model, attribute and input pattern, from the bundles' `metrics.json`."""
    lines = ["| model | attribute | photo + title | photo only | title only |", "|---|---|---|---|---|"]
    for metrics in sorted(models.glob("*/*/metrics.json")):
        quality = json.loads(metrics.read_text(encoding="utf-8"))
        patterns = quality["patterns"]
        first = next(iter(next(iter(patterns.values()))))
        for attribute in (first, *SHOWN):
            figures = [patterns.get(pattern, {}).get(attribute) for pattern in INPUTS]
            if any(figures):
                shown = " | ".join(f"{100 * figure['accuracy']:.2f} %" if figure else "–" for figure in figures)
                lines.append(f"| `{quality['model']}` {quality['version']} | {attribute} | {shown} |")
    return "\n".join(lines)


def goals_table(benchmark: Path, models: Path) -> str:
    """Each goal beside what the published run printed, and whether the model was the shipped one; nothing where none is
    published."""
    if not benchmark.exists():
        return ""
    run = json.loads(benchmark.read_text(encoding="utf-8"))
    machine, options = run["machine"], run["options"]
    lines = ["| what | goal | measured (least to most) | |", "|---|---|---|---|"]
    for figure in run["figures"]:
        sign = "≤" if figure["better"] == "less" else "≥"
        spread = figure["value"]
        shown = "–"
        if spread is not None:
            shown = f"{spread['median']:.2f}"
            if spread["least"] != spread["most"]:
                shown += f" ({spread['least']:.2f} to {spread['most']:.2f})"
        verdict = {True: "reached", False: "missed", None: "not measured"}[figure["is_reached"]]
        lines.append(f"| {figure['name']} | {sign} {figure['goal']:g} {figure['unit']} | {shown} | {verdict} |")
    manifest = models / options["bundle"] / "manifest.json"
    is_shipped = manifest.exists() and sha256(manifest.read_bytes()).hexdigest() == options["manifest"]
    bundle = f"`{options['bundle']}`"
    if not is_shipped:
        bundle = f"an earlier {bundle} (manifest {options['manifest'][:8]})"
    note = (
        f"Printed by `{options['command']}` for {bundle} on {machine['cores']} cores; medians over the rounds. "
        "Everything else of that run: [docs/benchmark.md](docs/benchmark.md), [chart](docs/benchmark.png)."
    )
    return "\n".join([*lines, "", note])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.render_readme", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if README.md is out of date")
    arguments = parser.parse_args(argv)
    path = REPOSITORY / "README.md"
    old = path.read_text(encoding="utf-8")
    new = render(old, REPOSITORY)
    if arguments.check:
        if new != old:
            print("README.md is out of date; run: python -m scripts.render_readme", file=sys.stderr)
        return int(new != old)
    path.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
