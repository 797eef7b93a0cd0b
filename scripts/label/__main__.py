"""Label a catalogue through a running service: the same rows out, with labels, confidences and decisions beside them.

    python -m scripts.label items.csv --text-column title --image-column photo --photos photos.zip
    python -m scripts.label items.jsonl --text-column name --image-pattern 'images/{id}.jpg' --photos photos/ \\
        --attributes articleType baseColour --least-certain-first --output to-review.jsonl
    ITEMLENS_API_KEY=… python -m scripts.label items.csv --text-column title --url https://labels.example.com --resume

A CSV gets columns of its own (itemlens_articleType, itemlens_articleType_confidence, itemlens_articleType_decision, …), a
JSONL row one object under the key "itemlens". Fields that came in come out unchanged, in the order they came in, or with
--least-certain-first the rows to look at first on top. Rows without labels, and photos that were not found, are listed in
OUTPUT.bad_rows.csv. A run that is stopped keeps its answers in OUTPUT.partial; --resume asks only for the rest.

The key is read from ITEMLENS_API_KEY. The service is the one at --url, at ITEMLENS_URL, or on this machine.

exit codes: 0 every row is labelled · 1 done, but some rows have no labels · 2 nothing was done: a bad option, catalogue,
photo folder or partial file · 3 the service refused or is gone; --resume goes on · 130 interrupted; --resume goes on
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

try:
    import httpx
    from tqdm import tqdm
except ImportError as missing:  # serving needs neither
    raise SystemExit(f"label: {missing.name} is not installed; run: pip install httpx tqdm") from None

from scripts.argument_types import whole_number_between
from scripts.data.errors import CatalogueError
from scripts.label.catalogue import CatalogueFile
from scripts.label.journal import Journal, JournalError
from scripts.label.labelling import Flow, bad_rows, label_rows
from scripts.label.output import LabelColumns, write_bad_rows, write_labelled
from scripts.label.row_items import ItemMaker
from scripts.label.service import LabelService, ServiceError

_DONE, _SOME_FAILED, _NOT_STARTED, _SERVICE_FAILED, _INTERRUPTED = 0, 1, 2, 3, 130
DEFAULT_URL = "http://127.0.0.1:8000"


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    output = arguments.output or _beside(arguments.catalogue)
    try:
        if output.exists() and not arguments.overwrite:
            raise CatalogueError(f"{output} is there already: name another --output, or allow --overwrite.")
        catalogue = CatalogueFile(arguments.catalogue)
        with closing(_maker(arguments, catalogue)) as maker, closing(_service(arguments)) as service:
            return _label(arguments, catalogue, maker, service, output)
    except (CatalogueError, JournalError) as error:
        print(f"label: {error}", file=sys.stderr)
        return _NOT_STARTED
    except ServiceError as error:
        print(f"label: {error}", file=sys.stderr)
        return _SERVICE_FAILED
    except OSError as error:  # a full disk, a folder that cannot be written
        print(f"label: {error}", file=sys.stderr)
        return _NOT_STARTED
    except KeyboardInterrupt:
        print("label: interrupted", file=sys.stderr)
        return _INTERRUPTED


def _label(
    arguments: argparse.Namespace, catalogue: CatalogueFile, maker: ItemMaker, service: LabelService, output: Path
) -> int:
    model = service.describe(arguments.model)
    attributes = _attributes(arguments.attributes, model)
    columns = LabelColumns(catalogue, attributes, arguments.prefix)
    options: dict[str, Any] = {
        # The version too: the labels of one output come from one model, also when the service is updated meanwhile.
        "model": model["name"],
        "version": model["version"],
        "attributes": attributes,
        "top_k": arguments.top_k,
        "precision": arguments.precision,
    }
    read = {"columns": [arguments.text_column, arguments.image_column, arguments.image_pattern]}
    journal_path = output.with_name(output.name + ".partial")
    journal = Journal(journal_path, options | read | {"catalogue": catalogue.digest()}, resume=arguments.resume)
    with closing(journal):
        settled = sum(journal.is_settled(row.number) for row in catalogue)
        print(f"{catalogue.path.name}: {catalogue.rows:,} rows, model {model['name']} {model['version']}", file=sys.stderr)
        if settled:
            print(f"{settled:,} rows are answered already", file=sys.stderr)
        flow = Flow(arguments.batch_items, arguments.requests_in_flight)
        try:
            # Silent where nobody watches.
            with tqdm(total=catalogue.rows, initial=settled, unit="row", disable=None) as bar:
                label_rows(catalogue, maker, service, journal, options, flow, on_rows=bar.update)
        except (ServiceError, KeyboardInterrupt):
            if journal.is_empty:
                journal.remove()
            else:
                print(f"label: the answers so far are in {journal_path}; --resume goes on", file=sys.stderr)
            raise
        write_labelled(catalogue, journal, columns, output, least_certain_first=arguments.least_certain_first)
        bad = list(bad_rows(catalogue, maker, journal))
        bad_path = output.with_name(output.name + ".bad_rows.csv")
        write_bad_rows(bad, bad_path)
        failed = _report(journal, attributes, output)
        if bad:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in Counter(row[2] for row in bad).most_common())
            print(f"bad rows: {reasons}; see {bad_path}")
        if journal.unsettled_rows:
            count = journal.unsettled_rows
            print(f"{count:,} of them failed for reasons that may pass: --resume --overwrite asks for those alone")
        else:
            journal.remove()
    return _SOME_FAILED if failed else _DONE


def _report(journal: Journal, attributes: Sequence[str], output: Path) -> int:
    """Print what was decided; returns how many rows have no labels."""
    decisions: dict[str, Counter[str]] = {name: Counter() for name in attributes}
    labelled = failed = 0
    for _, result in journal.results():
        if result["status"] != "ok":
            failed += 1
            continue
        labelled += 1
        for name in attributes:
            decisions[name][result["attributes"][name]["decision"]] += 1
    print(f"{output}: {labelled:,} rows labelled" + (f", {failed:,} not" if failed else ""))
    for name, counts in decisions.items():
        if labelled:
            print(f"  {name:<20} " + ", ".join(f"{kind} {count / labelled:.1%}" for kind, count in counts.most_common()))
    return failed


def _maker(arguments: argparse.Namespace, catalogue: CatalogueFile) -> ItemMaker:
    return ItemMaker(
        catalogue,
        text_column=arguments.text_column,
        image_column=arguments.image_column,
        image_pattern=arguments.image_pattern,
        photos=arguments.photos,
    )


def _service(arguments: argparse.Namespace) -> LabelService:
    key = os.environ.get("ITEMLENS_API_KEY") or None
    url: str = arguments.url
    if key and url.startswith("http://") and httpx.URL(url).host not in ("127.0.0.1", "::1", "localhost"):
        print("label: the API key travels unencrypted; use https where others share the network", file=sys.stderr)
    return LabelService(url, api_key=key, patience_s=arguments.patience_s)


def _attributes(wanted: Sequence[str], model: dict[str, Any]) -> list[str]:
    known = list(model["attributes"])
    for name in wanted:
        if name not in known:
            raise CatalogueError(f"The model {model['name']} has no attribute {name!r}; it has {', '.join(known)}.")
    return list(dict.fromkeys(wanted)) or known


def _beside(catalogue: Path) -> Path:
    """items.csv.gz becomes items.labelled.csv.gz."""
    suffixes = "".join(catalogue.suffixes[-2:]) if catalogue.suffix == ".gz" else catalogue.suffix
    return catalogue.with_name(f"{catalogue.name.removesuffix(suffixes)}.labelled{suffixes}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.label", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("catalogue", type=Path, help="CSV, TSV, JSONL or NDJSON file, .gz allowed")
    parser.add_argument("--output", type=Path, help="where to write (default: beside the catalogue, as NAME.labelled.csv)")
    parser.add_argument("--overwrite", action="store_true", help="replace an output that is there already")
    parser.add_argument("--resume", action="store_true", help="go on where a stopped run ended")
    parser.add_argument("--least-certain-first", action="store_true", help="order the rows for review")
    what = parser.add_argument_group("what to send")
    what.add_argument("--text-column", help="column with the title")
    what.add_argument("--image-column", help="column with the photo's path, file name or id")
    what.add_argument("--image-pattern", help="photo path made of columns, such as 'images/{id}.jpg'")
    what.add_argument("--photos", nargs="+", type=Path, default=[], metavar="PATH", help="photo folders or zips")
    ask = parser.add_argument_group("what to ask")
    ask.add_argument("--url", default=os.environ.get("ITEMLENS_URL", DEFAULT_URL), help=f"default: {DEFAULT_URL}")
    ask.add_argument("--model", help="default: the service's default model")
    ask.add_argument("--attributes", nargs="+", default=[], metavar="NAME", help="default: all of the model's")
    ask.add_argument("--precision", type=float, default=0.98, help="of accepted answers, 0.5 to 0.999 (default: 0.98)")
    ask.add_argument(
        "--top-k", type=whole_number_between(1, 100), default=1, help="candidates per attribute, kept in JSONL (default: 1)"
    )
    ask.add_argument("--prefix", default="itemlens_", help="of the added columns (default: itemlens_)")
    pace = parser.add_argument_group("pace")
    pace.add_argument("--batch-items", type=whole_number_between(1, 4096), default=16, help="rows a request (default: 16)")
    pace.add_argument(
        "--requests-in-flight", type=whole_number_between(1, 256), default=4, help="requests at a time (default: 4)"
    )
    pace.add_argument(
        "--patience-s", type=float, default=60.0, help="seconds to wait for a service that refuses or is away (default: 60)"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
