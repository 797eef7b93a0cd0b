"""One run: environments, tuning, interleaved rounds, and what is measured once.

Owns the order of measurements and the life of the contenders. All of them stay up, and stand still while another is asked;
rounds are short and take turns, so that a machine that is slow for a minute is slow for everybody. Refuses to know figures'
goals.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from app.engine.settings import usable_cpus
from scripts.benchmark import samples
from scripts.benchmark.ceiling import Ceiling, CeilingRun
from scripts.benchmark.contenders import (
    ATTRIBUTE,
    CONTENDERS,
    ROOT,
    SERVICE,
    SERVICE_CONTENDER,
    Contender,
    Surroundings,
    label_of,
)
from scripts.benchmark.figures import CEILING, Point
from scripts.benchmark.load import Load, ask_once, closed_loop, open_loop, percentile
from scripts.benchmark.outcome import Outcome, Plan, Section
from scripts.benchmark.processes import cpu_seconds, paused, process_tree, proportional_mib, resident_mib
from scripts.benchmark.samples import Request
from scripts.benchmark.server import Server, ServerError
from scripts.benchmark.tuning import FAULTS, in_words, prepare, started

Say = Callable[[str], None]
CeilingKind = Literal["batch", "single"]


@dataclass
class _Running:
    contender: Contender
    server: Server
    requests: list[Request]


class Run:
    """Use once: `Run(...).run()`. `outcome`: of a run that was cut off, which this one goes on with; `save` is called whenever
    there is more of it."""

    def __init__(
        self,
        plan: Plan,
        bundle: Path,
        out: Path,
        say: Say,
        *,
        outcome: Outcome | None = None,
        save: Callable[[Outcome], None] = lambda _: None,
    ) -> None:
        self.plan, self.say = plan, say
        self.outcome = outcome or Outcome()
        self.outcome.cores = usable_cpus()
        self._save = save
        self.drawn = samples.draw_samples(32)
        self._bundle, self._out = bundle, out
        self._running: dict[str, _Running] = {}
        self._served_requests = 0

    def run(self) -> Outcome:
        """Raises ServerError when the service itself does not start. A peer that fails is named in `left_out`."""
        with tempfile.TemporaryDirectory(prefix="itemlens-benchmark-") as folder:
            # The bundle alone, so that every server has one model.
            (Path(folder) / self._bundle.parent.name).mkdir()
            (Path(folder) / self._bundle.parent.name / self._bundle.name).symlink_to(self._bundle)
            self._around = Surroundings(self._bundle, Path(folder), self._out)
            wanted = [CONTENDERS[name] for name in self.plan.contenders]
            for contender in wanted:
                prepare(contender, self._around, self.plan, self.drawn, self.outcome, self.say)
                self._save(self.outcome)
            with ExitStack() as stack:
                self._take_turns([c for c in wanted if c.name not in self.outcome.left_out], stack)
            if SERVICE in self._running and self._is_due("growth"):
                self._growth()
                self._finish("growth")
        return self.outcome

    def _is_due(self, section: Section) -> bool:
        return section in self.plan.sections and section not in self.outcome.finished

    def _finish(self, section: Section) -> None:
        self.outcome.finished.append(section)
        self._save(self.outcome)

    def _take_turns(self, contenders: Sequence[Contender], stack: ExitStack) -> None:
        """Everything that is measured while all contenders are up."""
        log = self._out / "logs" / "ceiling.log"
        ceiling = Ceiling(self._bundle, self.outcome.cores, root=ROOT, log=log, attribute=ATTRIBUTE)
        self._ceiling = stack.enter_context(contextlib.closing(ceiling))
        # The first run also draws the photos.
        self.outcome.expected_label = ceiling.run(0.2, batch_items=1).label
        if self._is_due("start") and SERVICE in self.plan.contenders:
            self._measure_starts()
            self._finish("start")
        for contender in contenders:
            # The rest is about the service alone.
            if contender is SERVICE_CONTENDER or self._is_due("rounds"):
                self._keep_running(contender, stack)
        if self._is_due("rounds"):
            for number in range(self.outcome.rounds, self.plan.rounds):
                self._round(number)
                self.outcome.rounds = number + 1
                self._save(self.outcome)
            for name, running in self._running.items():
                self.outcome.memory_mib[name] = sum(proportional_mib(stat.pid) for stat in process_tree(running.server.pid))
            self._finish("rounds")
        if SERVICE in self._running:
            with self._alone(self._running[SERVICE]):
                if self._is_due("open-loop"):
                    self._open_loops()
                    self._finish("open-loop")
                if self._is_due("memory"):
                    self._measure_memory()
                    self._finish("memory")

    # --- before the rounds -----------------------------------------------------------------------------------------

    def _measure_starts(self) -> None:
        seconds = []
        for number in range(self.plan.starts + 1):
            with started(SERVICE_CONTENDER, self._around, {}, label="start") as (_, ready_s):
                if number:  # the first one warms the disk's cache
                    seconds.append(ready_s)
        self.say(f"{SERVICE}: ready {min(seconds):.2f} to {max(seconds):.2f} s after its start")
        self.outcome.extras = replace(self.outcome.extras, start_s=seconds)

    def _keep_running(self, contender: Contender, stack: ExitStack) -> None:
        tuning = self.outcome.chosen[contender.name]
        try:
            server, _ = stack.enter_context(started(contender, self._around, tuning))
            requests = contender.requests(self.drawn, tuning)
            answer = ask_once(server.port, requests[0].wire)
        except FAULTS as error:
            if contender is SERVICE_CONTENDER:
                raise
            self.outcome.leave_out(contender.name, str(error) or type(error).__name__, self.say)
            return
        self.outcome.labels[contender.name] = label_of(answer.body)
        self.say(f"{contender.name}: up with {in_words(tuning) or 'what it ships with'}, says {label_of(answer.body)!r}")
        self._running[contender.name] = _Running(contender, server, requests)

    # --- the rounds ------------------------------------------------------------------------------------------------

    def _round(self, number: int) -> None:
        names = list(self._running)
        # Another one begins each round.
        for name in names[number % len(names) :] + names[: number % len(names)] if names else []:
            with self._alone(self._running[name]):
                self._turn(name, self._running[name], number)
        self.say(f"round {number + 1} of {self.plan.rounds} done")

    @contextlib.contextmanager
    def _alone(self, running: _Running | None) -> Iterator[None]:
        """All servers but this one stand still."""
        with paused([other.server.pid for other in self._running.values() if other is not running]):
            yield

    def _turn(self, name: str, running: _Running, number: int) -> None:
        for concurrency in self.plan.concurrencies:
            if name not in self._running:  # it has died
                return
            with self._ceiling_around(running, number, concurrency):
                self._point(running, "json", running.requests, number, concurrency)
        if name != SERVICE:
            return
        doubled = [*self.drawn, *self.drawn]
        for kind, requests, concurrency in (
            ("multipart", samples.service_multipart(self.drawn), max(self.plan.concurrencies)),
            ("batch64", [samples.service_batch(doubled)], 8),
            ("stream64", [samples.service_stream(doubled)], 8),
        ):
            if name in self._running:
                self._point(running, kind, requests, number, concurrency)

    @contextlib.contextmanager
    def _ceiling_around(self, running: _Running, number: int, concurrency: int) -> Iterator[None]:
        """Half of a ceiling before a point and half after it: the cost under load, of everybody, and the time of a lone item,
        of the service."""
        name, seconds = running.contender.name, self.plan.seconds / 2
        kind: CeilingKind
        if concurrency == max(self.plan.concurrencies):
            kind, run = "batch", partial(self._ceiling.run, seconds, batch_items=self._ceiling.batch_items)
        elif name == SERVICE and concurrency == 1:
            kind, run = "single", partial(self._ceiling.run, seconds / 2, batch_items=1, processes=1)
        else:
            yield
            return
        with paused([running.server.pid]):
            before = run()
        yield
        with paused([running.server.pid]):
            after = run()
        self._ceiling_point(kind, name, number, before.and_then(after))

    def _ceiling_point(self, kind: CeilingKind, beside: str, number: int, run: CeilingRun) -> None:
        point = Point(
            contender=CEILING,
            kind=kind,
            round=number,
            concurrency=0,
            seconds=run.seconds,
            items=run.items,
            requests=0,
            failures=0,
            p50_ms=run.item_ms,
            p90_ms=run.item_ms,
            p99_ms=run.item_ms,
            server_cpu_s=run.cpu_s,
            beside=beside,
        )
        self.outcome.points.append(point)

    def _point(
        self,
        running: _Running,
        kind: str,
        requests: Sequence[Request],
        number: int,
        concurrency: int,
        *,
        contender: str | None = None,
        rate_per_s: float | None = None,
    ) -> Point | None:
        """Measure and keep one point; None, and left out from then on, when the server is gone."""
        others = [other.server.pid for name, other in self._running.items() if other is not running]
        seconds = self.plan.seconds if rate_per_s is None else self.plan.open_loop_seconds
        cpu: list[tuple[float, float]] = []

        def sample() -> None:
            cpu.append((cpu_seconds(running.server.pid), sum(cpu_seconds(pid) for pid in others)))

        try:
            if rate_per_s is None:
                load = closed_loop(
                    running.server.port, requests, concurrency=concurrency, seconds=seconds, at_start=sample, at_end=sample
                )
            else:
                sample()
                load = open_loop(running.server.port, requests, rate_per_s=rate_per_s, seconds=seconds, seed=number + 1)
                sample()
        except FAULTS as error:
            reason = f"stopped answering: {str(error) or type(error).__name__}"
            self.outcome.leave_out(running.contender.name, reason, self.say)
            self._running.pop(running.contender.name, None)
            return None
        if running.contender.name == SERVICE:
            self._served_requests += load.requests
        point = Point(
            contender=contender or running.contender.name,
            kind=kind,
            round=number,
            concurrency=concurrency,
            seconds=load.seconds,
            items=load.items,
            requests=load.requests,
            failures=load.failures,
            p50_ms=percentile(load.latencies_ms, 0.5),
            p90_ms=percentile(load.latencies_ms, 0.9),
            p99_ms=percentile(load.latencies_ms, 0.99),
            server_cpu_s=cpu[-1][0] - cpu[0][0],
            generator_cpu_s=load.cpu_s,
            other_cpu_s=cpu[-1][1] - cpu[0][1],
            rate_per_s=rate_per_s,
        )
        self.outcome.points.append(point)
        load_words = f"concurrency {concurrency}" if rate_per_s is None else f"{rate_per_s:.0f} arrivals/s"
        self.say(
            f"{point.contender:<20} {kind:<10} {load_words:<16} {point.items_per_s:7.0f} items/s  p50 {point.p50_ms:7.2f}  "
            f"p99 {point.p99_ms:7.2f} ms  {point.cpu_ms_per_item:5.2f} core-ms/item  {point.failures} failures"
        )
        return point

    def _ask(self, server: Server, requests: Sequence[Request], concurrency: int, seconds: float) -> Load:
        return closed_loop(server.port, requests, concurrency=concurrency, seconds=seconds, ramp_s=1.0)

    # --- after the rounds ------------------------------------------------------------------------------------------

    def _open_loops(self) -> None:
        """At shares of the capacity by the clock, which the generator's own use of the cores has lowered already."""
        running = self._running[SERVICE]
        most = max(self.plan.concurrencies)
        rates = sorted(
            p.items_per_s for p in self.outcome.points if (p.contender, p.kind, p.concurrency) == (SERVICE, "json", most)
        )
        capacity = rates[len(rates) // 2] if rates else 0.0
        for number in range(max(1, self.plan.rounds // 2) if capacity else 0):
            for share in (0.5, 0.8):
                self._point(running, f"open-{share}", running.requests, number, 0, rate_per_s=share * capacity)

    def _measure_memory(self) -> None:
        running = self._running[SERVICE]
        workers = [stat.pid for stat in process_tree(running.server.pid) if stat.pid != running.server.pid] or [
            running.server.pid
        ]
        wanted = self.plan.requests_per_worker * len(workers)
        while self._served_requests < wanted:
            load = self._ask(running.server, running.requests, max(self.plan.concurrencies), 5.0)
            self._served_requests += load.requests
            if not load.items:
                break
            self.say(f"{self._served_requests:,} of {wanted:,} requests before memory is read")
        self.outcome.extras = replace(
            self.outcome.extras,
            worker_mib=[max(resident_mib(pid) for pid in workers)],
            requests_before_memory=self._served_requests,
        )

    def _growth(self) -> None:
        """How the cost grows: with workers, photo size and batch size. Servers of their own, one after the other."""
        most = max(self.plan.concurrencies)
        try:
            for number in range(self.plan.growth_rounds):
                for workers in (1, 2):
                    with started(SERVICE_CONTENDER, self._around, {"workers": workers}, label="growth") as (server, _):
                        self._grow(server, number, workers, most)
        except ServerError as error:  # what was measured before is kept
            self.outcome.left_out["how the cost grows"] = str(error)

    def _grow(self, server: Server, number: int, workers: int, most: int) -> None:
        def measure(name: str, requests: list[Request], concurrency: int) -> None:
            self._running = {SERVICE: _Running(SERVICE_CONTENDER, server, requests)}
            self._point(self._running[SERVICE], "json", requests, number, concurrency, contender=name)

        measure(f"workers-{workers}", samples.service_json(self.drawn), most)
        if workers == 1:
            return
        for size in ((300, 400), samples.PHOTO_SIZE, (1080, 1440)):
            measure(f"{size[0]}x{size[1]}", samples.service_json(samples.draw_samples(8, size=size)), most)
        for count in (1, 8, 32, 64):
            # As many items under way each time, as far as whole requests allow.
            measure(f"batch-{count}", [samples.service_batch((self.drawn * 2)[:count])], max(8, most // count))
