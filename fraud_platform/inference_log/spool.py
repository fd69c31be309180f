"""The spool: append-only segments of decision records, one writer per worker, written before an answer goes out.

What belongs here: the frame around a record, segments, appending, reading back after a crash. What does not: shipping
records on (`shipper`), what to do when the disk is full (`recorder`).
A frame is length and CRC-32 (both uint32, little endian), then the record. A process that is killed leaves at most one
torn frame, at the end of its own segment; its answer has not gone out. No fsync here: a record outlives the process at
once, and the machine after the shipper's next fsync.
"""

import fcntl
import os
import struct
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from fraud_platform.decision.standing import standing_of
from fraud_platform.inference_log.record import MARKED, DecisionRecord, Identity, decode_record
from fraud_platform.processing import DUPLICATE_WINDOW_US

SEGMENT_BYTES = 16 << 20
"""A writer begins a new segment behind this size: the smallest piece of disk that is given back."""

_HEADER = struct.Struct("<II")
_MAX_FRAME = 1 << 20
_OPEN_DAYS = 2


def spool_root(home: Path) -> Path:
    """Where all segments of a home lie, in a folder per UTC day."""
    return home / "inference_log"


def spool_folder(home: Path, day: date) -> Path:
    """Where the segments of one UTC day lie."""
    return spool_root(home) / f"date={day.isoformat()}"


def segments(home: Path) -> list[Path]:
    """Every segment of a home: by day, a writer's in the order it wrote them."""
    return sorted(spool_root(home).glob("date=*/*.msgpack"))


def is_open(segment: Path) -> bool:
    """Whether its writer may still append: it holds the segment's lock as long as it lives."""
    with segment.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@dataclass
class _Segment:
    descriptor: int
    size: int = 0


class SpoolWriter:
    """Appends records to `<home>/inference_log/date=…/<worker>-<n>.msgpack`; one writer per worker, one thread.

    worker: a name that no other process uses, `<pid>-<start>`.
    """

    def __init__(self, home: Path, worker: str, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._home = home
        self._worker = worker
        self._limit = segment_bytes
        self._segments: dict[date, _Segment] = {}
        self._begun = 0

    def append(self, day: date, payload: bytes) -> None:
        """Write one encoded record. Raises OSError; the segment then ends where it ended before."""
        segment = self._segments.get(day)
        if segment is None or segment.size >= self._limit:
            segment = self._begin(day)
        frame = _HEADER.pack(len(payload), zlib.crc32(payload)) + payload
        written = os.write(segment.descriptor, frame)
        if written != len(frame):
            # a full disk takes part of a frame: what follows it could not be read
            os.ftruncate(segment.descriptor, segment.size)
            raise OSError(f"only {written} of {len(frame)} bytes could be written to the spool")
        segment.size += written

    def _begin(self, day: date) -> _Segment:
        """A new segment for a day, locked before it has its name: nobody takes it for a dead writer's."""
        folder = spool_folder(self._home, day)
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{self._worker}-{self._begun:06d}.msgpack"
        hidden = folder / f".{name}"
        descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            hidden.rename(folder / name)
        except OSError:
            os.close(descriptor)
            raise
        self._begun += 1
        self._close(day)
        while len(self._segments) >= _OPEN_DAYS:
            self._close(min(self._segments))
        segment = self._segments[day] = _Segment(descriptor)
        return segment

    def _close(self, day: date) -> None:
        segment = self._segments.pop(day, None)
        if segment is not None:
            os.close(segment.descriptor)

    def close(self) -> None:
        """Close the open segments; the writer ends with this."""
        for day in list(self._segments):
            self._close(day)


@dataclass
class Frames:
    """The frames of one segment from a position on; after a pass, `position` is behind the last whole one.

    `torn` tells that bytes follow which are no whole frame: one being written, or a killed writer's last. `damaged`
    tells that they are neither: the frame is all there, and is not what was written.
    """

    path: Path
    position: int = 0
    torn: bool = False
    damaged: bool = False

    def __iter__(self) -> Iterator[bytes]:
        self.torn = self.damaged = False
        with self.path.open("rb") as file:
            file.seek(self.position)
            while header := file.read(_HEADER.size):
                payload, length, checksum = b"", 0, 0
                if len(header) == _HEADER.size:
                    length, checksum = _HEADER.unpack(header)
                    payload = file.read(length) if length <= _MAX_FRAME else b""
                if not length or len(payload) != length or zlib.crc32(payload) != checksum:
                    whole = len(header) == _HEADER.size
                    self.torn = True
                    self.damaged = whole and (not 0 < length <= _MAX_FRAME or len(payload) == length)
                    return
                self.position += _HEADER.size + length
                yield payload


@dataclass
class Spool:
    """The records of one day that are still here, in segment order; `torn` counts segments with a torn end."""

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
            frames = Frames(path)
            try:
                yield from frames
            except FileNotFoundError:
                # cut meanwhile: the lake has it
                continue
            self.torn += frames.torn


def read_spool(home: Path, day: date) -> Spool:
    """The records of one UTC day that have not been cut, iterable; `.torn` is known after a pass."""
    return Spool(home, day)


def left_unsettled(home: Path, now: int) -> list[tuple[DecisionRecord, bytes]]:
    """Decisions of the last day that a worker which has ended told before the store had taken them, and their bytes.

    now: UTC microseconds. Reads what has not been cut, so not for the event loop.
    """
    found = {}
    for path in segments(home):
        try:
            if is_open(path):
                continue
            for payload in Frames(path):
                record = decode_record(payload)
                if record.unsettled and now - record.received_at < DUPLICATE_WINDOW_US:
                    found[record.log_key] = record, payload
        except FileNotFoundError:
            # cut meanwhile: the lake has it
            continue
    return [told for key, told in found.items() if f"{key}{MARKED}" not in found and told[0].superseded_by is None]


def spooled_since(home: Path, day: date) -> bool:
    """Whether the spool holds a decision made after the UTC day `day`."""
    after = f"date={day.isoformat()}"
    return any(path.parent.name > after and path.stat().st_size > 0 for path in segments(home))


def spooled_days(home: Path) -> list[date]:
    """UTC days that have a segment, ascending."""
    return sorted({date.fromisoformat(path.parent.name.removeprefix("date=")) for path in segments(home)})


def find_named(home: Path, identifier: str) -> list[DecisionRecord]:
    """Every decision in the spool that has this decision_id or transaction_id, of any day and caller."""
    needle = identifier.encode()
    found = (
        decode_record(payload)
        for day in spooled_days(home)
        for payload in Spool(home, day).payloads()
        if needle in payload
    )
    return [record for record in found if identifier in (record.decision_id, record.request.transaction_id)]


def find_spooled(
    home: Path, wanted: Collection[Identity], until: date, days: int
) -> dict[Identity, list[DecisionRecord]]:
    """Each caller's records on a transaction in the `days` UTC days that end with `until`, back to the first day on
    which one stands.

    Reads what has not been cut from end to start by day: seconds for a busy day, so not for the event loop.
    """
    found: dict[Identity, list[DecisionRecord]] = {identity: [] for identity in wanted}
    for back in range(days):
        left = {identity for identity, records in found.items() if standing_of(records) is None}
        if not left:
            break
        needles = {transaction_id.encode() for _, transaction_id in left}
        for payload in Spool(home, until - timedelta(days=back)).payloads():
            # most records are of other transactions: look before decoding
            if any(needle in payload for needle in needles):
                record = decode_record(payload)
                if record.identity in left:
                    found[record.identity].append(record)
    return found
