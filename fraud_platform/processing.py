"""The rules by which a received payment becomes a row, shared by offline ingest and the online service.

What belongs here: event time, device fingerprints, duplicates; on one payment or on columns. What does not: reading,
checking or writing rows (ingest), and the per-entity order of effective times (features).
"""

import hashlib
from collections import defaultdict
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
"""A (caller, transaction_id) seen again within less than this after a counted row is a duplicate of it."""


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


def identities(rows: pa.Table) -> pa.Array:
    """What a payment is known by, `<caller>:<transaction_id>`, of rows with both columns; null where either is."""
    both = pc.binary_join_element_wise(rows["caller"], rows["transaction_id"], ":")
    return both.combine_chunks() if isinstance(both, pa.ChunkedArray) else both


@dataclass(frozen=True)
class CountedRows:
    """Rows that counted on the previous day: identities, received_at in UTC microseconds, which were decisions."""

    identities: pa.Array
    received_us: Int64s
    decided: Bools


def mark_duplicates(
    identities: pa.Array, received_us: Int64s, decided: Bools, elsewhere: Bools, earlier: CountedRows | None = None
) -> Bools:
    """Which rows of a day are a payment that another row stands for: the same identity, within 24 hours.

    Rows come in processing order (received_at, transaction_id, caller). A decision stands before any row of a source,
    whichever was received first; of several decisions, and of several rows that nobody decided, the first. So a
    decision is a duplicate when a counted decision was received less than 24 hours before it, and a source's row when
    its identity has a counted decision on its day, or a counted row less than 24 hours before it. Exactly 24 hours
    later a row counts anew. `elsewhere` are rows that are known to be duplicates. `earlier` are the previous day's
    counted rows; their order does not matter.
    """
    marks = elsewhere.copy()
    encoded = pc.dictionary_encode(identities)
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    uniques = encoded.dictionary
    repeated = np.bincount(codes, minlength=len(uniques)) > 1
    counted: dict[int, int] = {}
    counted_decision: dict[int, int] = {}
    if earlier is not None and len(earlier.identities):
        found = pc.index_in(earlier.identities, value_set=uniques).fill_null(-1).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(found >= 0):
            code, at = int(found[row]), int(earlier.received_us[row])
            counted[code] = max(at, counted.get(code, at))
            if earlier.decided[row]:
                counted_decision[code] = max(at, counted_decision.get(code, at))
        repeated[list(counted)] = True
    # Only identities that occur again need the loop: in a normal day a handful of rows.
    again = np.flatnonzero(repeated[codes])
    stands: set[int] = set()
    for rows, before in ((again[decided[again]], counted_decision), (again[~decided[again]], counted)):
        for row in rows:
            code, at = int(codes[row]), int(received_us[row])
            marks[row] |= code in stands or (code in before and at - before[code] < DUPLICATE_WINDOW_US)
            if not marks[row]:
                before[code] = at
        # two decisions of one day lie within 24 hours: one that counts stands for every other row of the day
        stands.update(int(code) for code in codes[rows[~marks[rows]]] if before is counted_decision)
    return marks


def decided_later(identities: pa.Array, received_us: Int64s, decided: pa.Array, decided_us: Int64s) -> Bools:
    """Which rows have an identity that was decided less than 24 hours after they were received.

    decided, decided_us: identities and received_at of decisions, in any order.
    """
    marks = np.zeros(len(identities), dtype=np.bool_)
    known = pc.is_in(identities, value_set=decided).to_numpy(zero_copy_only=False)
    if not known.any():
        return marks
    times: dict[str, list[int]] = defaultdict(list)
    for identity, at in zip(decided.to_pylist(), decided_us.tolist(), strict=True):
        times[identity].append(at)
    for row in np.flatnonzero(known):
        received = int(received_us[row])
        marks[row] = any(0 <= at - received < DUPLICATE_WINDOW_US for at in times[identities[int(row)].as_py()])
    return marks
