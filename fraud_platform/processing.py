"""The rules by which a received payment becomes a row, shared by offline ingest and the online service.

What belongs here: event time, device fingerprints, duplicates; on one payment or on columns. What does not: reading,
checking or writing rows (ingest), and the per-entity order of effective times (features).
"""

import hashlib
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MAX_AHEAD_US = 5 * 60 * 1_000_000
"""A timestamp more than this ahead of received_at is a wrong clock."""

COUNTED_AHEAD_US = 1_000_000
"""An attempt is counted at most this much after it was received, however many came before it: an effective time further
ahead shows that a clock has jumped, and its entity's counters begin a new epoch."""

MAX_BEHIND_US = 24 * 3_600 * 1_000_000
"""A timestamp more than this behind received_at is a wrong clock."""

DUPLICATE_WINDOW_US = 24 * 3_600 * 1_000_000
"""A transaction_id seen again within less than this after a counted row is a duplicate of it."""


@overload
def event_time(timestamp_us: int, received_us: int) -> tuple[int, bool]: ...
@overload
def event_time(timestamp_us: Int64s, received_us: Int64s) -> tuple[Int64s, Bools]: ...
def event_time(timestamp_us: int | Int64s, received_us: int | Int64s) -> tuple[int, bool] | tuple[Int64s, Bools]:
    """When the payment happened, and whether the caller's clock was off; UTC microseconds, two ints or two columns.

    The timestamp stands unless it is over 5 minutes ahead of or over 24 hours behind received_at (exactly that far is
    still right); else received_at takes its place and clock_skew is True.
    """
    if isinstance(timestamp_us, np.ndarray) and isinstance(received_us, np.ndarray):
        ahead = timestamp_us - received_us
        skewed = (ahead > MAX_AHEAD_US) | (ahead < -MAX_BEHIND_US)
        return np.where(skewed, received_us, timestamp_us), skewed
    skew = not -MAX_BEHIND_US <= timestamp_us - received_us <= MAX_AHEAD_US
    return (int(received_us) if skew else int(timestamp_us)), bool(skew)


def device_key(device_id: str) -> int:
    """The 64-bit signed fingerprint of a device identifier: 8 bytes of BLAKE2b over its UTF-8, little endian."""
    digest = hashlib.blake2b(device_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def device_keys(device_ids: pa.ChunkedArray | pa.Array) -> pa.Array:
    """The int64 fingerprints of a string column, null where the device is; each distinct device is hashed once."""
    column = device_ids.combine_chunks() if isinstance(device_ids, pa.ChunkedArray) else device_ids
    encoded = pc.dictionary_encode(column)
    keys = pa.array([device_key(device) for device in encoded.dictionary.to_pylist()], pa.int64())
    return keys.take(encoded.indices)


@dataclass(frozen=True)
class CountedRows:
    """Rows that counted on the previous day: string transaction ids and their received_at in UTC microseconds."""

    transaction_ids: pa.Array
    received_us: Int64s


def mark_duplicates(transaction_ids: pa.Array, received_us: Int64s, earlier: CountedRows | None = None) -> Bools:
    """Which rows of a day repeat a payment that already counted.

    Rows come in processing order (received_at, transaction_id). Greedily in that order, a row is a duplicate when a
    counted row of the same id was received less than 24 hours before it; exactly 24 hours later it counts anew.
    `earlier` are the previous day's counted rows; their order does not matter.
    """
    marks = np.zeros(len(transaction_ids), dtype=np.bool_)
    encoded = pc.dictionary_encode(transaction_ids)
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    uniques = encoded.dictionary
    repeated = np.bincount(codes, minlength=len(uniques)) > 1
    last_counted: dict[int, int] = {}
    if earlier is not None and len(earlier.transaction_ids):
        found = pc.index_in(earlier.transaction_ids, value_set=uniques).fill_null(-1).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(found >= 0):
            code, at = int(found[row]), int(earlier.received_us[row])
            last_counted[code] = max(at, last_counted.get(code, at))
        repeated[list(last_counted)] = True
    # Only ids that occur again need the loop: in a normal day a handful of rows.
    for row in np.flatnonzero(repeated[codes]):
        code, at = int(codes[row]), int(received_us[row])
        counted_at = last_counted.get(code)
        if counted_at is not None and at - counted_at < DUPLICATE_WINDOW_US:
            marks[row] = True
        else:
            last_counted[code] = at
    return marks
