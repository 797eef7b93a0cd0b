"""What is written down for later is counted once, whoever wrote it and whenever it is counted."""

from __future__ import annotations

import threading

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from app import metrics
from app.metrics import SummedHistogram


def test_many_values_at_once_are_what_they_are_one_by_one() -> None:
    registry = CollectorRegistry()
    buckets = (0.5, 1.0, 2.5)
    summed = SummedHistogram("summed", "", ("kind",), buckets=buckets, registry=registry)
    usual = Histogram("usual", "", ("kind",), buckets=buckets, registry=registry)
    values = [0.0, 0.5, 0.50001, 1.0, 2.5, 2.6, 100.0]
    summed.labels("a").observe_all(values)
    for value in values:
        usual.labels("a").observe(value)
    for bound in ("0.5", "1.0", "2.5", "+Inf"):
        labels = {"kind": "a", "le": bound}
        assert registry.get_sample_value("summed_bucket", labels) == registry.get_sample_value("usual_bucket", labels)
    assert registry.get_sample_value("summed_sum", {"kind": "a"}) == registry.get_sample_value("usual_sum", {"kind": "a"})


def test_what_threads_record_is_counted_once() -> None:
    registry = CollectorRegistry()
    counter, gauge = Counter("counted", "", registry=registry), Gauge("under_way", "", registry=registry)
    histogram = SummedHistogram("observed", "", registry=registry)

    def work() -> None:
        for _ in range(500):
            metrics.record(gauge)
            metrics.record(counter, 2)
            metrics.record(histogram, 0.1)
            metrics.record(gauge, -1)
            metrics.count_waiting()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    metrics.count_waiting()
    assert registry.get_sample_value("counted_total") == 4000
    assert registry.get_sample_value("under_way") == 0
    assert registry.get_sample_value("observed_count") == 2000


def test_what_nobody_counts_does_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = Counter("piled", "", registry=None)
    monkeypatch.setattr(metrics, "_MOST_WAITING", 10)
    for _ in range(100):
        metrics.record(counter)
        assert len(metrics._waiting[counter]) <= 11
