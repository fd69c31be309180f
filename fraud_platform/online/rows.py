"""An entity's row as a store gives it, after the checks of its features, of age and of snapshot; the same for every
store.

What belongs here: what counts as missing, and what is decoded once for many reads. What does not: reading a store
(`store`, `cold`), cold start (`features.vector`), what serves instead (`ladder`).

A row of other features, or one that is damaged, is refused: nothing of it is read, whoever asked is told, and so is
`refused`. Whose rows they are is looked at once per record; each row is held against the one form that it may have.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraud_platform.features.catalogue import DAY, Entity
from fraud_platform.online import layout
from fraud_platform.online.packed import Kind, PackedView
from fraud_platform.online.snapshot_record import FORM, SnapshotRecord, decode_record

Row = NDArray[np.float32]

DEFAULT = "default"

TOLD_US = 60_000_000
"""Microseconds for which a refused row is told of: those of a load that is under way come and go."""

_STAMPS, _RECORDS = 64, 4


class Refusal(NamedTuple):
    """What of a store was not read, and why."""

    store: str
    entity: Entity
    reason: Literal["foreign", "damaged"]
    """foreign: of other features than this service's."""
    detail: str


class ViewRefusedError(ValueError):
    """A store holds what is not read; the message is the detail of a refusal."""


class BatchRow(msgspec.Struct, frozen=True):
    """One entity's batch features; `vector` is None for an entity that is not there."""

    vector: Any
    extras: list[Any]
    """Beside the vector, in the view's order; None is null. Empty for an entity that is not there."""
    snapshot: str | None
    medians: Any
    served_by: str
    refused: bool = False
    """Something was there that is not read."""


class _InForce(NamedTuple):
    """A record as it was decoded, with its medians as an array."""

    record: SnapshotRecord
    medians: Row


@lru_cache(maxsize=1_024)
def _strings(value: bytes) -> frozenset[str]:
    # of the countries that users pay in there are few sets
    return frozenset(layout.strings(value))


def _int64s(value: bytes) -> frozenset[int]:
    return frozenset(layout.int64s(value))


_DECODERS: dict[Kind, Callable[[bytes], Any]] = {"int64": layout.int64, "strings": _strings, "int64s": _int64s}


