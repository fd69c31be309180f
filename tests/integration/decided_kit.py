"""A day of a small simulated bank that really was decided: engine, Redis, spool, broker, lake.

The service's clock is the bank's: payments are received when the bank's export says so, in the past.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import redis

from fraud_platform.callers import DEFAULT_CALLER
from fraud_platform.currency import exponent
from fraud_platform.dataset import fix_dataset
from fraud_platform.decision.breaker import CircuitBreaker
from fraud_platform.decision.budget import Budget
from fraud_platform.decision.decided_day import DecidedDays
from fraud_platform.decision.engine import DecisionEngine
from fraud_platform.decision.explain import Explainer
from fraud_platform.decision.faults import FaultLog
from fraud_platform.decision.feedback import FeedbackDesk
from fraud_platform.decision.identity import Decisions
from fraud_platform.decision.making import DecisionMaker
from fraud_platform.decision.policy import Policy
from fraud_platform.decision.policy_then import PolicyBook
from fraud_platform.decision.rates import LakeRates
from fraud_platform.decision.report_desk import ReportDesk
from fraud_platform.decision.serving_model import load_model
from fraud_platform.features.vector import VectorBuilder
from fraud_platform.inference_log.spool import SpoolWriter
from fraud_platform.inference_log.table import LogTable
from fraud_platform.ingest.feedback import FeedbackWriter
from fraud_platform.ingest.feedback_index import FeedbackIndex
from fraud_platform.lake import Lake, open_lake
from fraud_platform.model.bundle import releases
from fraud_platform.online.ladder import Ladder
from fraud_platform.online.packed import VIEWS
from fraud_platform.online.snapshot_load import append_load, load_snapshot_direct
from fraud_platform.online.store import OnlineStore
from fraud_platform.online.warm import warm_velocity
from fraud_platform.settings import Settings
from tests.integration.service_kit import publish_small_model

UNLIMITED = Budget(
    budget_ms=10**7, network_ms=0, read_deadline_ms=10**6, request_features_ms=10**6, model_ms=10**6, log_ms=10**6
)
"""No stage is too slow: what is tested is what is decided."""


def micros(day: date, hours: float = 0) -> int:
    return int(datetime.combine(day, time(), UTC).timestamp()) * 1_000_000 + int(hours * 3_600_000_000)


@dataclass
class Meter:
    """Nothing is counted; what fails is kept."""

    failures: list[str] = field(default_factory=list)

    def decided(self, record: Any, repeated: bool) -> None: ...

    def took(self, stage: str, seconds: float) -> None: ...

    def failed(self, stage: str) -> None:
        self.failures.append(stage)


def exported(settings: Settings, lake: Lake, day: date) -> list[dict[str, Any]]:
    """The bank's own rows of a day by receipt, times in UTC microseconds."""
    source: Any = fix_dataset(settings, lake, datetime.combine(day, time(), UTC))[1]
    ((_, rows),) = source.source.source.source.transactions([day])
    for name in ("timestamp", "received_at"):
        rows = rows.set_column(rows.schema.get_field_index(name), name, rows[name].cast(pa.int64()))
    return sorted(rows.to_pylist(), key=lambda row: (row["received_at"], row["transaction_id"]))


def body(row: dict[str, Any]) -> bytes:
    """An exported row as a caller sends it."""
    amount = Decimal(row["amount_minor"]).scaleb(-exponent(row["currency"]))
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=row["timestamp"])
    names = ("transaction_id", "user_id", "merchant_id", "currency", "user_country", "merchant_category", "channel")
    fields = {name: row[name] for name in (*names, "device_id") if row[name] is not None}
    plain = json.dumps({**fields, "country": row["country"] or "DE", "timestamp": at.isoformat()})
    return f'{plain[:-1]}, "amount": {amount:f}}}'.encode()


@dataclass
class Deciding:
    """A worker's desks on one clock, of which the test is the master."""

    now: int
    """UTC microseconds."""
    meter: Meter
    engine: DecisionEngine
    reports: ReportDesk
    labels: FeedbackDesk


