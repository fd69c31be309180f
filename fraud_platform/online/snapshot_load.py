"""Loads one snapshot into the online store and records since when it is in force.

What belongs here: packing a snapshot's columns, the order rows → record → ledger, and the ledger of past loads. What
does not: bytes (`writer`, `layout`), Feast objects (`feature_repo`), when to load (the schedule).
"""

import json
from collections.abc import Callable
from datetime import date
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.features.pruning import refuse_pruned
from fraud_platform.lake import Lake
from fraud_platform.online import layout
from fraud_platform.online.packed import EVENT_TIMESTAMP, PROJECT, VECTOR, PackedView
from fraud_platform.online.shards import RedisClient, connect_redis, delete, scan
from fraud_platform.online.snapshot_record import SnapshotRecord, encode_record, end_of_day, in_force, record_key
from fraud_platform.online.writer import write_packed
from fraud_platform.schema import FIRST_REGION
from fraud_platform.settings import Settings

Clock = Callable[[], int]
"""Gives the present as UTC microseconds since 1970."""

_LOADS, _REGIONS = "online_loads", "regions"

SNAPSHOT_TABLES = {"user": tables.USER_FEATURES, "merchant": tables.MERCHANT_FEATURES}


class IncompleteLoadError(RuntimeError):
    """Materialization ended without an error, yet rows of the snapshot are not in the online store."""


class OlderSnapshotError(RuntimeError):
    """A newer snapshot than the one asked for is in force."""


def pack(snapshot: pa.Table, view: PackedView) -> pa.Table:
    """The packed rows of a snapshot table: join key, `snapshot_at`, `vector` (list<float32>, null as NaN), extras.

    `snapshot` is a partition of USER_FEATURES or MERCHANT_FEATURES: the join key, `snapshot_at` and one float32 column
    per feature of the view.
    """
    matrix = np.empty((snapshot.num_rows, len(view.names)), np.float32)
    for position, name in enumerate(view.names):
        matrix[:, position] = pc.fill_null(snapshot[name].cast(pa.float32()), np.float32("nan")).to_numpy()
    offsets = np.arange(0, matrix.size + 1, matrix.shape[1], dtype=np.int32)
    vector = pa.ListArray.from_arrays(pa.array(offsets), pa.array(matrix.reshape(-1)))
    columns = {view.join_key: snapshot[view.join_key], EVENT_TIMESTAMP: snapshot[EVENT_TIMESTAMP], VECTOR: vector}
    return pa.table(columns | {name: snapshot[name] for name, _ in view.extras})


def packed_snapshot(lake: Lake, view: PackedView, day: date) -> pa.Table:
    """The packed rows of the snapshot of `day`. Raises MissingPartition."""
    return pack(lake.read(SNAPSHOT_TABLES[view.entity], day, packed_columns(view)), view)


def packed_columns(view: PackedView) -> list[str]:
    """The columns of a snapshot table that `pack` takes."""
    return [view.join_key, EVENT_TIMESTAMP, *view.names, *(name for name, _ in view.extras)]


def view_medians(lake: Lake, view: PackedView, day: date) -> list[float | None]:
    """Population medians of a view's features on `day`, in the vector's order; None where there is none."""
    rows = lake.read(tables.FEATURE_MEDIANS, day)
    medians: dict[str, float | None] = dict(zip(rows["feature"].to_pylist(), rows["median"].to_pylist(), strict=True))
    return [medians[name] for name in view.names]


def load_snapshot_direct(
    redis_client: RedisClient,
    lake: Lake,
    view: PackedView,
    day: date,
    *,
    now: Clock,
    ttl_seconds: int,
    key_prefix: bytes = b"",
    force: bool = False,
    catalogue_hash: str = CATALOGUE.hash,
    rows_per_second: int | None = None,
    follows: int | None = None,
) -> SnapshotRecord:
    """Write the snapshot of `day` under `key_prefix` and put it in force; no Feast, no ledger.

    Rows and record are those of the real store, so replay reads its own key space by the same code. Rows expire
    `ttl_seconds` after being written. catalogue_hash: of the set that the view belongs to. rows_per_second: as for
    `write_packed`. follows: of the record. Raises OlderSnapshotError unless `force`, MissingPartition, WriteError.
    """
    loaded_at = now()
    refuse_older(redis_client, view, day, key_prefix, force=force)
    rows = packed_snapshot(lake, view, day)
    medians = view_medians(lake, view, day)
    write_packed(
        redis_client,
        PROJECT,
        view,
        rows,
        key_prefix=key_prefix,
        ttl_seconds=ttl_seconds,
        rows_per_second=rows_per_second,
    )
    return put_in_force(
        redis_client, view, day, medians, rows.num_rows, loaded_at, now, key_prefix, follows, catalogue_hash
    )


