"""The lake: Parquet tables, one file per partition, under one root that is any fsspec address.

What belongs here: where a partition lies, atomic writes, reads and DuckDB scans. What does not: what a table means.
A partition is one object, replaced whole, so a killed writer leaves the old file or the new one and never a half. Who
writes what depends on what lies there, and may not be alone, notes what was `seen` and lets `replace` compare.
"""

import errno
import fcntl
import io
import json
import uuid
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import duckdb
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fraud_platform.settings import Settings

_ONE_PUT = 5 * 2**30
"""Bytes of the largest PUT that S3 takes; in one PUT, the condition and the content are one step."""


class MissingPartition(FileNotFoundError):  # noqa: N818 - reads as the condition it names
    """A partition that a step needs has not been written; the message names table and day."""


def _texts(values: Sequence[str]) -> pa.StringArray:
    """`pa.array` of texts, which would import pandas: seconds of the first question that a worker is asked."""
    encoded = [value.encode() for value in values]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))


def days_between(start: date, end: date) -> list[date]:
    """Every day from `start` to `end`, both included; empty when end < start."""
    return [start + timedelta(days=n) for n in range((end - start).days + 1)]


def day_of(path: str) -> date:
    """The day of a partition's file."""
    return date.fromisoformat(path.rsplit("/date=", 1)[1].split("/")[0])


