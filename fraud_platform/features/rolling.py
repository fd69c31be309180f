"""User windows from one day to the next: yesterday's totals, plus today's tiles, less those that leave each window.

What belongs here: the state that a night leaves for the next, and when it may be used. What does not: what a feature
is (`windows`), what is written as a snapshot (`snapshots`).

A window is a sum of tiles, and 90 days of tiles are read for each of its sums; a night that follows another reads
five. Everything is an integer or a set, so both ways give the same bits. A state stands on the versions of the tiles
that it sums: where one of them was written again, the night reads them all.
"""

from datetime import date, timedelta
from typing import Any

import ibis
import pyarrow as pa

from fraud_platform.features import tables
from fraud_platform.features.offline import Engine
from fraud_platform.features.tiles import USER_TILE
from fraud_platform.features.windows import LONGEST_WINDOW, USER_SETS, user_values
from fraud_platform.lake import Lake, day_of, days_between

TOTALS = {
    "n_1": ("txn_count", 1),
    "n_7": ("txn_count", 7),
    "n_30": ("txn_count", 30),
    "n_90": ("txn_count", 90),
    "known_7": ("amount_known", 7),
    "known_30": ("amount_known", 30),
    "known_90": ("amount_known", 90),
    "sum_7": ("amount_sum", 7),
    "sum_30": ("amount_sum", 30),
    "sum_90": ("amount_sum", 90),
    "squares_30": ("amount_square_sum", 30),
    "squares_90": ("amount_square_sum", 90),
    "foreign_90": ("foreign_count", 90),
    "foreign_known_90": ("foreign_known", 90),
    "online": ("online_count", 30),
    "channel_known": ("channel_known", 30),
    "night": ("night_count", 30),
}
"""Each total: the tiles' column that it sums, and over how many days."""

PART_ROWS = 30_000_000
"""Tiles that one query sums on a first night; more users come in parts, which bounds its memory."""

_LEAVING = (1, 7, 30, LONGEST_WINDOW)
"""Ages in days at which a tile leaves a window."""


def _dated(name: str, member: pa.DataType) -> pa.Field:
    element = pa.struct([pa.field("day", pa.date32()), pa.field("value", member)])
    return pa.field(name, pa.list_(pa.field("element", element)))


USER_WINDOW = pa.schema(
    [
        pa.field("user_id", pa.string()),
        *(pa.field(name, USER_TILE.field(column).type) for name, (column, _) in TOTALS.items()),
        pa.field("last_seen_us", pa.int64()),
        # the largest amounts of days, none followed by a larger one
        _dated("amounts", pa.int64()),
        # members of sets with the last day of each
        *(_dated(name, USER_TILE.field(name).type.value_type) for name in USER_SETS),
    ]
)
"""The state: one row per user with a transaction in 90 days."""
_TYPES = ibis.Schema.from_pyarrow(USER_WINDOW)


def roll(engine: Engine, lake: Lake, day: date) -> ibis.Table:
    """The user features of `day`, with `snapshot`, as `windows.user_features` gives them; leaves the state of `day`."""
    before = day - timedelta(days=1)
    # noted first: a tile that is written again from here on makes this state one that does not stand
    rests_on = _basis(lake, day)
    if _stands(lake, before):
        state = engine.daily(tables.USER_WINDOWS, [before], USER_WINDOW)
        read = [day, *(day - timedelta(days=age) for age in _LEAVING)]
        parts = [next_state(state, engine.daily(tables.USER_TILES, read, USER_TILE), day)]
    else:
        tiles = engine.daily(tables.USER_TILES, _window(day), USER_TILE)
        count = 1 + sum(lake.size(tables.USER_TILES, each)[0] for each in _held(lake, day)) // PART_ROWS
        parts = [first_state(tiles.filter(tiles.user_id.hash().abs() % count == part), day) for part in range(count)]
    rows = pa.concat_tables([engine.run(part.select(*USER_WINDOW.names)).cast(USER_WINDOW) for part in parts])
    lake.write(tables.USER_WINDOWS, day, rows.sort_by("user_id").combine_chunks())
    lake.write_record(_rests_on(day), rests_on)
    _forget(lake, day)
    return features(engine.daily(tables.USER_WINDOWS, [day], USER_WINDOW), day)


def _window(day: date) -> list[date]:
    return days_between(day - timedelta(days=LONGEST_WINDOW - 1), day)


def _held(lake: Lake, day: date) -> list[date]:
    return list(lake.versions(tables.USER_TILES, _window(day)))


def _rests_on(day: date) -> str:
    return f"{tables.USER_WINDOWS}/date={day.isoformat()}/rests_on"


def _basis(lake: Lake, day: date) -> dict[str, Any]:
    """What a state of `day` is made of: which sums, of which tiles."""
    versions = lake.versions(tables.USER_TILES, _window(day))
    return {"sums": f"{TOTALS} {USER_SETS}", "tiles": {each.isoformat(): known for each, known in versions.items()}}


def _stands(lake: Lake, day: date) -> bool:
    """Whether the state of a day is there, and is what would be made of the tiles that are there now."""
    return lake.exists(tables.USER_WINDOWS, day) and lake.read_record(_rests_on(day)) == _basis(lake, day)


