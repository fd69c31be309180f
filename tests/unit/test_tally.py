"""Counting in memory comes to what prometheus_client would have counted one by one; the hook of `Durations` holds."""

import math
import random

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from bento.tally import Counts, Durations

BOUNDS = (0.001, 0.01, 0.1)


def shown(registry: CollectorRegistry) -> dict[str, float]:
    """Every sample but when it began."""
    lines = [line for line in generate_latest(registry).decode().splitlines() if line[0] != "#"]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines) if "_created" not in name}


def metrics() -> tuple[CollectorRegistry, Counter, Histogram, Histogram]:
    registry = CollectorRegistry()
    return (
        registry,
        Counter("answers", "…", ["route", "status"], registry=registry),
        Histogram("stage", "…", ["stage"], buckets=BOUNDS, registry=registry),
        Histogram("all", "…", buckets=BOUNDS, registry=registry),
    )


def test_what_is_counted_in_memory_shows_after_a_flush_as_if_counted_one_by_one() -> None:
    expected, answers, stage, whole = metrics()
    registry, *own = metrics()
    counts, of_stage, of_all = Counts(own[0]), Durations(own[1], BOUNDS), Durations(own[2], BOUNDS)
    rng = random.Random(3)
    # on a bound, just beside it, beyond the last
    seconds = [0.0, *BOUNDS, *(math.nextafter(bound, 1) for bound in BOUNDS), 5.0]
    for number in range(400):
        took, route = rng.choice(seconds), rng.choice(["/a", "/b"])
        answers.labels(route, 200).inc()
        stage.labels(route).observe(took)
        whole.observe(took)
        counts.inc(route, 200)
        of_stage.observe(took, route)
        of_all.observe(took)
        if number in (100, 250):
            for tally in (counts, of_stage, of_all):
                tally.flush()
    assert shown(registry) != shown(expected)
    for tally in (counts, of_stage, of_all):
        tally.flush()
    assert shown(registry) == pytest.approx(shown(expected))
    # nothing waits any more
    for tally in (counts, of_stage, of_all):
        tally.flush()
    assert shown(registry) == pytest.approx(shown(expected))


def test_a_counter_without_labels() -> None:
    registry = CollectorRegistry()
    dropped = Counts(Counter("dropped", "…", registry=registry))
    dropped.inc()
    dropped.inc()
    dropped.flush()
    assert shown(registry) == {"dropped_total": 2}
