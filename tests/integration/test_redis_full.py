"""A Redis that is full, or that forgets by itself: real servers, the real engine, nothing wrong counted or answered."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS
from redis_cluster_kit import Node, RedisCluster
from service_kit import USERS, fill_online_store

from fraud_platform.decision.breaker import CircuitBreaker
from fraud_platform.decision.engine import DecisionEngine
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.online import velocity
from fraud_platform.online.epochs import put_epoch, velocity_epoch
from fraud_platform.online.ladder import Ladder
from fraud_platform.online.recount import Recount
from fraud_platform.online.redis_memory import MemoryWatch
from fraud_platform.online.shards import connect_redis, in_slot, tags
from fraud_platform.online.store import OnlineStore
from fraud_platform.schema import Transaction
from tests.engine_kit import NOW, World, body
from tests.redis_kit import RedisServer, begin_redis

TINY = 8 * 1024**2


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with begin_redis(tmp_path, maxmemory=TINY) as server:
        fill_online_store(server.client)
        yield server


@dataclass
class Worker:
    """A store, and an engine on it whose model and log are in memory."""

    store: OnlineStore
    world: World
    engine: DecisionEngine

    async def decide(self, transaction_id: str, user: str) -> dict[str, Any]:
        answer = await self.engine.decide(body(transaction_id=transaction_id, user_id=user), "shop")
        assert answer.status == 200
        told: dict[str, Any] = msgspec.json.decode(answer.body)
        return told


@pytest.fixture
async def worker(server: RedisServer, tmp_path: Path) -> AsyncIterator[Worker]:
    store = OnlineStore(server.url, ttl_days=3, recount=Recount(tmp_path / "recount"), clock=lambda: NOW)
    world = World(tmp_path, redis=store)  # type: ignore[arg-type]
    world.features = Ladder(store, CircuitBreaker("redis", time.monotonic), lambda _, __: None)  # type: ignore[assignment]
    await store.open()
    yield Worker(store, world, world.engine())
    await store.close()


def fill_up(client: redis.Redis) -> None:
    """Take all the memory that there is."""
    number = 0
    for size in (8_192, 512, 0):
        while write(client, f"filler-{number}", b"x" * size):
            number += 1
            assert number < 100_000


def write(client: redis.Redis, key: str, value: bytes) -> bool:
    """False where there is no room for it."""
    try:
        client.set(key, value)
    except redis.OutOfMemoryError:
        return False
    return True


def give_back(client: redis.Redis) -> None:
    """And give it back."""
    for key in client.scan_iter("filler-*"):
        client.delete(key)


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def payment(transaction_id: str, user: str) -> Transaction:
    return Transaction(
        transaction_id=transaction_id, user_id=user, merchant_id="m-1", amount=100, event_time=NOW, received_at=NOW,
        country="DE", user_country=None, merchant_category=None, channel=None, device_key=None, latitude=None,
        longitude=None, clock_skew=False,
    )  # fmt: skip


def counted(client: redis.Redis, user: str) -> int:
    return int(client.zcard(velocity.set_key("user", user)))


async def test_payments_are_decided_without_a_full_redis_and_each_is_counted_once_it_has_room(
    server: RedisServer, worker: Worker
) -> None:
    assert (await worker.decide("before", USERS[0]))["served_by"]["user_features"] == "redis"
    fill_up(server.client)
    names = [f"full-{number}" for number in range(30)]
    for name in names:
        assert (await worker.decide(name, USERS[1]))["served_by"]["user_features"] == "default"
        await asyncio.sleep(0.01)
    assert counted(server.client, USERS[1]) == 0
    vectors = {record.request.transaction_id: record.values for record in worker.world.recorder.records}
    velocity_of = [CATALOGUE.names.index(feature.name) for feature in CATALOGUE.of("velocity")]
    assert all(np.isnan(vectors[name][velocity_of]).all() for name in names)
    give_back(server.client)
    await until(lambda: worker.store.connected)
    assert counted(server.client, USERS[1]) == len(names)
    assert velocity_epoch(server.client) == velocity.Epoch(epoch="test", complete_since=0)


async def test_what_nobody_waits_for_is_counted_too_once_there_is_room(server: RedisServer, worker: Worker) -> None:
    fill_up(server.client)
    worker.store.count_later(payment("posted", USERS[2]), caller="", claim=b"")
    await until(lambda: not worker.store.connected)
    give_back(server.client)
    await until(lambda: worker.store.connected)
    assert counted(server.client, USERS[2]) == 1


def test_a_redis_that_forgets_by_itself_begins_a_new_epoch_each_time(tmp_path: Path) -> None:
    with begin_redis(tmp_path, **{"maxmemory": TINY, "maxmemory-policy": "allkeys-lru"}) as server:
        fill_online_store(server.client)
        now = [1_000_000_000]
        watch = MemoryWatch(server.url, clock=lambda: now[0])
        (warning,) = watch.look()
        assert warning.endswith("forgets by itself (maxmemory-policy allkeys-lru): set noeviction")
        assert velocity_epoch(server.client) == velocity.Epoch(epoch="test", complete_since=0)
        for number in range(3_000):
            server.client.set(f"filler-{number}", b"x" * 8_192)
        assert server.client.info("stats")["evicted_keys"] > 0
        give_back(server.client)
        put_epoch(server.client, velocity.Epoch(epoch="test", complete_since=0))
        watch.look()
        first = velocity_epoch(server.client)
        assert first is not None
        assert (first.epoch == "test", first.complete_since) == (False, velocity.complete_after(now[0]))
        # no more was forgotten since, and another worker knows that too
        MemoryWatch(server.url, clock=lambda: now[0]).look()
        assert velocity_epoch(server.client) == first
        for number in range(3_000):
            server.client.set(f"filler-{number}", b"x" * 8_192)
        give_back(server.client)
        put_epoch(server.client, first)
        now[0] += 1_000_000
        watch.look()
        assert velocity_epoch(server.client).complete_since == velocity.complete_after(now[0])
        watch.close()


def test_a_master_that_forgets_takes_the_epochs_of_its_own_slots_alone(tmp_path: Path) -> None:
    cluster = RedisCluster(tmp_path / "cluster", replicas=False)
    try:
        with connect_redis(cluster.url) as client:
            fill_online_store(client)
            lossy, *others = cluster.masters
            lossy.client.config_set("maxmemory-policy", "volatile-lru")
            lossy.client.config_set("maxmemory", lossy.client.info("memory")["used_memory"] + 1_000_000)
            for number in range(1_500):
                key = b"filler-%d:{%s}" % (number, tags()[0])
                lossy.client.set(key, b"x" * 4_096, ex=3_600)
            watch = MemoryWatch(cluster.url, clock=lambda: 5)
            assert len(watch.look()) == 3, "one evicts, two have no bound"
            watch.close()
            epochs = [
                {master.client.get(in_slot(velocity.epoch_key(), each)) for each in slots_of(cluster, master)}
                for master in (lossy, *others)
            ]
            assert [len(each) for each in epochs] == [1, 1, 1]
            since = [msgspec.json.decode(each.pop(), type=velocity.Epoch).complete_since for each in epochs]
            assert since == [velocity.complete_after(5), 0, 0]
    finally:
        cluster.end()


def slots_of(cluster: RedisCluster, master: Node) -> range:
    number = cluster.masters.index(master)
    return range(REDIS_CLUSTER_HASH_SLOTS * number // 3, REDIS_CLUSTER_HASH_SLOTS * (number + 1) // 3)


def test_a_redis_without_a_bound_is_told_of(redis_url: str, tmp_path: Path) -> None:
    with begin_redis(tmp_path, maxmemory=0) as server:
        watch = MemoryWatch(server.url, clock=lambda: 0)
        (warning,) = watch.look()
        assert warning == f"Redis at 127.0.0.1:{server.port} has no maxmemory: set one below what the machine has"
        watch.close()
