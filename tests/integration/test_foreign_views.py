"""Rows of other features, and damaged ones, in real stores while payments are decided: each payment is answered from
the next rung and says so, nothing of what is foreign is ever read, and the service lives on.

A checkout from before views had hashes loads under our views' names, whatever its features are; so do the loads here.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import psycopg
import pyarrow as pa
import pytest
import redis
from fault_kit import USERS, Plant

from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.inference_log.record import DecisionRecord
from fraud_platform.inference_log.search import decisions_of
from fraud_platform.inference_log.spool import read_spool
from fraud_platform.inference_log.table import LogTable
from fraud_platform.lake import open_lake
from fraud_platform.online import layout
from fraud_platform.online.cold_writer import RECORDS, cold_table, write_cold
from fraud_platform.online.packed import MERCHANT_VECTOR, PROJECT, USER_VECTOR, VECTOR, VIEWS, PackedView, packed_view
from fraud_platform.online.snapshot_load import load_cold, load_snapshot_direct
from fraud_platform.online.snapshot_record import SnapshotRecord, encode_record, end_of_day, record_key
from fraud_platform.online.writer import write_packed

pytestmark = [pytest.mark.timeout(300)]

FOREIGN = 77_777.0
"""Every value of a foreign row, and every foreign median: found in no vector."""
DAY = (datetime.now(UTC) - timedelta(days=1)).date()


_RUNGS = ("redis", "postgres", "default")


def of_more(count: int) -> PackedView:
    """The user view of a set with so many features more, under the name of the fifty's."""
    seven = replace(CATALOGUE.features[11], window="7d")
    more = tuple(replace(seven, name=f"user_merchants_7d_{number}") for number in range(count))
    return posing(packed_view("user", Catalogue((*CATALOGUE.of("user"), *more, *CATALOGUE.features[17:]))))


def reordered() -> PackedView:
    """The user view of the fifty in another order, under the name of the fifty's."""
    return posing(packed_view("user", Catalogue((*reversed(CATALOGUE.of("user")), *CATALOGUE.features[17:]))))


def posing(view: PackedView) -> PackedView:
    assert view.name != USER_VECTOR.name, "its own name would keep it apart"
    view.__dict__["name"] = USER_VECTOR.name
    return view


def foreign_rows(view: PackedView) -> pa.Table:
    columns: dict[str, Any] = {
        "user_id": [f"user-{number}" for number in range(USERS)],
        "snapshot_at": pa.array([end_of_day(DAY)] * USERS, pa.timestamp("us", tz="UTC")),
        VECTOR: pa.array([[FOREIGN] * len(view.vector)] * USERS, pa.list_(pa.float32())),
        "last_seen_us": pa.array([None] * USERS, pa.int64()),
        "known_countries": pa.array([None] * USERS, pa.list_(pa.string())),
        "known_devices": pa.array([None] * USERS, pa.list_(pa.int64())),
    }
    return pa.table(columns)


def record_of(
    view: PackedView, *, catalogue_hash: str = "0123456789ab", view_hash: str | None = None
) -> SnapshotRecord:
    return SnapshotRecord(
        view=view.name, snapshot=DAY, snapshot_at=end_of_day(DAY), visible_from=now(), loaded_at=now(),
        catalogue_hash="0123456789ab", medians=[FOREIGN] * len(view.vector), rows=USERS, view_hash=view_hash,
    )  # fmt: skip


def now() -> int:
    return time.time_ns() // 1_000


class Bank(Plant):
    """A plant whose stores a test fills with what is not its own."""

    @property
    def client(self) -> redis.Redis:
        return redis.Redis.from_url(f"redis://127.0.0.1:{self.redis.port}/0")

    def postgres(self) -> "psycopg.Connection[Any]":
        from fraud_platform.online.embedded_postgres import ensure_postgres

        return psycopg.connect(ensure_postgres(self.settings), autocommit=True)

    def mend_redis(self) -> None:
        lake = open_lake(self.settings)
        with self.client as client:
            for view in VIEWS:
                load_snapshot_direct(client, lake, view, DAY, now=now, ttl_seconds=86_400)
        self.wait(lambda: self.serves("redis"))

    def mend_postgres(self) -> None:
        lake = open_lake(self.settings)
        for view in VIEWS:
            load_cold(self.settings, lake, view, DAY, now=now)

    def decided(self) -> DecisionRecord:
        """The record of one payment more."""
        answer = self.ask()
        assert answer.status_code == 200, answer.text
        told = answer.json()
        (record,) = [
            record
            for day in (date.today() - timedelta(days=1), datetime.now(UTC).date())
            for record in read_spool(self.home, day)
            if record.request.transaction_id == told["transaction_id"]
        ][:1]
        assert told["degraded"] is record.degraded
        return record

    def check(self, user: str, merchant: str = "redis") -> DecisionRecord:
        """Payments stand on these sources and on no better one, and nothing foreign is in any vector.

        A machine that stalls may make Redis miss its deadline: then both are served by the next rung, once.
        """
        until = time.monotonic() + 15
        while True:
            record = self.decided()
            served = record.served_by.user_features, record.served_by.merchant_features
            assert FOREIGN not in record.values.tolist()
            assert record.catalogue_hash == CATALOGUE.hash
            assert record.degraded is (served != ("redis", "redis"))
            assert all(
                _RUNGS.index(got) >= _RUNGS.index(best) for got, best in zip(served, (user, merchant), strict=True)
            )
            if served == (user, merchant):
                return record
            assert time.monotonic() < until, served
            time.sleep(0.05)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    # what one worker has refused, it tells itself
    made = Bank(tmp_path_factory.mktemp("foreign") / "home", FRAUD_SERVICE_WORKERS="1")
    try:
        yield made
    finally:
        made.end()


