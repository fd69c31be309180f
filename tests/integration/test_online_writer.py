"""The bulk writer and snapshot loads against a real Redis, without Feast."""

import time
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import redis
from feast_snapshots import bits, snapshot, write_snapshots

from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.lake import Lake, MissingPartition
from fraud_platform.online import layout, writer
from fraud_platform.online.packed import MERCHANT_VECTOR, PROJECT, USER_VECTOR, VECTOR, VIEWS, PackedView
from fraud_platform.online.snapshot_load import (
    OlderSnapshotError,
    append_load,
    load_snapshot_direct,
    pack,
    packed_snapshot,
    read_loads,
)
from fraud_platform.online.snapshot_record import SnapshotRecord, decode_record, encode_record, in_force, record_key
from fraud_platform.online.writer import WriteError, write_packed

DAY = date(2026, 3, 4)
TTL = 3 * 86_400


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as connected:
        yield connected


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    written = Lake(str(tmp_path / "lake"))
    write_snapshots(written, DAY - timedelta(days=1), 40)
    write_snapshots(written, DAY, 30, first=10)
    return written


def ticking(start: int = 1_000) -> Iterator[int]:
    while True:
        yield start
        start += 1


def load(client: redis.Redis, lake: Lake, day: date, *, prefix: bytes = b"", force: bool = False) -> SnapshotRecord:
    clock = ticking()
    return load_snapshot_direct(
        client, lake, USER_VECTOR, day, now=lambda: next(clock), ttl_seconds=TTL, key_prefix=prefix, force=force
    )


def rows_in_redis(client: redis.Redis, prefix: bytes = b"") -> set[bytes]:
    return {key for key in client.scan_iter() if key.startswith(prefix + layout.entity_key_prefix("user_id"))}


def test_every_row_of_several_chunks_reads_back_as_it_was(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "CHUNK_ROWS", 7)
    table = snapshot(USER_VECTOR, DAY, 45)
    chunked = pa.concat_tables([pack(table.slice(0, 20), USER_VECTOR), pack(table.slice(20), USER_VECTOR)])
    acknowledged: list[int] = []
    written = write_packed(client, PROJECT, USER_VECTOR, chunked, ttl_seconds=TTL, progress=acknowledged.append)
    assert written == sum(acknowledged) == client.dbsize() == 45
    for row in table.to_pylist():
        key = layout.entity_key(PROJECT, "user_id", row["user_id"])
        found = client.hgetall(key)
        vector = layout.floats(found.pop(layout.field("user_vector", VECTOR)))
        assert bits([None if np.isnan(value) else float(value) for value in vector]) == bits(
            [row[name] for name in USER_VECTOR.names]
        )
        assert layout.timestamp(found.pop(b"_ts:user_vector")) == int(row["snapshot_at"].timestamp() * 1e6 + 0.5)
        assert layout.int64(found.pop(layout.field("user_vector", "last_seen_us"))) == row["last_seen_us"]
        assert layout.strings(found.pop(layout.field("user_vector", "known_countries"))) == row["known_countries"]
        assert layout.int64s(found.pop(layout.field("user_vector", "known_devices"))) == row["known_devices"]
        assert found == {}
        assert 0 < client.pttl(key) <= TTL * 1_000


def test_a_paced_write_takes_its_time_and_leaves_redis_some(client: redis.Redis) -> None:
    rows = pack(snapshot(USER_VECTOR, DAY, 300), USER_VECTOR)
    acknowledged: list[int] = []
    began = time.monotonic()
    write_packed(client, PROJECT, USER_VECTOR, rows, ttl_seconds=TTL, rows_per_second=600, progress=acknowledged.append)
    # the first chunk is written at once, and the last is waited for no longer than it takes
    assert 0.45 <= time.monotonic() - began < 5
    assert client.dbsize() == sum(acknowledged) == 300
    assert max(acknowledged) == 3, "a chunk is a two-hundredth of a second's rows"


def test_a_prefix_keeps_two_key_spaces_apart(client: redis.Redis, lake: Lake) -> None:
    load(client, lake, DAY, prefix=b"replay:1:")
    assert rows_in_redis(client) == set()
    assert len(rows_in_redis(client, b"replay:1:")) == 30
    assert in_force(client, USER_VECTOR) is None
    found = in_force(client, USER_VECTOR, b"replay:1:")
    assert found is not None
    assert found.snapshot == DAY


def test_a_refused_row_raises_and_the_connection_pool_stays_clean(client: redis.Redis) -> None:
    rows = pack(snapshot(USER_VECTOR, DAY, 10), USER_VECTOR)
    client.set(layout.entity_key(PROJECT, "user_id", rows["user_id"][4].as_py()), "not a hash")
    with pytest.raises(WriteError, match="WRONGTYPE"):
        write_packed(client, PROJECT, USER_VECTOR, rows, ttl_seconds=TTL)
    assert client.ping() is True
    assert client.get("nothing") is None


def test_rows_without_an_id_or_a_column_are_refused_before_anything_is_written(client: redis.Redis) -> None:
    rows = pack(snapshot(USER_VECTOR, DAY, 3), USER_VECTOR)
    with pytest.raises(ValueError, match="lack the columns known_devices"):
        write_packed(client, PROJECT, USER_VECTOR, rows.drop(["known_devices"]), ttl_seconds=TTL)
    nameless = rows.set_column(0, "user_id", pa.array(["a", None, "b"]))
    with pytest.raises(ValueError, match="user_id is null in 1 rows"):
        write_packed(client, PROJECT, USER_VECTOR, nameless, ttl_seconds=TTL)
    with pytest.raises(ValueError, match="ttl_seconds"):
        write_packed(client, PROJECT, USER_VECTOR, rows, ttl_seconds=0)
    assert client.dbsize() == 0


