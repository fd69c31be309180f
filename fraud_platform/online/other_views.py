"""Views of other sets of features than the platform's own, in Redis and PostgreSQL: loaded while a release stands
on them that decides or may come back, and deleted once nobody can read them.

What belongs here: which, what they cost, loading and deleting them. What does not: the platform's own views
(`snapshot_load`), which releases are in force (`model.served_sets`). Feast knows nothing of them: the bytes are its own
all the same.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE, DAY, Catalogue
from fraud_platform.features.pruning import refuse_pruned
from fraud_platform.lake import Lake
from fraud_platform.online import layout
from fraud_platform.online.columns import array_of, encoded, timestamps
from fraud_platform.online.packed import EVENT_TIMESTAMP, PROJECT, VIEWS, PackedView, views_of
from fraud_platform.online.shards import RedisClient, scan
from fraud_platform.online.snapshot_load import (
    SNAPSHOT_TABLES,
    Clock,
    append_load,
    load_snapshot_direct,
    pack,
    packed_columns,
    packed_snapshot,
    record_of,
    view_medians,
)
from fraud_platform.online.snapshot_record import RECORD_PREFIX, SnapshotRecord, decode_record, in_force
from fraud_platform.settings import Settings

if TYPE_CHECKING:
    import psycopg

_SAMPLE = 1_000
_DAY_SECONDS = 86_400
_ENTRY = 2
"""Bytes of a small hash beside each field and each value."""


@dataclass(frozen=True)
class OtherView:
    """A view, and the hash of the set that it belongs to."""

    view: PackedView
    set_hash: str


def other_views(sets: Iterable[Catalogue], catalogue: Catalogue = CATALOGUE) -> list[OtherView]:
    """The views of some sets that are none of the platform's own, each once."""
    known = {view.name for view in views_of(catalogue)}
    found: dict[str, OtherView] = {}
    for one in sets:
        for view in views_of(one):
            if view.name not in known:
                found.setdefault(view.name, OtherView(view, one.hash))
    return list(found.values())


def is_computed(view: PackedView, catalogue: Catalogue = CATALOGUE) -> bool:
    """Whether snapshots have the view's features, which mean the same there: else it cannot be loaded from them."""
    return set(view.names) <= set(catalogue.names) and catalogue.hash_of(view.names) == view.members


def loadable(sets: Iterable[Catalogue], catalogue: Catalogue = CATALOGUE) -> list[OtherView]:
    """`other_views` that can be loaded from the platform's snapshots."""
    return [other for other in other_views(sets, catalogue) if is_computed(other.view, catalogue)]


class ViewCost(msgspec.Struct, frozen=True):
    """What a view of another set takes beside the platform's own."""

    view: str
    set_hash: str
    snapshot: date | None
    """Of the rows that are counted; None: there is none, or the platform does not compute the view's features."""
    rows: int
    redis_bytes: int
    """About what its rows add to Redis."""
    in_force: date | None
    """Its snapshot that Redis has now."""


def view_costs(lake: Lake, redis_client: RedisClient, sets: Iterable[Catalogue]) -> list[ViewCost]:
    """What each load takes more while releases stand on these sets, from the newest snapshot's rows. Raises
    redis.exceptions.RedisError."""
    days = lake.days(tables.FEATURE_MEDIANS)
    costs = []
    for other in other_views(sets):
        view = other.view
        day = days[-1] if days and is_computed(view) else None
        rows, size = (0, 0) if day is None else estimated(lake, view, day)
        standing = in_force(redis_client, view)
        costs.append(ViewCost(view.name, other.set_hash, day, rows, size, standing.snapshot if standing else None))
    return costs


def estimated(lake: Lake, view: PackedView, day: date) -> tuple[int, int]:
    """The view's rows of `day`, and about how many bytes they add to rows that Redis has already, by the first thousand
    of them. Raises MissingPartition."""
    table = SNAPSHOT_TABLES[view.entity]
    rows, _ = lake.size(table, day)
    if not rows:
        return 0, 0
    with lake.open(table, day) as file:
        first = next(pq.ParquetFile(file).iter_batches(_SAMPLE, columns=packed_columns(view)))
    sample = pack(pa.Table.from_batches([first]), view).combine_chunks()
    columns = [timestamps(array_of(sample, EVENT_TIMESTAMP))]
    columns += [encoded(view, sample, name, kind) for name, kind in view.features]
    fields = [layout.timestamp_field(view.name), *(layout.field(view.name, name) for name, _ in view.features)]
    values = sum(pc.sum(pc.binary_length(column)).as_py() for column in columns) / sample.num_rows
    names = sum(len(field) + 2 * _ENTRY for field in fields)
    return rows, int(rows * (values + names))


