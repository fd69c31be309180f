"""The spool: append-only files of decision records, one per worker and day, written before an answer goes out.

What belongs here: the frame around a record, appending, reading back after a crash. What does not: shipping records on.
A frame is length and CRC-32 (both uint32, little endian), then the record. A process that is killed leaves at most one
torn frame, at the end of its own file; readers count it and go on with the next file. No fsync: a record outlives the
process, not the machine.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from fraud_platform.inference_log.record import DecisionRecord, decode_record

_HEADER = struct.Struct("<II")
_MAX_FRAME = 1 << 20
_OPEN_DAYS = 2


def spool_folder(home: Path, day: date) -> Path:
    """Where the records of one UTC day lie."""
    return home / "inference_log" / f"date={day.isoformat()}"


class SpoolWriter:
    """Appends records to `<home>/inference_log/date=…/<worker>.msgpack`; one writer per worker, one thread.

    worker: a name that no other process uses, `<pid>-<start>`.
    """

    def __init__(self, home: Path, worker: str) -> None:
        self._home = home
        self._name = f"{worker}.msgpack"
        self._files: dict[date, int] = {}

    def append(self, day: date, payload: bytes) -> None:
        """Write one encoded record. Raises OSError; the file then ends where it ended before."""
        descriptor = self._files.get(day)
        if descriptor is None:
            descriptor = self._open(day)
        frame = _HEADER.pack(len(payload), zlib.crc32(payload)) + payload
        written = os.write(descriptor, frame)
        if written != len(frame):
            # a full disk takes part of a frame: what follows it could not be read
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
            raise OSError(f"only {written} of {len(frame)} bytes could be written to the spool")

    def _open(self, day: date) -> int:
        while len(self._files) >= _OPEN_DAYS:
            os.close(self._files.pop(min(self._files)))
        folder = spool_folder(self._home, day)
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / self._name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._files[day] = descriptor
        return descriptor

    def close(self) -> None:
        """Close the open files; a later append opens them again."""
        while self._files:
            os.close(self._files.popitem()[1])


@dataclass
class Spool:
    """The records of one day, read in file order; `torn` counts frames that a killed writer left unfinished."""

    home: Path
    day: date
    torn: int = 0

    def __iter__(self) -> Iterator[DecisionRecord]:
        for payload in self.payloads():
            yield decode_record(payload)

    def payloads(self) -> Iterator[bytes]:
        """The encoded records."""
        self.torn = 0
        for path in sorted(spool_folder(self.home, self.day).glob("*.msgpack")):
            yield from self._frames(path)

    def _frames(self, path: Path) -> Iterator[bytes]:
        with path.open("rb") as file:
            while header := file.read(_HEADER.size):
                payload = b""
                length = 0
                if len(header) == _HEADER.size:
                    length, checksum = _HEADER.unpack(header)
                    payload = file.read(length) if length <= _MAX_FRAME else b""
                if not length or len(payload) != length or zlib.crc32(payload) != checksum:
                    self.torn += 1
                    return
                yield payload


def read_spool(home: Path, day: date) -> Spool:
    """The records of one UTC day, iterable; `.torn` is known after a pass."""
    return Spool(home, day)


def decided_since(home: Path, day: date) -> bool:
    """Whether this home has decided a payment after the UTC day `day`."""
    files = (home / "inference_log").glob("date=*/*.msgpack")
    return any(file.parent.name > f"date={day.isoformat()}" and file.stat().st_size > 0 for file in files)


def find_decision(home: Path, transaction_id: str, caller: str, until: date, days: int) -> DecisionRecord | None:
    """The caller's latest decision on a transaction in the `days` UTC days that end with `until`, or None.

    Reads the spool from end to start by day: seconds for a busy day, so not for the event loop.
    """
    needle = transaction_id.encode()
    for back in range(days):
        found: DecisionRecord | None = None
        for payload in Spool(home, until - timedelta(days=back)).payloads():
            # most records are of other transactions: look before decoding
            if needle in payload:
                record = decode_record(payload)
                mine = record.request.transaction_id == transaction_id and record.caller == caller
                if mine and (found is None or record.received_at >= found.received_at):
                    found = record
        if found is not None:
            return found
    return None