def _forget(lake: Lake, day: date) -> None:
    """Keep the states of `day` and of the day before, by which `day` can be computed again."""
    kept = {day, day - timedelta(days=1)}
    old = lake.files(tables.USER_WINDOWS, "*.parquet") + lake.files(tables.USER_WINDOWS, "*.json")
    lake.remove(path for path in old if day_of(path) not in kept)


def first_state(tiles: ibis.Table, day: date) -> ibis.Table:
    """The state of `day` from the USER_TILE rows, with `date`, of the 90 days that end with it."""
    tiles = tiles.mutate(_age=ibis.literal(day).delta(tiles.date, unit="day"))
    amounts = ibis.struct({"day": tiles.date, "value": tiles.amount_max})
    state = tiles.group_by("user_id").agg(
        **{
            name: tiles[column].sum(where=tiles._age < window).coalesce(0).cast(_TYPES[name])
            for name, (column, window) in TOTALS.items()
        },
        last_seen_us=tiles.last_effective_time.max(),
        amounts=amounts.collect(where=tiles.amount_max.notnull()),
    )
    for name, window in USER_SETS.items():
        seen = tiles.filter(tiles._age < window).select("user_id", "date", value=tiles[name].unnest())
        last = seen.group_by("user_id", "value").agg(day=seen.date.max())
        dated = ibis.struct({"day": last.day, "value": last.value})
        members = last.group_by("user_id").agg(**{name: dated.collect()})
        state = state.left_join(members, "user_id").drop("user_id_right")
    return state


def next_state(state: ibis.Table, tiles: ibis.Table, day: date) -> ibis.Table:
    """The state of `day` from that of the day before and the tiles, with `date`, of `day` and of those that leave."""
    today = tiles.filter(tiles.date == ibis.literal(day)).drop("date")
    today = today.rename({f"today_{name}": name for name in today.columns if name != "user_id"})
    rows = state.outer_join(today, "user_id")
    rows = rows.mutate(user_id=ibis.coalesce(rows.user_id, rows.user_id_right)).drop("user_id_right")
    for age in _LEAVING:
        leaving = tiles.filter(tiles.date == ibis.literal(day - timedelta(days=age)))
        columns = {f"leaving_{age}_{column}": column for column, window in TOTALS.values() if window == age}
        leaving = leaving.select("user_id", **{name: leaving[column] for name, column in columns.items()})
        rows = rows.left_join(leaving, "user_id").drop("user_id_right")
    totals = {}
    for name, (column, window) in TOTALS.items():
        was, comes, goes = (rows[each] for each in (name, f"today_{column}", f"leaving_{window}_{column}"))
        moved = was.coalesce(0).cast(_TYPES[name]) + comes.coalesce(0) - goes.coalesce(0)
        totals[name] = moved.cast(_TYPES[name])
    largest = rows.today_amount_max
    lower = _since(rows.amounts, day, LONGEST_WINDOW).filter(lambda held: held.value > largest.coalesce(-1))
    new = ibis.ifelse(largest.isnull(), None, ibis.array([largest]))
    rolled = rows.select(
        "user_id",
        **totals,
        last_seen_us=ibis.greatest(rows.last_seen_us, rows.today_last_effective_time),
        amounts=_with(lower, new, day, "amounts"),
        **{name: _members(rows, name, day, window) for name, window in USER_SETS.items()},
    )
    return rolled.filter(rolled.n_90 > 0)


def _since(dated: ibis.Value, day: date, window: int) -> ibis.Value:
    """What of a dated list is less than `window` days old."""
    after = ibis.literal(day - timedelta(days=window))
    return dated.filter(lambda held: held.day > after)


def _members(rows: ibis.Table, name: str, day: date, window: int) -> ibis.Value:
    """A set's members: those of today, and before them what is still in the window and was not seen today."""
    today = rows[f"today_{name}"]
    seen = today.coalesce(ibis.literal([], today.type()))
    older = _since(rows[name], day, window).filter(lambda held: ~seen.contains(held.value))
    return _with(older, today, day, name)


def _with(older: ibis.Value, values: ibis.Value, day: date, name: str) -> ibis.Value:
    """A dated list and some values of `day` behind it; empty where both are null."""
    nothing = ibis.literal([], _TYPES[name])
    dated = values.map(lambda value: ibis.struct({"day": ibis.literal(day), "value": value}))
    return ibis.coalesce(older, nothing).concat(ibis.coalesce(dated, nothing))


def features(state: ibis.Table, day: date) -> ibis.Table:
    """USER_SNAPSHOT columns with `snapshot`, of a day's state."""

    def values(name: str, window: int) -> ibis.Value:
        return _since(state[name], day, window).map(lambda held: held.value)

    largest = {f"max_{window}": values("amounts", window).maxs() for window in (30, 90)}
    sets = {name: values(name, window) for name, window in USER_SETS.items()}
    totals = state.mutate(**largest)
    return totals.select(
        "user_id",
        snapshot=ibis.literal(day),
        **user_values(totals),
        **{f"user_{name}_{USER_SETS[name]}d": _size(members).cast("float32") for name, members in sets.items()},
        known_countries=_sorted(sets["countries"]),
        known_devices=_sorted(sets["devices"]),
    )


def _size(members: ibis.Value) -> ibis.Value:
    return members.length().coalesce(0)


def _sorted(members: ibis.Value) -> ibis.Value:
    """In order; null where there is none."""
    return ibis.ifelse(_size(members) > 0, members.sort(), None)
