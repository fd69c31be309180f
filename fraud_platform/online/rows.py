"""An entity's row as a store gives it, after the checks of age and snapshot; the same for every store.

What belongs here: what counts as missing, and what is decoded once for many reads. What does not: reading a store
(`store`, `cold`), cold start (`features.vector`).
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraud_platform.features.catalogue import DAY
from fraud_platform.online import layout
from fraud_platform.online.packed import VIEWS
from fraud_platform.online.snapshot_record import SnapshotRecord, decode_record

Row = NDArray[np.float32]

DEFAULT = "default"

_STAMPS = 64


class BatchRow(msgspec.Struct, frozen=True):
    """One entity's batch features; `extras` are raw values, `vector` is None for an entity that is not there."""

    vector: Any
    extras: list[Any]
    snapshot: str | None
    medians: Any
    served_by: str


class RowReader:
    """Reads rows of one store, whose name is what they are served by."""

    def __init__(self, name: str, ttl_days: int) -> None:
        self._name = name
        self._ttl = ttl_days * DAY
        self._records: dict[bytes, tuple[SnapshotRecord, Row]] = {}
        self._stamps: dict[bytes, tuple[int, str]] = {}

    def read(
        self,
        values: Sequence[bytes | None],
        record_bytes: bytes | None,
        entity: str,
        own_medians: Mapping[str, Row],
        now: int,
    ) -> BatchRow:
        """values: event timestamp, vector and extras as stored; record_bytes: of the snapshot in force.

        own_medians: float32 under "user" and "merchant", used when no snapshot can be read. now: UTC microseconds.
        """
        known = self._record(record_bytes)
        if known is None or now - known[0].visible_from > self._ttl:
            return BatchRow(None, [], None, own_medians[entity], DEFAULT)
        record, medians = known
        stamp, vector, *extras = values
        # a row behind the snapshot in force belongs to an entity that has left it
        if not stamp or not vector or (at := self._stamp(stamp))[0] < record.snapshot_at:
            return BatchRow(None, [], record.snapshot.isoformat(), medians, self._name)
        return BatchRow(layout.floats(vector), extras, at[1], medians, self._name)

    def _stamp(self, value: bytes) -> tuple[int, str]:
        """A row's event timestamp and its day, decoded once: all rows of a snapshot carry the same."""
        known = self._stamps.get(value)
        if known is None:
            if len(self._stamps) >= _STAMPS:
                self._stamps.clear()
            at = layout.timestamp(value)
            known = self._stamps[value] = at, datetime.fromtimestamp(at // 1_000_000, UTC).date().isoformat()
        return known

    def _record(self, value: bytes | None) -> tuple[SnapshotRecord, Row] | None:
        """A view's record with its medians as an array; decoded once per distinct value."""
        if value is None:
            return None
        if value not in self._records:
            record = decode_record(value)
            medians = np.array([np.nan if m is None else m for m in record.medians], np.float32)
            if len(self._records) > len(VIEWS):
                self._records.clear()
            self._records[value] = (record, medians)
        return self._records[value]
