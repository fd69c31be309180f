"""Gauges and counters of the inference log's process, in Prometheus' format on a port of its own.

What belongs here: names. What does not: what they mean for whoever is on call (`docs`).
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from fraud_platform.inference_log.consumer import Consumer
from fraud_platform.inference_log.shipper import Shipper


class LogMetrics:
    """Serves /metrics from its creation on."""

    def __init__(self, port: int, host: str) -> None:
        registry = self.registry = CollectorRegistry()
        """Where others of this process show what they know."""

        def gauge(name: str, meaning: str) -> Gauge:
            return Gauge(f"fraud_log_{name}", meaning, registry=registry)

        self._waiting = gauge("spool_waiting_bytes", "Bytes of the spool that the broker does not have.")
        self._shipped = gauge("shipped_records", "Records that the broker took since the start.")
        self._cut = gauge("spool_segments_cut", "Segments given back since the start.")
        self._resent = gauge("spool_segments_resent", "Segments that the broker had lost, since the start.")
        self._lag = Gauge(
            "fraud_log_lag_records",
            "Records that the lake does not have, in a partition that this process reads.",
            ["partition"],
            registry=registry,
        )
        self._mine: set[str] = set()
        self._rows = gauge("lake_rows", "Decisions put into the lake since the start.")
        self._repeats = gauge("repeated_records", "Records that the lake had already, since the start.")
        self._failures = Counter("fraud_log_failures", "Errors, by part.", ["part"], registry=registry)
        start_http_server(port, host, registry)

    def failed(self, part: str) -> None:
        """Count an error."""
        self._failures.labels(part).inc()

    def shipping(self, shipper: Shipper) -> None:
        """Where the shipper stands."""
        self._waiting.set(shipper.waiting_bytes)
        self._shipped.set(shipper.shipped)
        self._cut.set(shipper.cut)
        self._resent.set(shipper.resent)

    def consuming(self, consumer: Consumer) -> None:
        """Where the consumer stands."""
        for gone in self._mine - set(consumer.lag):
            # of a partition that another reads now, the other tells
            self._lag.remove(gone)
        self._mine = set(consumer.lag)
        for partition, behind in consumer.lag.items():
            self._lag.labels(partition).set(behind)
        self._rows.set(consumer.rows)
        self._repeats.set(consumer.repeats)
