"""The snapshot in force per packed view, as one small Redis value that serving reads with every request.

What belongs here: the record, its key and its bytes. What does not: loading (`snapshot_load`). Only msgspec and redis
are imported, since the decision service imports this module.
"""

from datetime import UTC, date, datetime, timedelta

import msgspec

from fraud_platform.features.catalogue import FIRST_SETS
from fraud_platform.online.packed import PackedView
from fraud_platform.online.shards import RedisClient

FORM = 1
"""Of the record and its rows: `versions`."""


class SnapshotRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is in force for one view. Written after the last row of a load, at `visible_from`.

    A row whose `_ts` is older than `snapshot_at` belongs to an entity that has left the snapshot: it counts as absent.
    A row whose `_ts` is newer belongs to a load that is still running.
    """

    view: str
    snapshot: date
    """The snapshot's UTC day."""
    snapshot_at: int
    """Event timestamp of its rows: last UTC microsecond of that day."""
    visible_from: int
    """UTC microseconds at which this record was written, all rows being there."""
    loaded_at: int
    """UTC microseconds at which the load began."""
    catalogue_hash: str
    medians: list[float | None]
    """Population medians of the packed features, float32 values in the vector's order; None where there is none."""
    rows: int
    follows: int | None = None
    """`loaded_at` of the first region's load that this one follows; None in the first region."""
    view_hash: str | None = None
    """What its rows hold: `PackedView.hash`. None in records from before there was one, which are of the first fifty
    features."""

    form: int = FORM

    def is_of(self, view: PackedView) -> bool:
        """Whether its rows are laid out as the view's, in a form that is known here."""
        if self.form > FORM:
            return False
        if self.view_hash is not None:
            return self.view_hash == view.hash
        return view.named_before and self.catalogue_hash in FIRST_SETS


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(SnapshotRecord)


RECORD_PREFIX = b"fraud:snapshot:"


def record_key(view: PackedView, prefix: bytes = b"") -> bytes:
    """Redis key of a view's record."""
    return prefix + RECORD_PREFIX + view.name.encode()


def encode_record(record: SnapshotRecord) -> bytes:
    """JSON bytes of a record."""
    return _encoder.encode(record)


def decode_record(value: bytes) -> SnapshotRecord:
    """Inverse of `encode_record`. Raises msgspec.DecodeError."""
    return _decoder.decode(value)


def in_force(redis_client: RedisClient, view: PackedView, prefix: bytes = b"") -> SnapshotRecord | None:
    """The record of the snapshot in force, or None before the first load, and where the one that stands is damaged or
    of other features: it is in force for nobody."""
    value = redis_client.get(record_key(view, prefix))
    return read_record(value, view) if isinstance(value, bytes) else None


def read_record(value: bytes, view: PackedView) -> SnapshotRecord | None:
    """A record that is of the view; None for any other, and for bytes that are none."""
    try:
        record = decode_record(value)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return record if record.is_of(view) else None


def end_of_day(day: date) -> int:
    """Last UTC microsecond of a day: the event timestamp of its snapshot."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
    return int(midnight.timestamp()) * 1_000_000 - 1
