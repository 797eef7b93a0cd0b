"""The in-process ceiling: how fast this machine answers when there is no server at all.

One process per core with one runtime thread each (the best layout that was found), each running decode, preprocessing,
forward pass and answers in one loop, with the service's own engine objects. Photos come as bytes, so base64 and JSON are
the server's overhead. A process is told over its standard input how long to run, and is idle between.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class CeilingRun:
    """Sums over the processes; `item_ms` is the median time of one batch divided by its items."""

    items: int
    seconds: float
    cpu_s: float
    item_ms: float
    label: str

    @property
    def items_per_s(self) -> float:
        return self.items / self.seconds

    @property
    def cpu_ms_per_item(self) -> float:
        return self.cpu_s / self.items * 1000

    def and_then(self, later: CeilingRun) -> CeilingRun:
        """Both as one run."""
        return CeilingRun(
            items=self.items + later.items,
            seconds=self.seconds + later.seconds,
            cpu_s=self.cpu_s + later.cpu_s,
            item_ms=(self.item_ms + later.item_ms) / 2,
            label=self.label,
        )


class Ceiling:
    """`processes` engines without a server. Raises RuntimeError when one ends."""

    def __init__(self, bundle: Path, processes: int, *, root: Path, log: Path, attribute: str) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ITEMLENS_")}
        environment["OPENBLAS_NUM_THREADS"] = "1"
        self._log = log
        with log.open("ab") as errors:
            self._processes = [
                subprocess.Popen(
                    [sys.executable, "-m", "scripts.benchmark.ceiling", str(bundle), attribute],
                    cwd=root,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                )
                for _ in range(processes)
            ]
        ready = [self._reply(process) for process in self._processes]
        self.batch_items: int = ready[0]["batch_items"]
        """The batch size that the engine's own measurement chose."""

    def run(self, seconds: float, *, batch_items: int, processes: int | None = None, size: str = "600x800") -> CeilingRun:
        """`size` is WIDTHxHEIGHT of the photos."""
        chosen = self._processes[:processes]
        for process in chosen:
            assert process.stdin is not None
            process.stdin.write(json.dumps({"seconds": seconds, "batch_items": batch_items, "size": size}) + "\n")
            process.stdin.flush()
        replies = [self._reply(process) for process in chosen]
        return CeilingRun(
            items=sum(reply["items"] for reply in replies),
            seconds=statistics.fmean(reply["seconds"] for reply in replies),
            cpu_s=sum(reply["cpu_s"] for reply in replies),
            item_ms=statistics.median(reply["item_ms"] for reply in replies),
            label=replies[0]["label"],
        )

    def _reply(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"a ceiling process ended; see logs/{self._log.name}")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def close(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            process.wait()
            process.stdout.close()


def main(arguments: Sequence[str]) -> int:
    """The life of one process: load, say so, then answer one line of orders with one line of figures until the input ends."""
    from app.engine.items import Classification, Item
    from scripts.benchmark.opened_bundle import OpenedBundle
    from scripts.benchmark.samples import draw_samples

    # What is logged at loading goes where errors go: standard output is the conversation.
    conversation = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    attribute = arguments[1]
    bundle = OpenedBundle(Path(arguments[0]))
    items_by_size: dict[str, list[Item]] = {}
    print(json.dumps({"batch_items": bundle.batch_items}), file=conversation, flush=True)

    def answer(items: Sequence[Item]) -> list[Classification]:
        return bundle.answer([bundle.read(item) for item in items])

    for line in sys.stdin:
        order = json.loads(line)
        if order["size"] not in items_by_size:
            width, height = (int(side) for side in order["size"].split("x"))
            # As many different ones as the servers are sent: fewer would stay in the processor's caches.
            samples = draw_samples(32, size=(width, height))
            items_by_size[order["size"]] = [Item(sample.photo, sample.title) for sample in samples]
        items, size = items_by_size[order["size"]], order["batch_items"]
        label = answer(items[:1])[0].attributes[attribute].label
        batch_s = []
        done = 0
        cpu_s, started_s = time.process_time(), time.perf_counter()
        while (now_s := time.perf_counter()) < started_s + order["seconds"]:
            answer([items[(done + index) % len(items)] for index in range(size)])
            batch_s.append(time.perf_counter() - now_s)
            done += size
        reply = {
            "items": done,
            "seconds": time.perf_counter() - started_s,
            "cpu_s": time.process_time() - cpu_s,
            "item_ms": statistics.median(batch_s) / size * 1000,
            "label": label,
        }
        print(json.dumps(reply), file=conversation, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
