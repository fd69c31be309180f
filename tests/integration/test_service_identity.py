"""One decision per payment, however many workers it reaches at once: real Redis, the real online store."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from service_kit import USERS, fill_online_store, publish_small_model

from fraud_platform.currency import Rates
from fraud_platform.decision.breaker import CircuitBreaker
from fraud_platform.decision.budget import Budget
from fraud_platform.decision.engine import DecisionEngine
from fraud_platform.decision.explain import Explainer
from fraud_platform.decision.faults import FaultLog
from fraud_platform.decision.identity import Decisions
from fraud_platform.decision.making import DecisionMaker
from fraud_platform.decision.policy import Policy
from fraud_platform.decision.serving_model import load_to_serve
from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.features.vector import VectorBuilder
from fraud_platform.inference_log.record import DecisionRecord
from fraud_platform.inference_log.spool import SpoolWriter, read_spool
from fraud_platform.inference_log.table import LogTable
from fraud_platform.lake import Lake
from fraud_platform.online.ladder import Ladder
from fraud_platform.online.recount import Recount
from fraud_platform.online.store import OnlineStore

NOON = int(datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()) * 1_000_000
PAYMENT: dict[str, Any] = {
    "transaction_id": "t-1",
    "user_id": USERS[0],
    "merchant_id": "m-1",
    "amount": 42.5,
    "country": "DE",
    "timestamp": "2026-11-23T12:00:00Z",
}


def body(**changes: Any) -> bytes:
    return json.dumps({**PAYMENT, **changes}).encode()


UNLIMITED = Budget(
    budget_ms=10**7, network_ms=0, read_deadline_ms=10**6, request_features_ms=10**6, model_ms=10**6, log_ms=10**6
)
"""The machine may stall at any moment, and these tests are not about that."""


class SilentMeter:
    """Counts failures, which these tests do not expect."""

    def __init__(self) -> None:
        self.failures: Counter[str] = Counter()

    def decided(self, record: DecisionRecord, repeated: bool) -> None:
        """Nobody watches."""

    def took(self, stage: str, seconds: float) -> None:
        """Nobody watches."""

    def overran(self, stage: str) -> None:
        """Nobody watches."""

    def failed(self, stage: str) -> None:
        self.failures[stage] += 1


class Worker:
    """An engine with connections, files and counters of its own."""

    def __init__(self, home: Path, url: str, name: str, version: int, catalogue: Catalogue = CATALOGUE) -> None:
        model = load_to_serve(home / "releases" / f"fraud-detector-{version}", catalogue)
        self.store = OnlineStore(url, ttl_days=3, recount=Recount(home / name), catalogue=catalogue)
        self.spool = SpoolWriter(home, name)
        self.meter = SilentMeter()
        self.superseded: list[Any] = []
        faults = FaultLog(lambda: NOON, self.meter.failed)
        features = Ladder(self.store, CircuitBreaker("redis", lambda: 0.0), faults.report)
        shared: dict[str, Any] = {
            "features": features,
            "decisions": Decisions(self.store, lambda: NOON, self.superseded.append, lambda: None),
            "rates": lambda: Rates("EUR", {}),
            "base_currency": "EUR",
            "builder": VectorBuilder(catalogue),
        }
        log = LogTable(Lake(str(home / "lake")))
        self.explainer = Explainer(home=home, log=log, search_days=2, **shared)
        self.engine = DecisionEngine(
            maker=DecisionMaker(lambda: NOON, "EUR", catalogue=catalogue),
            model=model,
            model_breaker=CircuitBreaker("champion", lambda: 0.0),
            policy=Policy(0.6, 0.3, 1),
            recorder=self.spool,
            explainer=self.explainer,
            meter=self.meter,
            faults=faults,
            clock=lambda: NOON,
            budget=UNLIMITED,
            capacity=1_000,
            **shared,
        )

    async def close(self) -> None:
        self.explainer.close()
        self.spool.close()
        await self.store.close()


@pytest.fixture
async def workers(redis_url: str, tmp_path: Path) -> AsyncIterator[list[Worker]]:
    """Two workers whose models differ: a decision made twice would show."""
    with redis.Redis.from_url(redis_url) as client:
        fill_online_store(client)
    for version in (1, 2):
        publish_small_model(tmp_path, version=version, seed=version)
    workers = [Worker(tmp_path, redis_url, f"w{version}", version) for version in (1, 2)]
    for worker in workers:
        await worker.store.open()
    yield workers
    for worker in workers:
        await worker.close()


async def test_a_payment_that_reaches_two_workers_many_times_at_once_is_decided_and_counted_once(
    workers: list[Worker], redis_url: str, tmp_path: Path
) -> None:
    for n in range(5):
        payload = body(transaction_id=f"t-{n}")
        answers = await asyncio.gather(*(worker.engine.decide(payload, "default") for worker in workers * 10))
        assert {answer.status for answer in answers} == {200}
        assert len({answer.body for answer in answers}) == 1
    records = list(read_spool(tmp_path, datetime(2026, 11, 23, tzinfo=UTC).date()))
    assert len({record.decision_id for record in records}) == 5
    with redis.Redis.from_url(redis_url) as client:
        assert client.zcard("fraud:velocity:{user:u-1}") == 5
    last = next(record for record in records if record.request.transaction_id == "t-4")
    assert last.values[CATALOGUE.names.index("user_txn_count_1h")] == 5
    assert [worker.meter.failures for worker in workers] == [{}, {}]


async def test_a_decision_is_explained_by_the_model_that_made_it_after_another_took_over(
    workers: list[Worker],
) -> None:
    first, second = workers
    await first.engine.decide(body(), "default")
    question = b'{"transaction_id": "t-1"}'
    then = json.loads((await first.engine.explain(question, "default")).body)
    now = json.loads((await second.engine.explain(question, "default")).body)
    what_if = json.loads((await second.engine.explain(body(transaction_id="t-2"), "default")).body)
    assert now == then
    assert (now["model_version"], what_if["model_version"]) == ("fraud-detector/1", "fraud-detector/2")
    assert now["contributions"] != what_if["contributions"]


class BrokenTrees:
    """A champion that cannot score."""

    def margins(self, vectors: Any) -> Any:
        raise RuntimeError("broken")


async def test_what_logistic_regression_decided_is_explained_by_it_also_by_another_worker(
    workers: list[Worker],
) -> None:
    first, second = workers
    assert first.engine.model is not None
    first.engine.model = replace(first.engine.model, compiled=BrokenTrees())
    decided = json.loads((await first.engine.decide(body(), "default")).body)
    assert decided["served_by"]["model"] == "logistic_regression"
    explained = json.loads((await second.engine.explain(b'{"transaction_id": "t-1"}', "default")).body)
    assert (explained["decided_by"], explained["score"]) == ("logistic_regression", decided["score"])
    assert explained["model_version"] == "fraud-detector/1"
    assert len(explained["contributions"]) == 5


async def test_a_decision_whose_model_file_was_replaced_is_not_explained_by_another(
    workers: list[Worker], tmp_path: Path
) -> None:
    first, second = workers
    await first.engine.decide(body(), "default")
    releases = tmp_path / "releases"
    (releases / "fraud-detector-1").rename(releases / "gone")
    publish_small_model(tmp_path, version=1, seed=99)
    answer = await second.engine.explain(b'{"transaction_id": "t-1"}', "default")
    assert (answer.status, json.loads(answer.body)["type"]) == (410, "urn:fraud-platform:problem:model-gone")


async def test_a_decision_stands_for_24_hours(workers: list[Worker], redis_url: str) -> None:
    await workers[0].engine.decide(body(), "default")
    with redis.Redis.from_url(redis_url) as client:
        assert 24 * 3600 - 5 <= client.ttl("fraud:decision:default:t-1") <= 24 * 3600
