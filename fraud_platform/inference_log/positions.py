"""How far the log has each partition of its sources: one small record in the lake, which several writers change.

What belongs here: who may move a partition's offset, and changing the record beside others. What does not: the rows
(`table`), when to commit (`consumer`). A writer owns partitions, not the record: it changes what it owns by
compare-and-write, and who finds that others have changed theirs meanwhile does it again on top.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from fraud_platform.inference_log.broker import Offsets
from fraud_platform.lake import Lake


@dataclass(frozen=True)
class Position:
    """How far the log has one partition of a source."""

    offset: Any = None
    """Where it is read on from, in the broker's own terms; None before the first commit."""
    owner: str = ""
    """Who may move it; empty where the last one ended in order."""
    caught_up_at: int = 0
    """UTC microseconds at which its owner last saw nothing behind it in the broker, all of it being committed."""


@dataclass(frozen=True)
class Committed:
    """The last commit: its number, and how far the log has each partition of each source, by the source's name."""

    number: int
    sources: dict[str, dict[str, Position]]

    def offsets(self, source: str) -> Offsets:
        """Per partition of a source, from where on the log does not have it; without those that it has nothing of."""
        known = self.sources.get(source, {})
        return {name: at.offset for name, at in known.items() if at.offset is not None}

    def caught_up_at(self, source: str) -> int:
        """UTC microseconds until which the log has all that the source was given: until the slowest partition's."""
        return min((at.caught_up_at for at in self.sources.get(source, {}).values()), default=0)

    def moved(self, source: str, positions: Mapping[str, Position]) -> "Committed":
        """The same with other positions of some partitions."""
        return replace(self, sources={**self.sources, source: {**self.sources.get(source, {}), **positions}})


class OtherWriterError(OSError):
    """Another owns a partition now; what was read of it and not committed is theirs to read."""


@dataclass(frozen=True)
class Move:
    """A commit that has begun: offsets per source, where each partition was before, and the commit before it."""

    offsets: Mapping[str, Offsets]
    before: dict[tuple[str, str], Any]
    after: int


class Positions:
    """The record, for one writer."""

    def __init__(self, lake: Lake, name: str, writer: str = "") -> None:
        """name: the record's in the lake. writer: who owns what is claimed by this object."""
        self._lake = lake
        self._name = name
        self._path = lake.document_path(f"{name}.json")
        self.writer = writer
        self._left: dict[tuple[str, str], Any] = {}

    def read(self) -> Committed:
        """What the last commit says; number 0 and no positions before the first."""
        record = self._lake.read_record(self._name)
        return Committed(0, {}) if record is None else _committed(record)

    def claim(self, source: str, partitions: Collection[str]) -> Offsets:
        """Own these partitions, whoever did; returns from where each is read on."""

        def change(last: Committed) -> Committed:
            known = last.sources.get(source, {})
            return last.moved(source, {p: replace(known.get(p, Position()), owner=self.writer) for p in partitions})

        offsets = self._change(change).offsets(source)
        self._left |= {(source, p): offsets.get(p) for p in partitions}
        return {p: offsets[p] for p in partitions if p in offsets}

    def release(self, source: str) -> None:
        """Let the next owner of what is owned of a source begin at once."""

        def change(last: Committed) -> Committed:
            known = last.sources.get(source, {})
            return last.moved(source, {p: replace(at, owner="") for p, at in known.items() if at.owner == self.writer})

        self._change(change)

    def begin(self, offsets: Mapping[str, Offsets]) -> Move:
        """Say what a commit will move, before its rows are written. Raises OtherWriterError."""
        last = self.read()
        moved = [(source, p) for source, partitions in offsets.items() for p in partitions]
        move = Move(offsets, {key: self._left.get(key, last.offsets(key[0]).get(key[1])) for key in moved}, last.number)
        self._check(last, move.before)
        return move

    def finish(self, move: Move) -> None:
        """Move them, the rows being in the lake. Raises OtherWriterError, moving none, where another moved one."""

        def change(last: Committed) -> Committed:
            self._check(last, move.before)
            for source, moved in move.offsets.items():
                before = last.sources.get(source, {})
                at = {p: replace(before.get(p, Position()), offset=offset) for p, offset in moved.items()}
                last = last.moved(source, at)
            return replace(last, number=last.number + 1)

        self._change(change)
        self._left |= {(source, p): offset for source, moved in move.offsets.items() for p, offset in moved.items()}

    def note_caught_up(self, source: str, partitions: Collection[str], every: Collection[str], now: int) -> None:
        """Nothing is behind these in the broker; every: all partitions that it has. now: UTC microseconds.

        Raises OtherWriterError.
        """

        def change(last: Committed) -> Committed:
            self._check(last, {(source, p): self._left.get((source, p)) for p in partitions})
            before = last.sources.get(source, {})
            # one that nobody has read yet holds the source back
            positions = {p: before.get(p, Position()) for p in every}
            return last.moved(source, positions | {p: replace(positions[p], caught_up_at=now) for p in partitions})

        self._change(change)

    def _check(self, last: Committed, known: Mapping[tuple[str, str], Any]) -> None:
        for (source, partition), offset in known.items():
            at = last.sources.get(source, {}).get(partition, Position())
            if at.owner != self.writer:
                raise OtherWriterError(f"{at.owner or 'nobody'} writes {source}, {partition}, not {self.writer}")
            if at.offset != offset:
                raise OtherWriterError(f"another than {self.writer} moved {source}, {partition}, from {offset}")

    def _change(self, change: Callable[[Committed], Committed]) -> Committed:
        """Change the record of the last commit, whoever changes it at the same time; `change` may be asked again."""
        while True:
            seen = self._lake.seen(self._path)
            changed = change(self.read())
            if self._write(changed, seen):
                return changed

    def _write(self, committed: Committed, seen: str | None) -> bool:
        return self._lake.replace(self._path, msgspec.json.format(msgspec.json.encode(committed), indent=2), seen)


def _committed(record: dict[str, Any]) -> Committed:
    """The record of the last commit; of one that was owned whole, as it was until partitions had owners, as well."""
    if "sources" in record:
        return msgspec.convert(record, Committed)
    owner, caught_up_at = record.get("writer", ""), record["caught_up_at"]
    sources = {
        source: {p: Position(offset, owner, caught_up_at) for p, offset in offsets.items()}
        for source, offsets in record["offsets"].items()
    }
    return Committed(record["number"], sources)
