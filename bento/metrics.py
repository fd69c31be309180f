"""Counters of the decision service, in Prometheus' format on BentoML's /metrics, summed over workers.

What belongs here: names and labels. What does not: deciding what is worth counting, which the engine's `Meter` says;
counting in memory (`tally`).
"""

from collections.abc import Iterable
from itertools import product

from bento.prometheus_seam import forget_dead_processes
from bento.tally import Counts, Durations
from fraud_platform.decision.arms import CHALLENGER
from fraud_platform.decision.breaker import CircuitBreaker
from fraud_platform.decision.policy import DECIDED_BY, Policy
from fraud_platform.decision.serving_model import CHAMPION
from fraud_platform.features.catalogue import ENTITIES
from fraud_platform.inference_log.record import DecisionRecord
from fraud_platform.online.ladder import DEFAULT, POSTGRES, REDIS
from fraud_platform.online.rows import Refusal

_SWITCH = {"off": 0, "rules_only": 1, "allow_all": 2}
STAGE_BOUNDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
DECISION_BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)

_STATES = {"closed": 0.0, "half_open": 0.5, "open": 1.0}
SCORE_BOUNDS = tuple(twentieth / 20 for twentieth in range(1, 21))
_LADDER = (REDIS, POSTGRES, DEFAULT)
"""Sources of batch features, the best first: a decision stands on the worse of its two."""
_POLICY = frozenset(DECIDED_BY.values())
_WORDS = {False: "false", True: "true"}


