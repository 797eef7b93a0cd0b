"""Look at a catalogue before training on it: rows per split, labels, bad rows.

python -m scripts.data --catalogue items.csv --image-column photo --text-column title --label-columns category
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scripts.config import ConfigError, add_config_flags, config_from_arguments
from scripts.data.catalogue import load_catalogue
from scripts.data.errors import CatalogueError
from scripts.data.report import CatalogueReport, write_bad_rows


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_flags(parser)
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder whose cache keeps decoded photos (default: runs)"
    )
    parser.add_argument("--limit", type=int, help="read only so many rows, evenly spaced")
    parser.add_argument("--bad-rows", type=Path, metavar="FILE.csv", help="write every row that needs a look to this file")
    parser.add_argument("--max-labels", type=int, default=20, help="labels shown per column (default: 20)")
    arguments = parser.parse_args(argv)
    try:
        config = config_from_arguments(arguments)
        catalogue = load_catalogue(config, cache_dir=arguments.runs / "cache", limit=arguments.limit)
    except (ConfigError, CatalogueError) as error:
        print(f"data: {error}", file=sys.stderr)
        return 1
    print("\n".join([*catalogue.report.lines(), *_label_lines(catalogue.report, arguments.max_labels)]))
    if arguments.bad_rows is not None:
        write_bad_rows(catalogue.report, arguments.bad_rows)
    return 0


def _label_lines(report: CatalogueReport, max_labels: int) -> list[str]:
    lines = []
    for column, counts in report.label_counts.items():
        shown = [f"{label} {count:,}" for label, count in list(counts.items())[:max_labels]]
        more = f", … {len(counts) - len(shown)} more" if len(counts) > len(shown) else ""
        lines.append(f"{column}: {', '.join(shown)}{more}")
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
