"""Views of a set that a release in force stands on, beside the platform's own: loaded, read, priced, and deleted once
nobody loads them. Real Redis, real PostgreSQL."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import msgspec
import numpy as np
import psycopg
import pytest
import redis
from feast_snapshots import snapshot, write_snapshots
from service_kit import publish_small_model, small_model

from assets.cold import cold_features
from assets.online import online_features
from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.features.catalogue import DAY as DAY_US
from fraud_platform.lake import Lake, open_lake
from fraud_platform.model.bundle import publish
from fraud_platform.model.ledger import Change, append_change, read_ledger
from fraud_platform.model.release import Reason, ReleaseError, challenge, champion_before, retire
from fraud_platform.model.served_sets import retired_sets, sets_in_force
from fraud_platform.online.cold import ColdStore
from fraud_platform.online.cold_writer import RECORDS, cold_table, put_cold_in_force
from fraud_platform.online.embedded_postgres import ensure_postgres, postgres_address, stop_postgres
from fraud_platform.online.other_views import (
    OtherView,
    ViewCost,
    delete_unread,
    delete_unread_cold,
    estimated,
    load_other,
    load_other_cold,
    other_views,
    view_costs,
)
from fraud_platform.online.packed import PROJECT, USER_VECTOR, VIEWS, packed_view
from fraud_platform.online.sets import ServedSet, without_medians
from fraud_platform.online.snapshot_load import append_load, load_cold, load_snapshot_direct, read_loads, record_of
from fraud_platform.online.snapshot_record import in_force
from fraud_platform.online.store import OnlineFeatures, OnlineStore
from fraud_platform.regions.follow import Follower
from fraud_platform.regions.publish import Publisher
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


PAYMENT = Transaction(
    transaction_id="t", user_id="user-7é", merchant_id="merchant-7é", amount=100, event_time=LOADED_AT,
    received_at=LOADED_AT,
)  # fmt: skip


def read(url: str, catalogue: Catalogue) -> OnlineFeatures:
    async def one() -> OnlineFeatures:
        store = OnlineStore(url, ttl_days=TTL, catalogue=catalogue, clock=lambda: LOADED_AT)
        await store.open()
        try:
            return await store.read(PAYMENT, write=False)
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

    (rows, told), before = estimated(lake, OTHER, DAY), held()
    assert rows == COUNT
    (cost,) = view_costs(lake, client, [FEWER])
    assert cost == ViewCost(OTHER.name, FEWER.hash, DAY, rows, told, None)
    load_other(settings, lake, client, OtherView(OTHER, FEWER.hash), DAY, lambda: LOADED_AT)
    assert told == pytest.approx(held() - before, rel=0.3)


def read_cold(settings: Settings, sets: list[ServedSet]) -> OnlineFeatures:
    async def one() -> OnlineFeatures:
        store = ColdStore(
            lambda: postgres_address(settings), ttl_days=TTL, default_medians=sets[0].medians,
            clock=lambda: LOADED_AT, deadline=2.0,
        )  # fmt: skip
        store.serve(sets)
        await store.open()
        try:
            return await store.read(PAYMENT)
        finally:
            await store.close()

    return asyncio.run(one())


def test_postgres_holds_both_sets_each_read_by_its_own_until_one_is_dropped(settings: Settings, lake: Lake) -> None:
    sets = [without_medians(CATALOGUE), without_medians(FEWER)]
    other = OtherView(OTHER, FEWER.hash)
    expected = snapshot(USER_VECTOR, DAY, COUNT).to_pylist()[7]
    try:
        for view in VIEWS:
            load_cold(settings, lake, view, DAY, now=lambda: LOADED_AT)
        with psycopg.connect(ensure_postgres(settings), autocommit=True) as connection:
            # its table is not there yet: the other set is read all the same
            before = read_cold(settings, sets)
            assert before.served_by == {"user_features": "postgres", "merchant_features": "postgres"}
            assert before.beside is not None
            assert before.beside.served_by == {"user_features": "default", "merchant_features": "postgres"}

            for _ in range(2):
                record = load_other_cold(connection, lake, other, DAY, lambda: LOADED_AT)
            assert (record.view, record.catalogue_hash, record.rows) == (OTHER.name, FEWER.hash, COUNT)
            found = read_cold(settings, sets)
            assert found.beside is not None
            for read_of, catalogue in ((found, CATALOGUE), (found.beside, FEWER)):
                assert read_of.set_hash == catalogue.hash
                assert read_of.served_by == {"user_features": "postgres", "merchant_features": "postgres"}
                wanted = np.array([expected[feature.name] for feature in catalogue.of("user")], np.float32)
                np.testing.assert_array_equal(read_of.user_row, wanted)
            np.testing.assert_array_equal(found.merchant_row, found.beside.merchant_row)

            # rows of the one under the other's record are of no set
            put_cold_in_force(connection, msgspec.structs.replace(record, view_hash=USER_VECTOR.hash))
            refused = read_cold(settings, sets)
            assert refused.beside is not None
            assert (refused.refused, refused.beside.refused) == ((), ("user",))
            put_cold_in_force(connection, record)

            assert delete_unread_cold(connection, TTL, LOADED_AT + TTL * DAY_US) == []
            assert delete_unread_cold(connection, TTL, LOADED_AT + TTL * DAY_US + 1) == [OTHER.name]
            assert cold_table(PROJECT, OTHER) not in tables_of(connection)
            load_other_cold(connection, lake, other, DAY, lambda: LOADED_AT)
            assert delete_unread_cold(connection, TTL, LOADED_AT, {OTHER.name}) == [OTHER.name]
            assert cold_table(PROJECT, USER_VECTOR) in tables_of(connection)
            left = connection.execute(f"SELECT view FROM {RECORDS} ORDER BY view").fetchall()
            assert [name for (name,) in left] == sorted(view.name for view in VIEWS)
    finally:
        stop_postgres(settings)


def tables_of(connection: "psycopg.Connection[Any]") -> set[str]:
    found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    return {name for (name,) in found}


def test_what_a_roll_back_returns_to_is_kept_until_it_is_retired(
    settings: Settings, lake: Lake, client: redis.Redis
) -> None:
    release_on_fewer(settings.home, 1)
    made = small_release(settings.home, 2)
    at = datetime(2026, 3, 5, tzinfo=UTC)
    reason = Reason(who="a test", why="it is better")
    append_change(settings.home, Change(at=at, who="a test", why="the first", to="fraud-detector-1"))
    challenge(settings.home, made, reason, at)
    assert [one.hash for one in sets_in_force(settings.home)] == [FEWER.hash]
    with pytest.raises(ReleaseError, match="is in force"):
        retire(settings.home, "fraud-detector-1", reason, at)

    publish(settings.home, made)
    append_change(settings.home, Change(at=at, who="a test", why="promoted", to="fraud-detector-2"))
    assert [one.hash for one in sets_in_force(settings.home)] == [FEWER.hash]
    assert champion_before(settings.home) == "fraud-detector-1"
    assert retired_sets(settings.home) == []
    load_other(settings, lake, client, OtherView(OTHER, FEWER.hash), DAY, lambda: LOADED_AT)

    retire(settings.home, "fraud-detector-1", reason, at)
    retire(settings.home, "fraud-detector-1", reason, at)
    assert [entry["what"] for entry in read_ledger(settings.home)].count("retired") == 1
    assert sets_in_force(settings.home) == []
    with pytest.raises(ReleaseError, match="release challenge 1"):
        champion_before(settings.home)
    (gone,) = other_views(retired_sets(settings.home))
    assert delete_unread(client, TTL, LOADED_AT, {gone.view.name}) == [OTHER.name]
    assert in_force(client, OTHER) is None

    challenge(settings.home, settings.home / "made-1", reason, at)
    assert [one.hash for one in sets_in_force(settings.home)] == [FEWER.hash]
    assert retired_sets(settings.home) == []


def small_release(home: Path, version: int) -> Path:
    _, bundle = small_model(version=version, seed=version, deciding="amount")
    bundle.write(home / f"made-{version}")
    return home / f"made-{version}"


def test_another_region_follows_the_first_with_views_of_other_sets_too(redis_url: str, tmp_path: Path) -> None:
    shared = str(tmp_path / "lake")
    first = Settings(home=tmp_path / "first", lake_url=shared)
    west = Settings(home=tmp_path / "west", lake_url=shared, region="west", redis_url=redis_url, online_ttl_days=TTL)
    for settings in (first, west):
        settings.home.mkdir()
    lake = open_lake(first)
    write_snapshots(lake, DAY, COUNT)
    release_on_fewer(first.home, 1)
    Publisher(first, lake).step(datetime.fromtimestamp(LOADED_AT / 1e6, UTC))
    medians: list[float | None] = [1.0] * len(OTHER.names)
    append_load(lake, record_of(OTHER, DAY, medians, COUNT, LOADED_AT - 9, LOADED_AT - 5, FEWER.hash))

    now, said = [LOADED_AT], list[str]()
    follower = Follower(west, lake, lambda: now[0], said.append)
    with redis.Redis.from_url(redis_url) as client:
        assert follower.step() == []
        record = in_force(client, OTHER)
        assert record is not None
        assert (record.follows, record.catalogue_hash, record.rows) == (LOADED_AT - 9, FEWER.hash, COUNT)
        assert read_loads(lake, OTHER, "west") == [(LOADED_AT, DAY)]
        told = list(said)
        assert follower.step() == []
        assert said == told
        # given up by the first region: what it had last is not loaded as if it were new
        client.flushall()
        now[0] += TTL * DAY_US
        assert follower.step() == []
        assert in_force(client, OTHER) is None


def test_the_nightly_assets_load_and_drop_views_of_other_sets_in_both_stores(
    settings: Settings, lake: Lake, client: redis.Redis
) -> None:
    release_on_fewer(settings.home, 1)
    _, wider = small_model(
        version=2, seed=2, deciding="amount",
        catalogue=Catalogue((*CATALOGUE.of("user"), replace(CATALOGUE.features[11], name="later", window="7d"),
                             *CATALOGUE.features[17:])),
    )  # fmt: skip
    wider.write(settings.home / "made-2")
    at, reason = datetime.now(UTC), Reason(who="a test", why="to see it")
    challenge(settings.home, settings.home / "made-2", reason, at)
    platform: Any = SimpleNamespace(settings=settings, lake=lake)

    def night() -> list[dict[str, Any]]:
        told = []
        for asset in (online_features, cold_features):
            loaded, check = asset(dg.build_asset_context(), platform)
            assert check.passed
            told.append({name: getattr(value, "value", value) for name, value in loaded.metadata.items()})
        return told

    def cold_views(connection: "psycopg.Connection[Any]") -> set[str]:
        return {name for (name,) in connection.execute(f"SELECT view FROM {RECORDS}")}

    try:
        online, cold = night()
        _, size = estimated(lake, OTHER, DAY)
        assert (online[f"{OTHER.name}_rows"], online[f"{OTHER.name}_bytes"]) == (COUNT, size)
        assert cold[f"{OTHER.name}_rows"] == COUNT
        assert in_force(client, OTHER) is not None
        unknown = packed_view("user", wider.set_of())
        assert in_force(client, unknown) is None, "the platform does not compute it"
        with psycopg.connect(ensure_postgres(settings), autocommit=True) as connection:
            own = {view.name for view in VIEWS}
            assert cold_views(connection) == {*own, OTHER.name}

            small_release(settings.home, 3)
            publish(settings.home, settings.home / "made-3")
            for name in ("fraud-detector-1", "fraud-detector-3"):
                append_change(settings.home, Change(at=at, who="a test", why="promoted", to=name))
            assert f"{OTHER.name}_rows" in night()[0], "a roll-back would return to it"
            retire(settings.home, "fraud-detector-1", reason, at)
            assert f"{OTHER.name}_rows" not in night()[0]
            assert in_force(client, OTHER) is None
            assert cold_views(connection) == own
            assert cold_table(PROJECT, OTHER) not in tables_of(connection)
    finally:
        stop_postgres(settings)