class PrometheusMeter:
    """`fraud_platform.decision.parts.Meter` on prometheus_client. Create once per worker process.

    What is counted shows with the next `flush`; the gauges of `standing` and `weighs` show at once.
    """

    def __init__(self) -> None:
        # imported here: a worker knows PROMETHEUS_MULTIPROC_DIR only after this module may have been imported
        from prometheus_client import Counter, Gauge, Histogram

        self._served: set[tuple[str, str]] = set()
        self._decisions = Counts(
            Counter(
                "fraud_decisions", "Decisions that went out.", ["decision", "model_version", "degraded", "repeated"]
            )
        )
        self._features = Counts(Counter("fraud_features_served", "Sources of batch features.", ["entity", "source"]))
        self._unknown = Counts(
            Counter("fraud_values_unknown", "Values of payments that were decided as null, by field.", ["field"])
        )
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
                "fraud_decision_seconds",
                "From receiving a payment until its decision stood, by what its features and its score came from.",
                ["features", "model"],
                buckets=DECISION_BOUNDS,
            ),
            DECISION_BOUNDS,
        )
        self._http = Durations(
            Histogram(
                "fraud_http_seconds",
                "From a request's headers until its answer was made, by route.",
                ["route"],
                buckets=DECISION_BOUNDS,
            ),
            DECISION_BOUNDS,
        )
        self._scores = Durations(
            Histogram(
                "fraud_score",
                "Calibrated scores, by the model that gave them; those beside a decision included.",
                ["model"],
                buckets=SCORE_BOUNDS,
            ),
            SCORE_BOUNDS,
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
        self._superseded = Counts(
            Counter("fraud_decisions_superseded", "Decisions that were told, and that another one stands in place of.")
        )
        self._unsettled = Gauge(
            "fraud_decisions_unsettled",
            "Decisions that were told and that the store does not have yet.",
            multiprocess_mode="livesum",
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
        self._serving = Gauge(
            "fraud_model_serving",
            "Workers that serve a model version in a role; 0: it was replaced.",
            ["model_version", "role"],
            multiprocess_mode="livesum",
        )
        refused = Counter(
            "fraud_rows_refused",
            "Rows of a store that were not read, since they are of other features or damaged.",
            ["store", "entity", "reason"],
        )
        # from zero on: of a series that begins with the first one, Prometheus sees no increase
        for labels in product((REDIS, POSTGRES), ENTITIES, ("foreign", "damaged")):
            refused.labels(*labels)
        self._refused = Counts(refused)
        self._snapshots = Gauge(
            "fraud_snapshot_end_seconds",
            "End of the snapshot in force per store, Unix time; 0: none. Of all workers the latest seen.",
            ["store", "entity"],
            multiprocess_mode="livemax",
        )

    def decided(self, record: DecisionRecord, repeated: bool) -> None:
        """Count a decision."""
        served = record.served_by
        self._decisions.inc(record.decision, record.model_version, _WORDS[record.degraded], _WORDS[repeated])
        if not repeated:
            if record.amount is None:
                self._unknown.inc("amount")
            if record.request.channel is not None and record.channel is None:
                self._unknown.inc("channel")
            self._features.inc("user", served.user_features)
            self._features.inc("merchant", served.merchant_features)
            features = max(served.user_features, served.merchant_features, key=_LADDER.index)
            self._latency.observe(record.latency_us / 1e6, features, served.model)
            # where the policy decided, the score is that of the model whose turn it was
            scored_by = record.arm if served.model in _POLICY else served.model
            if record.score is not None:
                self._scores.observe(record.score, scored_by)
            if record.other_score is not None:
                self._scores.observe(record.other_score, CHAMPION if scored_by == CHALLENGER else CHALLENGER)

    def took(self, stage: str, seconds: float) -> None:
        """Measure a stage."""
        self._stages.observe(seconds, stage)

    def overran(self, stage: str) -> None:
        """Count a stage that took longer than its part of the budget."""
        self._overruns.inc(stage)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count and time an answer over HTTP."""
        self._answers.inc(route, status)
        self._http.observe(seconds, route)

    def failed(self, stage: str) -> None:
        """Count an error."""
        self._failures.inc(stage)

    def dropped(self) -> None:
        """Count a record that was given up."""
        self._dropped.inc()

    def refused(self, refusal: Refusal) -> None:
        """Count a row that was not read."""
        self._refused.inc(refusal.store, refusal.entity, refusal.reason)

    def superseded(self) -> None:
        """Count a decision that was told and does not stand."""
        self._superseded.inc()

    def flush(self) -> None:
        """Show what was counted since the last time."""
        for tally in (
            self._decisions, self._features, self._failures, self._overruns, self._answers, self._dropped, self._stages,
            self._latency, self._http, self._scores, self._superseded, self._unknown, self._refused,
        ):  # fmt: skip
            tally.flush()

    def standing(self, breakers: Iterable[CircuitBreaker], under_way: int, waiting: int, unsettled: int) -> None:
        """Show how the worker stands at this moment."""
        for breaker in breakers:
            self._breakers.labels(breaker.name).set(_STATES[breaker.state])
        self._under_way.set(under_way)
        self._waiting.set(waiting)
        self._unsettled.set(unsettled)

    def weighs(self, weight: float) -> None:
        """Show the challenger's weight."""
        self._weight.set(weight)

    def serves(self, champion: str | None, challenger: str | None) -> None:
        """Show the models that the worker serves, as `name/version`; those before it are shown as 0."""
        serving = {(version, role) for version, role in ((champion, CHAMPION), (challenger, CHALLENGER)) if version}
        for version, role in self._served - serving:
            self._serving.labels(version, role).set(0)
        for version, role in serving:
            self._serving.labels(version, role).set(1)
        self._served |= serving

    def snapshot(self, store: str, entity: str, end: float) -> None:
        """Show the snapshot in force of a store. end: Unix seconds of its day's end, 0 for none."""
        self._snapshots.labels(store, entity).set(end)

    def forget_dead_workers(self) -> None:
        """Take the gauges of workers that were killed out of the sums: a breaker open at that moment would stay so."""
        forget_dead_processes()

    def decides_by(self, policy: Policy) -> None:
        """Show the policy that the worker decides by."""
        self._policy.set(policy.version)
        self._kill_switch.set(_SWITCH[policy.kill_switch])
