"""A champion on fifty features and a challenger on fifty-one, side by side on the same payments: one worker reads what
both need in one wave, and each model sees its own columns. Real Redis, the real online store."""

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from service_kit import FEATURE_VALUE, MERCHANTS, USERS, fill_online_store, load_view, publish_small_model, small_model
from test_service_identity import NOON, Worker, body

from fraud_platform.decision.arms import Challenger
from fraud_platform.decision.serving_model import ServingModel, load_model
from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.inference_log.record import DecisionRecord
from fraud_platform.inference_log.spool import read_spool
from fraud_platform.model.bundle import Bundle, BundleError
from fraud_platform.online.packed import packed_view, views_of

DAY = datetime.fromtimestamp(NOON / 1e6, UTC).date()
NEW = replace(CATALOGUE.features[CATALOGUE.position["user_merchants_30d"]], name="user_merchants_7d", window="7d")
AT = len(CATALOGUE.of("user"))
FIFTY_ONE = Catalogue((*CATALOGUE.of("user"), NEW, *CATALOGUE.features[AT:]))
NEW_VALUE = 33.0


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def load_both(client: redis.Redis) -> None:
    """Each version's platform loads its own views, one after the other."""
    fill_online_store(client)
    load_wider(client)


def load_wider(client: redis.Redis) -> None:
    load_view(client, packed_view("user", FIFTY_ONE), USERS, user_merchants_7d=NEW_VALUE)


@pytest.fixture
def home(tmp_path: Path, client: redis.Redis) -> Path:
    """A champion on fifty, and a challenger that decides by the fifty-first above all."""
    load_both(client)
    publish_small_model(tmp_path, version=1, seed=1)
    _, bundle = small_model(version=2, seed=2, deciding=NEW.name, catalogue=FIFTY_ONE)
    bundle.write(tmp_path / "releases" / bundle.name)
    return tmp_path


def records(home: Path) -> dict[str, DecisionRecord]:
    return {record.request.transaction_id: record for record in read_spool(home, DAY)}


async def decide(worker: Worker, names: list[str]) -> None:
    answers = await asyncio.gather(
        *(
            worker.engine.decide(body(transaction_id=name, user_id=USERS[n % 3], amount=10 + n), "default")
            for n, name in enumerate(names)
        )
    )
    assert {answer.status for answer in answers} == {200}


class Again:
    """Releases loaded anew, which give the score of a record's very vector."""

    def __init__(self, home: Path) -> None:
        self.models = {n: load_model(home / "releases" / f"fraud-detector-{n}", FIFTY_ONE) for n in (1, 2)}

    def differs(self, record: DecisionRecord, version: str, score: float | None) -> bool:
        """Whether a recorded score of a model, by its version, is not what it gives again."""
        assert record.catalogue_hash == FIFTY_ONE.hash
        return score != self.models[int(version.rpartition("/")[2])].probability(record.values)


async def test_both_models_score_each_payment_by_their_own_columns_through_loads_promotion_and_roll_back(
    home: Path, redis_url: str, client: redis.Redis
) -> None:
    worker = Worker(home, redis_url, "both", 1, FIFTY_ONE)
    await worker.store.open()
    champion = worker.engine.model
    challenger = load_model(home / "releases" / "fraud-detector-2", FIFTY_ONE)
    assert champion is not None
    loading, stop = [0], threading.Event()

    def load() -> None:
        while not stop.is_set():
            load_both(client)
            loading[0] += 1

    thread = threading.Thread(target=load)
    thread.start()
    try:
        stages: list[tuple[str, ServingModel, Challenger | None]] = [
            ("shadow", champion, Challenger(challenger, 0.0)),
            ("canary", champion, Challenger(challenger, 0.5)),
            ("promoted", challenger, None),
            ("rolled back", champion, Challenger(challenger, 0.0)),
            ("retired", champion, None),
        ]
        for stage, model, rival in stages:
            worker.engine.model, worker.engine.challenger = model, rival
            await decide(worker, [f"{stage}-{n}" for n in range(60)])
    finally:
        stop.set()
        thread.join()
        await worker.close()
    assert loading[0] > 1
    assert worker.meter.failures == {}

    found = records(home)
    assert len(found) == 5 * 60
    differences, again, alone = 0, Again(home), load_model(home / "releases" / "fraud-detector-1")
    for name, record in found.items():
        assert not record.degraded, name
        assert record.values[AT] == NEW_VALUE, name
        assert set(record.values[:AT].tolist()) == {FEATURE_VALUE}
        differences += again.differs(record, record.model_version, record.score)
        if record.other_version is not None:
            differences += again.differs(record, record.other_version, record.other_score)
        if record.model_version == "fraud-detector/1":
            differences += record.score != alone.probability(np.delete(record.values, AT))
    assert differences == 0
    arms = {record.arm for name, record in found.items() if name.startswith("canary")}
    assert arms == {"champion", "challenger"}
    assert all(record.other_score is not None for name, record in found.items() if name.startswith("shadow"))
    assert {record.model_version for name, record in found.items() if name.startswith("promoted")} == {
        "fraud-detector/2"
    }


