"""The lake: Parquet tables, one file per partition, under one root that is any fsspec address.

What belongs here: where a partition lies, atomic writes, reads and DuckDB scans. What does not: what a table means.
A partition is one object, replaced whole, so a killed writer leaves the old file or the new one and never a half.
"""

import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from typing import IO, Any

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fraud_platform.settings import Settings


class MissingPartition(FileNotFoundError):  # noqa: N818 - reads as the condition it names
    """A partition that a step needs has not been written; the message names table and day."""


def days_between(start: date, end: date) -> list[date]:
    """Every day from `start` to `end`, both included; empty when end < start."""
    return [start + timedelta(days=n) for n in range((end - start).days + 1)]


@dataclass(frozen=True)
class Lake:
    """Tables under `root`. A daily table's file is `<table>/date=YYYY-MM-DD/data.parquet`."""

    root: str

    @cached_property
    def _fs(self) -> tuple[fsspec.AbstractFileSystem, str]:
        fs, path = fsspec.core.url_to_fs(self.root)
        return fs, path.rstrip("/")

    @property
    def is_local(self) -> bool:
        """Whether the root is a folder of this machine."""
        return "file" in self._fs[0].protocol

    def path(self, table: str, day: date) -> str:
        """Path of a partition inside the filesystem, without the protocol."""
        return f"{self._fs[1]}/{table}/date={day.isoformat()}/data.parquet"

    def uri(self, table: str, day: date | None = None) -> str:
        """Address of a table or partition, with the protocol where it is not a local folder."""
        path = self.path(table, day) if day else f"{self._fs[1]}/{table}"
        return path if self.is_local else str(self._fs[0].unstrip_protocol(path))

    def write(self, table: str, day: date, rows: pa.Table) -> int:
        """Replace a partition atomically; returns the file's size in bytes. Same rows, same bytes."""
        path = self.path(table, day)
        sink = pa.BufferOutputStream()
        pq.write_table(rows, sink, compression="zstd", store_schema=True)
        payload = sink.getvalue().to_pybytes()
        self.write_bytes(path, payload)
        return len(payload)

    def write_bytes(self, path: str, payload: bytes) -> None:
        """Replace one object atomically: a rename on a local folder, one PUT on an object store."""
        fs = self._fs[0]
        fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        if not self.is_local:
            fs.pipe_file(path, payload)
            return
        temporary = f"{path}.{uuid.uuid4().hex}.tmp"
        try:
            fs.pipe_file(temporary, payload)
            fs.mv(temporary, path)
        finally:
            if fs.exists(temporary):
                fs.rm(temporary)

    def part_path(self, table: str, day: date, name: str) -> str:
        """Path of one part of a partition that is written in parts; the merged partition is at `path`."""
        return f"{self._fs[1]}/{table}/date={day.isoformat()}/{name}.parquet"

    def files(self, table: str, pattern: str, day: date | None = None) -> list[str]:
        """Paths of a table's files whose name matches a glob, of one day or of all, in order."""
        fs, root = self._fs
        fs.invalidate_cache()
        days = "date=*" if day is None else f"date={day.isoformat()}"
        return sorted(fs.glob(f"{root}/{table}/{days}/{pattern}"))

    def every_file(self, ending: str) -> list[str]:
        """Paths of all files of all tables whose name ends so, in order; none where the root is not there."""
        fs, root = self._fs
        fs.invalidate_cache()
        return sorted(path for path in fs.find(root) if path.endswith(ending)) if fs.exists(root) else []

    def table_of(self, path: str) -> str:
        """Name of the table that a path of `every_file` belongs to, without version and day."""
        return self.name_of(path).split("/")[0]

    def open_file(self, path: str) -> IO[bytes]:
        """A file that `files` or `every_file` found. Raises FileNotFoundError."""
        file: IO[bytes] = self._fs[0].open(path, "rb")
        return file

    def read_file(self, path: str, columns: Sequence[str], where: pc.Expression | None = None) -> pa.Table:
        """One file that `files` found. Raises FileNotFoundError."""
        with self._fs[0].open(path, "rb") as file:
            return pq.read_table(file, columns=list(columns), filters=where)

    def remove(self, paths: Iterable[str]) -> None:
        """Delete files that `files` found; those that are gone already are no error."""
        fs = self._fs[0]
        for path in paths:
            try:
                fs.rm_file(path)
            except FileNotFoundError:
                continue

    def exists(self, table: str, day: date) -> bool:
        """Whether the partition was written."""
        return bool(self._fs[0].exists(self.path(table, day)))

    def days(self, table: str) -> list[date]:
        """Days of a table that were written, ascending."""
        fs, root = self._fs
        fs.invalidate_cache()
        found = fs.glob(f"{root}/{table}/date=*/data.parquet")
        return sorted(date.fromisoformat(path.split("/date=")[1].split("/")[0]) for path in found)

    def size(self, table: str, day: date) -> tuple[int, int]:
        """Rows and bytes of one partition. Raises MissingPartition."""
        with self.open(table, day) as file:
            return pq.read_metadata(file).num_rows, int(self._fs[0].size(self.path(table, day)))

    def open(self, table: str, day: date) -> IO[bytes]:
        """One partition's file, for its metadata. Raises MissingPartition."""
        try:
            file: IO[bytes] = self._fs[0].open(self.path(table, day), "rb")
        except FileNotFoundError as error:
            raise MissingPartition(f"{table} has no partition {day} under {self.root}") from error
        return file

    def read(self, table: str, day: date, columns: Sequence[str] | None = None) -> pa.Table:
        """One partition. Raises MissingPartition."""
        with self.open(table, day) as file:
            return pq.read_table(file, columns=list(columns) if columns else None)

    def read_days(self, table: str, days: Iterable[date], columns: Sequence[str] | None = None) -> pa.Table | None:
        """The partitions of `days` that exist, concatenated in order; None when there are none."""
        parts = [self.read(table, day, columns) for day in days if self.exists(table, day)]
        return pa.concat_tables(parts) if parts else None

    def scan_paths(self, table: str, days: Iterable[date]) -> list[str]:
        """Addresses of the partitions of `days` that exist, as DuckDB's read_parquet takes them."""
        return [self.uri(table, day) for day in days if self.exists(table, day)]

    def attach(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let a DuckDB connection read this lake's addresses."""
        if not self.is_local:
            connection.register_filesystem(self._fs[0])

    def name_of(self, path: str) -> str:
        """A path of `every_file` under the root, the name by which `document` finds it."""
        return path.removeprefix(f"{self._fs[1]}/")

    def document(self, name: str) -> bytes | None:
        """A small file by its name under the root; None when it is not there."""
        try:
            payload: bytes = self._fs[0].cat_file(f"{self._fs[1]}/{name}")
        except FileNotFoundError:
            return None
        return payload

    def write_document(self, name: str, payload: bytes) -> None:
        """Replace a small file atomically."""
        self.write_bytes(f"{self._fs[1]}/{name}", payload)

    def write_record(self, name: str, record: dict[str, Any]) -> None:
        """Replace the small JSON document `<name>.json` atomically."""
        self.write_document(f"{name}.json", json.dumps(record, indent=2, sort_keys=True).encode())

    def read_record(self, name: str) -> dict[str, Any] | None:
        """The JSON document `<name>.json`, or None when it was never written."""
        payload = self.document(f"{name}.json")
        return None if payload is None else json.loads(payload)


def open_lake(settings: Settings) -> Lake:
    """The lake that the settings name."""
    return Lake(settings.lake)
