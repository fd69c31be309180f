"""The arithmetic of a vector, compiled: request features as one function of one payment, cold start, assembly. Serving
calls it for one row, history for a million. What does not belong here: positions and names (`vector`, `catalogue`).

All of it stands in one file: the cache of compiled code knows this file's text, and neither the catalogue's, so that
positions are arguments, nor another file's functions.

Only + − × ÷ √, floor and comparison: these are exact or correctly rounded by IEEE 754, so every machine gives the same
bits (the compiler may neither reorder nor fuse them: numba leaves LLVM's fast math off unless asked). All arithmetic is
float64; the vector rounds once to float32.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from fraud_platform.features.catalogue import CATALOGUE, DAY, HOUR

Floats = NDArray[np.float64]

_ORDER = (
    "amount",
    "amount_to_user_avg_30d",
    "amount_zscore_90d",
    "amount_to_user_max_90d",
    "amount_to_merchant_avg_30d",
    "hour_of_day",
    "day_of_week",
    "is_online",
    "country_mismatch",
    "country_is_new",
    "device_is_new",
    "seconds_since_last",
)
"""Of the values that `request_values` returns."""

_INPUTS, _COMPARED, _OUTPUTS = 7, 5, len(_ORDER)
"""How many values `assemble` takes of a payment, how many positions in `personal`, and how many it makes of them."""

if tuple(feature.name for feature in CATALOGUE.of("request")) != _ORDER:
    raise ImportError("request_values returns other features, or another order, than the catalogue names")


@dataclass(frozen=True)
class RequestColumns:
    """What request features are made of; arrays of shape (n,), NaN is null, flags are 0.0 or 1.0."""

    amount: Floats
    """Minor units of the base currency."""
    event_time: NDArray[np.int64]
    """UTC microseconds."""
    user_effective_time: Floats
    """UTC microseconds; exact in float64 until the year 2255."""
    last_effective_time: Floats
    """The user's previous attempt, UTC microseconds; NaN when none is known."""
    is_online: Floats
    country_mismatch: Floats
    country_known: Floats
    device_known: Floats
    user_amount_avg_30d: Floats
    user_amount_avg_90d: Floats
    user_amount_std_90d: Floats
    user_amount_max_90d: Floats
    merchant_amount_avg_30d: Floats


@njit(cache=True)
def _divide(part: float, whole: float) -> float:
    """part / whole; NaN where whole is 0 or either is NaN."""
    if whole == 0.0:
        return np.nan
    return part / whole


