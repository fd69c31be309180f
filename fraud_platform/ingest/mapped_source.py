"""A mapped history as a Source: somebody's files, read once, normalised, served by day.

What belongs here: the cache of normalised rows and the queries over it, labels and rates. What does not: what a mapping
may say (mapping), reading files (readers), the SQL that normalises (normalize).
"""

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fraud_platform.erasure.suppression import read_suppression, rewrite_without_erased
from fraud_platform.expression import seal
from fraud_platform.ingest.import_rates import ImportedRates, load_rates
from fraud_platform.ingest.mapping import Format, Mapping, MappingError, infer_format, load_mapping
from fraud_platform.ingest.normalize import NORMALIZED, REMARKS, Remarks, build, remarks
from fraud_platform.ingest.readers import Files, create_view, find_files, quote
from fraud_platform.ingest.standardize import CALLER, PROBLEM, SOURCE_ROW
from fraud_platform.schema import EXPORT, LABELS, RATES, TIME, UNLABELLED
from fraud_platform.settings import Settings

NORMALIZER_VERSION = 2
"""Raised by hand when the same files and mapping would normalise to other rows."""

_SERVED = pa.schema([*EXPORT, PROBLEM, SOURCE_ROW])
_LABELLED = pa.schema(
    [
        pa.field("transaction_id", pa.string()),
        pa.field("day", pa.date32()),
        pa.field("label_arrived_at", TIME),
        pa.field("label_state", pa.string()),
    ]
)
_SILENT = pa.schema([pa.field("transaction_id", pa.string()), pa.field("silent_at", TIME)])
_REMARKS = b"remarks"
"""Key of the cached file's metadata: Remarks as JSON. They name nobody, so that nobody has to be erased from them."""
_BLOCK_ROWS = 500_000
_EPOCH = date(1970, 1, 1)

Key = Literal["day", "label_day"]


@dataclass(frozen=True)
class LabelShares:
    """Rows of a mapped history that have no problem, by their label."""

    rows: int
    unlabelled: int
    fraud: int
    good: int
    at_once: int
    """Their label arrives at the moment of the payment itself."""


