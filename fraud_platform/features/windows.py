"""Windows over day tiles: the batch features of every user and merchant at the end of a UTC day, as ibis expressions.

What belongs here: window arithmetic, by what a feature says of itself. What does not: writing its result (`snapshots`),
doing it again for one more day without every tile (`rolling`).

Counts and sums are integers; averages, shares and deviations are one float64 division or square root of them, rounded
once to float32.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import ibis

from fraud_platform.features.catalogue import Entity, Feature

LONGEST_WINDOW = 90
"""Days; whoever has no tile in them has no row."""
KNOWN = {"known_countries": "countries", "known_devices": "devices"}
"""Sets of a user that a snapshot holds whole, over LONGEST_WINDOW: each with its tiles' column."""

_OPERANDS = {"count": 1, "sum": 1, "mean": 2, "std": 3, "max": 1, "share": 2, "distinct": 1, "fraud_rate": 3}
"""The aggregates over day tiles, and how many columns each is made of."""


@dataclass(frozen=True)
class Total:
    """An integer over a window of tiles: a column's sum, or its largest value."""

    table: str
    column: str
    days: int
    delay: int
    largest: bool

    @property
    def name(self) -> str:
        """`txn_count_90`"""
        return f"{self.column}_{self.days}" + (f"_delayed_{self.delay}" if self.delay else "")


def totals_of(feature: Feature) -> tuple[Total, ...]:
    """The totals that a feature is made of, in the order of its inputs; none of a `distinct`, which counts a set.

    Raises ValueError for a feature that cannot be computed from day tiles.
    """
    if len(feature.inputs) != _OPERANDS.get(feature.aggregate):
        raise ValueError(
            f"{feature.name}: no {feature.aggregate} over day tiles is made of {', '.join(feature.inputs)}"
        )
    if not 0 < feature.days <= LONGEST_WINDOW:
        raise ValueError(f"{feature.name}: a window is of 1 to {LONGEST_WINDOW} days, not of {feature.window}")
    if feature.entity != "merchant" and (feature.aggregate == "fraud_rate" or feature.delay_days):
        raise ValueError(
            f"{feature.name}: label tiles, and windows that end before the snapshot, are of merchants alone"
        )
    if feature.aggregate == "distinct":
        return ()
    parts = [each.partition(".") for each in feature.inputs]
    largest = feature.aggregate == "max"
    return tuple(Total(table, column, feature.days, feature.delay_days, largest) for table, _, column in parts)


def set_of(feature: Feature) -> str:
    """The tiles' column whose members a `distinct` counts."""
    return feature.inputs[0].partition(".")[2]


def value_of(feature: Feature, totals: ibis.Table) -> ibis.Value:
    """A feature as float32 from totals by their names; a `distinct` is no matter of totals."""
    parts = [totals[total.name] for total in totals_of(feature)]
    if feature.aggregate in ("mean", "share"):
        return _ratio(*parts)
    if feature.aggregate == "std":
        total, squares, known = parts
        return _deviation(known, total, squares)
    if feature.aggregate == "fraud_rate":
        count, frauds, unknown = parts
        return _ratio(frauds.coalesce(0), count - unknown.coalesce(0))
    return parts[0].cast("float32")


def _per_snapshot(tiles: ibis.Table, days: ibis.Table, reach: int) -> ibis.Table:
    """Every tile once per snapshot that may count it, with `snapshot` and `age` in days, 0 on the snapshot's day."""
    age = days.snapshot.delta(tiles.date, unit="day")
    joined = tiles.join(days, [tiles.date <= days.snapshot, age < reach])
    return joined.mutate(age=joined.snapshot.delta(joined.date, unit="day").cast("int32"))


def summed(column: ibis.Value, inside: ibis.Value) -> ibis.Value:
    """The sum of a tiles' column where a condition holds, in the column's own type; 0 where it never does."""
    kind = column.type()
    return column.sum(where=inside).coalesce(ibis.literal(0, kind)).cast(kind)


def _total(rows: ibis.Table, age: ibis.Value, total: Total) -> ibis.Value:
    inside = (age >= total.delay) & (age < total.delay + total.days) if total.delay else age < total.days
    column = rows[total.column]
    return column.max(where=inside) if total.largest else summed(column, inside)


def _ratio(part: ibis.Value, whole: ibis.Value) -> ibis.Value:
    """part / whole as float32; null where whole is 0."""
    return (part.cast("float64") / whole.nullif(0).cast("float64")).cast("float32")


