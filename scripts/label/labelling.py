"""Rows to results: a bounded number of batches on their way at once, every answer kept as it comes.

Owns the flow. Reading photos and talking to the service happen in threads; the journal is written by one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from scripts.label.catalogue import CatalogueRow
from scripts.label.journal import Journal
from scripts.label.output import BadRow
from scripts.label.row_items import ItemMaker, RowItem
from scripts.label.service import LabelService

RowResult = tuple[int, dict[str, Any]]
"""A row's number and what came of it."""
MAX_BATCH_BYTES = 24 * 1024 * 1024
"""Of one request, below the 32 MiB that a service takes by default; a smaller limit is met by halving."""


@dataclass(frozen=True, slots=True)
class Flow:
    """`batch_items` rows a request, `requests_in_flight` requests at a time."""

    batch_items: int
    requests_in_flight: int


def label_rows(
    rows: Iterable[CatalogueRow],
    maker: ItemMaker,
    service: LabelService,
    journal: Journal,
    options: dict[str, Any],
    flow: Flow,
    *,
    on_rows: Callable[[int], object],
) -> None:
    """Ask for every row that the journal does not have; `on_rows` hears how many rows were settled.

    Raises ServiceError when the service gives no answer for too long. What was answered until then is in the journal, also
    when the run is interrupted.
    """
    batches = _in_batches((row for row in rows if not journal.is_settled(row.number)), flow.batch_items)
    with ThreadPoolExecutor(flow.requests_in_flight, thread_name_prefix="label") as threads:
        in_flight: set[Future[list[RowResult]]] = set()
        is_stopping = threading.Event()

        def work(batch: Sequence[CatalogueRow]) -> list[RowResult]:
            return [] if is_stopping.is_set() else list(_label_batch(batch, maker, service, options))

        try:
            for batch in batches:
                in_flight.add(threads.submit(work, batch))
                if len(in_flight) >= 2 * flow.requests_in_flight:
                    in_flight = _settle(in_flight, journal, on_rows)
            while in_flight:
                in_flight = _settle(in_flight, journal, on_rows)
        finally:
            is_stopping.set()
            service.stop()
            # What was answered meanwhile is not asked again when the run is resumed.
            finished, _ = wait(in_flight)
            for future in finished:
                if future.exception() is None:
                    _keep(future.result(), journal, on_rows)


def bad_rows(catalogue: Iterable[CatalogueRow], maker: ItemMaker, journal: Journal) -> Iterator[BadRow]:
    """Rows that have no labels, or that were labelled without a photo that they name."""
    for row in catalogue:
        result = journal.result(row.number)
        name = row.cell(maker.id_column)
        if result["status"] == "error":
            yield row.line, name, result["error"]["code"], result["error"].get("detail", "")
        for problem in result.get("problems", ()):
            if result["status"] == "ok":
                yield row.line, name, problem, "labelled by its title alone"


def _in_batches(rows: Iterable[CatalogueRow], size: int) -> Iterator[Sequence[CatalogueRow]]:
    batch: list[CatalogueRow] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _label_batch(
    batch: Sequence[CatalogueRow], maker: ItemMaker, service: LabelService, options: dict[str, Any]
) -> Iterator[RowResult]:
    waiting: list[tuple[CatalogueRow, RowItem]] = []
    payload_bytes = 0
    for row in batch:
        made = maker.make(row)
        if made.item is None:
            *others, code = made.problems
            yield row.number, {"status": "error", "error": {"code": code, "detail": ", ".join(others)}}
            continue
        if waiting and payload_bytes + made.payload_bytes > MAX_BATCH_BYTES:
            yield from _ask(waiting, service, options)
            waiting, payload_bytes = [], 0
        waiting.append((row, made))
        payload_bytes += made.payload_bytes
    if waiting:
        yield from _ask(waiting, service, options)


def _ask(asked: Sequence[tuple[CatalogueRow, RowItem]], service: LabelService, options: dict[str, Any]) -> Iterator[RowResult]:
    results = service.classify([made.item or {} for _, made in asked], options)
    for (row, made), result in zip(asked, results, strict=True):
        kept = {key: value for key, value in result.items() if key not in ("index", "id")}
        if kept["status"] == "error":
            kept["error"] = {key: kept["error"][key] for key in ("code", "detail")}
        yield row.number, kept | ({"problems": list(made.problems)} if made.problems else {})


def _settle(
    in_flight: set[Future[list[RowResult]]], journal: Journal, on_rows: Callable[[int], object]
) -> set[Future[list[RowResult]]]:
    finished, rest = wait(in_flight, return_when=FIRST_COMPLETED)
    failed = None
    for future in finished:
        failed = failed or future.exception()
        if future.exception() is None:
            _keep(future.result(), journal, on_rows)
    if failed is not None:
        in_flight.intersection_update(rest)
        raise failed
    return rest


def _keep(results: list[RowResult], journal: Journal, on_rows: Callable[[int], object]) -> None:
    for row, result in results:
        journal.add(row, result)
    on_rows(len(results))