@pytest.fixture(autouse=True)
def under_load(bank: Bank) -> Iterator[None]:
    """Payments come all the while; all are answered, none by an error, and the same workers live on."""
    bank.serves("redis")
    before, workers = bank.metric('fraud_failures_total{stage="predict"}'), bank.worker_pids()
    began = now()
    load = bank.load(2, 50)
    yield
    result = bank.result(load)
    for record in decisions_since(bank, began):
        served = record.served_by.user_features, record.served_by.merchant_features
        assert FOREIGN not in record.values.tolist(), served
        assert record.degraded or served == ("redis", "redis")
    assert (result.causes, result.refused, result.answered) == ({}, 0, result.sent)
    assert bank.metric('fraud_failures_total{stage="predict"}') == before, bank.log.read_text()[-3000:]
    assert bank.worker_pids() == workers, "a worker died"
    bank.mend_redis()


def decisions_since(bank: Bank, began: int) -> list[DecisionRecord]:
    """Those that came since a moment, UTC microseconds: of the load, and of the test."""
    log = LogTable(open_lake(bank.settings))
    days = {datetime.fromtimestamp(at / 1e6, UTC).date() for at in (began, now())}
    return [each for day in days for each in decisions_of(bank.home, log, day) if each.received_at >= began]


def own_values(record: DecisionRecord) -> list[float]:
    return record.values[CATALOGUE.columns("user")].tolist()


def test_another_version_loads_beside_ours_and_nothing_of_ours_moves(bank: Bank) -> None:
    before = own_values(bank.check("redis"))
    theirs = packed_view("user", Catalogue((*reversed(CATALOGUE.of("user")), *CATALOGUE.features[17:])))
    with bank.client as client:
        keys = client.dbsize()
        write_packed(client, PROJECT, theirs, foreign_rows(theirs), ttl_seconds=3_600)
        client.set(record_key(theirs), encode_record(record_of(theirs, view_hash=theirs.hash)))
        # the fields of both stand in one row
        assert client.dbsize() < keys + USERS
    assert own_values(bank.check("redis")) == before
    assert bank.ready()["degraded"] == []


@pytest.mark.parametrize("more", [1, 34], ids=["18 wide", "51 wide"])
def test_a_load_of_another_width_is_read_neither_while_it_runs_nor_after_it(bank: Bank, more: int) -> None:
    before = own_values(bank.check("redis"))
    view = of_more(more)
    refused = bank.metric('fraud_rows_refused_total{entity="user"')
    with bank.client as client:
        write_packed(client, PROJECT, view, foreign_rows(view), ttl_seconds=3_600)
        # its rows stand under the record of ours
        assert own_values(bank.check("postgres")) == before
        told = bank.ready()
        client.set(record_key(view), encode_record(record_of(view)))
        assert own_values(bank.check("postgres")) == before
        later = bank.ready()
    assert "snapshots" in told["degraded"]
    assert f"{17 + more} values" in told["checks"]["snapshots"]["refused"]["user_vector"]
    assert (later["ready"], later["checks"]["snapshots"]["user_vector"]) == (True, None)
    assert "0123456789ab" in later["checks"]["snapshots"]["refused"]["user_vector"]
    bank.wait(lambda: bank.metric('fraud_rows_refused_total{entity="user"') > refused)


@pytest.mark.parametrize("view_hash", [None, reordered().hash, "0123456789ab"], ids=["before", "reordered", "other"])
def test_features_in_another_order_and_another_hash_are_not_read(bank: Bank, view_hash: str | None) -> None:
    view = reordered()
    with bank.client as client:
        client.set(record_key(view), encode_record(record_of(view, view_hash=view_hash)))
        write_packed(client, PROJECT, view, foreign_rows(view), ttl_seconds=3_600)
    bank.check("postgres")
    with bank.postgres() as connection:
        # as in Redis, its record first: rows of one width are told apart by that alone
        record = encode_record(record_of(view, view_hash=view_hash))
        connection.execute(f"UPDATE {RECORDS} SET record = %s WHERE view = %s", (record, view.name))
        write_cold(connection, PROJECT, view, foreign_rows(view))
    try:
        bank.check("default")
        assert "refused" in bank.ready()["checks"]["cold_snapshots"]
    finally:
        bank.mend_postgres()
    bank.check("postgres")


