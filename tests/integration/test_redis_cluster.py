"""The online store on a real Redis Cluster: the same answers as one server gives, while slots move and masters die."""

import asyncio
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import redis
from feast_snapshots import bits, snapshot, write_snapshots
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis_cluster_kit import RedisCluster, until
from service_kit import USERS, fill_online_store
from test_feast_store import COUNT, DAY, entity_id
from test_replay import planted_day
from test_store_faults import HOUR_COUNT, payment

from feature_repo import store as feast_store
from fraud_platform.decision.breaker import CircuitBreaker
from fraud_platform.lake import Lake, open_lake
from fraud_platform.online import layout, velocity
from fraud_platform.online.embedded_redis import RedisUnavailableError, ensure_redis
from fraud_platform.online.epochs import velocity_epoch
from fraud_platform.online.ladder import REDIS, Ladder
from fraud_platform.online.packed import PROJECT, VIEWS
from fraud_platform.online.recount import Recount
from fraud_platform.online.shards import connect_redis, seed_urls, tags
from fraud_platform.online.snapshot_load import load_snapshot_direct, load_snapshot_feast
from fraud_platform.online.store import OnlineFeatures, OnlineStore
from fraud_platform.replay import replay_day
from fraud_platform.settings import Settings
from tests.feature_worlds import TODAY, write_world

