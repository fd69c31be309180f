"""The offline engine: ibis expressions over the lake, run on DuckDB.

What belongs here: connecting, reading daily tables as ibis tables, writing a result back one partition per day. What
does not: any feature's arithmetic.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date

import ibis
import pyarrow as pa
import pyarrow.compute as pc
from ibis.backends.duckdb import Backend
from tqdm import tqdm

from fraud_platform.lake import Lake
from fraud_platform.settings import Settings

EPOCH = ibis.timestamp("1970-01-01 00:00:00", timezone="UTC")


@dataclass(frozen=True)
class Written:
    """One partition that a step has written."""

    day: date
    rows: int
    bytes: int


def connect(settings: Settings, lake: Lake) -> Backend:
    """An in-memory DuckDB behind ibis that reads the lake, in UTC, within the settings' memory and threads."""
    backend = ibis.duckdb.connect()
    backend.raw_sql("SET TimeZone = 'UTC'")
    backend.raw_sql(f"SET memory_limit = '{settings.duckdb_memory}'")
    backend.raw_sql(f"SET temp_directory = '{(settings.home / 'duckdb').absolute()}'")
    backend.raw_sql("SET enable_progress_bar = false")
    if settings.duckdb_threads:
        backend.raw_sql(f"SET threads = {settings.duckdb_threads}")
    lake.attach(backend.con)
    return backend


def daily(backend: Backend, lake: Lake, table: str, days: Sequence[date], schema: pa.Schema) -> ibis.Table:
    """The partitions of `days` that exist as one ibis table with a `date` column; empty, typed, when none do.

    A column that is younger than every one of the files is null."""
    paths = lake.scan_paths(table, days)
    if not paths:
        empty = schema.append(pa.field("date", pa.date32())).empty_table()
        return ibis.memtable(empty)
    rows = backend.read_parquet(paths, hive_partitioning=True, union_by_name=True).cast({"date": "date"})
    missing = [name for name in schema.names if name not in rows.columns]
    types = ibis.Schema.from_pyarrow(schema)
    return rows.mutate(**{name: ibis.null(types[name]) for name in missing}) if missing else rows


def conformed(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """One partition with every column of its table: one that is younger than the file is null."""
    for field in schema:
        if field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    return rows


def microseconds(time: ibis.Value) -> ibis.Value:
    """A timestamp column as int64 UTC microseconds since 1970."""
    return time.delta(EPOCH, unit="microsecond")


def chunks(lake: Lake, table: str, days: Sequence[date], rows: int, name: str) -> Iterator[list[date]]:
    """Consecutive days with about `rows` rows of `table` together, at least one day each, behind a progress bar."""
    written = set(lake.days(table))
    sizes = [(day, lake.size(table, day)[0] if day in written else 0) for day in days]
    groups: list[list[date]] = []
    room = 0
    for day, size in sizes:
        if not groups or size > room:
            groups.append([])
            room = rows
        groups[-1].append(day)
        room -= size
    with tqdm(total=len(days), desc=name, unit="day", disable=None) as progress:
        for group in groups:
            yield group
            progress.update(len(group))


def write_days(lake: Lake, table: str, rows: pa.Table, days: Iterable[date], schema: pa.Schema) -> list[Written]:
    """Split `rows` on their `date` column and write one partition per day, empty ones too, with exactly `schema`."""
    written = []
    dates = rows.column("date")
    for day in days:
        part = rows.filter(pc.equal(dates, pa.scalar(day, pa.date32()))).select(schema.names).cast(schema)
        written.append(Written(day, part.num_rows, lake.write(table, day, part.combine_chunks())))
    return written
