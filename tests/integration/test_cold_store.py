"""The cold store on a real PostgreSQL: what it serves equals Redis and Feast bit for bit, and it may come and go."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import psycopg
import pytest
from feast_snapshots import bits, snapshot, write_snapshots

from feature_repo import store as feast_store
from fraud_platform.decision.breaker import CircuitBreaker
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.features.catalogue import DAY as DAY_US
from fraud_platform.lake import Lake, open_lake
from fraud_platform.online.cold import ColdStore
from fraud_platform.online.cold_writer import cold_records, write_cold
from fraud_platform.online.embedded_postgres import ensure_postgres, postgres_address, postgres_pid, stop_postgres
from fraud_platform.online.ladder import Ladder
from fraud_platform.online.packed import PROJECT, USER_VECTOR, VIEWS, PackedView
from fraud_platform.online.sets import ServedSet
from fraud_platform.online.snapshot_load import load_cold, load_snapshot_direct, packed_snapshot
from fraud_platform.online.store import Counted, OnlineFeatures, OnlineStore
from fraud_platform.online.wire import StoreError
from fraud_platform.schema import Transaction
from fraud_platform.settings import Settings

DAY = date(2026, 3, 4)
BEFORE = DAY - timedelta(days=1)
COUNT = 60
LOADED_AT = 1_772_600_000_000_000
MEDIANS = {entity: np.full(len(CATALOGUE.of(entity)), 5.0, np.float32) for entity in ("user", "merchant")}


@dataclass
class Cold:
    """A lake with two snapshots and a PostgreSQL with the later one, loaded through Feast."""

    settings: Settings
    lake: Lake
    redis_url: str


@pytest.fixture(scope="module")
def cold(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cold]:
    settings = Settings(home=tmp_path_factory.mktemp("cold") / "home", redis_url=redis_server)
    lake = open_lake(settings)
    write_snapshots(lake, BEFORE, COUNT)
    write_snapshots(lake, DAY, COUNT, first=10)
    try:
        for day in (BEFORE, DAY):
            for view in VIEWS:
                load_cold(settings, lake, view, day, now=lambda: LOADED_AT)
        yield Cold(settings, lake, redis_server)
    finally:
        stop_postgres(settings)


@pytest.fixture
async def reader(cold: Cold) -> AsyncIterator[ColdStore]:
    ensure_postgres(cold.settings)
    store = make_reader(cold.settings)
    await store.open()
    await connected(store)
    yield store
    await store.close()


def make_reader(settings: Settings, now: Callable[[], int] = lambda: LOADED_AT) -> ColdStore:
    return ColdStore(lambda: postgres_address(settings), ttl_days=10, default_medians=MEDIANS, clock=now, deadline=2.0)


async def connected(store: ColdStore, wanted: bool = True) -> None:
    deadline = time.monotonic() + 20
    while store.connected is not wanted:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def payment(user: int, merchant: int, transaction_id: str = "t") -> Transaction:
    return Transaction(
        transaction_id=transaction_id, user_id=f"user-{user}é", merchant_id=f"merchant-{merchant}é", amount=100,
        event_time=LOADED_AT, received_at=LOADED_AT,
    )  # fmt: skip


def same(first: Any, second: Any) -> bool:
    """Whether two rows have the same bits, or are both missing."""
    if first is None or second is None:
        return first is second
    return np.asarray(first).view(np.uint32).tolist() == np.asarray(second).view(np.uint32).tolist()


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_feast_reads_named_values_from_postgres_bit_for_bit(cold: Cold, view: PackedView) -> None:
    store = feast_store.open_store(cold.settings, cold=True)
    rows = [{view.join_key: f"{view.entity}-{number}é"} for number in range(10, 10 + COUNT)]
    names = [f"{view.entity}_features:{name}" for name in view.names]
    found = store.get_online_features(features=names, entity_rows=rows).to_dict()
    expected = snapshot(view, DAY, COUNT, first=10)
    for name in view.names:
        assert bits(found[name]) == bits(expected[name].to_pylist()), name
    if view.extras:
        extras = [name for name, _ in view.extras]
        found = store.get_online_features(features=[f"{view.name}:{n}" for n in extras], entity_rows=rows).to_dict()
        for name in extras:
            assert found[name] == expected[name].to_pylist()


async def test_it_serves_what_redis_serves_for_the_same_snapshot(cold: Cold, reader: ColdStore, redis_url: str) -> None:
    import redis

    with redis.Redis.from_url(redis_url) as client:
        for view in VIEWS:
            load_snapshot_direct(client, cold.lake, view, DAY, now=lambda: LOADED_AT, ttl_seconds=600)
    hot = OnlineStore(redis_url, ttl_days=10, default_medians=MEDIANS, clock=lambda: LOADED_AT)
    await hot.open()
    try:
        for number in range(0, 75):
            asked = payment(number, 74 - number, f"t-{number}")
            from_redis, from_postgres = await hot.read(asked, write=False), await reader.read(asked)
            for name in ("user_row", "merchant_row", "user_medians", "merchant_medians"):
                assert same(getattr(from_redis, name), getattr(from_postgres, name)), (number, name)
            for name in ("known_countries", "known_devices", "user_snapshot", "merchant_snapshot"):
                assert getattr(from_redis, name) == getattr(from_postgres, name), (number, name)
            assert set(from_postgres.served_by.values()) == {"postgres"}
            assert from_postgres.epoch is None
            assert np.isnan(from_postgres.velocity).all()
    finally:
        await hot.close()


async def test_an_entity_that_is_not_there_is_new_and_one_that_has_left_is_too(reader: ColdStore) -> None:
    for number in (3, 900):
        found = await reader.read(payment(number, 20))
        assert found.user_row is None
        assert found.user_snapshot == DAY.isoformat()
        assert found.merchant_row is not None


async def test_a_snapshot_past_its_age_counts_as_missing(cold: Cold) -> None:
    for age, served in ((10 * DAY_US, "postgres"), (10 * DAY_US + 1, "default")):
        store = make_reader(cold.settings, now=lambda age=age: LOADED_AT + age)  # type: ignore[misc]
        await store.open()
        await connected(store)
        found = await store.read(payment(20, 20))
        await store.close()
        assert found.served_by == {"user_features": served, "merchant_features": served}
        assert (found.user_row is None) is (served == "default")
        if served == "default":
            assert same(found.user_medians, MEDIANS["user"])


def test_a_load_that_dies_leaves_the_old_rows_whole(cold: Cold) -> None:
    def rows(connection: psycopg.Connection) -> list[Any]:
        return connection.execute(f'SELECT * FROM "{PROJECT}_user_vector" ORDER BY 1, 2').fetchall()

    class KilledError(Exception):
        pass

    def die(_: int) -> None:
        raise KilledError

    with psycopg.connect(ensure_postgres(cold.settings)) as connection:
        before = rows(connection)
        with pytest.raises(KilledError):
            write_cold(connection, PROJECT, USER_VECTOR, packed_snapshot(cold.lake, USER_VECTOR, BEFORE), progress=die)
        assert rows(connection) == before
        assert len(before) == COUNT * len(USER_VECTOR.features)
        assert {record.snapshot for record in cold_records(connection).values()} == {DAY}


async def test_many_payments_at_once_share_queries(reader: ColdStore) -> None:
    found = await asyncio.gather(*(reader.read(payment(10 + n % COUNT, 10 + n % 7)) for n in range(500)))
    expected = snapshot(USER_VECTOR, DAY, COUNT, first=10).to_pylist()
    for n, features in enumerate(found):
        wanted = [expected[n % COUNT][name] for name in USER_VECTOR.names]
        assert bits([None if np.isnan(v) else float(v) for v in features.user_row]) == bits(wanted)


@pytest.mark.alone
async def test_a_server_that_hangs_fails_reads_in_time_and_serves_again(cold: Cold) -> None:
    store = ColdStore(
        lambda: postgres_address(cold.settings),
        ttl_days=10, default_medians=MEDIANS, clock=lambda: LOADED_AT, deadline=0.05,
    )  # fmt: skip
    await store.open()
    await connected(store)
    pids = [pid for (pid,) in await _backends(cold.settings)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(StoreError, match=r"0\.05 s"):
            await store.read(payment(20, 20))
        assert time.monotonic() - began < 0.2
        await connected(store, False)  # given up after a second
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    await connected(store)
    assert (await store.read(payment(20, 20))).user_row is not None
    await store.close()


async def _backends(settings: Settings) -> list[Any]:
    async with await psycopg.AsyncConnection.connect(postgres_address(settings) or "") as connection:
        cursor = await connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return await cursor.fetchall()


class DeadRedis:
    """Redis that is away; what it was asked to count."""

    def __init__(self) -> None:
        self.sets: tuple[ServedSet, ...] = (ServedSet(CATALOGUE, MEDIANS),)
        self.counted = 0

    def serve(self, sets: Sequence[ServedSet]) -> None:
        self.sets = tuple(sets)

    async def read(self, payment: Transaction, *, caller: str, write: bool, claim: bytes) -> OnlineFeatures:
        raise StoreError("away")

    async def count(self, payment: Transaction, *, caller: str, claim: bytes) -> Counted:
        raise StoreError("away")

    def count_later(self, payment: Transaction, *, caller: str, claim: bytes) -> None:
        self.counted += 1


async def test_the_ladder_falls_to_postgres_then_to_defaults_and_climbs_back(cold: Cold) -> None:
    ensure_postgres(cold.settings)
    store = make_reader(cold.settings)
    await store.open()
    await connected(store)
    faults: list[str] = []
    breaker = CircuitBreaker("postgres", time.monotonic, failures=2, pause=0.05)
    ladder = Ladder(
        DeadRedis(), CircuitBreaker("redis", time.monotonic), lambda rung, _: faults.append(rung), cold=(store, breaker)
    )

    async def served() -> str:
        found = await ladder.read(payment(20, 20), caller="c", write=True, claim=b"claim:x")
        return found.served_by["user_features"]

    assert await served() == "postgres"
    pid = postgres_pid(cold.settings)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    # what its backends still have they may still serve
    while [await served() for _ in range(4)] != ["default"] * 4:
        assert time.monotonic() < deadline
    assert breaker.state != "closed"
    assert set(faults) == {"redis", "postgres"}
    ensure_postgres(cold.settings)
    assert postgres_pid(cold.settings) != pid
    deadline = time.monotonic() + 20
    while await served() != "postgres":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    await store.close()


async def test_a_server_that_was_never_started_is_no_error(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    store = make_reader(settings)
    await store.open()
    with pytest.raises(StoreError):
        await store.read(payment(1, 1))
    await store.close()
    assert postgres_pid(settings) is None
    assert stop_postgres(settings) is False


def test_starters_wait_for_a_server_that_another_one_is_starting(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    code = (
        "import sys; from pathlib import Path; from fraud_platform.settings import Settings; "
        "from fraud_platform.online.embedded_postgres import ensure_postgres; "
        "ensure_postgres(Settings(home=Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, str(settings.home)]
    environment = os.environ | {"PYTHONPATH": str(feast_store.REPO.parent)}
    try:
        ensure_postgres(settings)
        killed = postgres_pid(settings)
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        first = subprocess.Popen(command, env=environment)
        # asked while the new server still recovers, and refuses connections
        deadline = time.monotonic() + 20
        while postgres_pid(settings) in (None, killed):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        ensure_postgres(settings)
        assert first.wait(30) == 0
    finally:
        stop_postgres(settings)


def test_a_server_that_was_lost_is_filled_again_by_the_same_load(cold: Cold) -> None:
    with psycopg.connect(ensure_postgres(cold.settings)) as connection:
        for view in VIEWS:
            connection.execute(f'DROP TABLE "{PROJECT}_{view.name}"')
        connection.execute("DROP TABLE fraud_snapshots")
    for view in VIEWS:
        load_cold(cold.settings, cold.lake, view, DAY, now=lambda: LOADED_AT)
    with psycopg.connect(ensure_postgres(cold.settings)) as connection:
        assert {name: found.rows for name, found in cold_records(connection).items()} == {v.name: COUNT for v in VIEWS}
        (rows,) = connection.execute(f'SELECT count(*) FROM "{PROJECT}_{USER_VECTOR.name}"').fetchone() or (0,)
    assert rows == COUNT * len(USER_VECTOR.features)