@dataclass(frozen=True)
class MappedSource:
    """Somebody's history by a mapping file.

    The files are read once into `<home>/imports/<name>-<fingerprint>.parquet`, sorted by day; the fingerprint changes
    with the mapping and with the files, so later processes find the rows of any day without reading the files again.
    """

    mapping: Mapping
    home: Path
    base_currency: str
    memory: str = "4GB"
    threads: int | None = None
    _rates: dict[str, ImportedRates] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def open(cls, path: Path, settings: Settings) -> "MappedSource":
        """From a mapping file. Raises MappingError where the mapping does not fit, before the data is read."""
        mapping = load_mapping(path)
        if mapping.rates is None and mapping.currency not in (None, settings.base_currency):
            raise MappingError(
                f"mapping file {path}: amounts are in {mapping.currency}, the platform's base currency is "
                f"{settings.base_currency}, and no rates are given: set FRAUD_BASE_CURRENCY={mapping.currency}, "
                "or name a file of date, currency, rate as `rates`"
            )
        return cls(mapping, settings.home, settings.base_currency, settings.duckdb_memory, settings.duckdb_threads)

    @property
    def name(self) -> str:
        """The mapping's name."""
        return self.mapping.name or "import"

    def first_day(self) -> date:
        """The first UTC day of received_at among rows with a readable time."""
        return self._span[0]

    def last_day(self) -> date:
        """The last UTC day of received_at."""
        return self._span[1]

    @cached_property
    def rows(self) -> int:
        """Rows of the files, each of which some day serves."""
        return int(pq.read_metadata(self._cache).num_rows)

    def transactions(self, days: Sequence[date]) -> Iterator[tuple[date, pa.Table]]:
        """Per day the EXPORT rows received then, all of the mapping's `caller`, with `problem` and `source_row` for
        those that could not be read.

        Rows without a readable time stand under the first day. Ordered by received_at, transaction_id, then by every
        other column.
        """
        for day, rows in self._by_day(days, "day", _SERVED):
            yield day, rows.append_column(CALLER, pa.repeat(self.mapping.caller, rows.num_rows))

    def labels(self, days: Sequence[date]) -> Iterator[tuple[date, pa.Table]]:
        """Per day the LABELS rows that arrived then: one per transaction_id and day of receipt, the first row's.

        Where silence says nothing, each payment is UNLABELLED from its receipt until its label arrives.
        """
        labelled = self._by_day(days, "label_day", _LABELLED)
        if not self._silence_is_unknown:
            for day, rows in labelled:
                yield day, self._as_labels(rows, rows["day"], rows["label_arrived_at"], rows["label_state"])
            return
        for (day, rows), (_, received) in zip(labelled, self._by_day(days, "day", _SILENT), strict=True):
            told = self._as_labels(rows, rows["day"], rows["label_arrived_at"], rows["label_state"])
            silent = received.filter(pc.is_valid(received["silent_at"]))
            on, state = (pa.repeat(value, silent.num_rows) for value in (day, UNLABELLED))
            yield day, pa.concat_tables([told, self._as_labels(silent, on, silent["silent_at"], state)])

    def _as_labels(self, rows: pa.Table, on: pa.Array, at: pa.ChunkedArray, state: pa.Array) -> pa.Table:
        """LABELS of rows with a transaction_id: the day each was received, when its label arrived, what it says."""
        columns = {
            "transaction_id": rows["transaction_id"],
            "caller": pa.repeat(self.mapping.caller, rows.num_rows),
            "transaction_date": on,
            "arrived_at": at,
            "source": pa.repeat("import", rows.num_rows),
            "revision": pa.repeat(pa.scalar(1, pa.int32()), rows.num_rows),
            "state": state,
        }
        return pa.table([columns[name] for name in LABELS.names], schema=LABELS)

    @property
    def _silence_is_unknown(self) -> bool:
        return self.mapping.label is not None and self.mapping.label.unlabelled == "unknown"

    def rates(self, day: date) -> pa.Table:
        """The last known rates up to `day`; empty without a rates file, when only the base currency converts."""
        if self.mapping.rates is None:
            return RATES.empty_table()
        if "file" not in self._rates:
            self._rates["file"] = load_rates(duckdb.connect(), self.mapping.rates)
        return self._rates["file"].on(day)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over the mapping, and over the names, sizes and times of the files as they are now.

        Rates and caller are no part of it: the cached rows do not hold them.
        """
        form = self.mapping.format or infer_format(self._files.addresses)
        told = [
            str(NORMALIZER_VERSION),
            form,
            self.mapping.model_dump_json(exclude={"rates", "caller"}),
            *self._files.fingerprint,
        ]
        return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]

    def day_versions(self) -> dict[date, str]:
        """Per UTC day of received_at something that changes with its rows and labels, whatever file holds them."""
        found = self._connection.execute(
            f"""SELECT day, count(*), sum(hash(__t)::HUGEINT) FROM {self._relation} AS __t
                WHERE day IS NOT NULL GROUP BY ALL"""
        ).fetchall()
        return {day: hashlib.sha256(f"{count}:{total}".encode()).hexdigest()[:8] for day, count, total in found}

    def label_counts(self) -> dict[str, int]:
        """Labels by state; `not arrived` are those with a value but no arrival."""
        found = self._connection.execute(
            f"""SELECT CASE WHEN label_arrived_at IS NULL THEN 'not arrived' ELSE label_state END AS state, count(*)
                FROM {self._relation} WHERE label_state IS NOT NULL AND is_first GROUP BY ALL ORDER BY ALL"""
        ).fetchall()
        return {str(state): int(count) for state, count in found}

    def remarks(self) -> Remarks:
        """What was read otherwise than somebody may think."""
        told = (pq.read_metadata(self._cache).metadata or {})[_REMARKS]
        return msgspec.json.decode(told, type=Remarks)

    def label_shares(self) -> LabelShares:
        """How the rows without a problem are labelled."""
        row = self._connection.execute(
            f"""SELECT count(*), count(*) FILTER (label_state IS NULL), count(*) FILTER (label_state = 'confirmed'),
                    count(*) FILTER (label_state = 'cleared'),
                    count(*) FILTER (label_arrived_at <= coalesce(received_at, "timestamp"))
                FROM {self._relation} WHERE problem IS NULL"""
        ).fetchone()
        assert row is not None
        return LabelShares(*row)

    def _by_day(self, days: Sequence[date], key: Key, schema: pa.Schema) -> Iterator[tuple[date, pa.Table]]:
        """The cached rows of each day in the cache's order, read in blocks of some hundred thousand rows."""
        counts = self._day_counts(key)
        for block in _blocks(sorted(set(days)), counts):
            between = [(key, ">=", block[0]), (key, "<=", block[-1])]
            rows = pq.read_table(self._cache, columns=[*schema.names, key], filters=between, partitioning=None)
            if key == "label_day":
                rows = rows.sort_by([("label_day", "ascending")])
            found = rows[key].cast(pa.int32()).to_numpy()
            for day in block:
                wanted = (day - _EPOCH).days
                low, high = np.searchsorted(found, wanted, "left"), np.searchsorted(found, wanted, "right")
                part = rows.slice(int(low), int(high - low))
                yield day, pa.table([part[f.name].cast(f.type) for f in schema], schema=schema)

    def _day_counts(self, key: Key) -> dict[date, int]:
        sql = f"SELECT {key}, count(*) FROM {self._relation} WHERE {key} IS NOT NULL GROUP BY ALL"
        return {day: int(count) for day, count in self._connection.execute(sql).fetchall()}

    @cached_property
    def _span(self) -> tuple[date, date]:
        row = self._connection.execute(f"SELECT min(day), max(day) FROM {self._relation}").fetchone()
        assert row is not None
        return row[0], row[1]

    @cached_property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        return self._connect()

    def _connect(self) -> duckdb.DuckDBPyConnection:
        spill = self.home / "imports" / f"spill-{uuid.uuid4().hex}"  # its own: names inside would collide
        config: dict[str, Any] = {"memory_limit": self.memory, "temp_directory": str(spill)}
        if self.threads is not None:
            config["threads"] = self.threads
        connection = duckdb.connect(config=config)
        connection.execute(
            "SET TimeZone = 'UTC'; SET preserve_insertion_order = false; SET enable_progress_bar = false"
        )
        return connection

    @property
    def _relation(self) -> str:
        """The normalised rows in SQL."""
        return f"read_parquet({quote(str(self._cache))}, hive_partitioning = false)"

    @cached_property
    def _files(self) -> Files:
        return find_files(self.mapping.path)

    @cached_property
    def _cache(self) -> Path:
        """The file of normalised rows; reads the source's files when nobody has."""
        target = self.home / "imports" / f"{self.name}-{self.fingerprint}.parquet"
        if not target.exists():
            form = self.mapping.format or infer_format(self._files.addresses)
            self._read_into(target, form)
            for old in target.parent.glob(f"{self.name}-{'[0-9a-f]' * 16}.parquet"):
                if old != target:
                    old.unlink(missing_ok=True)
        return target

    def _read_into(self, target: Path, form: Format) -> None:
        """Read the files, normalise and write the rows; the mapping's expressions run where only those files are."""
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_suffix(f".{uuid.uuid4().hex}.tmp")
        with self._connect() as connection:
            create_view(connection, self._files, form, self.mapping.csv)
            seal(connection, [*self._files.addresses, str(temporary)])
            build(connection, self.mapping)
            self._write(connection, temporary, target)

    def _write(self, connection: duckdb.DuckDBPyConnection, temporary: Path, target: Path) -> None:
        # Every column decides the order, so the same files give the same order however DuckDB's threads ran.
        ordered = "day, coalesce(received_at, timestamp), transaction_id"
        told = msgspec.json.encode(remarks(connection)).decode()
        silent = (
            """, CASE WHEN problem IS NULL AND row_number() OVER (
                PARTITION BY transaction_id, day, problem IS NULL ORDER BY coalesce(received_at, timestamp)) = 1
                THEN coalesce(received_at, timestamp) END AS silent_at"""
            if self._silence_is_unknown
            else ""
        )
        try:
            connection.execute(
                f"""COPY (
                    SELECT * EXCLUDE ({", ".join(REMARKS)}), row_number() OVER (
                        PARTITION BY transaction_id, day, label_state IS NULL
                        ORDER BY coalesce(received_at, timestamp), label_state DESC, label_arrived_at) = 1 AS is_first,
                        CASE WHEN is_first THEN CAST(label_arrived_at AT TIME ZONE 'UTC' AS DATE) END AS label_day
                        {silent}
                    FROM {NORMALIZED} ORDER BY {ordered}, {", ".join(_TIE_BREAKERS)}
                ) TO {quote(str(temporary))}
                (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 61440, USE_TMP_FILE false,
                 KV_METADATA {{{_REMARKS.decode()}: {quote(told)}}})"""
            )
            rewrite_without_erased(temporary, read_suppression(self.home))
            temporary.rename(target)
        finally:
            temporary.unlink(missing_ok=True)


def _blocks(days: list[date], counts: dict[date, int]) -> Iterator[list[date]]:
    """Runs of days that are read together, none larger than _BLOCK_ROWS but for a single day's rows."""
    block: list[date] = []
    rows = 0
    for day in days:
        count = counts.get(day, 0)
        if block and (rows + count > _BLOCK_ROWS or (day - block[-1]).days > 1):
            yield block
            block, rows = [], 0
        block.append(day)
        rows += count
    if block:
        yield block


_TIE_BREAKERS = (
    "user_id", "merchant_id", "amount_minor", "currency", "timestamp", "country", "user_country", "merchant_category",
    "channel", "device_id", "latitude", "longitude", "problem", "source_row",
)  # fmt: skip
