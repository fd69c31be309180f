"""The shipper: from the spool to the broker, off the path of payments.

What belongs here: reading segments on, sending, fsync, and giving disk back. What does not: brokers, the lake's table.
One per home, whichever process writes the spool: what a dead worker left is shipped like any other. A segment is cut
when its writer has closed it and the lake has every decision in it. A broker that lost records is found out in the same
way, and the segment is sent again; the consumer knows a decision by its id.
"""

import os
from collections.abc import Callable
from datetime import date
from pathlib import Path

import msgspec

from fraud_platform.inference_log.broker import Message, Producer
from fraud_platform.inference_log.record import decode_record
from fraud_platform.inference_log.spool import Frames, is_open, segments, spool_root
from fraud_platform.inference_log.table import LogTable

BATCH = 1_000
AUDIT_US = 10_000_000
"""How often a closed segment is held against the lake."""

CLOCKS_APART_US = 60_000_000
"""How far the clocks of shipper and consumer may be apart."""


class _State(msgspec.Struct):
    """What a restart needs so that nothing is sent twice; without it everything is sent again."""

    positions: dict[str, int] = msgspec.field(default_factory=dict)
    """Bytes of each segment that the broker has, by the segment's path under the spool's root."""


class _Closed:
    """What a segment that nobody writes any more holds."""

    def __init__(self, path: Path) -> None:
        frames = Frames(path)
        records = [decode_record(payload) for payload in frames]
        self.path = path
        self.day = date.fromisoformat(path.parent.name.removeprefix("date="))
        self.keys = {record.log_key for record in records}
        self.times = {record.received_at for record in records}
        self.end, self.damaged = frames.position, frames.damaged


class Shipper:
    """Ships one home's spool. Call `step` again and again, from one thread."""

    def __init__(
        self,
        home: Path,
        producer: Producer,
        table: LogTable,
        source: str,
        *,
        clock: Callable[[], int],
        failed: Callable[[str, BaseException], None],
        fsync_us: int = 1_000_000,
        audit_us: int = AUDIT_US,
        clocks_apart_us: int = CLOCKS_APART_US,
    ) -> None:
        """source: what the lake calls the broker. clock: UTC microseconds.

        failed(stage, error): told of what needs a person, and does not stop the work.
        """
        self._home = home
        self._root = spool_root(home)
        self._producer = producer
        self._table = table
        self._source = source
        self._clock = clock
        self._failed = failed
        self._fsync_us = fsync_us
        self._audit_us = audit_us
        self._clocks_apart_us = clocks_apart_us
        self._state_path = _state_path(home)
        self._state = _load(home)
        self._shipped_at: dict[Path, int] = {}
        self._synced: dict[Path, int] = {}
        self._fsync_at = self._audit_at = 0
        self.shipped = 0
        """Records that the broker took."""
        self.resent = 0
        """Segments sent again."""
        self.cut = 0
        """Segments given back."""

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the spool that the broker does not have."""
        return _waiting(self._home, self._state)

    def step(self) -> int:
        """Write the spool through to the disk, send what is new, cut what can be; returns records sent.

        Raises BrokerError when the broker does not take them; the rest is done all the same.
        """
        now = self._clock()
        found = segments(self._home)
        if now - self._fsync_at >= self._fsync_us:
            self._fsync_at = now
            self._write_through(found)
        before = self.shipped
        try:
            for path in found:
                self._ship(path)
        finally:
            self._keep_state()
            if now - self._audit_at >= self._audit_us:
                self._audit_at = now
                self._audit(found)
        return self.shipped - before

    def _ship(self, path: Path) -> None:
        frames = Frames(path, self._position(path))
        if path.stat().st_size <= frames.position:
            return
        batch: list[Message] = []
        for payload in frames:
            batch.append(Message(decode_record(payload).request.user_id.encode(), payload))
            if len(batch) == BATCH:
                self._send(path, batch, frames.position)
                batch = []
        if batch:
            self._send(path, batch, frames.position)

    def _send(self, path: Path, batch: list[Message], position: int) -> None:
        self._producer.send(batch)
        self._state.positions[self._name(path)] = position
        self._shipped_at[path] = self._clock()
        self.shipped += len(batch)

    def _write_through(self, found: list[Path]) -> None:
        """A machine that dies loses at most what was written since the last of these."""
        sizes = {path: path.stat().st_size for path in found}
        for path, size in sizes.items():
            if self._synced.get(path) != size:
                with path.open("rb") as file:
                    os.fdatasync(file.fileno())
        self._synced = sizes

    def _audit(self, found: list[Path]) -> None:
        """Cut what is closed and wholly in the lake; send again what the lake can no longer get otherwise."""
        closed = [_Closed(path) for path in found if not is_open(path)]
        sent = [segment for segment in closed if self._position(segment.path) >= segment.end]
        # asked before the lake is read: what was committed by then is in what is read
        caught_up_at = self._table.committed().caught_up_at(self._source) if sent else 0
        in_lake: dict[date, set[str]] = {}
        for day in {segment.day for segment in sent}:
            times = [at for segment in sent if segment.day == day for at in segment.times]
            if times:
                in_lake[day] = self._table.log_keys_of(day, min(times), max(times))
        for segment in sent:
            path = segment.path
            if segment.keys <= in_lake.get(segment.day, set()):
                self._give_back(path, damaged=segment.damaged)
            elif caught_up_at > self._shipped_at.setdefault(path, self._clock()) + self._clocks_apart_us:
                # the consumer has since been at the broker's end, and did not meet them
                self._state.positions.pop(self._name(path), None)
                self.resent += 1

    def _give_back(self, path: Path, *, damaged: bool) -> None:
        if damaged:
            kept = path.with_suffix(".damaged")
            path.rename(kept)
            self._failed("spool", ValueError(f"{kept} has a frame that cannot be read; what follows it was not sent"))
        else:
            path.unlink()
        self._state.positions.pop(self._name(path), None)
        self._shipped_at.pop(path, None)
        self.cut += 1

    def _position(self, path: Path) -> int:
        return self._state.positions.get(self._name(path), 0)

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._root))

    def _keep_state(self) -> None:
        content = msgspec.json.encode(self._state)
        temporary = self._state_path.with_suffix(".tmp")
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            if not self._state_path.exists() or self._state_path.read_bytes() != content:
                temporary.write_bytes(content)
                temporary.replace(self._state_path)
        except OSError as error:
            # a full disk: a restart would send more again, and nothing is lost
            self._failed("spool", error)

    def close(self) -> None:
        """End the producer."""
        self._producer.close()


def waiting_bytes(home: Path) -> int:
    """Bytes of a home's spool that the broker does not have, whoever ships them."""
    return _waiting(home, _load(home))


def _waiting(home: Path, state: _State) -> int:
    root = spool_root(home)
    sizes = {str(path.relative_to(root)): path.stat().st_size for path in segments(home)}
    return sum(max(0, size - state.positions.get(name, 0)) for name, size in sizes.items())


def _state_path(home: Path) -> Path:
    return spool_root(home) / "shipped.json"


def _load(home: Path) -> _State:
    try:
        return msgspec.json.decode(_state_path(home).read_bytes(), type=_State)
    except (FileNotFoundError, msgspec.DecodeError):
        # everything is sent again, and counted once
        return _State()