def damaged(value: bytes) -> list[bytes]:
    return [b"", b"\x82\x01", value[:-1], value[: len(value) // 2], b"x" * len(value), value + b"\0\0\0\0", b"\xff" * 9]


def test_a_damaged_row_is_missing_and_harms_no_other(bank: Bank) -> None:
    key = layout.entity_key(PROJECT, "user_id", "user-1")
    with bank.client as client:
        for name in (VECTOR, "last_seen_us", "known_countries", "known_devices"):
            field = layout.field("user_vector", name)
            whole = client.hget(key, field)
            assert isinstance(whole, bytes)
            for value in damaged(whole):
                client.hset(key, field, value)  # type: ignore[arg-type]
                null = not value and name != VECTOR
                bank.check("redis" if null else "postgres")
            client.hset(key, field, whole)  # type: ignore[arg-type]
        client.hset(key, layout.timestamp_field("user_vector"), b"\x08" + b"\xff" * 9 + b"\x01")
        client.hdel(key, layout.timestamp_field("user_vector"))
        bank.check("postgres")
    assert bank.ready()["checks"]["breakers"]["redis"] == "closed"


@pytest.mark.parametrize("value", [b"", b"{", b"null", b"\xff\xfe", b'{"view": "user_vector"}'])
def test_a_damaged_record_puts_nothing_in_force(bank: Bank, value: bytes) -> None:
    with bank.client as client:
        client.set(record_key(USER_VECTOR), value)
    bank.check("postgres")
    assert "refused" in bank.ready()["checks"]["snapshots"]
    with bank.postgres() as connection:
        connection.execute(f"UPDATE {RECORDS} SET record = %s WHERE view = %s", (value, USER_VECTOR.name))
    try:
        bank.check("default")
    finally:
        bank.mend_postgres()


def test_medians_of_another_length_are_never_taken(bank: Bank) -> None:
    with bank.client as client:
        value = client.get(record_key(MERCHANT_VECTOR))
        assert isinstance(value, bytes)
        known = msgspec.json.decode(value)
        client.set(record_key(MERCHANT_VECTOR), msgspec.json.encode(known | {"medians": [FOREIGN]}))
    bank.check("redis", "postgres")


def test_a_foreign_or_damaged_row_of_postgres_is_missing_too(bank: Bank) -> None:
    with bank.client as client:
        client.set(record_key(USER_VECTOR), b"{")
    bank.check("postgres")
    with bank.postgres() as connection:
        # another version's rows, under our record
        wider = of_more(1)
        write_cold(connection, PROJECT, wider, foreign_rows(wider))
    bank.check("default")
    assert "18 values" in bank.ready()["checks"]["cold_snapshots"]["refused"]["user_vector"]
    bank.mend_postgres()
    bank.check("postgres")
    table = cold_table(PROJECT, USER_VECTOR)
    with bank.postgres() as connection:
        for change in ("value = substring(value from 1 for 20)", "value = NULL", "event_ts = NULL"):
            where = "" if "event_ts" in change else "WHERE feature_name = 'vector'"
            connection.execute(f'UPDATE "{table}" SET {change} {where}')
            bank.check("default")
            bank.mend_postgres()
    bank.check("postgres")


def test_a_record_from_before_views_had_hashes_is_the_fiftys(bank: Bank) -> None:
    with bank.client as client:
        value = client.get(record_key(USER_VECTOR))
        assert isinstance(value, bytes)
        known = msgspec.json.decode(value)
        known.pop("view_hash")
        for former in sorted(CATALOGUE.alike):
            client.set(record_key(USER_VECTOR), msgspec.json.encode(known | {"catalogue_hash": former}))
            bank.check("redis")


def test_a_load_of_ours_ends_a_foreign_one(bank: Bank) -> None:
    view, stranger = reordered(), "user-of-another-version"
    rows = foreign_rows(view)
    names = pa.array([*rows["user_id"].to_pylist()[:-1], stranger])
    with bank.client as client:
        client.set(record_key(view), encode_record(record_of(view)))
        write_packed(client, PROJECT, view, rows.set_column(0, "user_id", names), ttl_seconds=3_600)
        bank.mend_redis()
        left = client.hgetall(layout.entity_key(PROJECT, "user_id", stranger))
    assert left == {}, "who is in none of our snapshots would be read as of the foreign one"
    bank.check("redis")