@dataclass(frozen=True)
class Lake:
    """Tables under `root`. A daily table's file is `<table>/date=YYYY-MM-DD/data.parquet`."""

    root: str

    @cached_property
    def _fs(self) -> tuple[fsspec.AbstractFileSystem, str]:
        # other machines write here as well: what was listed once says nothing about now
        fs, path = fsspec.core.url_to_fs(self.root, use_listings_cache=False)
        return fs, path.rstrip("/")

    @cached_property
    def _scanned(self) -> tuple[fsspec.AbstractFileSystem, str]:
        """What DuckDB scans through. It asks for each file's size some ten times: the listing of `scan_paths` answers.

        A file that is replaced after it was listed fails the query, since S3 is asked for it by its ETag.
        """
        fs, path = fsspec.core.url_to_fs(self.root, skip_instance_cache=True)
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
        """Replace a partition atomically; returns the file's size in bytes. Same rows, same bytes: a partition that
        would be replaced by itself stays as it is, and so does what stands on its version."""
        path = self.path(table, day)
        sink = pa.BufferOutputStream()
        pq.write_table(rows, sink, compression="zstd", store_schema=True)
        payload = sink.getvalue().to_pybytes()
        if not self._is(path, payload):
            self.write_bytes(path, payload)
        return len(payload)

    def _is(self, path: str, payload: bytes) -> bool:
        fs = self._fs[0]
        try:
            return fs.size(path) == len(payload) and bool(fs.cat_file(path) == payload)
        except FileNotFoundError:
            return False

    def write_bytes(self, path: str, payload: bytes) -> None:
        """Replace one object atomically: a rename on a local folder, one upload on an object store."""
        fs = self._fs[0]
        if not self.is_local:
            fs.pipe_file(path, payload)
            return
        fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        temporary = f"{path}.{uuid.uuid4().hex}.tmp"
        try:
            fs.pipe_file(temporary, payload)
            fs.mv(temporary, path)
        finally:
            if fs.exists(temporary):
                fs.rm(temporary)

    def seen(self, path: str) -> str | None:
        """The version of an object, for `replace`; None when it is not there. Asked for before the object is read."""
        try:
            info: dict[str, Any] = self._fs[0].info(path)
        except FileNotFoundError:
            return None
        return str(info.get("ETag", info))

    def versions(self, table: str, days: Sequence[date]) -> dict[date, str]:
        """The version of each partition of `days` that was written, by one listing: its ETag, or size and time of its
        last change, which a copy that keeps times has too."""
        fs, root = self._fs
        found: dict[str, dict[str, Any]] = fs.find(f"{root}/{table}", detail=True)
        return {day: _version(found[path]) for day in days if (path := self.path(table, day)) in found}

    def version(self, table: str, day: date) -> str:
        """The version of one partition, as `versions` gives it. Raises MissingPartition."""
        try:
            return _version(self._fs[0].info(self.path(table, day)))
        except FileNotFoundError as error:
            raise self._missing(table, day) from error

    def replace(self, path: str, payload: bytes, seen: str | None) -> bool:
        """Replace one object if it still is what was `seen`; false, and nothing is written, when it is not.

        Holds between processes of one machine on a local folder, between machines on S3. Elsewhere two that compare at
        the same instant can both write. S3 may say false of a write that it took, where its answer was lost.
        """
        if "s3" not in self._fs[0].protocol:
            with self._exclusive():
                if self.seen(path) != seen:
                    return False
                self.write_bytes(path, payload)
                return True
        condition = {"IfNoneMatch": "*"} if seen is None else {"IfMatch": seen}
        try:
            self._fs[0].pipe_file(path, payload, chunksize=_ONE_PUT, **condition)
        except FileExistsError:
            return False
        except FileNotFoundError:
            if seen is None:
                raise  # the bucket is not there
            return False
        except OSError as error:
            # what s3fs makes of 412 Precondition Failed
            if error.errno == errno.EINVAL:
                return False
            raise
        return True

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One `replace` at a time in a local folder."""
        if not self.is_local:
            yield
            return
        folder = Path(self._fs[1])
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def part_path(self, table: str, day: date, name: str) -> str:
        """Path of one part of a partition that is written in parts; the merged partition is at `path`."""
        return f"{self._fs[1]}/{table}/date={day.isoformat()}/{name}.parquet"

    def files(self, table: str, pattern: str, day: date | None = None) -> list[str]:
        """Paths of a table's files whose name matches a glob, of one day or of all, in order.

        An object store is asked once per 1,000 objects, not once per day.
        """
        fs, root = self._fs
        folder = f"{root}/{table}" if day is None else f"{root}/{table}/date={day.isoformat()}"
        return sorted(path for path in fs.find(folder) if fnmatch(path.rsplit("/", 1)[1], pattern))

    def every_file(self, ending: str) -> list[str]:
        """Paths of all files of all tables whose name ends so, in order; none where the root is not there."""
        fs, root = self._fs
        return sorted(path for path in fs.find(root) if path.endswith(ending))

    def table_of(self, path: str) -> str:
        """Name of the table that a path of `every_file` belongs to, without version and day."""
        return self.name_of(path).split("/")[0]

    def open_file(self, path: str) -> IO[bytes]:
        """A file that `files` or `every_file` found. Raises FileNotFoundError."""
        file: IO[bytes] = self._fs[0].open(path, "rb")
        return file

    def read_file(self, path: str, columns: Sequence[str], where: pc.Expression | None = None) -> pa.Table:
        """One file that `files` found, without columns that are younger than it. Raises FileNotFoundError, also where
        it was replaced while it was read."""
        with self._found(path) as file:
            return _read(file, columns, where)

    def rows_of(self, path: str, key: str, values: Collection[str], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Rows of such a file whose `key`, a column of text, is one of some values, with `columns` each.

        A row group whose bounds hold none of them is passed over, and of the others the key alone is read until it is
        found. Raises as `read_file` does.
        """
        ordered = sorted(values)
        wanted = _texts(ordered)
        rows: list[dict[str, Any]] = []
        with self._found(path) as opened:
            file = pq.ParquetFile(opened)
            number = [file.schema.column(n).path for n in range(len(file.schema))].index(key)
            for group in range(file.num_row_groups):
                bounds = file.metadata.row_group(group).column(number).statistics
                if bounds is not None and bounds.has_min_max:
                    first = bisect_left(ordered, bounds.min)
                    if first == len(ordered) or ordered[first] > bounds.max:
                        continue
                found = pc.is_in(file.read_row_group(group, [key]).column(key), wanted)
                if pc.any(found).as_py():
                    rows += file.read_row_group(group, list(columns)).filter(found).to_pylist()
        return rows

    @contextmanager
    def _found(self, path: str) -> Iterator[IO[bytes]]:
        try:
            with self._fs[0].open(path, "rb") as file:
                yield file
        except OSError as error:
            # s3fs reads a file by its ETag, piece by piece
            if error.errno == errno.EBUSY:
                raise FileNotFoundError(path) from error
            raise

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
        return sorted(map(day_of, self.files(table, "data.parquet")))

    def size(self, table: str, day: date) -> tuple[int, int]:
        """Rows and bytes of one partition. Raises MissingPartition."""
        with self.open(table, day) as file:
            return pq.read_metadata(file).num_rows, file.seek(0, io.SEEK_END)

    def open(self, table: str, day: date) -> IO[bytes]:
        """One partition's file, for its metadata. Raises MissingPartition."""
        try:
            file: IO[bytes] = self._fs[0].open(self.path(table, day), "rb")
        except FileNotFoundError as error:
            raise self._missing(table, day) from error
        return file

    def _missing(self, table: str, day: date) -> MissingPartition:
        return MissingPartition(f"{table} has no partition {day} under {self.root}")

    def read(self, table: str, day: date, columns: Sequence[str] | None = None) -> pa.Table:
        """One partition, without columns that are younger than it. Raises MissingPartition."""
        with self.open(table, day) as file:
            return _read(file, columns, None)

    def read_days(self, table: str, days: Iterable[date], columns: Sequence[str] | None = None) -> pa.Table | None:
        """The partitions of `days` that exist, concatenated in order; None when there are none. A column that is
        younger than some of the files is null there, and absent where it is younger than all."""
        parts = [self.read(table, day, columns) for day in self.held(table, days)]
        return pa.concat_tables(parts, promote_options="default") if parts else None

    def scan_paths(self, table: str, days: Iterable[date]) -> list[str]:
        """Addresses of the partitions of `days` that exist, as DuckDB's read_parquet takes them."""
        fs, root = self._scanned
        folder = f"{root}/{table}"
        for listed in [name for name in fs.dircache if name.startswith(f"{folder}/")]:
            del fs.dircache[listed]
        found = set(fs.find(folder))
        addresses = [self.uri(table, day) for day in days if self.path(table, day) in found]
        # S3's other name, by which ibis does not fetch an S3 client of DuckDB's own: `attach` has brought one
        return [address.replace("s3://", "s3a://", 1) for address in addresses]

    def held(self, table: str, days: Iterable[date]) -> list[date]:
        """Those of `days` that were written: one listing, where asking for each would be a request per day."""
        written = set(self.days(table))
        return [day for day in days if day in written]

    def attach(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let a DuckDB connection read this lake's addresses."""
        if not self.is_local:
            connection.register_filesystem(self._scanned[0])

    def name_of(self, path: str) -> str:
        """A path of `every_file` under the root, the name by which `document` finds it."""
        return path.removeprefix(f"{self._fs[1]}/")

    def document_path(self, name: str) -> str:
        """Path of a small file by its name under the root."""
        return f"{self._fs[1]}/{name}"

    def document(self, name: str) -> bytes | None:
        """A small file by its name under the root; None when it is not there."""
        try:
            payload: bytes = self._fs[0].cat_file(self.document_path(name))
        except FileNotFoundError:
            return None
        return payload

    def documents(self, folder: str) -> list[bytes]:
        """The small files of a folder under the root, by name; an object store is asked for many at a time."""
        fs, root = self._fs
        # while the first file of a folder is written, s3fs may find the folder itself
        paths = [path for path in sorted(fs.find(f"{root}/{folder}")) if path.startswith(f"{root}/{folder}/")]
        found: dict[str, bytes] = fs.cat(paths) if paths else {}
        return [found[path] for path in paths]

    def write_document(self, name: str, payload: bytes) -> None:
        """Replace a small file atomically."""
        self.write_bytes(self.document_path(name), payload)

    def write_record(self, name: str, record: dict[str, Any]) -> None:
        """Replace the small JSON document `<name>.json` atomically."""
        self.write_document(f"{name}.json", _json(record))

    def create_record(self, name: str, record: dict[str, Any]) -> bool:
        """Write the JSON document `<name>.json` unless it is there; whether it was written."""
        return self.replace(self.document_path(f"{name}.json"), _json(record), None)

    def read_record(self, name: str) -> dict[str, Any] | None:
        """The JSON document `<name>.json`, or None when it was never written."""
        payload = self.document(f"{name}.json")
        return None if payload is None else json.loads(payload)


def _version(info: dict[str, Any]) -> str:
    return str(info.get("ETag") or f"{info['size']} {info['mtime']}")


def _read(file: IO[bytes], columns: Sequence[str] | None, where: pc.Expression | None) -> pa.Table:
    """Those of the columns that a Parquet file has, all for None, of the rows where a condition holds."""
    parquet = pq.ParquetFile(file)
    held = parquet.schema_arrow.names
    present = held if columns is None else [name for name in columns if name in held]
    return parquet.read(present) if where is None else pq.read_table(file, columns=present, filters=where)


def _json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, indent=2, sort_keys=True).encode()


def open_lake(settings: Settings) -> Lake:
    """The lake that the settings name."""
    return Lake(settings.lake)
