"""What workers count is one sum, whoever answers and whoever has gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent

SCRIPT = """
import json, os, sys
from prometheus_client import Counter, Gauge
from app import metrics, metrics_memory
from app.metrics import SummedHistogram
from app.metrics_memory import MetricsMemory

COUNTER = Counter("done", "Things done.", ("kind",), registry=metrics.REGISTRY)
HISTOGRAM = SummedHistogram("seconds", "Of each.", buckets=(1, 2), registry=metrics.REGISTRY)
UNDER_WAY = Gauge("under_way", "Not yet.", multiprocess_mode="livesum", registry=metrics.REGISTRY)
READY = Gauge("ready", "By any.", ("model",), multiprocess_mode="livemin", registry=metrics.REGISTRY)


class Worker:
    # One that does what it is told, line by line, and answers each.

    def __init__(self, memory):
        self.memory = memory
        memory.before_fork()
        self.tasks, tasks_end = os.pipe()
        self.answers, answers_end = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            memory.in_worker()
            os.close(tasks_end)
            for line in os.fdopen(self.tasks):
                value = eval(line)
                os.write(answers_end, json.dumps(value).encode() + b"\\n")
            os._exit(0)
        self.tell = os.fdopen(tasks_end, "w", buffering=1)
        self.heard = os.fdopen(self.answers)
        memory.joined(self.pid)

    def does(self, task):
        self.tell.write(task + "\\n")
        return json.loads(self.heard.readline())

    def shows(self, *names):
        lines = self.does("metrics.render().decode()").splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(names)}

    def ends(self):
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)
        self.memory.left(self.pid)

def say(value):
    print(json.dumps(value), flush=True)

"""


def run(script: str) -> list[Any]:
    """What the script says with `say`."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + script], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("{", "["))]


def test_every_worker_shows_the_sum_of_all() -> None:
    first, second, text = run("""
memory = MetricsMemory(2)
one, other = Worker(memory), Worker(memory)
one.does("[COUNTER.labels('a').inc(2), HISTOGRAM.observe(0.5), UNDER_WAY.inc(), READY.labels('m').set(1)]")
other.does("[COUNTER.labels('a').inc(3), COUNTER.labels('b').inc(), HISTOGRAM.observe_all([1.5, 7]), UNDER_WAY.inc(4)]")
other.does("READY.labels('m').set(0)")
names = "done", "seconds", "under_way", "ready"
say(one.shows(*names))
say(other.shows(*names))
say([line for line in one.does("metrics.render().decode()").splitlines() if line.startswith("#") and " seconds " in line])
""")
    assert (
        first
        == second
        == {
            'done_total{kind="a"}': 5,
            'done_total{kind="b"}': 1,
            "seconds_sum": 9,
            'seconds_bucket{le="1.0"}': 1,
            'seconds_bucket{le="2.0"}': 2,
            'seconds_bucket{le="+Inf"}': 3,
            "seconds_count": 3,
            "under_way": 5,
            'ready{model="m"}': 0,
        }
    )
    assert text == ["# HELP seconds Of each.", "# TYPE seconds histogram"]


def test_counters_outlive_a_worker_and_gauges_do_not() -> None:
    after, later = run("""
memory = MetricsMemory(1)
one, other = Worker(memory), Worker(memory)
one.does("[COUNTER.labels('a').inc(2), HISTOGRAM.observe(0.5), UNDER_WAY.inc(), READY.labels('m').set(0)]")
other.does("[COUNTER.labels('a').inc(3), UNDER_WAY.inc(4), READY.labels('m').set(1)]")
one.ends()
names = "done", "seconds_count", "under_way", "ready"
say(other.shows(*names))
heir = Worker(memory)
heir.does("[COUNTER.labels('a').inc(1), HISTOGRAM.observe(0.5), UNDER_WAY.inc()]")
say(other.shows(*names))
""")
    assert after == {'done_total{kind="a"}': 5, "seconds_count": 1, "under_way": 4, 'ready{model="m"}': 1}
    assert later == {'done_total{kind="a"}': 6, "seconds_count": 2, "under_way": 5, 'ready{model="m"}': 1}


def test_many_replacements_take_no_more_memory() -> None:
    [shown], [pages] = run("""
memory = MetricsMemory(1)
for _ in range(50):
    worker = Worker(memory)
    worker.does("COUNTER.labels('a').inc()")
    worker.ends()
witness = Worker(memory)
say([witness.shows("done")])
say([sum(region._words[0] > 0 for region in memory._regions)])
""")
    assert shown == {'done_total{kind="a"}': 50}
    assert pages == 1


def test_where_there_is_no_room_counting_goes_on_and_is_said_once() -> None:
    *warnings, [kept, lost], shown = run("""
from app.logging import configure_logging
configure_logging("info", "json")
metrics_memory.REGION_BYTES = 8192
memory = MetricsMemory(1)
one, other = Worker(memory), Worker(memory)
for kind in range(100):
    one.does(f"COUNTER.labels('{kind}').inc(2)")
say([one.does("COUNTER.labels('0')._value.get()"), one.does("COUNTER.labels('99')._value.get()")])
say(other.shows("done_total"))
""")
    assert [warning["event"] for warning in warnings] == ["metrics_incomplete"]
    assert (kept, lost) == (2, 2)
    assert 'done_total{kind="0"}' in shown
    assert 'done_total{kind="99"}' not in shown


def test_a_worker_too_many_counts_for_itself() -> None:
    *warnings, shown, alone = run("""
from app.logging import configure_logging
configure_logging("info", "json")
metrics_memory._SPARE_REGIONS = -1
memory = MetricsMemory(1)
one, other = Worker(memory), Worker(memory)
one.does("COUNTER.labels('a').inc(2)")
other.does("COUNTER.labels('a').inc(3)")
say(other.shows("done_total"))
one.ends()
third = Worker(memory)
third.does("COUNTER.labels('a').inc(3)")
say(other.shows("done_total"))
""")
    assert [warning["event"] for warning in warnings] == ["metrics_incomplete"]
    assert shown == {'done_total{kind="a"}': 2}
    assert alone == {'done_total{kind="a"}': 5}