BODY = b"0123456789abcdef"
CLAIM_OF_BODY = b"claim:" + BODY
DAY_US = 86_400_000_000
DEADLINE = 0.25
"""Generous: what is tested is what the answers are, on a machine with six servers more than it has cores for."""


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three masters that no test breaks."""
    cluster = RedisCluster(tmp_path_factory.mktemp("cluster"), replicas=False)
    yield cluster
    cluster.end()


@pytest.fixture
def cluster(shared_cluster: RedisCluster) -> RedisCluster:
    for master in shared_cluster.masters:
        master.client.flushall()
    return shared_cluster


@pytest.fixture
def breakable(tmp_path: Path) -> Iterator[RedisCluster]:
    cluster = RedisCluster(tmp_path / "cluster", replicas=True)
    with connect_redis(cluster.url) as client:
        fill_online_store(client)
    yield cluster
    cluster.end()


def test_slots_are_those_of_the_specification() -> None:
    assert key_slot(b"123456789") == 0x31C3
    assert key_slot(b"a{user:1}b") == key_slot(b"{user:1}") == key_slot(b"user:1")
    assert [key_slot(b"x{%s}" % tag) for tag in tags()] == list(range(REDIS_CLUSTER_HASH_SLOTS))


def test_an_address_names_nodes_login_and_transport() -> None:
    assert seed_urls("rediss-cluster://me:secret@a:1?node=b:2&node=c:3") == [
        "rediss://me:secret@a:1", "rediss://me:secret@b:2", "rediss://me:secret@c:3"
    ]  # fmt: skip
    with pytest.raises(ValueError, match="number 0"):
        seed_urls("redis-cluster://a:1/2")
    assert feast_store.connection_string("redis-cluster://u:7@a:1?node=b:2") == 'a:1,b:2,username="u",password="7"'


ATTEMPTS = st.lists(
    st.tuples(
        st.sampled_from(["t-1", "t-2", "t-3"]),
        st.sampled_from(USERS),
        st.sampled_from(["body", ""]),
        st.booleans(),
        st.integers(0, 3_000_000) | st.sampled_from([DAY_US, DAY_US + 1, -DAY_US]),
        st.sampled_from(["read", "count", "settle"]),
    ),
    max_size=12,
)


def test_a_cluster_answers_as_one_server_does(cluster: RedisCluster, redis_url: str) -> None:
    urls = (cluster.url, redis_url)
    for url in urls:
        with connect_redis(url) as client:
            fill_online_store(client)
    now, number = time.time_ns() // 1_000, iter(range(1_000_000))

    async def answers(url: str, attempts: list[Any], example: int) -> list[Any]:
        store = OnlineStore(url, ttl_days=3, deadline=5.0)
        await store.open()
        found: list[Any] = []
        attempted = set()
        for transaction, user, body, write, after, what in attempts:
            transaction_id, at = f"{transaction}-{example}", now + after
            # another user's payment is another body, and a decision follows an attempt of its own body
            content = f"{body} of {user} in {transaction_id}".encode()
            claim = b"claim:" + content if body else b""
            what = "read" if what == "settle" and (transaction_id, content) not in attempted else what
            if write or what == "count":
                attempted.add((transaction_id, content))
            paid = msgspec.structs.replace(
                payment(transaction_id), user_id=f"{user}-{example}", merchant_id=f"m-{example}",
                event_time=at, received_at=at,
            )  # fmt: skip
            if what == "settle":
                found.append(await store.settle("c", transaction_id, b"record of " + content))
            elif what == "count":
                before = asyncio.all_tasks()
                store.count_later(paid, caller="c", claim=claim)
                # one server's commands go out in order; a Cluster's, which nobody awaits, would mix with the next ones
                await asyncio.gather(*(asyncio.all_tasks() - before))
            else:
                read = await store.read(paid, caller="c", write=write, claim=claim)
                found.append(msgspec.structs.asdict(read))
            found.append(await store.find("c", transaction_id))
        await store.close()
        return found

    @settings(max_examples=60, deadline=None, phases=(Phase.generate,))
    @given(ATTEMPTS)
    def compare(attempts: list[Any]) -> None:
        example = next(number)
        np.testing.assert_equal(*(asyncio.run(answers(url, attempts, example)) for url in urls))

    compare()


def test_feast_writes_and_reads_the_cluster(cluster: RedisCluster, tmp_path: Path) -> None:
    current = Settings(home=tmp_path / "home", redis_url=cluster.url)
    lake = open_lake(current)
    write_snapshots(lake, DAY, COUNT)
    for view in VIEWS:
        load_snapshot_feast(current, lake, view, DAY, now=lambda: time.time_ns() // 1_000)
    assert all(master.client.dbsize() > COUNT / 4 for master in cluster.masters), "every master has its share"
    store = feast_store.open_store(current)
    for view in VIEWS:
        rows = [{view.join_key: entity_id(view, number)} for number in range(COUNT)]
        features = [f"{view.entity}_features:{name}" for name in view.names]
        found = store.get_online_features(features=features, entity_rows=rows).to_dict()
        for name in view.names:
            assert bits(found[name]) == bits(snapshot(view, DAY, COUNT)[name].to_pylist()), name
    # going back deletes what is newer on every master
    write_snapshots(lake, DAY - timedelta(days=1), COUNT // 2)
    for view in VIEWS:
        load_snapshot_feast(current, lake, view, DAY - timedelta(days=1), now=lambda: 1, force=True)
    assert sum(master.client.dbsize() for master in cluster.masters) == 2 * (COUNT // 2) + len(VIEWS)


def test_a_day_replayed_on_a_cluster_shows_no_difference(cluster: RedisCluster, tmp_path: Path) -> None:
    current = Settings(home=tmp_path)
    lake = Lake(current.lake)
    write_world(current, lake, planted_day(), [])
    report = replay_day(current, lake, TODAY, cluster.url)
    assert report.rows > 50
    assert report.differences == 0, (report.differing, report.examples)
    assert not any(master.client.dbsize() for master in cluster.masters), "and nothing is left behind"


async def test_a_master_that_lost_its_data_takes_its_own_users_velocity_with_it(cluster: RedisCluster) -> None:
    with connect_redis(cluster.url) as client:
        fill_online_store(client)
        assert velocity_epoch(client) is not None
        lost = cluster.masters[0]
        lost.client.flushall()
        assert velocity_epoch(client) is None
        store = OnlineStore(cluster.url, ttl_days=3, deadline=DEADLINE)
        await store.open()
        try:
            known = {}
            for number in range(40):
                user = f"user-{number}"
                paid = msgspec.structs.replace(payment(f"t-{number}"), user_id=user, merchant_id=user)
                found = await store.read(paid, caller="c", claim=b"claim:x")
                slots = {key_slot(velocity.set_key(entity, user)) for entity in velocity.ENTITIES}
                known[number] = bool(np.isfinite(found.velocity).all())
                assert known[number] == (min(slots) >= REDIS_CLUSTER_HASH_SLOTS // 3), "master 0 has the first third"
            assert {True, False} == set(known.values())
        finally:
            await store.close()


class Traffic:
    """Payments of one user at a steady rate, through the ladder as the service has it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.store = OnlineStore(url, ttl_days=3, deadline=DEADLINE, recount=Recount(folder))
        self.answers: list[OnlineFeatures] = []
        self.faults: list[str] = []
        breaker = CircuitBreaker("redis", time.monotonic, pause=0.1)
        self.ladder = Ladder(self.store, breaker, lambda _, error: self.faults.append(str(error)))
        self._stop = False
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        await self.store.open()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while not self._stop:
            paid = payment(f"t-{len(self.answers)}")
            self.answers.append(await self.ladder.read(paid, caller="c", write=True, claim=CLAIM_OF_BODY))
            await asyncio.sleep(0.005)

    async def end(self) -> None:
        self._stop = True
        assert self._task is not None
        await self._task

    @property
    def served(self) -> set[str]:
        return {answer.served_by["user_features"] for answer in self.answers}

    async def until_counted(self) -> float:
        """Attempts that velocity knows once the store has caught up."""
        deadline = time.monotonic() + 20
        while not self.store.connected:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        looked = await self.store.read(payment("looking"), caller="c", write=False)
        return float(looked.velocity[HOUR_COUNT]) - 1


