"""How much a label says, by its source, and whose labels say nothing: what the resolver (`labels`) goes by.

What belongs here: the ranks of sources, the record of distrust. What does not: resolving, and what a distrust changes
in what was built (`label_change`).

A distrust takes labels out of everything that is built or measured from then on, whenever they arrived, and out of
nothing that is kept: undone, they count as if nothing had been. The record is a sequence of events that is only ever
added to. It lies in a file of the home here; whoever keeps it elsewhere implements `DistrustRecord`.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import msgspec

from fraud_platform.model.bundle import exclusive
from fraud_platform.settings import Settings

DEFAULT_RANKS: Mapping[str, int] = {
    "chargeback": 50,
    "issuer": 50,
    "investigator": 40,
    "customer": 30,
    "feedback": 20,
    "import": 10,
}
"""The higher rank counts: what the card scheme or the issuer has settled, then who has looked into it, then who
complains, then who does not say on what ground, then what came as a column of an export."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNKNOWN_RANK = 20
"""Of a source that has no rank."""
SILENCE_RANK = -(2**31)
"""Of `schema.UNLABELLED`, whatever its source: below what anybody says."""


class Distrust(msgspec.Struct, frozen=True, kw_only=True):
    """Labels that do not count: those that fit everything that is given."""

    id: str
    at: datetime
    who: str
    why: str
    source: str | None = None
    caller: str | None = None
    since: datetime | None = None
    """Of arrival, included."""
    until: datetime | None = None
    """Of arrival, not included."""

    def fits(self, source: str, caller: str, arrived_at: datetime) -> bool:
        """Whether a label is among them."""
        return (
            (self.source is None or self.source == source)
            and (self.caller is None or self.caller == caller)
            and (self.since is None or self.since <= arrived_at)
            and (self.until is None or arrived_at < self.until)
        )

    @property
    def said(self) -> str:
        """Which labels, in words."""
        parts = [f"source {self.source}" if self.source else "", f"caller {self.caller}" if self.caller else ""]
        parts.append(f"arrived since {_moment(self.since)}" if self.since else "")
        parts.append(f"arrived before {_moment(self.until)}" if self.until else "")
        return ", ".join(part for part in parts if part)


class DistrustEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the record: labels are distrusted, or trusted again."""

    what: Literal["distrust", "trust"]
    id: str
    """Of the distrust that is meant."""
    at: datetime
    who: str
    why: str
    source: str | None = None
    caller: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class LabelRules:
    """Which labels count, and for how much."""

    ranks: Mapping[str, int] = field(default_factory=lambda: dict(DEFAULT_RANKS))
    """Ranks by source; a source that has none is of UNKNOWN_RANK."""
    distrusted: tuple[Distrust, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 that changes whenever some label may count otherwise."""
        which = sorted(repr((one.source, one.caller, one.since, one.until)) for one in self.distrusted)
        return hashlib.sha256(json.dumps([sorted(self.ranks.items()), which]).encode()).hexdigest()

    def rank(self, source: str) -> int:
        """The rank of a source."""
        return self.ranks.get(source, UNKNOWN_RANK)


class Said(Protocol):
    """A label as `counting` reads it."""

    @property
    def caller(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def revision(self) -> int: ...
    @property
    def arrived_at(self) -> int:
        """UTC microseconds."""

    @property
    def state(self) -> str: ...


S = TypeVar("S", bound=Said)


def counting(said: Iterable[S], rules: LabelRules) -> S | None:
    """Which of the labels of one payment counts; None where none is trusted.

    The same as `labels.resolve_labels`, for the few labels that a caller sent of a payment, while somebody waits.
    """
    stands: dict[str, S] = {}
    for label in said:
        arrived = _EPOCH + timedelta(microseconds=label.arrived_at)
        if any(one.fits(label.source, label.caller, arrived) for one in rules.distrusted):
            continue
        other = stands.get(label.source)
        if other is None or _order(label) > _order(other):
            stands[label.source] = label
    return max(
        stands.values(), key=lambda label: (rules.rank(label.source), label.arrived_at, label.source), default=None
    )


def _order(label: Said) -> tuple[int, int, str]:
    return label.revision, label.arrived_at, label.state


class UnknownDistrustError(LookupError):
    """No distrust that is in force has this id."""


class DistrustRecord(Protocol):
    """Every event there ever was, oldest first, kept durably."""

    def events(self) -> list[DistrustEvent]: ...
    def append(self, event: DistrustEvent) -> None: ...


class DistrustFile:
    """`<home>/labels/distrust.jsonl`, an event a line. Raises OSError, msgspec.MsgspecError."""

    def __init__(self, home: Path) -> None:
        self._path = home / "labels" / "distrust.jsonl"

    def events(self) -> list[DistrustEvent]:
        """Every event, oldest first."""
        try:
            payload = self._path.read_bytes()
        except FileNotFoundError:
            return []
        # a line without its end was cut off by a crash and never counted
        complete = payload.rpartition(b"\n")[0]
        return [msgspec.json.decode(line, type=DistrustEvent) for line in complete.splitlines()]

    def append(self, event: DistrustEvent) -> None:
        """Add an event; it is on the disk when this returns."""
        with exclusive(self._path.with_suffix(".lock")), self._path.open("ab") as file:
            cut_off = self._path.read_bytes().rpartition(b"\n")[2]
            if cut_off:
                file.truncate(file.tell() - len(cut_off))
            file.write(msgspec.json.encode(event) + b"\n")
            file.flush()
            os.fsync(file.fileno())


def in_force(events: Sequence[DistrustEvent]) -> tuple[Distrust, ...]:
    """What is distrusted after these events, oldest first."""
    standing: dict[str, Distrust] = {}
    for event in events:
        if event.what == "trust":
            standing.pop(event.id, None)
        else:
            fields = {name: getattr(event, name) for name in Distrust.__struct_fields__}
            standing[event.id] = Distrust(**fields)
    return tuple(standing.values())


def distrust(
    *,
    who: str,
    why: str,
    now: datetime,
    source: str | None = None,
    caller: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> DistrustEvent:
    """An event that distrusts labels, for `DistrustRecord.append`. Raises ValueError where nothing says which."""
    if source is None and caller is None and since is None:
        raise ValueError("say which labels: give at least one of source, caller and since")
    if since is not None and until is not None and since >= until:
        raise ValueError("until must be after since")
    return DistrustEvent(
        what="distrust",
        id=uuid.uuid4().hex[:8],
        at=now,
        who=who,
        why=why,
        source=source,
        caller=caller,
        since=since,
        until=until,
    )


def trust(record: DistrustRecord, identifier: str, *, who: str, why: str, now: datetime) -> DistrustEvent:
    """An event that undoes a distrust, for `DistrustRecord.append`. Raises UnknownDistrustError."""
    standing = in_force(record.events())
    if identifier not in {one.id for one in standing}:
        there = ", ".join(one.id for one in standing) or "none"
        raise UnknownDistrustError(f"no distrust {identifier} is in force; in force are: {there}")
    return DistrustEvent(what="trust", id=identifier, at=now, who=who, why=why)


def label_rules(settings: Settings) -> LabelRules:
    """The rules in force. Raises OSError, msgspec.MsgspecError where the record cannot be read."""
    return LabelRules({**DEFAULT_RANKS, **settings.label_ranks}, in_force(DistrustFile(settings.home).events()))


def _moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
