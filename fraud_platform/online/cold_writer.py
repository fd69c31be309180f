"""Bulk writer of the cold store: packed rows become Feast's table in PostgreSQL, whole or not at all.

What belongs here: PostgreSQL's binary COPY of many rows, and the swap of tables. What does not: which rows to write
(`snapshot_load`), the bytes of a value (`columns`), the form of the table, which `feast apply` creates.
"""

import struct
from collections.abc import Callable

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from fraud_platform.online.columns import array_of, by_length, checked, content, encoded, entity_keys, join
from fraud_platform.online.packed import EVENT_TIMESTAMP, VIEWS, PackedView
from fraud_platform.online.snapshot_record import SnapshotRecord, encode_record, read_record

CHUNK_ROWS = 8_192

RECORDS = "fraud_snapshots"
"""Table of the records of the snapshots in force, one row per view."""

_COPY_HEAD = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_COPY_TAIL = struct.pack(">h", -1)
_POSTGRES_EPOCH_US = 946_684_800_000_000
"""PostgreSQL counts microseconds from 2000-01-01."""


def cold_table(project: str, view: PackedView) -> str:
    """Feast's table of a view."""
    return cold_table_of(project, view.name)


def cold_table_of(project: str, name: str) -> str:
    """Feast's table of a view, by its name."""
    return f"{project}_{name}"


def create_like(connection: psycopg.Connection, project: str, view: PackedView) -> None:
    """Create the table of another set's view, where it has none: in the form of the platform's own view of the entity,
    whose table Feast has created. Raises psycopg.Error."""
    own = next(one for one in VIEWS if one.entity == view.entity)
    with connection.transaction():
        connection.execute(
            sql.SQL("CREATE TABLE IF NOT EXISTS {} (LIKE {} INCLUDING ALL)").format(
                sql.Identifier(cold_table(project, view)), sql.Identifier(cold_table(project, own))
            )
        )


def write_cold(
    connection: psycopg.Connection,
    project: str,
    view: PackedView,
    rows: pa.Table,
    *,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Replace a view's rows by others; readers see the old ones until all new ones are there. Returns how many.

    `rows`: as for `writer.write_packed`. Raises psycopg.Error, ValueError for rows of another shape.
    """
    name = cold_table(project, view)
    table, following = sql.Identifier(name), sql.Identifier(f"{name}_next")
    written = checked(view, rows)
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(following))
        cursor.execute(sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(following, table))
        statement = sql.SQL("COPY {} (entity_key, feature_name, value, event_ts) FROM STDIN (FORMAT BINARY)")
        with cursor.copy(statement.format(following)) as copy:
            copy.write(_COPY_HEAD)
            for start in range(0, written.num_rows, CHUNK_ROWS):
                chunk = written.slice(start, CHUNK_ROWS).combine_chunks()
                for part in _tuples(view, chunk):
                    copy.write(part)
                if progress:
                    progress(chunk.num_rows)
            copy.write(_COPY_TAIL)
        cursor.execute(sql.SQL("DROP TABLE {}").format(table))
        cursor.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(following, table))
    with connection.transaction():
        connection.execute(sql.SQL("ANALYZE {}").format(table))
    return int(rows.num_rows)


def put_cold_in_force(connection: psycopg.Connection, record: SnapshotRecord) -> None:
    """Write a view's record: from this instant on its snapshot is in force."""
    with connection.transaction():
        connection.execute(
            sql.SQL("CREATE TABLE IF NOT EXISTS {} (view TEXT PRIMARY KEY, record BYTEA NOT NULL)").format(
                sql.Identifier(RECORDS)
            )
        )
        connection.execute(
            sql.SQL("INSERT INTO {} VALUES (%s, %s) ON CONFLICT (view) DO UPDATE SET record = EXCLUDED.record").format(
                sql.Identifier(RECORDS)
            ),
            (record.view, encode_record(record)),
        )


def cold_records(connection: psycopg.Connection) -> dict[str, SnapshotRecord]:
    """The records of the snapshots in force by view; empty before the first load. One that is damaged or of other
    features is in force for nobody."""
    standing = encoded_records(connection)
    records = {view.name: read_record(standing[view.name], view) for view in VIEWS if view.name in standing}
    return {name: record for name, record in records.items() if record is not None}


def encoded_records(connection: psycopg.Connection) -> dict[str, bytes]:
    """The records of all views, of whatever set, as they stand; empty before the first load."""
    (exists,) = connection.execute("SELECT to_regclass(%s)", (RECORDS,)).fetchone() or (None,)
    if exists is None:
        return {}
    found = connection.execute(sql.SQL("SELECT view, record FROM {}").format(sql.Identifier(RECORDS))).fetchall()
    return {name: bytes(record) for name, record in found}


def _tuples(view: PackedView, rows: pa.Table) -> list[memoryview]:
    """The chunk's tuples, feature by feature: key, feature's name, value and event timestamp, each after its length."""
    key = _field(entity_keys(view.join_key, array_of(rows, view.join_key)))
    moments = pc.dictionary_encode(array_of(rows, EVENT_TIMESTAMP).cast(pa.int64()))
    stamps = [struct.pack(">iq", 8, at - _POSTGRES_EPOCH_US) for at in moments.dictionary.to_pylist()]
    at = pa.array(stamps, pa.binary()).take(moments.indices)
    parts = []
    for name, kind in view.features:
        label = struct.pack(">i", len(name.encode())) + name.encode()
        value = _field(encoded(view, rows, name, kind))
        parts.append(content(join([struct.pack(">h", 4), key, label, value, at])))
    return parts


def _field(values: pa.Array) -> pa.Array:
    return join([by_length(values, lambda size: struct.pack(">i", size)), values])
