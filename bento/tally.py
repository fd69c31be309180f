"""Counting in a worker's memory: what payments count costs a dictionary's update, and Prometheus hears of it in bulk.

What belongs here: counters and histograms between two flushes. What does not: names (`metrics`). In BentoML's mode of
several processes every update of prometheus_client writes to a file under a lock, ten of them a tenth of a decision. A
worker that is killed loses what it counted since the last flush, and nothing else.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bento.prometheus_seam import observe_many

if TYPE_CHECKING:
    from prometheus_client import Counter, Histogram

Labels = tuple[str | int, ...]


class Counts:
    """A counter. For one event loop or thread."""

    def __init__(self, metric: "Counter") -> None:
        self._metric = metric
        self._waiting: defaultdict[Labels, int] = defaultdict(int)

    def inc(self, *labels: str | int) -> None:
        """Count one, under the metric's labels in their order."""
        self._waiting[labels] += 1

    def flush(self) -> None:
        """Hand over what was counted."""
        while self._waiting:
            labels, count = self._waiting.popitem()
            (self._metric.labels(*labels) if labels else self._metric).inc(count)


class _Observed:
    """Observations under one set of labels: how many fell into each bucket, and their sum."""

    __slots__ = ("counts", "total")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.total = 0.0


class Durations:
    """A histogram, of seconds or of scores. For one event loop or thread."""

    def __init__(self, metric: "Histogram", bounds: Sequence[float]) -> None:
        """bounds: the metric's own, ascending, without the infinite one."""
        self._metric = metric
        self._bounds = tuple(bounds)
        self._waiting: defaultdict[Labels, _Observed] = defaultdict(lambda: _Observed(len(self._bounds) + 1))

    def observe(self, seconds: float, *labels: str | int) -> None:
        """Count a duration, under the metric's labels in their order."""
        observed = self._waiting[labels]
        observed.counts[bisect_left(self._bounds, seconds)] += 1
        observed.total += seconds

    def flush(self) -> None:
        """Hand over what was observed."""
        while self._waiting:
            labels, observed = self._waiting.popitem()
            metric = self._metric.labels(*labels) if labels else self._metric
            observe_many(metric, observed.total, observed.counts)
