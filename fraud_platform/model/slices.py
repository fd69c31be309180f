"""Slices of a holdout: the same model looked at where it may be worse than on the whole.

What belongs here: which rows belong to which slice. What does not: measuring them (`evaluate`).
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraud_platform.features import tables
from fraud_platform.features.catalogue import MIN_TRANSACTIONS
from fraud_platform.features.offline import open_engine
from fraud_platform.lake import Lake
from fraud_platform.model.costs import in_units
from fraud_platform.model.data import Holdout
from fraud_platform.schema import RAW_TRANSACTIONS
from fraud_platform.settings import Settings

AMOUNT_BANDS = (10.0, 50.0, 200.0, 1_000.0)
"""Edges in units of the base currency."""

AGE_BANDS = (7, 30, 90)
"""Edges in days since the user's first transaction in the lake."""

MOST_VALUES = 6
"""Countries and channels shown by name, the commonest; the rest is `other`."""

Bools = NDArray[np.bool_]


def first_seen(lake: Lake, settings: Settings, holdout: Holdout) -> NDArray[np.float64]:
    """Days since 1970 of each row's user's first transaction in the lake, (n,); NaN where the lake has none."""
    days = lake.days(tables.RAW_TRANSACTIONS)
    if not days or not len(holdout):
        return np.full(len(holdout), np.nan)
    engine = open_engine(settings, lake)
    rows = engine.daily(tables.RAW_TRANSACTIONS, days, RAW_TRANSACTIONS)
    earliest = engine.run(rows.group_by("user_id").aggregate(first=rows.date.min()))
    index = pc.index_in(holdout.context.column("user_id"), value_set=earliest.column("user_id"))
    first = earliest.column("first").cast(pa.int32()).take(index.combine_chunks())
    return np.asarray(first.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def slices(holdout: Holdout, seen: NDArray[np.float64], settings: Settings) -> Iterator[tuple[str, str, Bools]]:
    """Dimension, name and rows, (n,) bool, of every slice that has rows. seen: of `first_seen`."""
    minor = holdout.context.column("amount_minor").to_numpy()
    amounts = np.where(np.isnan(minor), np.nan, in_units(minor, settings))
    yield from _bands("amount", amounts, AMOUNT_BANDS, settings.base_currency)
    for dimension in ("country", "channel"):
        yield from _values(dimension, holdout.context.column(dimension))
    yield from _bands("account age", holdout.days - seen, AGE_BANDS, "days")
    # a comparison with NaN is false: an unknown user is cold
    seen_of = holdout.catalogue.position[holdout.catalogue.seen("user").name]
    cold = ~(holdout.vectors[:, seen_of] >= MIN_TRANSACTIONS)
    for name, rows in ((f"fewer than {MIN_TRANSACTIONS} payments in 90 days", cold), ("own habits known", ~cold)):
        if rows.any():
            yield "cold start", name, rows


def _bands(
    dimension: str, values: NDArray[np.float64], edges: tuple[float, ...], unit: str
) -> Iterator[tuple[str, str, Bools]]:
    lows, highs = (-np.inf, *edges), (*edges, np.inf)
    for low, high in zip(lows, highs, strict=True):
        rows = (values >= low) & (values < high)
        if low == -np.inf:
            name = f"below {high:,g} {unit}"
        elif high == np.inf:
            name = f"{low:,g} {unit} and more"
        else:
            name = f"{low:,g} to {high:,g} {unit}"
        if rows.any():
            yield dimension, name, rows
    if np.isnan(values).any():
        yield dimension, "unknown", np.isnan(values)


def _values(dimension: str, column: pa.ChunkedArray) -> Iterator[tuple[str, str, Bools]]:
    counts = sorted(pc.value_counts(column).to_pylist(), key=lambda one: (-one["counts"], str(one["values"])))
    named = [one["values"] for one in counts if one["values"] is not None][:MOST_VALUES]
    rest = np.ones(len(column), np.bool_)
    for value in named:
        rows = np.asarray(pc.fill_null(pc.equal(column, value), False).to_numpy(zero_copy_only=False), np.bool_)
        rest &= ~rows
        yield dimension, str(value), rows
    missing = np.asarray(column.is_null().to_numpy(zero_copy_only=False), np.bool_)
    for name, rows in (("other", rest & ~missing), ("unknown", missing)):
        if rows.any():
            yield dimension, name, rows
