"""Counters of the decision service, in Prometheus' format on BentoML's /metrics, summed over workers.

What belongs here: names and labels. What does not: deciding what is worth counting, which the engine's `Meter` says.
"""

from collections.abc import Iterable

from fraud_platform.decision.breaker import CircuitBreaker
from fraud_platform.decision.policy import Policy
from fraud_platform.inference_log.record import DecisionRecord

_SWITCH = {"off": 0, "rules_only": 1, "allow_all": 2}
_STATES = {"closed": 0.0, "half_open": 0.5, "open": 1.0}


class PrometheusMeter:
    """`fraud_platform.decision.parts.Meter` on prometheus_client. Create once per worker process."""

    def __init__(self) -> None:
        # imported here: a worker knows PROMETHEUS_MULTIPROC_DIR only after this module may have been imported
        from prometheus_client import Counter, Gauge, Histogram

        self._decisions = Counter(
            "fraud_decisions", "Decisions that went out.", ["decision", "model_version", "degraded", "repeated"]
        )
        self._features = Counter("fraud_features_served", "Sources of batch features.", ["entity", "source"])
        self._failures = Counter("fraud_failures", "Errors on our side, by stage.", ["stage"])
        self._answers = Counter("fraud_http_answers", "Answers over HTTP by route and status.", ["route", "status"])
        self._dropped = Counter("fraud_records_dropped", "Records given up: disk full, and memory too.")
        self._waiting = Gauge(
            "fraud_records_waiting", "Records in memory alone: the disk takes none.", multiprocess_mode="livesum"
        )
        self._under_way = Gauge(
            "fraud_payments_under_way", "Payments that are being decided.", multiprocess_mode="livesum"
        )
        self._weight = Gauge(
            "fraud_challenger_weight", "Share of users that the challenger decides for.", multiprocess_mode="livemax"
        )
        self._policy = Gauge(
            "fraud_policy_version", "Policy in force; of all workers the oldest.", multiprocess_mode="livemin"
        )
        self._kill_switch = Gauge(
            "fraud_kill_switch", "0: off, 1: rules only, 2: every payment is allowed.", multiprocess_mode="livemax"
        )
        self._breakers = Gauge(
            "fraud_breaker_open",
            "1: left alone after failures, 0.5: being tried, 0: in use; of all workers the worst.",
            ["breaker"],
            multiprocess_mode="livemax",
        )
        self._stages = Histogram(
            "fraud_stage_seconds",
            "Time of each stage of a decision.",
            ["stage"],
            buckets=(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1),
        )
        self._latency = Histogram(
            "fraud_decision_seconds",
            "From receiving a payment until its decision stood.",
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2),
        )

    def decided(self, record: DecisionRecord, repeated: bool) -> None:
        """Count a decision."""
        served = record.served_by
        self._decisions.labels(
            record.decision, record.model_version, str(record.degraded).lower(), str(repeated).lower()
        ).inc()
        if not repeated:
            self._features.labels("user", served.user_features).inc()
            self._features.labels("merchant", served.merchant_features).inc()
            self._latency.observe(record.latency_us / 1e6)

    def took(self, stage: str, seconds: float) -> None:
        """Measure a stage."""
        self._stages.labels(stage).observe(seconds)

    def answered(self, route: str, status: int) -> None:
        """Count an answer over HTTP."""
        self._answers.labels(route, status).inc()

    def dropped(self) -> None:
        """Count a record that was given up."""
        self._dropped.inc()

    def standing(self, breakers: Iterable[CircuitBreaker], under_way: int, waiting: int) -> None:
        """Show how the worker stands at this moment."""
        for breaker in breakers:
            self._breakers.labels(breaker.name).set(_STATES[breaker.state])
        self._under_way.set(under_way)
        self._waiting.set(waiting)

    def weighs(self, weight: float) -> None:
        """Show the challenger's weight."""
        self._weight.set(weight)

    def decides_by(self, policy: Policy) -> None:
        """Show the policy that the worker decides by."""
        self._policy.set(policy.version)
        self._kill_switch.set(_SWITCH[policy.kill_switch])

    def failed(self, stage: str) -> None:
        """Count an error."""
        self._failures.labels(stage).inc()
