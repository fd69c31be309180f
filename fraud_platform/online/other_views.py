"""Views of other sets of features than the platform's own, in Redis and PostgreSQL: loaded while a release in force
stands on them, so that a service of the version before finds what it reads, and deleted once nobody can read them.

What belongs here: which, what they cost, loading and deleting them. What does not: the platform's own views
(`snapshot_load`), which releases are in force (`model.served_sets`). Feast knows nothing of them: the bytes are its own
all the same.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import msgspec
import pyarrow.compute as pc

from fraud_platform.features.catalogue import CATALOGUE, DAY, Catalogue
from fraud_platform.lake import Lake
from fraud_platform.online import layout
from fraud_platform.online.columns import array_of, encoded, timestamps
from fraud_platform.online.packed import EVENT_TIMESTAMP, PROJECT, VIEWS, PackedView, views_of
from fraud_platform.online.shards import RedisClient, scan
from fraud_platform.online.snapshot_load import Clock, append_load, load_snapshot_direct, packed_snapshot
from fraud_platform.online.snapshot_record import RECORD_PREFIX, SnapshotRecord, decode_record
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


def estimated_bytes(lake: Lake, view: PackedView, day: date) -> int:
    """About how many bytes the view's rows of `day` add to rows that Redis has already. Raises MissingPartition."""
    rows = packed_snapshot(lake, view, day)
    sample = rows.slice(0, _SAMPLE).combine_chunks()
    if not sample.num_rows:
        return 0
    columns = [timestamps(array_of(sample, EVENT_TIMESTAMP))]
    columns += [encoded(view, sample, name, kind) for name, kind in view.features]
    fields = [layout.timestamp_field(view.name), *(layout.field(view.name, name) for name, _ in view.features)]
    values = sum(pc.sum(pc.binary_length(column)).as_py() for column in columns) / sample.num_rows
    names = sum(len(field) + 2 * _ENTRY for field in fields)
    return int(rows.num_rows * (values + names))


def load_other(
    settings: Settings, lake: Lake, redis_client: RedisClient, other: OtherView, day: date, now: Clock
) -> SnapshotRecord:
    """Put the snapshot of `day` in force in the view and append it to the view's ledger. Raises OlderSnapshotError,
    MissingPartition, WriteError."""
    record = load_snapshot_direct(
        redis_client,
        lake,
        other.view,
        day,
        now=now,
        ttl_seconds=settings.online_ttl_days * _DAY_SECONDS,
        catalogue_hash=other.set_hash,
        rows_per_second=settings.online_load_rate,
    )
    append_load(lake, record, settings.region)
    return record


def loaded(redis_client: RedisClient) -> set[str]:
    """Names of the views that somebody loads into Redis, whoever that is."""
    return {key.removeprefix(RECORD_PREFIX).decode() for key, _ in _records(redis_client)}


def delete_unread(redis_client: RedisClient, ttl_days: int, now: int) -> list[str]:
    """Delete the views that no service reads any more, and return their names: other than the platform's own, and past
    their time to live, in which whoever loads them would have loaded them again. now: UTC microseconds.

    Their fields would stand as long as the rows: those live on by the loads of the views beside them.
    """
    unread = []
    for key, value in _records(redis_client):
        name = key.removeprefix(RECORD_PREFIX).decode()
        if _is_unread(name, value, ttl_days, now):
            _delete_fields(redis_client, name)
            redis_client.delete(key)
            unread.append(name)
    return unread


def delete_unread_cold(connection: "psycopg.Connection", ttl_days: int, now: int) -> list[str]:
    """`delete_unread` of PostgreSQL."""
    from psycopg import sql

    from fraud_platform.online.cold_writer import RECORDS, cold_table_of

    unread = []
    for name, value in connection.execute(sql.SQL("SELECT view, record FROM {}").format(sql.Identifier(RECORDS))):
        if _is_unread(name, bytes(value), ttl_days, now):
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
