"""A decision engine on doubles: Redis, features, model, log and meter in memory.

What belongs here: what several tests of the engine's promises share. What does not: the promises.
"""

import asyncio
import json
import math
from collections import Counter
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from fraud_platform.currency import Rates
from fraud_platform.decision.breaker import CircuitBreaker
from fraud_platform.decision.budget import Budget
from fraud_platform.decision.engine import DecisionEngine
from fraud_platform.decision.explain import Explainer
from fraud_platform.decision.faults import FaultLog
from fraud_platform.decision.identity import Decisions
from fraud_platform.decision.making import DecisionMaker
from fraud_platform.decision.policy import Policy
from fraud_platform.decision.policy_then import PolicyBook
from fraud_platform.decision.report_desk import ReportDesk
from fraud_platform.decision.serving_model import ServingModel
from fraud_platform.features.catalogue import CATALOGUE, ENTITIES
from fraud_platform.features.vector import VectorBuilder
from fraud_platform.inference_log.record import DecisionRecord, decode_record
from fraud_platform.inference_log.table import LogTable
from fraud_platform.lake import Lake
from fraud_platform.model.calibration import UNCALIBRATED
from fraud_platform.online.decision_key import CLAIM
from fraud_platform.online.wire import StoreError
from fraud_platform.schema import Transaction

NOW = 1_795_435_200_000_000
PAYMENT: dict[str, Any] = {
    "transaction_id": "t-1",
    "user_id": "u-1",
    "merchant_id": "m-1",
    "amount": 42.5,
    "country": "DE",
    "timestamp": "2026-11-23T12:00:00Z",
}


AS_SET = Budget(budget_ms=100, network_ms=5, read_deadline_ms=20, request_features_ms=10, model_ms=30, log_ms=5)
"""The settings' defaults."""
UNLIMITED = Budget(
    budget_ms=10**7, network_ms=0, read_deadline_ms=10**6, request_features_ms=10**6, model_ms=10**6, log_ms=10**6
)
"""For tests whose machine may stall at any moment."""


def body(**changes: Any) -> bytes:
    return json.dumps({**PAYMENT, **changes}).encode()


@dataclass
class MemoryRedis:
    """Decisions and claims as the scripts keep them; shared by the workers."""

    values: dict[tuple[str, str], bytes] = field(default_factory=dict)
    down: bool = False

    def stand(self, caller: str, transaction_id: str, claim: bytes) -> bytes:
        """What stands; nothing when the claim is the first."""
        found = self.values.setdefault((caller, transaction_id), claim)
        return b"" if found is claim else found

    async def find(self, caller: str, transaction_id: str) -> bytes | None:
        await self._asked()
        found = self.values.get((caller, transaction_id), CLAIM)
        return None if found.startswith(CLAIM) else found

    async def settle(self, caller: str, transaction_id: str, record: bytes, *, replacing: bytes = b"") -> bytes:
        await self._asked()
        standing = self.values.get((caller, transaction_id), CLAIM)
        if standing.startswith(CLAIM) or standing == replacing:
            self.values[caller, transaction_id] = record
        return self.values[caller, transaction_id]

    async def _asked(self) -> None:
        await asyncio.sleep(0)
        if self.down:
            raise StoreError("no connection to Redis")


@dataclass
class MemoryFeatures:
    """Counts attempts as velocity does; an entity nobody knows."""

    redis: MemoryRedis
    counted: set[tuple[str, str]] = field(default_factory=set)
    reads: list[bool] = field(default_factory=list)
    failing: bool = False
    source: str = "redis"
    wait: float = 0
    sets: list[str] = field(default_factory=list)
    """Hashes of the sets that are read, the champion's first."""

    def serve(self, sets: Any) -> None:
        self.sets = [served.catalogue.hash for served in sets]

    async def read(self, payment: Transaction, *, caller: str, write: bool, claim: bytes) -> Any:
        self.reads.append(write)
        if self.failing:
            raise ConnectionError("redis://secret@host is gone")
        standing = self._stands(payment, caller, claim) if write else b""
        await asyncio.sleep(self.wait)
        return self._read(payment, standing, "default" if self.redis.down else self.source)

    async def count(self, payment: Transaction, *, caller: str, claim: bytes) -> Any:
        await asyncio.sleep(0)
        return self._read(payment, self._stands(payment, caller, claim), "default")

    def without_stores(self, payment: Transaction, *, caller: str, claim: bytes) -> Any:
        self.counted.add((caller, payment.transaction_id))
        return self._read(payment, None, "default")

    def _stands(self, payment: Transaction, caller: str, claim: bytes) -> bytes | None:
        self.counted.add((caller, payment.transaction_id))
        return None if self.redis.down else self.redis.stand(caller, payment.transaction_id, claim)

    def _read(self, payment: Transaction, standing: bytes | None, source: str) -> Any:
        return SimpleNamespace(
            user_row=None,
            merchant_row=None,
            user_medians=np.full(17, 3, np.float32),
            merchant_medians=np.full(10, 4, np.float32),
            known_countries=None,
            known_devices=None,
            last_effective_time=None,
            velocity=np.full(11, np.nan),
            user_effective_time=payment.event_time,
            merchant_effective_time=payment.event_time + 7,
            user_snapshot="2026-11-22",
            merchant_snapshot=None,
            epoch="e-1",
            complete_since=5,
            user_counted_since=0,
            merchant_counted_since=9,
            duplicate=False,
            standing=standing,
            served_by={"user_features": source, "merchant_features": "redis"},
            set_hash=self.sets[0],
            beside=None,
        )