class RowReader:
    """Reads one view's rows of one store."""

    def __init__(
        self, store: str, view: PackedView, ttl_days: int, refused: Callable[[Refusal], None] = lambda _: None
    ) -> None:
        """store: what its rows are served by; refused: told of each read that met what is not read."""
        self._store = store
        self.view = view
        self._ttl = ttl_days * DAY
        self._refused = refused
        self._head = layout.floats_head(len(view.vector))
        self._offset = len(self._head)
        self._size = self._offset + 4 * len(view.vector)
        self._decoders = [_DECODERS[kind] for _, kind in view.extras]
        self._records: dict[bytes, _InForce | Refusal] = {}
        self._stamps: dict[bytes, tuple[int, str]] = {}
        self._told: tuple[int, str] | None = None

    def read(self, values: Sequence[bytes | None], record_bytes: bytes | None, own_medians: Row, now: int) -> BatchRow:
        """values: event timestamp, vector and extras as stored; record_bytes: of the snapshot in force.

        own_medians: float32 in the view's order, used when no snapshot can be read. now: UTC microseconds.
        """
        if record_bytes is None:
            return BatchRow(None, [], None, own_medians, DEFAULT)
        in_force = self._records.get(record_bytes) or self._decoded(record_bytes)
        if isinstance(in_force, Refusal):
            return self._refuse(in_force, own_medians, now)
        record, medians = in_force
        if now - record.visible_from > self._ttl:
            return BatchRow(None, [], None, own_medians, DEFAULT)
        stamp, vector, *extras = values
        if not stamp and not vector:
            return BatchRow(None, [], record.snapshot.isoformat(), medians, self._store)
        try:
            at, day = self._stamp(stamp)
            if at < record.snapshot_at:
                # a row behind the snapshot in force belongs to an entity that has left it
                return BatchRow(None, [], record.snapshot.isoformat(), medians, self._store)
            if vector is None or len(vector) != self._size or not vector.startswith(self._head):
                return self._refuse(self._misfit(vector), own_medians, now)
            decoded = [decode(value) if value else None for decode, value in zip(self._decoders, extras, strict=True)]
        except (ValueError, IndexError, OverflowError, OSError) as error:
            return self._refuse(self._refusal("damaged", f"a row cannot be read: {error}"), own_medians, now)
        return BatchRow(np.frombuffer(vector, "<f4", offset=self._offset), decoded, day, medians, self._store)

    def snapshot(self, record_bytes: bytes | None, now: int) -> date | None:
        """The day of the snapshot in force; None where none is, or none that is read. now: UTC microseconds."""
        if record_bytes is None:
            return None
        in_force = self._records.get(record_bytes) or self._decoded(record_bytes)
        if isinstance(in_force, Refusal):
            self._told = now, in_force.detail
            return None
        return in_force.record.snapshot

    def trouble(self, now: int) -> str | None:
        """What was refused in the last minute. now: UTC microseconds."""
        return self._told[1] if self._told is not None and now - self._told[0] < TOLD_US else None

    def _refuse(self, refusal: Refusal, own_medians: Row, now: int) -> BatchRow:
        self._told = now, refusal.detail
        self._refused(refusal)
        return BatchRow(None, [], None, own_medians, DEFAULT, True)

    def _refusal(self, reason: Literal["foreign", "damaged"], detail: str) -> Refusal:
        return Refusal(self._store, self.view.entity, reason, f"{self.view.name} in {self._store}: {detail}")

    def _misfit(self, vector: bytes | None) -> Refusal:
        """Why an array is not of the view's form."""
        try:
            width = len(layout.floats(vector or b""))
        except (ValueError, IndexError):
            return self._refusal("damaged", "a row's array cannot be read")
        if width == len(self.view.vector) or not width:
            return self._refusal("damaged", "a row's array cannot be read")
        return self._refusal(
            "foreign", f"a row has {width} values, this service's features are {len(self.view.vector)}"
        )

    def _stamp(self, value: bytes | None) -> tuple[int, str]:
        """A row's event timestamp and its day, decoded once: all rows of a snapshot carry the same."""
        if not value:
            raise ViewRefusedError("it has no time")
        known = self._stamps.get(value)
        if known is None:
            if len(self._stamps) >= _STAMPS:
                self._stamps.clear()
            at = layout.timestamp(value)
            known = self._stamps[value] = at, datetime.fromtimestamp(at // 1_000_000, UTC).date().isoformat()
        return known

    def _decoded(self, value: bytes) -> _InForce | Refusal:
        """A record, decoded and held against the view once per distinct value."""
        if len(self._records) >= _RECORDS:
            self._records.clear()
        found = self._records[value] = self._judged(value)
        return found

    def _judged(self, value: bytes) -> _InForce | Refusal:
        try:
            record = decode_record(value)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return self._refusal("damaged", f"its record cannot be read: {error}")
        if not record.is_of(self.view):
            theirs = record.view_hash or f"of catalogue {record.catalogue_hash}"
            detail = f"the snapshot in force is {theirs}, this service reads {self.view.hash}"
            if record.form > FORM:
                detail = f"its record is of form {record.form}, of a later version; this service knows up to {FORM}"
            return self._refusal("foreign", detail)
        if len(record.medians) != len(self.view.vector):
            detail = f"its record has {len(record.medians)} medians for {len(self.view.vector)} features"
            return self._refusal("damaged", detail)
        return _InForce(record, np.array([np.nan if m is None else m for m in record.medians], np.float32))


def refused_of(user: BatchRow, merchant: BatchRow) -> tuple[Entity, ...]:
    """Whose rows were refused."""
    rows: tuple[tuple[Entity, BatchRow], ...] = (("user", user), ("merchant", merchant))
    return tuple(entity for entity, row in rows if row.refused)


def troubles(readers: Sequence[RowReader], now: int) -> dict[str, str]:
    """What was refused in the last minute, by view. now: UTC microseconds."""
    found = {reader.view.name: reader.trouble(now) for reader in readers}
    return {name: trouble for name, trouble in found.items() if trouble is not None}
