"""The metrics of everything that is no payment: read now and then, kept, and shown to whoever scrapes.

What belongs here: which sources there are, and that one that fails leaves the others. What does not: a source's names
(`table_metrics`, `machine_metrics`), the port (`inference_log.metrics`, whose process this runs in).
"""

from collections.abc import Callable, Iterable
from functools import partial

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from fraud_platform.lake import open_lake
from fraud_platform.monitoring import machine_metrics, table_metrics
from fraud_platform.settings import Settings

Source = Callable[[], Iterable[Metric]]


class Exporter(Collector):
    """What the sources said last. A scrape never waits for the lake."""

    def __init__(
        self, settings: Settings, registry: CollectorRegistry, failed: Callable[[str, BaseException], None]
    ) -> None:
        """failed(source, error): told of each source that could not be read; what it said before is shown no more."""
        lake = open_lake(settings)
        self._sources: dict[str, Source] = {
            "tables": partial(table_metrics.table_sizes, lake),
            "drift": partial(table_metrics.drift, lake),
            "performance": partial(table_metrics.performance, lake),
            "labels": partial(table_metrics.labels, lake, settings.home),
            "jobs": partial(table_metrics.job_runs, lake),
            "redis": partial(machine_metrics.redis_memory, settings),
            "processes": partial(machine_metrics.processes, settings),
            "region": partial(machine_metrics.following, settings),
        }
        self._failed = failed
        self._said: dict[str, list[Metric]] = {}
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """What was read last."""
        for said in list(self._said.values()):
            yield from said

    def describe(self) -> Iterable[Metric]:
        """Nothing: what there will be is known only once the sources were read."""
        return ()

    def step(self) -> None:
        """Read every source."""
        for name, source in self._sources.items():
            try:
                self._said[name] = list(source())
            except Exception as error:  # noqa: BLE001 - a table that is being replaced must not hide Redis' memory
                self._said.pop(name, None)
                self._failed(f"metrics_{name}", error)