def test_an_empty_snapshot_is_loaded_too(client: redis.Redis, lake: Lake) -> None:
    write_snapshots(lake, DAY, 0)
    assert load(client, lake, DAY).rows == 0
    assert rows_in_redis(client) == set()


def test_the_record_appears_only_after_the_last_row(client: redis.Redis, lake: Lake) -> None:
    seen: list[tuple[int, SnapshotRecord | None]] = []

    def now() -> int:
        seen.append((len(rows_in_redis(client)), in_force(client, USER_VECTOR)))
        return 1_000 + len(seen)

    record = load_snapshot_direct(client, lake, USER_VECTOR, DAY, now=now, ttl_seconds=TTL)
    assert seen == [(0, None), (30, None)], "at loaded_at nothing is there, at visible_from all rows but no record"
    assert (record.loaded_at, record.visible_from, record.rows) == (1_001, 1_002, 30)
    assert record.snapshot_at == 1_772_668_799_999_999, "the last microsecond of 2026-03-04"
    assert in_force(client, USER_VECTOR) == record
    assert record.catalogue_hash == CATALOGUE.hash
    assert record.medians[0] is None
    assert bits(record.medians) == bits(lake.read(tables.FEATURE_MEDIANS, DAY)["median"].to_pylist()[:17])


def test_a_failed_load_leaves_the_old_record(client: redis.Redis, lake: Lake) -> None:
    before = load(client, lake, DAY - timedelta(days=1))
    client.delete(layout.entity_key(PROJECT, "user_id", "user-20é"))
    client.set(layout.entity_key(PROJECT, "user_id", "user-20é"), "not a hash")
    with pytest.raises(WriteError):
        load(client, lake, DAY)
    with pytest.raises(MissingPartition):
        load(client, lake, DAY + timedelta(days=5))
    assert in_force(client, USER_VECTOR) == before


def test_a_user_who_left_the_snapshot_is_told_by_an_older_timestamp(client: redis.Redis, lake: Lake) -> None:
    load(client, lake, DAY - timedelta(days=1))
    record = load(client, lake, DAY)
    stamps = {}
    for number in (5, 15):
        key = layout.entity_key(PROJECT, "user_id", f"user-{number}é")
        stamps[number] = layout.timestamp(client.hget(key, layout.timestamp_field("user_vector")) or b"")
    assert stamps[5] < record.snapshot_at == stamps[15]


def test_an_older_snapshot_is_refused_unless_forced_and_then_leaves_no_newer_row(
    client: redis.Redis, lake: Lake
) -> None:
    write_snapshots(lake, DAY + timedelta(days=1), 5, first=100)
    load(client, lake, DAY)
    newest = load(client, lake, DAY + timedelta(days=1))
    with pytest.raises(OlderSnapshotError, match="2026-03-05 is in force, 2026-03-04 is older"):
        load(client, lake, DAY)
    assert in_force(client, USER_VECTOR) == newest
    client.hset(layout.entity_key("other", "merchant_id", "user_id"), "_ts:user_vector", layout.encode_timestamp(2**52))
    record = load(client, lake, DAY, force=True)
    assert in_force(client, USER_VECTOR) == record
    assert len(rows_in_redis(client)) == 30
    assert client.exists(layout.entity_key("other", "merchant_id", "user_id"))


def test_loading_the_same_snapshot_again_changes_no_row(client: redis.Redis, lake: Lake) -> None:
    load(client, lake, DAY)
    before = {key: client.hgetall(key) for key in rows_in_redis(client)}
    load(client, lake, DAY)
    assert {key: client.hgetall(key) for key in rows_in_redis(client)} == before


def test_loads_are_read_back_in_the_order_they_came_into_force(client: redis.Redis, lake: Lake) -> None:
    assert read_loads(lake, USER_VECTOR) == []
    record = load(client, lake, DAY)
    later = SnapshotRecord(
        **{name: getattr(record, name) for name in record.__struct_fields__}
        | {"snapshot": DAY + timedelta(days=1), "visible_from": 5_000, "loaded_at": 4_000}
    )
    for entry in (later, record, record):
        append_load(lake, entry)
    assert read_loads(lake, USER_VECTOR) == [(record.visible_from, DAY), (5_000, DAY + timedelta(days=1))]
    assert read_loads(lake, MERCHANT_VECTOR) == []


def test_a_record_survives_its_bytes_and_stays_small(client: redis.Redis, lake: Lake) -> None:
    record = load(client, lake, DAY)
    assert decode_record(encode_record(record)) == record
    assert len(encode_record(record)) < 1_024
    assert client.get(record_key(USER_VECTOR)) == encode_record(record)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_packing_keeps_order_bits_and_nulls(lake: Lake, view: PackedView) -> None:
    rows = snapshot(view, DAY, 30, first=10).to_pylist()
    vectors = packed_snapshot(lake, view, DAY)["vector"].to_pylist()
    for row, vector in zip(rows, vectors, strict=True):
        assert [row[name] for name in view.names] == [None if np.isnan(value) else value for value in vector]
