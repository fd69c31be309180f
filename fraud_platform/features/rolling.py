"""User windows from one day to the next: yesterday's totals, plus today's tiles, less those that leave each window.

What belongs here: the state that a night leaves for the next, and when it may be used. What does not: what a feature
is (`windows`), what is written as a snapshot (`snapshots`).

A window is a sum of tiles, and 90 days of tiles are read for each of its sums; a night that follows another reads
five. Everything is an integer or a set, so both ways give the same bits. A state stands on the versions of the tiles
that it sums: where one of them was written again, the night reads them all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from typing import Any

import ibis
import pyarrow as pa

from fraud_platform.features import tables
from fraud_platform.features.catalogue import Feature
from fraud_platform.features.offline import Engine
from fraud_platform.features.tiles import USER_TILE
from fraud_platform.features.windows import KNOWN, LONGEST_WINDOW, Total, set_of, summed, totals_of, value_of
from fraud_platform.lake import Lake, day_of, days_between

PART_ROWS = 30_000_000
"""Tiles that one query sums on a first night; more users come in parts, which bounds its memory."""

_DECREASING = "decreasing_"
"""Begins the name of a column of the largest values of days."""


def _dated(name: str, member: pa.DataType) -> pa.Field:
    element = pa.struct([pa.field("day", pa.date32()), pa.field("value", member)])
    return pa.field(name, pa.list_(pa.field("element", element)))


@dataclass(frozen=True)
class Windows:
    """What is kept of each user from night to night for some of the features.

    beside: and for what else a user's snapshot holds, `last_seen_us` and KNOWN.
    """

    features: tuple[Feature, ...]
    beside: bool

    @cached_property
    def _totals(self) -> dict[str, Total]:
        return {total.name: total for feature in self.features for total in totals_of(feature)}

    @cached_property
    def sums(self) -> dict[str, Total]:
        """The totals that are sums; the tiles in the longest window are always among them."""
        seen = Total("user_tiles", "txn_count", LONGEST_WINDOW, 0, largest=False)
        return {seen.name: seen} | {name: total for name, total in self._totals.items() if not total.largest}

    @cached_property
    def largest(self) -> dict[str, Total]:
        """The totals that are largest values."""
        return {name: total for name, total in self._totals.items() if total.largest}

    @cached_property
    def sets(self) -> dict[str, int]:
        """Sets of a tile, and the days that their members are kept."""
        kept = dict.fromkeys(KNOWN.values(), LONGEST_WINDOW) if self.beside else {}
        for one in self.features:
            if one.aggregate == "distinct":
                kept[set_of(one)] = max(one.days, kept.get(set_of(one), 0))
        return kept

    @cached_property
    def schema(self) -> pa.Schema:
        """The state: one row per user with a transaction in LONGEST_WINDOW."""
        largest = {total.column for total in self.largest.values()}
        return pa.schema(
            [
                pa.field("user_id", pa.string()),
                *(pa.field(name, USER_TILE.field(total.column).type) for name, total in self.sums.items()),
                pa.field("last_seen_us", pa.int64()),
                # of each day, none followed by a larger one
                *(_dated(_DECREASING + column, USER_TILE.field(column).type) for column in sorted(largest)),
                # members of sets with the last day of each
                *(_dated(name, USER_TILE.field(name).type.value_type) for name in sorted(self.sets)),
            ]
        )

    @cached_property
    def types(self) -> ibis.Schema:
        """Of `schema`."""
        return ibis.Schema.from_pyarrow(self.schema)


def roll(engine: Engine, lake: Lake, day: date, features: Sequence[Feature], *, beside: bool) -> ibis.Table:
    """Some user features of `day`, with `snapshot`, as `windows.window_features` gives them; leaves the state of
    `day`."""
    windows = Windows(tuple(features), beside)
    before = day - timedelta(days=1)
    # noted first: a tile that is written again from here on makes this state one that does not stand
    rests_on = _basis(lake, day, windows)
    if _stands(lake, before, windows):
        state = engine.daily(tables.USER_WINDOWS, [before], windows.schema)
        leaving = {total.days for total in windows.sums.values()}
        read = [day, *(day - timedelta(days=age) for age in sorted(leaving))]
        parts = [next_state(windows, state, engine.daily(tables.USER_TILES, read, USER_TILE), day)]
    else:
        tiles = engine.daily(tables.USER_TILES, _window(day), USER_TILE)
        count = 1 + sum(lake.size(tables.USER_TILES, each)[0] for each in _held(lake, day)) // PART_ROWS
        parts = [
            first_state(windows, tiles.filter(tiles.user_id.hash().abs() % count == part), day) for part in range(count)
        ]
    names = windows.schema.names
    rows = pa.concat_tables([engine.run(part.select(*names)).cast(windows.schema) for part in parts])
    lake.write(tables.USER_WINDOWS, day, rows.sort_by("user_id").combine_chunks())
    lake.write_record(_rests_on(day), rests_on)
    _forget(lake, day)
    return values(windows, engine.daily(tables.USER_WINDOWS, [day], windows.schema), day)


def _window(day: date) -> list[date]:
    return days_between(day - timedelta(days=LONGEST_WINDOW - 1), day)


def _held(lake: Lake, day: date) -> list[date]:
    return list(lake.versions(tables.USER_TILES, _window(day)))


def _rests_on(day: date) -> str:
    return f"{tables.USER_WINDOWS}/date={day.isoformat()}/rests_on"


def _basis(lake: Lake, day: date, windows: Windows) -> dict[str, Any]:
    """What a state of `day` is made of: which sums, of which tiles."""
    versions = lake.versions(tables.USER_TILES, _window(day))
    return {
        "sums": [f"{field.name}: {field.type}" for field in windows.schema],
        "sets": windows.sets,
        "tiles": {each.isoformat(): known for each, known in versions.items()},
    }


def _stands(lake: Lake, day: date, windows: Windows) -> bool:
    """Whether the state of a day is there, and is what would be made of the tiles that are there now."""
    return lake.exists(tables.USER_WINDOWS, day) and lake.read_record(_rests_on(day)) == _basis(lake, day, windows)


def _forget(lake: Lake, day: date) -> None:
    """Keep the states of `day` and of the day before, by which `day` can be computed again."""
    kept = {day, day - timedelta(days=1)}
    old = lake.files(tables.USER_WINDOWS, "*.parquet") + lake.files(tables.USER_WINDOWS, "*.json")
    lake.remove(path for path in old if day_of(path) not in kept)


def first_state(windows: Windows, tiles: ibis.Table, day: date) -> ibis.Table:
    """The state of `day` from the USER_TILE rows, with `date`, of the 90 days that end with it."""
    tiles = tiles.mutate(_age=ibis.literal(day).delta(tiles.date, unit="day"))
    decreasing = {}
    for name in windows.schema.names:
        if name.startswith(_DECREASING):
            largest = tiles[name.removeprefix(_DECREASING)]
            dated = ibis.struct({"day": tiles.date, "value": largest})
            decreasing[name] = dated.collect(where=largest.notnull())
    state = tiles.group_by("user_id").agg(
        **{name: summed(tiles[total.column], tiles._age < total.days) for name, total in windows.sums.items()},
        last_seen_us=tiles.last_effective_time.max(),
        **decreasing,
    )
    for name, window in windows.sets.items():
        seen = tiles.filter(tiles._age < window).select("user_id", "date", value=tiles[name].unnest())
        last = seen.group_by("user_id", "value").agg(day=seen.date.max())
        dated = ibis.struct({"day": last.day, "value": last.value})
        members = last.group_by("user_id").agg(**{name: dated.collect()})
        state = state.left_join(members, "user_id").drop("user_id_right")
    return state


def next_state(windows: Windows, state: ibis.Table, tiles: ibis.Table, day: date) -> ibis.Table:
    """The state of `day` from that of the day before and the tiles, with `date`, of `day` and of those that leave."""
    today = tiles.filter(tiles.date == ibis.literal(day)).drop("date")
    today = today.rename({f"today_{name}": name for name in today.columns if name != "user_id"})
    rows = state.outer_join(today, "user_id")
    rows = rows.mutate(user_id=ibis.coalesce(rows.user_id, rows.user_id_right)).drop("user_id_right")
    for age in sorted({total.days for total in windows.sums.values()}):
        leaving = tiles.filter(tiles.date == ibis.literal(day - timedelta(days=age)))
        columns = {f"leaving_{name}": total.column for name, total in windows.sums.items() if total.days == age}
        leaving = leaving.select("user_id", **{name: leaving[column] for name, column in columns.items()})
        rows = rows.left_join(leaving, "user_id").drop("user_id_right")
    sums = {}
    for name, total in windows.sums.items():
        was, comes, goes = (rows[each] for each in (name, f"today_{total.column}", f"leaving_{name}"))
        moved = was.coalesce(0).cast(windows.types[name]) + comes.coalesce(0) - goes.coalesce(0)
        sums[name] = moved.cast(windows.types[name])
    decreasing = {}
    for name in windows.schema.names:
        if name.startswith(_DECREASING):
            largest = rows[f"today_{name.removeprefix(_DECREASING)}"]
            lower = _above(_since(rows[name], day, LONGEST_WINDOW), largest.coalesce(-1))
            new = ibis.ifelse(largest.isnull(), None, ibis.array([largest]))
            decreasing[name] = _with(lower, new, day, windows.types[name])
    rolled = rows.select(
        "user_id",
        **sums,
        last_seen_us=ibis.greatest(rows.last_seen_us, rows.today_last_effective_time),
        **decreasing,
        **{name: _members(rows, name, day, window, windows.types[name]) for name, window in windows.sets.items()},
    )
    return rolled.filter(rolled[f"txn_count_{LONGEST_WINDOW}"] > 0)


def _since(dated: ibis.Value, day: date, window: int) -> ibis.Value:
    """What of a dated list is less than `window` days old."""
    after = ibis.literal(day - timedelta(days=window))
    return dated.filter(lambda held: held.day > after)


def _above(dated: ibis.Value, least: ibis.Value) -> ibis.Value:
    """What of a dated list is larger than a value."""
    return dated.filter(lambda held: held.value > least)


def _members(rows: ibis.Table, name: str, day: date, window: int, kind: Any) -> ibis.Value:
    """A set's members: those of today, and before them what is still in the window and was not seen today."""
    today = rows[f"today_{name}"]
    seen = today.coalesce(ibis.literal([], today.type()))
    older = _since(rows[name], day, window).filter(lambda held: ~seen.contains(held.value))
    return _with(older, today, day, kind)