def load_other(
    settings: Settings,
    lake: Lake,
    redis_client: RedisClient,
    other: OtherView,
    day: date,
    now: Clock,
    follows: int | None = None,
) -> SnapshotRecord:
    """Put the snapshot of `day` in force in the view and append it to the view's ledger. follows: of the record, where
    this region follows the first, also back. Raises OlderSnapshotError, MissingPartition, PrunedSnapshotError,
    WriteError."""
    refuse_pruned(lake, SNAPSHOT_TABLES[other.view.entity], day)
    record = load_snapshot_direct(
        redis_client,
        lake,
        other.view,
        day,
        now=now,
        ttl_seconds=settings.online_ttl_days * _DAY_SECONDS,
        catalogue_hash=other.set_hash,
        rows_per_second=settings.online_load_rate,
        force=follows is not None,
        follows=follows,
    )
    append_load(lake, record, settings.region)
    return record


def load_other_cold(
    connection: "psycopg.Connection", lake: Lake, other: OtherView, day: date, now: Clock
) -> SnapshotRecord:
    """Put the snapshot of `day` in force in the view's own table of PostgreSQL. Raises MissingPartition,
    psycopg.Error."""
    from fraud_platform.online.cold_writer import create_like, put_cold_in_force, write_cold

    loaded_at = now()
    rows = packed_snapshot(lake, other.view, day)
    create_like(connection, PROJECT, other.view)
    write_cold(connection, PROJECT, other.view, rows)
    medians = view_medians(lake, other.view, day)
    record = record_of(other.view, day, medians, rows.num_rows, loaded_at, now(), other.set_hash)
    put_cold_in_force(connection, record)
    return record


def loaded(redis_client: RedisClient) -> set[str]:
    """Names of the views that somebody loads into Redis, whoever that is."""
    return {key.removeprefix(RECORD_PREFIX).decode() for key, _ in _records(redis_client)}


def delete_unread(redis_client: RedisClient, ttl_days: int, now: int, retired: Collection[str] = ()) -> list[str]:
    """Delete the views that no service reads any more, and return their names: other than the platform's own, and
    `retired`, or past their time to live, in which whoever loads them would have loaded them again. now: UTC
    microseconds.

    Their fields would stand as long as the rows: those live on by the loads of the views beside them.
    """
    unread = []
    for key, value in _records(redis_client):
        name = key.removeprefix(RECORD_PREFIX).decode()
        if name in retired or _is_unread(name, value, ttl_days, now):
            _delete_fields(redis_client, name)
            redis_client.delete(key)
            unread.append(name)
    return unread


def delete_unread_cold(
    connection: "psycopg.Connection", ttl_days: int, now: int, retired: Collection[str] = ()
) -> list[str]:
    """`delete_unread` of PostgreSQL."""
    from psycopg import sql

    from fraud_platform.online.cold_writer import RECORDS, cold_table_of

    unread = []
    for name, value in connection.execute(sql.SQL("SELECT view, record FROM {}").format(sql.Identifier(RECORDS))):
        if name in retired or _is_unread(name, bytes(value), ttl_days, now):
            unread.append(name)
    for name in unread:
        with connection.transaction():
            connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(cold_table_of(PROJECT, name))))
            connection.execute(sql.SQL("DELETE FROM {} WHERE view = %s").format(sql.Identifier(RECORDS)), (name,))
    return unread


def _records(redis_client: RedisClient) -> Iterator[tuple[bytes, bytes]]:
    for master, keys in scan(redis_client, RECORD_PREFIX, kind="STRING"):
        for key in keys:
            value = master.get(key)
            if isinstance(value, bytes):
                yield key, value


def _is_unread(name: str, value: bytes, ttl_days: int, now: int) -> bool:
    if name in {view.name for view in VIEWS}:
        return False
    try:
        record = decode_record(value)
    except msgspec.MsgspecError:
        # what it is cannot be told, nor whose
        return False
    return record.view == name and now - record.visible_from > ttl_days * DAY


def _delete_fields(redis_client: RedisClient, name: str) -> None:
    for view in VIEWS:
        fields = [layout.timestamp_field(name), *(layout.field(name, feature) for feature, _ in view.features)]
        for master, keys in scan(redis_client, layout.entity_key_prefix(view.join_key), kind="HASH"):
            with master.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.hdel(key, *fields)  # type: ignore[arg-type]  # bytes are as good as str
                pipe.execute()