@njit(cache=True)
def request_values(
    amount: float,
    event_time: int,
    user_effective_time: float,
    last_effective_time: float,
    is_online: float,
    country_mismatch: float,
    country_known: float,
    device_known: float,
    user_amount_avg_30d: float,
    user_amount_avg_90d: float,
    user_amount_std_90d: float,
    user_amount_max_90d: float,
    merchant_amount_avg_30d: float,
    day: int,
    hour: int,
) -> tuple[float, ...]:
    """The request block of one vector in `_ORDER`, float64; units as in RequestColumns. day, hour: in microseconds."""
    days = event_time // day
    # the last attempt may lie ahead where another region saw it
    since_last = (user_effective_time - last_effective_time) / 1e6
    return (
        amount,
        _divide(amount, user_amount_avg_30d),
        _divide(amount - user_amount_avg_90d, user_amount_std_90d),
        _divide(amount, user_amount_max_90d),
        _divide(amount, merchant_amount_avg_30d),
        float((event_time - days * day) // hour),
        # 1970-01-01 was a Thursday
        float((days + 3) % 7),
        is_online,
        country_mismatch,
        1.0 - country_known,
        1.0 - device_known,
        0.0 if since_last < 0.0 else since_last,
    )


@njit(cache=True)
def _warm(out, row, medians, count, median, zero, minimum):  # type: ignore[no-untyped-def]
    """One entity's batch values after cold start. row: all NaN for a missing entity.

    An entity with fewer than `minimum` transactions in 90 days, or none at all, takes the snapshot's medians for its
    `median` features; counts that are missing are 0.
    """
    out[:] = row
    # a comparison with NaN is false, so a missing entity is cold
    if not row[count] >= minimum:
        for position in median:
            out[position] = medians[position]
    for position in zero:
        if np.isnan(out[position]):
            out[position] = 0.0


@njit(cache=True)
def warm(out, rows, medians, plan, minimum):  # type: ignore[no-untyped-def]
    """Fill one entity's batch values `out` after cold start, row by row, by a plan as `assemble` takes it."""
    for n in range(len(rows)):
        _warm(out[n], rows[n], medians[n], plan[0], plan[1], plan[2], minimum)


@njit(cache=True)
def _within(positions, width):  # type: ignore[no-untyped-def]
    """Whether all are positions of an array of so many."""
    inside = True
    for position in positions:
        inside &= 0 <= position < width
    return inside


@njit(cache=True)
def _fits(plan, width):  # type: ignore[no-untyped-def]
    """Whether one entity's plan is of rows of so many values."""
    return 0 <= plan[0] < width and _within(plan[1], width) and _within(plan[2], width)


_ROWS = types.Array(types.float32, 2, "C", readonly=True)
_COLUMNS = types.Array(types.float64, 2, "C", readonly=True)
_POSITIONS = types.Array(types.int64, 1, "C")
_PLAN = types.Tuple((types.int64, _POSITIONS, _POSITIONS))  # type: ignore[no-untyped-call]


# one signature, compiled at import: a payment must not wait for the compiler because an array came read-only from Redis
@njit(
    types.void(
        types.Array(types.float32, 2, "C"), _ROWS, _ROWS, _PLAN, _ROWS, _ROWS, _PLAN, _COLUMNS, _COLUMNS,
        types.Array(types.int64, 1, "C", readonly=True), _POSITIONS, types.int64, types.int64, types.int64,
    ),
    cache=True,
)  # fmt: skip
def assemble(  # type: ignore[no-untyped-def]
    out, users, user_medians, user_plan, merchants, merchant_medians, merchant_plan, velocity, inputs, event_time,
    personal, minimum, day, hour,
):  # fmt: skip
    """Fill vectors `out`, float32 (n, 50), row by row: cold start, then velocity as it is, then request features.

    inputs: float64 (n, 7), amount, user and last effective time, is_online, country mismatch, country and device known.
    A plan is one entity's position of its 90-day count, its `median` and its `zero` positions; `personal` are the
    positions of the batch values that request features compare an amount with. Raises ValueError for arrays or
    positions that do not fit each other: nothing is read or written beyond an array's end.
    """
    first, second = users.shape[1], users.shape[1] + merchants.shape[1]
    third = second + velocity.shape[1]
    rows = len(out)
    if (
        len(users) != rows or len(user_medians) != rows or len(merchants) != rows or len(merchant_medians) != rows
        or len(velocity) != rows or len(inputs) != rows or len(event_time) != rows
    ):  # fmt: skip
        raise ValueError("the blocks of the vectors have different numbers of rows")
    if (
        user_medians.shape[1] != first or merchant_medians.shape[1] != merchants.shape[1]
        or inputs.shape[1] != _INPUTS or out.shape[1] != third + _OUTPUTS
        or not _fits(user_plan, first) or not _fits(merchant_plan, merchants.shape[1])
        or len(personal) != _COMPARED or not _within(personal, second)
    ):  # fmt: skip
        raise ValueError("the blocks of the vectors have other widths than their features")
    for n in range(rows):
        row, given = out[n], inputs[n]
        _warm(row[:first], users[n], user_medians[n], user_plan[0], user_plan[1], user_plan[2], minimum)
        _warm(
            row[first:second], merchants[n], merchant_medians[n], merchant_plan[0], merchant_plan[1], merchant_plan[2],
            minimum,
        )  # fmt: skip
        row[second:third] = velocity[n]
        request = request_values(
            given[0], event_time[n], given[1], given[2], given[3], given[4], given[5], given[6],
            float(row[personal[0]]), float(row[personal[1]]), float(row[personal[2]]), float(row[personal[3]]),
            float(row[personal[4]]), day, hour,
        )  # fmt: skip
        for position in range(len(request)):
            row[third + position] = request[position]


@njit(cache=True)
def _fill(out, columns, event_time, day, hour):  # type: ignore[no-untyped-def]
    for row in range(len(out)):
        c = columns[row]
        values = request_values(
            c[0], event_time[row], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8], c[9], c[10], c[11], day, hour
        )
        for position in range(len(values)):
            out[row, position] = values[position]


def request_features(columns: RequestColumns) -> NDArray[np.float32]:
    """The request block of vectors, float32 of shape (n, 12), in the catalogue's order."""
    out = np.empty((len(columns.amount), len(_ORDER)), np.float32)
    parts = (
        columns.amount,
        columns.user_effective_time,
        columns.last_effective_time,
        columns.is_online,
        columns.country_mismatch,
        columns.country_known,
        columns.device_known,
        columns.user_amount_avg_30d,
        columns.user_amount_avg_90d,
        columns.user_amount_std_90d,
        columns.user_amount_max_90d,
        columns.merchant_amount_avg_30d,
    )
    _fill(out, np.column_stack(parts).astype(np.float64), columns.event_time.astype(np.int64), DAY, HOUR)
    return out