def load_snapshot_feast(
    settings: Settings,
    lake: Lake,
    view: PackedView,
    day: date,
    *,
    now: Clock,
    force: bool = False,
    follows: int | None = None,
) -> SnapshotRecord:
    """Materialize the snapshot of `day` through Feast, put it in force and append it to the ledger of loads.

    Feast's source file of the view is replaced by this one day, so the work does not grow with the history. follows: of
    the record, where this region follows the first. Raises OlderSnapshotError unless `force`, MissingPartition,
    PrunedSnapshotError, WriteError, IncompleteLoadError.
    """
    from feature_repo.store import materialize, write_source
    from fraud_platform.online.embedded_redis import ensure_redis

    loaded_at = now()
    with connect_redis(ensure_redis(settings)) as redis_client:
        current = refuse_older(redis_client, view, day, b"", force=force)
        if current:
            # a load that was killed between record and ledger is completed here
            append_load(lake, current, settings.region)
        refuse_pruned(lake, SNAPSHOT_TABLES[view.entity], day)
        rows = packed_snapshot(lake, view, day)
        medians = view_medians(lake, view, day)
        write_source(settings, view, rows)
        materialize(settings, view, day)
        _check_written(redis_client, view, rows, day)
        record = put_in_force(redis_client, view, day, medians, rows.num_rows, loaded_at, now, b"", follows)
    append_load(lake, record, settings.region)
    return record


def load_cold(settings: Settings, lake: Lake, view: PackedView, day: date, *, now: Clock) -> SnapshotRecord:
    """Materialize the snapshot of `day` into the cold store through Feast and put it in force there.

    It takes part in no comparison with history, so no ledger names it. Raises MissingPartition, PrunedSnapshotError,
    psycopg.Error.
    """
    import psycopg

    from feature_repo.store import materialize, write_source
    from fraud_platform.online.cold_writer import put_cold_in_force
    from fraud_platform.online.embedded_postgres import ensure_postgres

    loaded_at = now()
    refuse_pruned(lake, SNAPSHOT_TABLES[view.entity], day)
    rows = packed_snapshot(lake, view, day)
    write_source(settings, view, rows)
    materialize(settings, view, day, cold=True)
    record = record_of(view, day, view_medians(lake, view, day), rows.num_rows, loaded_at, now())
    with psycopg.connect(ensure_postgres(settings)) as connection:
        put_cold_in_force(connection, record)
    return record


def refuse_older(
    redis_client: RedisClient, view: PackedView, day: date, key_prefix: bytes, *, force: bool
) -> SnapshotRecord | None:
    """The record in force. Raises OlderSnapshotError when it is of a later day than `day`; with `force` rows that are
    newer than `day` are deleted instead, since they would pass for those of a running load. Where a record stands that
    is damaged or of other features, so may be any row: all are deleted, while nobody reads them."""
    current = in_force(redis_client, view, key_prefix)
    if current is None and redis_client.exists(record_key(view, key_prefix)):
        _delete_newer(redis_client, view, -1, key_prefix)
    if current and current.snapshot > day:
        if not force:
            raise OlderSnapshotError(
                f"{view.name}: snapshot {current.snapshot} is in force, {day} is older; force the load to go back"
            )
        _delete_newer(redis_client, view, end_of_day(day), key_prefix)
    return current


def put_in_force(
    redis_client: RedisClient,
    view: PackedView,
    day: date,
    medians: list[float | None],
    rows: int,
    loaded_at: int,
    now: Clock,
    key_prefix: bytes,
    follows: int | None = None,
    catalogue_hash: str = CATALOGUE.hash,
) -> SnapshotRecord:
    """Write the view's record: from this instant on the snapshot of `day` is in force."""
    record = msgspec.structs.replace(
        record_of(view, day, medians, rows, loaded_at, now(), catalogue_hash), follows=follows
    )
    redis_client.set(record_key(view, key_prefix), encode_record(record))
    return record


