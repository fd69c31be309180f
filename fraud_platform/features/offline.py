"""The offline engine: ibis expressions over the lake, run on DuckDB here or, by the settings, on Spark (`spark`).

What belongs here: what an engine does, DuckDB as one, writing a result back one partition per day. What does not: any
feature's arithmetic, which is the same for every engine.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Protocol

import duckdb
import ibis
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from fraud_platform.channels import CHANNELS, ONLINE
from fraud_platform.features import tables
from fraud_platform.features.gaps import whole_scan
from fraud_platform.lake import Lake
from fraud_platform.settings import Settings

EPOCH = ibis.timestamp("1970-01-01 00:00:00", timezone="UTC")


@dataclass(frozen=True)
class Written:
    """One partition that a step has written."""

    day: date
    rows: int
    bytes: int
    computed: tuple[str, ...] = ()
    """Features whose columns were computed."""
    reused: tuple[str, ...] = ()
    """Features that were not, since their columns were stored already (`stored`)."""
    seconds: float = 0.0
    """How long it took; of days that one query computes, each an equal part."""


def timed(written: Sequence[Written], seconds: float) -> list[Written]:
    """Days that were written together, each with its part of the time."""
    return [replace(each, seconds=seconds / len(written)) for each in written]


class Engine(Protocol):
    """Reads tables as ibis tables and runs what is made of them. A table belongs to the engine that gave it."""

    def daily(self, table: str, days: Sequence[date], schema: pa.Schema) -> ibis.Table:
        """The lake's partitions of `days`, as far back as its history goes, as one table with a `date` column; empty,
        typed, where all are before it.

        A column that is younger than a file is null. Raises GapError."""

    def local(self, rows: pa.Table) -> ibis.Table:
        """A small table of the caller's own."""

    def run(self, rows: ibis.Table) -> pa.Table:
        """The rows of an expression, in its order."""


def open_engine(settings: Settings, lake: Lake) -> Engine:
    """The engine that the settings name, over this lake."""
    if settings.engine == "spark":
        from fraud_platform.features.spark import SparkEngine

        return SparkEngine(settings, lake)
    return _DuckDBEngine(settings, lake)


def connect(settings: Settings, lake: Lake) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB that reads the lake, in UTC, within the settings' memory and threads."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(f"SET memory_limit = '{settings.duckdb_memory}'")
    spill = (settings.home / "duckdb").absolute()
    # DuckDB makes the folder, but not the one that it lies in
    settings.home.mkdir(parents=True, exist_ok=True)
    connection.execute(f"SET temp_directory = '{spill}'")
    connection.execute("SET enable_progress_bar = false")
    # as ibis writes what is done with each element of a list
    connection.execute("SET lambda_syntax = 'ENABLE_SINGLE_ARROW'")
    if settings.duckdb_threads:
        connection.execute(f"SET threads = {settings.duckdb_threads}")
    lake.attach(connection)
    return connection


class _DuckDBEngine:
    def __init__(self, settings: Settings, lake: Lake) -> None:
        self._lake = lake
        self._backend = ibis.duckdb.from_connection(connect(settings, lake))

    def daily(self, table: str, days: Sequence[date], schema: pa.Schema) -> ibis.Table:
        paths = whole_scan(self._lake, table, days)
        if not paths:
            return self.local(schema.append(pa.field("date", pa.date32())).empty_table())
        rows = self._backend.read_parquet(paths, hive_partitioning=True, union_by_name=True).cast({"date": "date"})
        missing = [name for name in schema.names if name not in rows.columns]
        types = ibis.Schema.from_pyarrow(schema)
        return rows.mutate(**{name: ibis.null(types[name](nullable=True)) for name in missing}) if missing else rows

    def local(self, rows: pa.Table) -> ibis.Table:
        return ibis.memtable(rows)

    def run(self, rows: ibis.Table) -> pa.Table:
        return self._backend.to_pyarrow(rows)


def conformed(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """One partition with every column of its table: one that is younger than the file is null."""
    for field in schema:
        if field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    return rows


def paid_online(channel: ibis.Value) -> ibis.Value:
    """Whether a payment was made online, by its channel; `channels.is_online` over a column."""
    return ibis.ifelse(channel.isin(CHANNELS), channel == ONLINE, None)


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


def with_day_before(lake: Lake, table: str, days: Sequence[date], rows: Callable[[date], int]) -> list[date]:
    """The days to write, and the one before them where its partition counts other payments than raw_transactions has.

    A decision of the first day can stand for a row of the day before that was counted already
    (`ingest.standardize.mark_decided_later`). rows: how many payments the partition of a day counts.
    """
    before = min(days) - timedelta(days=1)
    if lake.exists(table, before) and lake.exists(tables.RAW_TRANSACTIONS, before):
        duplicate = lake.read(tables.RAW_TRANSACTIONS, before, ["is_duplicate"])["is_duplicate"]
        if rows(before) != (pc.sum(pc.invert(duplicate)).as_py() or 0):
            return [before, *days]
    return list(days)


def rows_of_day(rows: pa.Table, day: date) -> pa.Table:
    """The rows whose `date` is a day."""
    return rows.filter(pc.equal(rows.column("date"), pa.scalar(day, pa.date32())))


def write_days(lake: Lake, table: str, rows: pa.Table, days: Iterable[date], schema: pa.Schema) -> list[Written]:
    """Split `rows` on their `date` column and write one partition per day, empty ones too, with exactly `schema`."""
    written = []
    for day in days:
        part = rows_of_day(rows, day).select(schema.names).cast(schema)
        written.append(Written(day, part.num_rows, lake.write(table, day, part.combine_chunks())))
    return written