async def test_a_resharding_under_load_loses_no_answer_and_no_count(breakable: RedisCluster, tmp_path: Path) -> None:
    newcomer = await asyncio.to_thread(breakable.add_master)
    traffic = Traffic(breakable.url, tmp_path / "recount")
    await traffic.begin()
    user_slot = key_slot(velocity.set_key("user", USERS[0]))
    merchant_slot = key_slot(velocity.set_key("merchant", "m-1"))
    bounds = [REDIS_CLUSTER_HASH_SLOTS * n // 3 for n in range(4)]
    for number, source in enumerate(breakable.masters[:3]):
        own = range(bounds[number], bounds[number + 1])
        moved = [s for s in (user_slot, merchant_slot) if s in own]
        moved += [s for s in own[:: len(own) // 40] if s not in moved]
        await asyncio.to_thread(breakable.move, moved, source, newcomer, 0.02)
    await asyncio.sleep(0.3)
    await traffic.end()
    assert len(traffic.answers) > 50
    degraded = sum(answer.served_by["user_features"] != REDIS for answer in traffic.answers)
    assert degraded <= len(traffic.answers) * 0.02, traffic.faults
    assert await traffic.until_counted() == len(traffic.answers)
    assert newcomer.client.exists(velocity.set_key("user", USERS[0])), "its set has moved meanwhile"
    await traffic.store.close()


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_a_failover_under_load_loses_no_answer_and_no_count(
    breakable: RedisCluster, tmp_path: Path, how: str
) -> None:
    traffic = Traffic(breakable.url, tmp_path / "recount")
    await traffic.begin()
    await asyncio.sleep(0.5)
    user_slot = key_slot(velocity.set_key("user", USERS[0]))
    number = min(user_slot * 3 // REDIS_CLUSTER_HASH_SLOTS, 2)
    victim, heir = breakable.masters[number], breakable.replicas[number]
    if how == "killed":
        victim.kill()
    else:
        victim.process.send_signal(signal.SIGSTOP)
    await asyncio.to_thread(
        until, lambda: heir.client.info("replication")["role"] == "master", "the replica's promotion"
    )
    promoted = len(traffic.answers)
    deadline = time.monotonic() + 20
    while not traffic.store.connected:
        assert time.monotonic() < deadline, traffic.faults[-1]
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    await traffic.end()
    assert len(traffic.answers) > promoted
    assert traffic.served == {REDIS, "default"}, "answered without Redis meanwhile, and with it again"
    assert traffic.answers[-1].served_by["user_features"] == REDIS
    assert await traffic.until_counted() == len(traffic.answers)
    if how == "paused":
        victim.process.send_signal(signal.SIGCONT)
        until(lambda: victim.client.info("replication")["role"] == "slave", "the old master's return as a replica")
        assert await traffic.until_counted() == len(traffic.answers)
    await traffic.store.close()


def test_a_load_while_slots_move_writes_every_row(breakable: RedisCluster, tmp_path: Path) -> None:
    newcomer = breakable.add_master()
    current = Settings(home=tmp_path / "home", redis_url=breakable.url)
    lake = open_lake(current)
    write_snapshots(lake, DAY, COUNT)
    view = VIEWS[0]
    with connect_redis(breakable.url) as client:
        for number in range(0, COUNT, 7):
            key = layout.entity_key(PROJECT, view.join_key, entity_id(view, number))
            source = breakable.masters[min(key_slot(key) * 3 // REDIS_CLUSTER_HASH_SLOTS, 2)]
            # the client's map is older than this move
            breakable.move([key_slot(key)], source, newcomer)
        record = load_snapshot_direct(client, lake, view, DAY, now=lambda: 1, ttl_seconds=60, force=True)
    assert record.rows == COUNT
    stored = sum(len(list(each.client.scan_iter(_type="HASH"))) for each in breakable.masters)
    assert stored == COUNT + 1, "the merchant of before, while newer users were deleted"


def test_a_cluster_that_is_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(redis.RedisError):
        connect_redis("redis-cluster://127.0.0.1:1")
    with pytest.raises(RedisUnavailableError, match=r"127\.0\.0\.1:1"):
        ensure_redis(Settings(home=tmp_path, redis_url="redis-cluster://me:secret@127.0.0.1:1"))