def record_of(
    view: PackedView,
    day: date,
    medians: list[float | None],
    rows: int,
    loaded_at: int,
    visible_from: int,
    catalogue_hash: str = CATALOGUE.hash,
) -> SnapshotRecord:
    """The record of a load. Times: UTC microseconds. catalogue_hash: of the set that the view belongs to."""
    return SnapshotRecord(
        view=view.name,
        snapshot=day,
        snapshot_at=end_of_day(day),
        visible_from=visible_from,
        loaded_at=loaded_at,
        catalogue_hash=catalogue_hash,
        medians=medians,
        rows=rows,
        view_hash=view.hash,
    )


def append_load(lake: Lake, record: SnapshotRecord, region: str = FIRST_REGION) -> None:
    """Write a region's load to the ledger; the same load twice is one entry."""
    name = f"{_loads(region)}/{record.view}/{record.loaded_at:020d}"
    entry: dict[str, Any] = {
        "snapshot": record.snapshot.isoformat(),
        "visible_from": record.visible_from,
        "loaded_at": record.loaded_at,
        "catalogue_hash": record.catalogue_hash,
        "rows": record.rows,
    }
    if lake.read_record(name) != entry:
        lake.write_record(name, entry)


def read_loads(lake: Lake, view: PackedView, region: str = FIRST_REGION) -> list[tuple[int, date]]:
    """Every load of a region's online store as (visible_from in UTC microseconds, snapshot day), ascending."""
    entries = [json.loads(entry) for entry in lake.documents(f"{_loads(region)}/{view.name}")]
    return sorted((int(entry["visible_from"]), date.fromisoformat(entry["snapshot"])) for entry in entries)


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the ledger of loads."""

    snapshot: date
    visible_from: int
    loaded_at: int
    catalogue_hash: str


def last_load(lake: Lake, view: PackedView, region: str = FIRST_REGION) -> Load | None:
    """The load that was begun last in a region; None before the first."""
    names = lake.files(f"{_loads(region)}/{view.name}", "*.json")
    payload = lake.document(lake.name_of(names[-1])) if names else None
    return None if payload is None else msgspec.json.decode(payload, type=Load)


def loading_regions(lake: Lake) -> list[str]:
    """The regions that have loaded a snapshot, beside the first."""
    found = (lake.name_of(path) for path in lake.files(_REGIONS, "*.json"))
    return sorted({name.split("/")[1] for name in found})


def _loads(region: str) -> str:
    return f"{_REGIONS}/{region}/{_LOADS}" if region else _LOADS


def _check_written(redis_client: RedisClient, view: PackedView, rows: pa.Table, day: date) -> None:
    """Look up the first, middle and last row: Feast also succeeds when its source or interval held nothing."""
    for position in {0, rows.num_rows // 2, rows.num_rows - 1} if rows.num_rows else ():
        entity = rows[view.join_key][position].as_py()
        key = layout.entity_key(PROJECT, view.join_key, entity)
        at = redis_client.hget(key, layout.timestamp_field(view.name))  # type: ignore[arg-type]
        if not isinstance(at, bytes) or layout.timestamp(at) != end_of_day(day):
            raise IncompleteLoadError(f"{view.name}: {entity} of snapshot {day} is not in the online store")


def _delete_newer(redis_client: RedisClient, view: PackedView, snapshot_at: int, key_prefix: bytes) -> None:
    """Delete a view's rows whose event timestamp is after `snapshot_at`: a scan of the whole key space."""
    prefix = key_prefix + layout.entity_key_prefix(view.join_key)
    field = layout.timestamp_field(view.name)
    for master, keys in scan(redis_client, prefix, kind="HASH"):
        with master.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hget(key, field)  # type: ignore[arg-type]  # redis-py types hash fields as str, bytes are as good
            stamps = pipe.execute()
        stale = [key for key, at in zip(keys, stamps, strict=True) if at and layout.timestamp(at) > snapshot_at]
        delete(master, stale)