async def test_a_service_of_each_set_decides_beside_the_other_on_one_redis(
    home: Path, redis_url: str, client: redis.Redis
) -> None:
    fifty, wider = Worker(home, redis_url, "fifty", 1), Worker(home, redis_url, "wider", 2, FIFTY_ONE)
    for worker in (fifty, wider):
        await worker.store.open()
    try:
        for n in range(20):
            (fill_online_store if n % 2 else load_wider)(client)
            await decide(fifty, [f"fifty-{n}"])
            await decide(wider, [f"wider-{n}"])
    finally:
        for worker in (fifty, wider):
            await worker.close()
    for name, record in records(home).items():
        assert not record.degraded, name
        width, of = (50, CATALOGUE) if name.startswith("fifty") else (51, FIFTY_ONE)
        assert (len(record.values), record.catalogue_hash) == (width, of.hash)
        assert set(record.values[:AT].tolist()) == {FEATURE_VALUE}


async def test_a_decision_is_explained_where_its_features_are_known_and_nowhere_else(
    home: Path, redis_url: str
) -> None:
    fifty, wider = Worker(home, redis_url, "fifty", 1), Worker(home, redis_url, "wider", 1, FIFTY_ONE)
    for worker in (fifty, wider):
        await worker.store.open()
    try:
        await decide(fifty, ["of-fifty"])
        await decide(wider, ["of-wider"])
        told = {
            (name, who): await worker.engine.explain(json.dumps({"transaction_id": name}).encode(), "default")
            for name in ("of-fifty", "of-wider")
            for who, worker in (("fifty", fifty), ("wider", wider))
        }
    finally:
        for worker in (fifty, wider):
            await worker.close()
    assert {asked: answer.status for asked, answer in told.items()} == {
        ("of-fifty", "fifty"): 200, ("of-fifty", "wider"): 200, ("of-wider", "wider"): 200, ("of-wider", "fifty"): 410,
    }  # fmt: skip
    assert told["of-fifty", "fifty"].body == told["of-fifty", "wider"].body
    assert FIFTY_ONE.hash in told["of-wider", "fifty"].body.decode()


async def test_without_its_views_the_wider_set_stands_on_its_defaults_and_the_fifty_go_on(
    home: Path, redis_url: str, client: redis.Redis
) -> None:
    user_view, _ = views_of(FIFTY_ONE)
    client.delete(f"fraud:snapshot:{user_view.name}")
    fifty, wider = Worker(home, redis_url, "fifty", 1), Worker(home, redis_url, "wider", 1, FIFTY_ONE)
    for worker in (fifty, wider):
        await worker.store.open()
    try:
        await decide(fifty, ["fifty"])
        await decide(wider, ["wider"])
    finally:
        for worker in (fifty, wider):
            await worker.close()
    found = records(home)
    assert not found["fifty"].degraded
    assert found["wider"].served_by.user_features == "default"
    assert found["wider"].served_by.merchant_features == "redis"


def test_a_service_of_fifty_refuses_the_wider_model_and_says_what_is_missing(home: Path) -> None:
    with pytest.raises(BundleError, match=r"not computed here \(\['user_merchants_7d'\]\)"):
        Bundle.load(home / "releases" / "fraud-detector-2")


def test_an_entity_s_row_holds_both_sets_and_costs_their_sum(home: Path, client: redis.Redis) -> None:
    keys = [key for key in client.scan_iter() if b"user_id" in key]
    assert len(keys) == len(USERS)
    both: Any = sum(client.memory_usage(key) for key in keys)
    client.flushall()
    fill_online_store(client)
    alone: Any = sum(client.memory_usage(key) for key in keys)
    assert 0 < both - alone < 1.2 * alone
    assert client.dbsize() >= len(USERS) + len(MERCHANTS)
