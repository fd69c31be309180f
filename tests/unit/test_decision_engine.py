"""The engine's promises, on doubles: one decision per payment, records before answers, no error that escapes."""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from fraud_platform.currency import Rates
from fraud_platform.decision.engine import DecisionEngine
from fraud_platform.decision.explain import Explainer
from fraud_platform.decision.identity import Decisions
from fraud_platform.decision.policy import Policy
from fraud_platform.decision.serving_model import ServingModel
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.inference_log.record import DecisionRecord, decode_record
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


def body(**changes: Any) -> bytes:
    return json.dumps({**PAYMENT, **changes}).encode()


class MemoryRedis:
    """The two commands that identity uses."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    async def get(self, key: str) -> bytes | None:
        await asyncio.sleep(0)
        return self.values.get(key)

    async def set(self, key: str, value: bytes, *, nx: bool, ex: int) -> bool | None:
        assert nx
        assert ex == 24 * 3600
        await asyncio.sleep(0)
        if key in self.values:
            return None
        self.values[key] = value
        return True


@dataclass
class MemoryStore:
    """Counts attempts as velocity does; an entity nobody knows."""

    seen: set[tuple[str, str]] = field(default_factory=set)
    reads: list[bool] = field(default_factory=list)
    failing: bool = False
    source: str = "redis"

    async def read(self, payment: Transaction, *, caller: str, write: bool) -> Any:
        self.reads.append(write)
        if self.failing:
            raise ConnectionError("redis://secret@host is gone")
        identity = (caller, payment.transaction_id)
        duplicate = identity in self.seen
        if write:
            self.seen.add(identity)
        await asyncio.sleep(0)
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
            duplicate=duplicate,
            served_by={"user_features": self.source, "merchant_features": "redis"},
        )


@dataclass
class FixedScorer:
    """Scores what it is told and remembers what it saw."""

    value: float
    vectors: list[Any] = field(default_factory=list)

    def score(self, vectors: Any) -> Any:
        self.vectors.append(vectors.copy())
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

    def decided(self, record: DecisionRecord, repeated: bool) -> None:
        self.decisions[record.decision, repeated] += 1

    def failed(self, stage: str) -> None:
        self.failures[stage] += 1


def model(score: float, version: str = "fraud-detector/7") -> Any:
    return ServingModel(version, "f" * 64, FixedScorer(score), Policy(0.7, 0.4, 3), {})  # type: ignore[arg-type]


@dataclass
class World:
    """Everything around an engine, and further engines on the same Redis as other workers have."""

    home: Path
    redis: MemoryRedis = field(default_factory=MemoryRedis)
    store: MemoryStore = field(default_factory=MemoryStore)
    recorder: MemoryRecorder = field(default_factory=MemoryRecorder)
    meter: CountingMeter = field(default_factory=CountingMeter)
    now: int = NOW
    explainers: list[Explainer] = field(default_factory=list)

    def engine(self, score: float = 0.1) -> DecisionEngine:
        shared: dict[str, Any] = {
            "store": self.store,
            "decisions": Decisions(self.redis),  # type: ignore[arg-type]
            "rates": lambda: Rates("EUR", {}),
            "base_currency": "EUR",
        }
        explainer = Explainer(home=self.home, search_days=3, **shared)
        self.explainers.append(explainer)
        return DecisionEngine(
            model=model(score),
            recorder=self.recorder,
            explainer=explainer,
            meter=self.meter,
            clock=lambda: self.now,
            **shared,
        )


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    for explainer in world.explainers:
        explainer.close()


async def test_the_answer_is_the_contract_to_the_letter(world: World) -> None:
    answer = await world.engine(0.0312254321).decide(body(), "default")
    assert (answer.status, answer.content_type) == (200, b"application/json")
    assert json.loads(answer.body) == {
        "transaction_id": "t-1",
        "score": 0.031225,
        "decision": "allow",
        "reason": "score_below_threshold",
        "threshold": 0.7,
        "model_version": "fraud-detector/7",
        "policy_version": 3,
        "served_by": {"user_features": "redis", "merchant_features": "redis", "model": "champion"},
        "degraded": False,
    }


async def test_the_decision_is_made_on_the_unrounded_score(world: World) -> None:
    answer = json.loads((await world.engine(0.7000000001).decide(body(), "default")).body)
    assert (answer["score"], answer["decision"], answer["reason"]) == (0.7, "block", "score_above_threshold")


async def test_defaults_instead_of_redis_are_marked_as_degraded(world: World) -> None:
    world.store.source = "default"
    answer = json.loads((await world.engine().decide(body(), "default")).body)
    assert answer["degraded"] is True
    assert answer["served_by"]["user_features"] == "default"


async def test_the_record_holds_the_scored_vector_and_where_it_came_from(world: World) -> None:
    engine = world.engine(0.25)
    await engine.decide(body(), "default")
    (record,) = world.recorder.records
    scored = engine.model.scorer.vectors[0][0]  # type: ignore[attr-defined]
    assert record.values.tobytes() == scored.tobytes()
    assert np.isnan(record.values).any()
    assert (record.score, record.amount, record.received_at) == (0.25, 4250, NOW)
    assert (record.user_effective_time, record.merchant_effective_time) == (NOW, NOW + 7)
    assert (record.user_snapshot, record.merchant_snapshot) == ("2026-11-22", None)
    assert (record.epoch, record.complete_since) == ("e-1", 5)
    assert (record.model_version, record.scorer_hash, record.policy_version) == ("fraud-detector/7", "f" * 64, 3)
    assert (record.catalogue_hash, record.caller) == (CATALOGUE.hash, "default")


async def test_the_same_body_again_gets_the_same_bytes_even_from_another_model(world: World) -> None:
    first = await world.engine(0.1).decide(body(), "default")
    world.now += 3_600_000_000
    again = await world.engine(0.9).decide(body(amount=42.50, timestamp="2026-11-23T13:00:00+01:00"), "default")
    assert again == first
    assert world.store.reads == [True]
    assert world.meter.decisions == {("allow", False): 1, ("allow", True): 1}


async def test_a_repeat_is_recorded_as_the_decision_it_repeats(world: World) -> None:
    engine = world.engine()
    for _ in range(2):
        await engine.decide(body(), "default")
    assert len({record.decision_id for record in world.recorder.records}) == 1


async def test_another_body_under_the_same_id_is_a_conflict(world: World) -> None:
    engine = world.engine()
    await engine.decide(body(), "default")
    answer = await engine.decide(body(amount=43), "default")
    assert (answer.status, answer.content_type) == (409, b"application/problem+json")
    assert json.loads(answer.body)["field"] == "transaction_id"
    assert len(world.recorder.records) == 1


async def test_two_callers_do_not_share_an_id(world: World) -> None:
    engine = world.engine()
    first = await engine.decide(body(), "acquirer")
    second = await engine.decide(body(amount=43), "issuer")
    assert (first.status, second.status) == (200, 200)


async def test_a_payment_that_comes_many_times_at_once_is_decided_once(world: World) -> None:
    engines = [world.engine(score) for score in (0.1, 0.5, 0.9)]
    answers = await asyncio.gather(*(engine.decide(body(), "default") for engine in engines * 5))
    assert len({answer.body for answer in answers}) == 1
    assert len({record.decision_id for record in world.recorder.records}) == 1
    assert sum(count for (_, repeated), count in world.meter.decisions.items() if not repeated) == 1


async def test_two_bodies_under_one_id_at_once_give_one_decision_and_conflicts(world: World) -> None:
    engine = world.engine()
    answers = await asyncio.gather(*(engine.decide(body(amount=n), "default") for n in (1, 2, 1, 2, 1)))
    winner = next(json.loads(a.body) for a in answers if a.status == 200)
    assert Counter(answer.status for answer in answers) in ({200: 3, 409: 2}, {200: 2, 409: 3})
    assert winner["transaction_id"] == "t-1"


async def test_a_payment_whose_first_worker_died_before_deciding_is_decided(world: World) -> None:
    world.store.seen.add(("default", "t-1"))
    assert (await world.engine().decide(body(), "default")).status == 200


async def test_a_full_disk_is_counted_and_does_not_stop_payments(world: World) -> None:
    world.recorder.full = True
    assert (await world.engine().decide(body(), "default")).status == 200
    assert world.meter.failures == {"record": 1}


async def test_an_unexpected_error_is_a_503_that_tells_nothing_and_is_logged_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.store.failing = True
    engine = world.engine()
    with caplog.at_level(logging.ERROR):
        answers = [await engine.decide(body(transaction_id=str(n)), "default") for n in range(50)]
    assert {answer.status for answer in answers} == {503}
    assert b"secret" not in answers[0].body
    assert json.loads(answers[0].body)["type"].endswith("unavailable")
    assert world.meter.failures == {"predict": 50}
    assert len([r for r in caplog.records if r.name == "fraud_platform.decision"]) == 1
    world.now += 61_000_000
    await engine.decide(body(), "default")
    assert "49 more" in caplog.text


@pytest.mark.parametrize(
    ("payload", "status", "named"),
    [
        (b"{", 400, None),
        (b"[]", 422, None),
        (body(country="ZZ"), 422, "country"),
        (body(currency="USD"), 422, "currency"),
    ],
)
async def test_a_wrong_body_is_a_problem_that_names_the_field(
    world: World, payload: bytes, status: int, named: str | None
) -> None:
    answer = await world.engine().decide(payload, "default")
    problem = json.loads(answer.body)
    assert (answer.status, problem["status"], problem.get("field")) == (status, status, named)
    assert {"type", "title", "detail"} <= problem.keys()
    assert world.store.reads == []


async def test_an_explanation_names_the_five_largest_contributions_with_their_values(world: World) -> None:
    engine = world.engine(0.25)
    await engine.decide(body(), "default")
    answer = json.loads((await engine.explain(b'{"transaction_id": "t-1", "note": 1}', "default")).body)
    assert answer["basis"] == "recorded"
    assert (answer["score"], answer["margin"], answer["base_value"], answer["units"]) == (0.25, -2.59, -2.0, "log-odds")
    names = [CATALOGUE.names[index] for index in (38, 49, 5, 1, 0)]
    assert [each["feature"] for each in answer["contributions"]] == names
    assert [each["contribution"] for each in answer["contributions"]] == [-3, 2, 0.5, -0.2, 0.1]
    assert answer["contributions"][0]["value"] == 4250
    assert answer["contributions"][1]["value"] is None
    assert answer["contributions"][0]["meaning"] == CATALOGUE.features[38].meaning


async def test_a_recorded_explanation_is_of_the_very_vector_that_was_scored(world: World) -> None:
    engine = world.engine(0.25)
    await engine.decide(body(), "default")
    await engine.explain(b'{"transaction_id": "t-1"}', "default")
    scored, explained = engine.model.scorer.vectors  # type: ignore[attr-defined]
    assert explained.tobytes() == scored[0].tobytes()


async def test_a_what_if_writes_nothing_anywhere(world: World) -> None:
    engine = world.engine(0.8)
    answer = json.loads((await engine.explain(body(), "default")).body)
    assert (answer["basis"], answer["decision"]) == ("what_if", "block")
    assert world.store.reads == [False]
    assert world.redis.values == {}
    assert world.recorder.records == []


async def test_a_decision_of_another_caller_or_of_nobody_is_unknown(world: World) -> None:
    engine = world.engine()
    await engine.decide(body(), "acquirer")
    for transaction_id in ("t-1", "t-2"):
        answer = await engine.explain(msgspec.json.encode({"transaction_id": transaction_id}), "issuer")
        assert answer.status == 404
