"""Windows over day tiles: the batch features of every user and merchant at the end of a UTC day, as ibis expressions.

What belongs here: window arithmetic. What does not: writing its result (`snapshots`), doing it again for one more day
without every tile (`rolling`).

Counts and sums are integers; averages, shares and deviations are one float64 division or square root of them, rounded
once to float32.
"""

import ibis

from fraud_platform.features.catalogue import LABEL_DELAY_DAYS

LONGEST_WINDOW = 90
USER_SETS = {"merchants": 30, "countries": 90, "devices": 90}
"""Sets of a user's tile and the days that their members count."""


def _per_snapshot(tiles: ibis.Table, days: ibis.Table, reach: int) -> ibis.Table:
    """Every tile once per snapshot that may count it, with `snapshot` and `age` in days, 0 on the snapshot's day."""
    age = days.snapshot.delta(tiles.date, unit="day")
    joined = tiles.join(days, [tiles.date <= days.snapshot, age < reach])
    return joined.mutate(age=joined.snapshot.delta(joined.date, unit="day").cast("int32"))


def _total(column: ibis.Value, inside: ibis.Value) -> ibis.Value:
    return column.sum(where=inside).coalesce(0).cast("int64")


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


def _windows(rows: ibis.Table, prefix: str) -> dict[str, ibis.Value]:
    """Integer totals that the features of both entities are made of, named by window."""
    totals: dict[str, ibis.Value] = {}
    for window in (1, 7, 30, 90):
        inside = rows.age < window
        totals[f"n_{window}"] = _total(rows.txn_count, inside)
        totals[f"known_{window}"] = _total(rows.amount_known, inside)
        totals[f"sum_{window}"] = _total(rows.amount_sum, inside)
        totals[f"squares_{window}"] = (
            rows.amount_square_sum.sum(where=inside).coalesce(ibis.literal(0, "decimal(38, 0)")).cast("decimal(38, 0)")
        )
        totals[f"max_{window}"] = rows.amount_max.max(where=inside)
        totals[f"foreign_{window}"] = _total(rows.foreign_count, inside)
        totals[f"foreign_known_{window}"] = _total(rows.foreign_known, inside)
    return totals


def user_values(totals: ibis.Table) -> dict[str, ibis.Value]:
    """The user's features that are made of totals, and `last_seen_us`.

    totals: n_1, n_7 …, known_7 … (amounts), sum_7 …, squares_30 …, max_30, max_90, foreign_90, foreign_known_90,
    online, channel_known, night, last_seen_us: integers, squares as decimal(38, 0).
    """
    return {
        **{f"user_txn_count_{w}d": totals[f"n_{w}"].cast("float32") for w in (1, 7, 30, 90)},
        **{f"user_amount_avg_{w}d": _ratio(totals[f"sum_{w}"], totals[f"known_{w}"]) for w in (7, 30, 90)},
        **{
            f"user_amount_std_{w}d": _deviation(totals[f"known_{w}"], totals[f"sum_{w}"], totals[f"squares_{w}"])
            for w in (30, 90)
        },
        **{f"user_amount_max_{w}d": totals[f"max_{w}"].cast("float32") for w in (30, 90)},
        "user_foreign_share_90d": _ratio(totals.foreign_90, totals.foreign_known_90),
        "user_online_share_30d": _ratio(totals.online, totals.channel_known),
        "user_night_share_30d": _ratio(totals.night, totals.n_30),
        "last_seen_us": totals.last_seen_us,
    }


def user_features(tiles: ibis.Table, days: ibis.Table) -> ibis.Table:
    """USER_SNAPSHOT columns with `snapshot`, for every user with a transaction in the 90 days to each of `days`.

    tiles: USER_TILE rows with `date`, from 89 days before the first day on. days: one date column `snapshot`.
    """
    rows = _per_snapshot(tiles, days, LONGEST_WINDOW)
    recent = rows.age < 30
    totals = rows.group_by("user_id", "snapshot").agg(
        **_windows(rows, "user"),
        online=_total(rows.online_count, recent),
        channel_known=_total(rows.channel_known, recent),
        night=_total(rows.night_count, recent),
        last_seen_us=rows.last_effective_time.max(),
    )
    features = totals.select("user_id", "snapshot", **user_values(totals))
    for column, window in USER_SETS.items():
        name = f"user_{column}_{window}d"
        members = _members(tiles, days, "user_id", column, window)
        features = _join(features, _distinct_counts(members, "user_id", name), "user_id")
        features = features.mutate(**{name: features[name].coalesce(ibis.literal(0, "float32"))})
    for column, name in (("countries", "known_countries"), ("devices", "known_devices")):
        members = _members(tiles, days, "user_id", column, LONGEST_WINDOW)
        features = _join(features, _known(members, "user_id", name), "user_id")
    return features


def merchant_features(tiles: ibis.Table, labels: ibis.Table, days: ibis.Table) -> ibis.Table:
    """MERCHANT_SNAPSHOT columns with `snapshot`, for every merchant with a transaction in the 90 days to each day.

    tiles: MERCHANT_TILE rows with `date`, from 89 + LABEL_DELAY_DAYS days before the first day on. labels: LABEL_TILE
    rows whose `date` is the arrival day; a fraud rate counts what had arrived by the snapshot's day, no more, over the
    payments that were not unknown then.
    """
    rows = _per_snapshot(tiles, days, LONGEST_WINDOW + LABEL_DELAY_DAYS)
    totals = rows.group_by("merchant_id", "snapshot").agg(
        **_windows(rows, "merchant"),
        **{f"delayed_n_{w}": _total(rows.txn_count, _delayed(rows.age, w)) for w in (7, 30, 90)},
    )
    totals = totals.filter(totals.n_90 > 0)
    arrived = labels.join(days, labels.date <= days.snapshot)
    age = arrived.snapshot.delta(arrived.transaction_date, unit="day").cast("int32")
    frauds = arrived.group_by("merchant_id", "snapshot").agg(
        **{f"frauds_{w}": _total(arrived.fraud_delta, _delayed(age, w)) for w in (7, 30, 90)},
        **{f"unknown_{w}": _total(arrived.unknown_delta, _delayed(age, w)) for w in (7, 30, 90)},
    )
    totals = _join(totals, frauds, "merchant_id")
    features = totals.select(
        "merchant_id",
        "snapshot",
        **{f"merchant_txn_count_{w}d": totals[f"n_{w}"].cast("float32") for w in (1, 30, 90)},
        merchant_amount_avg_30d=_ratio(totals.sum_30, totals.known_30),
        merchant_amount_std_30d=_deviation(totals.known_30, totals.sum_30, totals.squares_30),
        merchant_foreign_share_30d=_ratio(totals.foreign_30, totals.foreign_known_30),
        **{
            f"merchant_fraud_rate_{w}d": _ratio(
                totals[f"frauds_{w}"].coalesce(0), totals[f"delayed_n_{w}"] - totals[f"unknown_{w}"].coalesce(0)
            )
            for w in (7, 30, 90)
        },
    )
    users = _members(tiles, days, "merchant_id", "users", 30)
    features = _join(features, _distinct_counts(users, "merchant_id", "merchant_users_30d"), "merchant_id")
    return features.mutate(merchant_users_30d=features.merchant_users_30d.coalesce(ibis.literal(0, "float32")))


def _delayed(age: ibis.Value, window: int) -> ibis.Value:
    return (age >= LABEL_DELAY_DAYS) & (age < LABEL_DELAY_DAYS + window)
