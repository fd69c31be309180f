"""Counters of the decision service, in Prometheus' format on BentoML's /metrics, summed over workers.

What belongs here: names and labels. What does not: deciding what is worth counting, which the engine's `Meter` says;
counting in memory (`tally`).
"""

from collections.abc import Iterable

from bento.tally import Counts, Durations
from fraud_platform.decision.breaker import CircuitBreaker
from fraud_platform.decision.policy import Policy
from fraud_platform.inference_log.record import DecisionRecord

_SWITCH = {"off": 0, "rules_only": 1, "allow_all": 2}
STAGE_BOUNDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
DECISION_BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)

_STATES = {"closed": 0.0, "half_open": 0.5, "open": 1.0}
_WORDS = {False: "false", True: "true"}


class PrometheusMeter:
    """`fraud_platform.decision.parts.Meter` on prometheus_client. Create once per worker process.

    What is counted shows with the next `flush`; the gauges of `standing` and `weighs` show at once.
    """

    def __init__(self) -> None:
        # imported here: a worker knows PROMETHEUS_MULTIPROC_DIR only after this module may have been imported
        from prometheus_client import Counter, Gauge, Histogram

        self._decisions = Counts(
            Counter(
                "fraud_decisions", "Decisions that went out.", ["decision", "model_version", "degraded", "repeated"]
            )
        )
        self._features = Counts(Counter("fraud_features_served", "Sources of batch features.", ["entity", "source"]))
        self._failures = Counts(Counter("fraud_failures", "Errors on our side, by stage.", ["stage"]))
        self._overruns = Counts(
            Counter("fraud_stage_overruns", "Stages of decisions that took longer than their part.", ["stage"])
        )
        self._answers = Counts(
            Counter("fraud_http_answers", "Answers over HTTP by route and status.", ["route", "status"])
        )
        self._dropped = Counts(Counter("fraud_records_dropped", "Records given up: disk full, and memory too."))
        self._stages = Durations(
            Histogram("fraud_stage_seconds", "Time of each stage of a decision.", ["stage"], buckets=STAGE_BOUNDS),
            STAGE_BOUNDS,
        )
        self._latency = Durations(
            Histogram(
                "fraud_decision_seconds", "From receiving a payment until its decision stood.", buckets=DECISION_BOUNDS
            ),
            DECISION_BOUNDS,
        )
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

    def decided(self, record: DecisionRecord, repeated: bool) -> None:
        """Count a decision."""
        served = record.served_by
        self._decisions.inc(record.decision, record.model_version, _WORDS[record.degraded], _WORDS[repeated])
        if not repeated:
            self._features.inc("user", served.user_features)
            self._features.inc("merchant", served.merchant_features)
            self._latency.observe(record.latency_us / 1e6)

    def took(self, stage: str, seconds: float) -> None:
        """Measure a stage."""
        self._stages.observe(seconds, stage)

    def overran(self, stage: str) -> None:
        """Count a stage that took longer than its part of the budget."""
        self._overruns.inc(stage)

    def answered(self, route: str, status: int) -> None:
        """Count an answer over HTTP."""
        self._answers.inc(route, status)

    def failed(self, stage: str) -> None:
        """Count an error."""
        self._failures.inc(stage)

    def dropped(self) -> None:
        """Count a record that was given up."""
        self._dropped.inc()

    def flush(self) -> None:
        """Show what was counted since the last time."""
        for tally in (
            self._decisions, self._features, self._failures, self._overruns, self._answers, self._dropped, self._stages,
            self._latency,
        ):  # fmt: skip
            tally.flush()

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
