"""Views of a set that a release in force stands on, beside the platform's own: loaded, read, priced, and deleted once
nobody loads them. Real Redis, real PostgreSQL."""

import asyncio
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import psycopg
import pytest
import redis
from feast_snapshots import snapshot, write_snapshots
from service_kit import publish_small_model, small_model

from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.features.catalogue import DAY as DAY_US
from fraud_platform.lake import Lake, open_lake
from fraud_platform.model.bundle import publish
from fraud_platform.model.served_sets import sets_in_force
from fraud_platform.online.cold_writer import RECORDS, cold_table, put_cold_in_force
from fraud_platform.online.embedded_postgres import ensure_postgres, stop_postgres
from fraud_platform.online.other_views import (
    OtherView,
    delete_unread,
    delete_unread_cold,
    estimated_bytes,
    load_other,
    other_views,
)
from fraud_platform.online.packed import PROJECT, USER_VECTOR, VIEWS, packed_view
from fraud_platform.online.snapshot_load import load_snapshot_direct, read_loads
from fraud_platform.online.snapshot_record import in_force
from fraud_platform.online.store import OnlineFeatures, OnlineStore
from fraud_platform.schema import Transaction
from fraud_platform.settings import Settings

DAY = date(2026, 3, 4)
COUNT = 200
LOADED_AT = 1_772_700_000_000_000
TTL = 3
FEWER = CATALOGUE.only([name for name in CATALOGUE.names if name != "user_night_share_30d"])
"""A set that the platform's own covers, and whose user view is another."""
OTHER = packed_view("user", FEWER)


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, redis_url=redis_url, online_ttl_days=TTL)


@pytest.fixture
def lake(settings: Settings) -> Lake:
    lake = open_lake(settings)
    write_snapshots(lake, DAY, COUNT)
    return lake


@pytest.fixture
def client(redis_url: str, lake: Lake) -> Iterator[redis.Redis]:
    """A Redis that has the platform's own views of DAY."""
    with redis.Redis.from_url(redis_url) as client:
        for view in VIEWS:
            load_snapshot_direct(client, lake, view, DAY, now=lambda: LOADED_AT, ttl_seconds=3_600)
        yield client


def release_on_fewer(home: Path, version: int) -> None:
    _, bundle = small_model(version=version, seed=version, deciding="amount", catalogue=FEWER)
    bundle.write(home / f"made-{version}")
    publish(home, home / f"made-{version}")


def read(url: str, catalogue: Catalogue) -> OnlineFeatures:
    async def one() -> OnlineFeatures:
        store = OnlineStore(url, ttl_days=TTL, catalogue=catalogue, clock=lambda: LOADED_AT)
        await store.open()
        try:
            return await store.read(
                Transaction(
                    transaction_id="t", user_id="user-7é", merchant_id="merchant-7é",
                    amount=100, event_time=LOADED_AT, received_at=LOADED_AT,
                ),
                write=False,
            )  # fmt: skip
        finally:
            await store.close()

    return asyncio.run(one())


def test_a_release_in_force_says_which_set_it_stands_on(settings: Settings) -> None:
    assert sets_in_force(settings.home) == []
    publish_small_model(settings.home, version=1, seed=1)
    assert sets_in_force(settings.home) == []
    release_on_fewer(settings.home, 2)
    (found,) = sets_in_force(settings.home)
    assert found.hash == FEWER.hash
    # merchants' features are the same
    assert other_views([found, found]) == [OtherView(OTHER, FEWER.hash)]


def test_both_sets_are_read_each_by_its_own_until_one_is_deleted(
    settings: Settings, lake: Lake, client: redis.Redis
) -> None:
    record = load_other(settings, lake, client, OtherView(OTHER, FEWER.hash), DAY, lambda: LOADED_AT)
    assert (record.view, record.catalogue_hash, record.rows) == (OTHER.name, FEWER.hash, COUNT)
    assert read_loads(lake, OTHER) == [(LOADED_AT, DAY)]
    expected = snapshot(USER_VECTOR, DAY, COUNT).to_pylist()[7]
    url = str(settings.redis_url)
    for catalogue in (CATALOGUE, FEWER):
        found = read(url, catalogue)
        wanted = np.array([expected[feature.name] for feature in catalogue.of("user")], np.float32)
        np.testing.assert_array_equal(found.user_row, wanted)
        assert found.served_by == {"user_features": "redis", "merchant_features": "redis"}

    assert delete_unread(client, TTL, LOADED_AT + TTL * DAY_US) == []
    fields = {key: set(client.hkeys(key)) for key in client.scan_iter(_type="HASH")}
    assert delete_unread(client, TTL, LOADED_AT + TTL * DAY_US + 1) == [OTHER.name]
    assert in_force(client, OTHER) is None
    left = {key: set(client.hkeys(key)) for key in client.scan_iter(_type="HASH")}
    assert left.keys() == fields.keys()
    users = [key for key in left if b"user_id" in key]
    assert {len(fields[key]) - len(left[key]) for key in users} == {1 + len(OTHER.features)}
    assert read(url, FEWER).served_by["user_features"] == "default"
    assert read(url, CATALOGUE).served_by["user_features"] == "redis"


def test_what_a_view_costs_is_told_before_it_is_loaded(settings: Settings, lake: Lake, client: redis.Redis) -> None:
    def held() -> int:
        return sum(int(client.memory_usage(key, samples=0) or 0) for key in client.scan_iter(_type="HASH"))  # type: ignore[arg-type]

    told, before = estimated_bytes(lake, OTHER, DAY), held()
    load_other(settings, lake, client, OtherView(OTHER, FEWER.hash), DAY, lambda: LOADED_AT)
    assert told == pytest.approx(held() - before, rel=0.3)


def test_a_table_that_nobody_loads_is_dropped(settings: Settings, lake: Lake, client: redis.Redis) -> None:
    own = in_force(client, USER_VECTOR)
    assert own is not None
    other = load_other(settings, lake, client, OtherView(OTHER, FEWER.hash), DAY, lambda: LOADED_AT)
    try:
        with psycopg.connect(ensure_postgres(settings), autocommit=True) as connection:
            for view in (USER_VECTOR, OTHER):
                connection.execute(f'CREATE TABLE "{cold_table(PROJECT, view)}" (entity_key BYTEA)')
            for record in (own, other):
                put_cold_in_force(connection, record)
            assert delete_unread_cold(connection, TTL, LOADED_AT + TTL * DAY_US) == []
            assert delete_unread_cold(connection, TTL, LOADED_AT + TTL * DAY_US + 1) == [OTHER.name]
            assert connection.execute(f"SELECT view FROM {RECORDS}").fetchall() == [(USER_VECTOR.name,)]
            tables = connection.execute(
                "SELECT table_name FROM information_schema.columns WHERE column_name = 'entity_key'"
            ).fetchall()
            assert tables == [(cold_table(PROJECT, USER_VECTOR),)]
    finally:
        stop_postgres(settings)