def _with(older: ibis.Value, values: ibis.Value, day: date, kind: Any) -> ibis.Value:
    """A dated list of a type and some values of `day` behind it; empty where both are null."""
    nothing = ibis.literal([], kind)
    dated = values.map(lambda value: ibis.struct({"day": ibis.literal(day), "value": value}))
    return ibis.coalesce(older, nothing).concat(ibis.coalesce(dated, nothing))


def values(windows: Windows, state: ibis.Table, day: date) -> ibis.Table:
    """The features that `windows` are kept for, with `snapshot`, of a day's state."""

    def held(name: str, window: int) -> ibis.Value:
        return _since(state[name], day, window).map(lambda each: each.value)

    largest = {name: held(_DECREASING + total.column, total.days).maxs() for name, total in windows.largest.items()}
    totals = state.mutate(**largest)
    found = {}
    for one in windows.features:
        if one.aggregate == "distinct":
            found[one.name] = _size(held(set_of(one), one.days)).cast("float32")
        else:
            found[one.name] = value_of(one, totals)
    if windows.beside:
        found |= {name: _sorted(held(column, LONGEST_WINDOW)) for name, column in KNOWN.items()}
        found["last_seen_us"] = totals.last_seen_us
    return totals.select("user_id", snapshot=ibis.literal(day), **found)


def _size(members: ibis.Value) -> ibis.Value:
    return members.length().coalesce(0)


def _sorted(members: ibis.Value) -> ibis.Value:
    """In order; null where there is none."""
    return ibis.ifelse(_size(members) > 0, members.sort(), None)