def _deviation(count: ibis.Value, total: ibis.Value, squares: ibis.Value) -> ibis.Value:
    """Sample standard deviation from exact sums: √((n Σx² − (Σx)²) / (n (n − 1))); null below two values."""
    exact = "decimal(38, 0)"
    spread = (count.cast(exact) * squares).cast(exact) - (total.cast(exact) * total.cast(exact)).cast(exact)
    variance = spread.cast("float64") / (count * (count - 1)).nullif(0).cast("float64")
    return variance.sqrt().cast("float32")


def _members(tiles: ibis.Table, days: ibis.Table, key: str, column: str, window: int) -> ibis.Table:
    """Members of a tile's set in the window to each snapshot, each once per entity and snapshot.

    A member stands for the snapshots from a day it was seen to the day before it is seen again, at most `window` of
    them. These spans do not overlap, so nothing has to be made distinct once per snapshot.
    """
    # what is older counts on none of the days; a set's window may be a third of the longest
    first = days.snapshot.min().as_scalar()
    tiles = tiles.filter(first.delta(tiles.date, unit="day") < window)
    seen = tiles.select(key, "date", member=tiles[column].unnest())
    following = seen.date.lead(1).over(ibis.window(group_by=[seen[key], seen.member], order_by=seen.date))
    again = following.delta(seen.date, unit="day").coalesce(window)
    spans = seen.mutate(_life=ibis.least(again, window))
    age = days.snapshot.delta(spans.date, unit="day")
    return spans.join(days, [spans.date <= days.snapshot, age < spans._life]).select(key, "snapshot", "member")


def _distinct_counts(members: ibis.Table, key: str, name: str) -> ibis.Table:
    return members.group_by(key, "snapshot").agg(**{name: members.count().cast("float32")})


def _known(members: ibis.Table, key: str, name: str) -> ibis.Table:
    return members.group_by(key, "snapshot").agg(**{name: members.member.collect().sort()})


def _join(left: ibis.Table, right: ibis.Table, key: str) -> ibis.Table:
    return left.left_join(right, [key, "snapshot"]).drop(f"{key}_right", "snapshot_right")


def reach(features: Iterable[Feature]) -> int:
    """How many days of tiles a snapshot's features are made of, its own day among them."""
    return max([LONGEST_WINDOW, *(feature.days + feature.delay_days for feature in features)])


def window_features(
    entity: Entity,
    features: Sequence[Feature],
    tiles: ibis.Table,
    labels: ibis.Table | None,
    days: ibis.Table,
    *,
    beside: bool,
) -> ibis.Table:
    """Some features of an entity's snapshots with its key and `snapshot`, for everyone with a tile in the
    LONGEST_WINDOW to each of `days`.

    tiles: the entity's rows with `date`, from `reach` − 1 days before the first day on. labels: LABEL_TILE rows of the
    same days, whose `date` is the arrival day; a fraud rate counts what had arrived by the snapshot's day, no more,
    over the payments that were not unknown then. days: one date column `snapshot`. beside: and what else a user's
    snapshot holds, `last_seen_us` and KNOWN.
    """
    key = f"{entity}_id"
    rows = _per_snapshot(tiles, days, reach(features))
    wanted = {total.name: total for feature in features for total in totals_of(feature)}
    of_labels = {name: total for name, total in wanted.items() if total.table == "label_tiles"}
    sums = {name: _total(rows, rows.age, total) for name, total in wanted.items() if name not in of_labels}
    aside = {"last_seen_us": rows.last_effective_time.max()} if beside else {}
    totals = rows.group_by(key, "snapshot").agg(**sums, **aside, _newest=rows.age.min())
    totals = totals.filter(totals._newest < LONGEST_WINDOW)
    if of_labels and labels is not None:
        arrived = labels.join(days, labels.date <= days.snapshot)
        age = arrived.snapshot.delta(arrived.transaction_date, unit="day").cast("int32")
        corrections = arrived.group_by(key, "snapshot").agg(
            **{name: _total(arrived, age, total) for name, total in of_labels.items()}
        )
        totals = _join(totals, corrections, key)
    values = {one.name: value_of(one, totals) for one in features if one.aggregate != "distinct"}
    found = totals.select(key, "snapshot", **values, **{name: totals[name] for name in aside})
    for one in features:
        if one.aggregate == "distinct":
            members = _members(tiles, days, key, set_of(one), one.days)
            found = _join(found, _distinct_counts(members, key, one.name), key)
            found = found.mutate(**{one.name: found[one.name].coalesce(ibis.literal(0, "float32"))})
    for name, column in KNOWN.items() if beside else ():
        members = _members(tiles, days, key, column, LONGEST_WINDOW)
        found = _join(found, _known(members, key, name), key)
    return found