@dataclass
class FixedModel:
    """Scores what it is told, as trees, as logistic regression and as XGBoost, and remembers what it saw."""

    value: float
    vectors: list[Any] = field(default_factory=list)
    broken: bool = False

    def margins(self, vectors: Any) -> Any:
        if self.broken:
            raise RuntimeError("the trees are broken")
        self.vectors.append(vectors.copy())
        return np.full(len(vectors), math.log(self.value / (1 - self.value)))

    def score(self, vectors: Any) -> Any:
        return np.full(len(vectors), self.value)

    def explain(self, vector: Any) -> Any:
        self.vectors.append(vector.copy())
        contributions = np.zeros(50)
        contributions[[0, 38, 5, 49, 1, 2]] = [0.1, -3, 0.5, 2, -0.2, 0.01]
        return SimpleNamespace(base_value=-2.0, margin=-2.59, score=self.value, contributions=contributions)


@dataclass
class MemoryRecorder:
    """Keeps records, or has a full disk."""

    records: list[DecisionRecord] = field(default_factory=list)
    full: bool = False

    def append(self, day: date, payload: bytes) -> None:
        if self.full:
            raise OSError("No space left on device")
        record = decode_record(payload)
        assert record.day == day
        self.records.append(record)


class CountingMeter:
    """Counts."""

    def __init__(self) -> None:
        self.decisions: Counter[tuple[str, bool]] = Counter()
        self.failures: Counter[str] = Counter()
        self.stages: set[str] = set()
        self.overruns: Counter[str] = Counter()

    def decided(self, record: DecisionRecord, repeated: bool) -> None:
        self.decisions[record.decision, repeated] += 1

    def took(self, stage: str, seconds: float) -> None:
        self.stages.add(stage)

    def overran(self, stage: str) -> None:
        self.overruns[stage] += 1

    def failed(self, stage: str) -> None:
        self.failures[stage] += 1


def model(score: float, fallback: float = 0.5) -> Any:
    trees, regression = FixedModel(score), FixedModel(fallback)
    parts: Any = (trees, UNCALIBRATED, regression, trees)
    medians = {entity: np.zeros(len(CATALOGUE.of(entity)), np.float32) for entity in ENTITIES}
    return ServingModel("fraud-detector/7", "f" * 64, *parts, medians)


@dataclass
class World:
    """Everything around an engine, and further engines on the same Redis as other workers have."""

    home: Path
    redis: MemoryRedis = field(default_factory=MemoryRedis)
    features: MemoryFeatures = field(init=False)
    recorder: MemoryRecorder = field(default_factory=MemoryRecorder)
    meter: CountingMeter = field(default_factory=CountingMeter)
    now: int = NOW
    policy: Policy = field(default_factory=lambda: Policy(0.7, 0.4, 3))
    rate_e9: dict[str, int] = field(default_factory=dict)
    """Of the currencies that convert, which may be changed."""
    explainers: list[Explainer] = field(default_factory=list)
    superseded: list[DecisionRecord] = field(default_factory=list)
    """Marks of decisions that were told and do not stand."""
    given_up: int = 0

    def __post_init__(self) -> None:
        self.features = MemoryFeatures(self.redis)

    def engine(
        self, score: float | None = 0.1, capacity: int = 100, budget: Budget = UNLIMITED, release_share: float = 0
    ) -> DecisionEngine:
        shared: dict[str, Any] = {
            "features": self.features,
            "decisions": self.decisions(),
            "rates": lambda: Rates("EUR", self.rate_e9),
            "base_currency": "EUR",
            "builder": VectorBuilder(),
        }
        log = LogTable(Lake(str(self.home / "lake")))
        explainer = Explainer(home=self.home, log=log, search_days=3, **shared)
        self.explainers.append(explainer)
        return DecisionEngine(
            maker=DecisionMaker(lambda: self.now, "EUR", release_share, 7),
            model=None if score is None else model(score),
            model_breaker=CircuitBreaker("champion", lambda: 0.0),
            policy=self.policy,
            recorder=self.recorder,
            explainer=explainer,
            meter=self.meter,
            faults=FaultLog(lambda: self.now, self.meter.failed),
            clock=lambda: self.now,
            budget=budget,
            capacity=capacity,
            **shared,
        )

    def decisions(self) -> Decisions:
        """What one more worker knows of decisions."""

        def give_up() -> None:
            self.given_up += 1

        return Decisions(self.redis, lambda: self.now, self.superseded.append, give_up)

    def desk(self, engine: DecisionEngine) -> ReportDesk:
        """The reports of an engine's worker."""
        return ReportDesk(
            features=self.features,
            decisions=engine._decisions,
            maker=engine._maker,
            policy=lambda: engine.policy,
            past=PolicyBook(self.home),
            rates=lambda: Rates("EUR", self.rate_e9),
            recorder=self.recorder,
            clock=lambda: self.now,
            base_currency="EUR",
        )

    async def report(self, engine: DecisionEngine, report: dict[str, Any], caller: str = "default") -> Any:
        """The answer to a report."""
        return await engine.answered("report", self.desk(engine).take(json.dumps(report).encode(), caller))