async def serve(
    settings: Settings, day: date, rows: list[dict[str, Any]], answered: Callable[[int, dict[str, Any]], None]
) -> list[str]:
    """Decide `rows`, in their order, each received at its `received_at`, of the default caller where it has none;
    returns what failed inside.

    The snapshot of two days before is in force until 02:00, then that of the day before.
    """
    async with deciding(settings, day) as worker:
        loaded = False
        for row in rows:
            if not loaded and row["received_at"] >= micros(day, 2):
                load(settings, day - timedelta(days=1), micros(day, 2))
                loaded = True
            worker.now = row["received_at"]
            answer = await worker.engine.decide(body(row), row.get("caller", DEFAULT_CALLER))
            answered(answer.status, json.loads(answer.body))
    return worker.meter.failures


@asynccontextmanager
async def deciding(settings: Settings, day: date) -> AsyncIterator[Deciding]:
    """A worker at the beginning of `day`: the snapshot of two days before is in force, velocity is warm."""
    lake = open_lake(settings)
    assert settings.redis_url is not None
    meter = Meter()

    def clock() -> int:
        return worker.now

    faults = FaultLog(clock, meter.failed)
    publish_small_model(settings.home, version=1, seed=1)
    model = load_model(releases(settings.home) / "fraud-detector-1")
    rates = LakeRates(lake, settings.base_currency)
    rates.refresh()
    store = OnlineStore(settings.redis_url, ttl_days=settings.online_ttl_days, clock=clock)
    features = Ladder(store, CircuitBreaker("redis", lambda: 0.0), faults.report)
    spool = SpoolWriter(settings.home, "worker-1")
    decisions = Decisions(
        store,
        clock,
        superseded=lambda record: meter.failed("superseded"),
        given_up=lambda: meter.failed("given up"),
    )
    shared: dict[str, Any] = {"features": features, "decisions": decisions, "rates": rates, "base_currency": "EUR"}
    builder = VectorBuilder()
    explainer = Explainer(home=settings.home, log=LogTable(lake), search_days=3, builder=builder, **shared)
    maker, policy = DecisionMaker(clock, "EUR"), Policy(0.6, 0.3, 1)
    engine = DecisionEngine(
        maker=maker, model=model, model_breaker=CircuitBreaker("champion", lambda: 0.0), policy=policy,
        recorder=spool, explainer=explainer, meter=meter, faults=faults, clock=clock, capacity=100, budget=UNLIMITED,
        builder=builder, **shared,
    )  # fmt: skip
    reports = ReportDesk(
        maker=maker, policy=lambda: policy, past=PolicyBook(settings.home), recorder=spool, clock=clock, **shared
    )  # fmt: skip
    days = DecidedDays(decisions, settings.home, LogTable(lake), 3, clock)
    writer = FeedbackWriter(settings.home, "worker-1")
    labels = FeedbackDesk(writer, FeedbackIndex(settings.home), days.find, clock)
    worker = Deciding(micros(day), meter, engine, reports, labels)
    load(settings, day - timedelta(days=2), micros(day - timedelta(days=1), 2))
    with redis.Redis.from_url(settings.redis_url) as client:
        warm_velocity(settings, lake, client, day - timedelta(days=1), now_us=micros(day))
    await store.open()
    try:
        yield worker
    finally:
        await store.close()
        for each in (explainer, reports, days, writer, spool):
            each.close()


def load(settings: Settings, snapshot: date, at: int) -> None:
    """Put a snapshot in force at a moment, UTC microseconds."""
    assert settings.redis_url is not None
    lake = open_lake(settings)
    with redis.Redis.from_url(settings.redis_url) as client:
        for view in VIEWS:
            record = load_snapshot_direct(client, lake, view, snapshot, now=lambda: at, ttl_seconds=3_600)
            append_load(lake, record)


def served(settings: Settings, day: date, rows: list[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """`serve`, and the answers; nothing may have failed inside."""
    answers: list[tuple[int, dict[str, Any]]] = []
    failures = asyncio.run(serve(settings, day, rows, lambda status, answer: answers.append((status, answer))))
    assert failures == []
    return iter(answers)
