"""The 50 features in plain, slow, readable Python, written from the definitions and not from the code under test.

What belongs here: loops over lists of rows. What does not: NumPy tricks, SQL, anything imported from the feature room.
"""

import math
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

SECOND = 1_000_000
MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 86_400 * SECOND
WINDOWS = {"1m": MINUTE, "10m": 10 * MINUTE, "1h": HOUR, "24h": DAY}
LOADED_AT = {"": 2 * HOUR, "west": 5 * HOUR}
"""Time of the day at which each region loads the snapshot of the day before."""


MEANS_ONLINE = {
    **dict.fromkeys(("online", "ONLINE", " Web", "e-commerce"), True),
    **dict.fromkeys(("pos", "ATM ", "other"), False),
    **dict.fromkeys((None, "carrier pigeon"), None),
}
"""What texts of a channel say."""


@dataclass
class Row:
    """One line of a bank's export, times in UTC microseconds."""

    id: str
    user: str
    merchant: str
    amount: int
    """In minor units of its currency."""
    timestamp: int
    received: int
    country: str | None = None
    home: str | None = None
    channel: str | None = None
    device: str | None = None
    region: str = ""
    currency: str = "EUR"
    """Of another than EUR no rate is known."""
    duplicate: bool = False
    event: int = 0
    effective: dict[str, int] = field(default_factory=dict)
    epoch: "dict[str, Epoch]" = field(default_factory=dict)

    @property
    def day(self) -> int:
        return self.received // DAY

    @property
    def online(self) -> bool | None:
        return MEANS_ONLINE[self.channel]

    @property
    def euros(self) -> int | None:
        return self.amount if self.currency == "EUR" else None


@dataclass
class Epoch:
    """A time in which one clock counted an entity's attempts."""

    since: int = 0
    times: list[int] = field(default_factory=list)


class Counters:
    """What one region's Redis remembers of one user or merchant."""

    def __init__(self) -> None:
        self.epoch = Epoch()
        self.given_up: list[int] = []

    def count(self, event: int, received: int) -> int:
        """The attempt's effective time, by the rule in words: after the one before, and at most a second ahead of
        receipt, else in a new epoch; so too where the clock jumps to times at which attempts were given up: since the
        newest attempt it went on by as much as it had gone back, or more."""
        limit = received + SECOND
        time = min(event, received)
        newest = self.epoch.times[-1] if self.epoch.times else None
        pushed = time if newest is None else max(time, newest + 1)
        reached = [at for at in self.given_up if at <= limit]
        gone_on = newest is not None and reached and limit - newest >= min(reached) - self.epoch.since
        self.given_up = [at for at in self.given_up if at > limit]
        if pushed > limit or gone_on:
            self.given_up += [newest] if newest is not None and newest > limit else []
            self.epoch = Epoch(since=limit + 1)
            pushed = time
        self.epoch.times.append(pushed)
        return pushed


RANKS = {"chargeback": 50, "issuer": 50, "investigator": 40, "customer": 30, "feedback": 20, "import": 10}
"""Of the sources of labels, as the documentation has them; any other is of 20."""


@dataclass(frozen=True)
class LabelRow:
    transaction: str
    transaction_day: int
    arrived: int
    source: str
    revision: int
    state: str
    caller: str = "default"
    """Whose payment it speaks of; all rows are the default caller's."""


def f32(value: float | int | None) -> float:
    """One rounding to float32; null is NaN."""
    return math.nan if value is None else float(np.float32(value))


def in_processing_order(rows: list[Row]) -> list[Row]:
    """Fill in duplicate, event and effective times, one row after the other."""
    rows = sorted(rows, key=lambda row: (row.received, row.id))
    counted_at: dict[str, int] = {}
    counters: dict[tuple[str, str, str], Counters] = defaultdict(Counters)
    for row in rows:
        row.duplicate = row.id in counted_at and row.received - counted_at[row.id] < DAY
        too_early = row.timestamp > row.received + 5 * MINUTE
        too_late = row.timestamp < row.received - DAY
        row.event = row.received if too_early or too_late else row.timestamp
        if row.duplicate:
            continue
        counted_at[row.id] = row.received
        count(row, counters)
    return rows


def count(row: Row, counters: dict[tuple[str, str, str], Counters]) -> None:
    """Fill in what the counters of the row's user and merchant make of it."""
    for entity, name in (("user", row.user), ("merchant", row.merchant)):
        own = counters[row.region, entity, name]
        row.effective[entity] = own.count(row.event, row.received)
        row.epoch[entity] = own.epoch


class Oracle:
    """Knows everything that ever happened, and answers what was known at an instant."""

    def __init__(self, rows: list[Row], labels: list[LabelRow]) -> None:
        self.rows = [row for row in in_processing_order(rows) if not row.duplicate]
        self.labels = labels

    def of(self, entity: str, name: str) -> list[Row]:
        return [row for row in self.rows if getattr(row, entity) == name]

    # snapshots -------------------------------------------------------------------------------------------------------

    def window(self, entity: str, name: str, day: int, days: int) -> list[Row]:
        return [row for row in self.of(entity, name) if day - days < row.day <= day]

    def user_snapshot(self, user: str, day: int) -> dict[str, float] | None:
        ninety = self.window("user", user, day, 90)
        if not ninety:
            return None
        thirty = self.window("user", user, day, 30)
        values = {f"user_txn_count_{w}d": f32(len(self.window("user", user, day, w))) for w in (1, 7, 30, 90)}
        for w in (7, 30, 90):
            values[f"user_amount_avg_{w}d"] = mean(amounts(self.window("user", user, day, w)))
        for w, rows in ((30, thirty), (90, ninety)):
            values[f"user_amount_std_{w}d"] = deviation(amounts(rows))
            values[f"user_amount_max_{w}d"] = f32(max(amounts(rows), default=None))
        values["user_merchants_30d"] = f32(len({row.merchant for row in thirty}))
        values["user_countries_90d"] = f32(len({row.country for row in ninety} - {None}))
        values["user_devices_90d"] = f32(len({row.device for row in ninety} - {None}))
        values["user_foreign_share_90d"] = foreign_share(ninety)
        values["user_online_share_30d"] = share([row.online for row in thirty if row.online is not None])
        values["user_night_share_30d"] = share([row.event % DAY < 6 * HOUR for row in thirty])
        return values

    def merchant_snapshot(self, merchant: str, day: int) -> dict[str, float] | None:
        ninety = self.window("merchant", merchant, day, 90)
        if not ninety:
            return None
        thirty = self.window("merchant", merchant, day, 30)
        values = {f"merchant_txn_count_{w}d": f32(len(self.window("merchant", merchant, day, w))) for w in (1, 30, 90)}
        values["merchant_amount_avg_30d"] = mean(amounts(thirty))
        values["merchant_amount_std_30d"] = deviation(amounts(thirty))
        values["merchant_users_30d"] = f32(len({row.user for row in thirty}))
        values["merchant_foreign_share_30d"] = foreign_share(thirty)
        for w in (7, 30, 90):
            rows = self.window("merchant", merchant, day - 7, w)
            values[f"merchant_fraud_rate_{w}d"] = share([self.known_fraud(row, day) for row in rows])
        return values

    def known_fraud(self, row: Row, day: int) -> bool:
        arrived = [
            label
            for label in self.labels
            if label.transaction == row.id and label.transaction_day == row.day and label.arrived // DAY <= day
            if label.caller == "default"
        ]
        if not arrived:
            return False
        stands = {
            source: max(
                (label for label in arrived if label.source == source),
                key=lambda label: (label.revision, label.arrived, label.state),
            )
            for source in {label.source for label in arrived}
        }
        counts = max(stands.values(), key=lambda label: (RANKS.get(label.source, 20), label.arrived, label.source))
        return counts.state in ("confirmed", "disputed")

    def medians(self, entity: str, day: int) -> dict[str, float]:
        """Lower medians over entities with at least 5 transactions in 90 days."""
        snapshot = self.user_snapshot if entity == "user" else self.merchant_snapshot
        found: dict[str, list[float]] = defaultdict(list)
        for name in {getattr(row, entity) for row in self.rows}:
            if len(self.window(entity, name, day, 90)) >= 5:
                for feature, value in (snapshot(name, day) or {}).items():
                    if not math.isnan(value):
                        found[feature].append(value)
        return {feature: sorted(values)[(len(values) - 1) // 2] for feature, values in found.items()}

    # one transaction -------------------------------------------------------------------------------------------------

    def vector(self, row: Row) -> dict[str, float]:
        """Everything that serving would have known when `row` was received."""
        day = row.day - 1 if row.received % DAY >= LOADED_AT[row.region] else row.day - 2
        values = self.cold_start("user", row.user, day) | self.cold_start("merchant", row.merchant, day)
        values |= self.velocity(row)
        return values | self.request(row, day, values)

    def cold_start(self, entity: str, name: str, day: int) -> dict[str, float]:
        snapshot = self.user_snapshot(name, day) if entity == "user" else self.merchant_snapshot(name, day)
        cold = len(self.window(entity, name, day, 90)) < 5
        medians = self.medians(entity, day)
        counts = ("_txn_count_", "_merchants_", "_countries_", "_devices_", "_users_")
        values = {}
        for feature in USER_FEATURES if entity == "user" else MERCHANT_FEATURES:
            if any(part in feature for part in counts):
                values[feature] = snapshot[feature] if snapshot else 0.0
            elif cold:
                values[feature] = medians.get(feature, math.nan)
            else:
                values[feature] = snapshot[feature] if snapshot else math.nan
        return values

    def velocity(self, row: Row) -> dict[str, float]:
        return velocity(row, self.rows)

    def request(self, row: Row, day: int, known: dict[str, float]) -> dict[str, float]:
        seen = self.window("user", row.user, day, 90)
        countries = {r.country for r in seen} - {None}
        devices = {r.device for r in seen} - {None}
        now = row.effective["user"]
        last = last_attempt(row, max((r.effective["user"] for r in seen), default=None))
        mismatch = None if row.country is None or row.home is None else row.country != row.home
        amount = math.nan if row.euros is None else row.euros
        return {
            "amount": f32(amount),
            "amount_to_user_avg_30d": ratio(amount, known["user_amount_avg_30d"]),
            "amount_zscore_90d": ratio(amount - known["user_amount_avg_90d"], known["user_amount_std_90d"]),
            "amount_to_user_max_90d": ratio(amount, known["user_amount_max_90d"]),
            "amount_to_merchant_avg_30d": ratio(amount, known["merchant_amount_avg_30d"]),
            "hour_of_day": f32(row.event % DAY // HOUR),
            "day_of_week": f32((row.event // DAY + 3) % 7),
            "is_online": f32(row.online),
            "country_mismatch": f32(mismatch),
            "country_is_new": f32(row.country not in countries if countries and row.country else None),
            "device_is_new": f32(row.device not in devices if devices and row.device else None),
            "seconds_since_last": f32(None if last is None else max(now - last, 0) / 1e6),
        }


def velocity(row: Row, rows: list[Row]) -> dict[str, float]:
    """The windows that end with a row, over what its region counted in its epochs."""
    values = {}
    for entity, windows in (("user", ("1m", "10m", "1h", "24h")), ("merchant", ("10m", "1h", "24h"))):
        now, epoch = row.effective[entity], row.epoch[entity]
        own = [r for r in rows if r.epoch.get(entity) is epoch]
        for name in windows:
            inside = [r for r in own if now - WINDOWS[name] < r.effective[entity] <= now]
            known = now - WINDOWS[name] >= epoch.since - 1
            values[f"{entity}_txn_count_{name}"] = f32(len(inside) if known else None)
            if entity == "user":
                values[f"user_amount_sum_{name}"] = f32(sum(amounts(inside)) if known else None)
    return values


def last_attempt(row: Row, snapshot: int | None) -> int | None:
    """When the user paid before a row, by what its epoch counted in 48 hours and by the snapshot."""
    now, epoch = row.effective["user"], row.epoch["user"]
    live = max((time for time in epoch.times if now - 48 * HOUR < time < now), default=None)
    if epoch.since:
        if live is None and now - 48 * HOUR + 1 < epoch.since:
            return None
        if snapshot is not None and snapshot > (now if live is None else live):
            return None
    return max((time for time in (live, snapshot) if time is not None), default=None)


def amounts(rows: list[Row]) -> list[int]:
    """Those that are known: the others are payments all the same, and of no sum."""
    return [row.euros for row in rows if row.euros is not None]


def mean(amounts: list[int]) -> float:
    return f32(sum(amounts) / len(amounts) if amounts else None)


def deviation(amounts: list[int]) -> float:
    n = len(amounts)
    if n < 2:
        return math.nan
    spread = n * sum(a * a for a in amounts) - sum(amounts) ** 2
    return f32(math.sqrt(spread / (n * (n - 1))))


def share(flags: list[bool]) -> float:
    return f32(sum(flags) / len(flags) if flags else None)


def foreign_share(rows: list[Row]) -> float:
    return share([row.country != row.home for row in rows if row.country and row.home])


def ratio(part: float, whole: float) -> float:
    return math.nan if whole == 0 or math.isnan(whole) else f32(part / whole)


USER_FEATURES = (
    *(f"user_txn_count_{w}d" for w in (1, 7, 30, 90)),
    *(f"user_amount_avg_{w}d" for w in (7, 30, 90)),
    *(f"user_amount_{kind}_{w}d" for kind in ("std", "max") for w in (30, 90)),
    "user_merchants_30d",
    "user_countries_90d",
    "user_devices_90d",
    "user_foreign_share_90d",
    "user_online_share_30d",
    "user_night_share_30d",
)
MERCHANT_FEATURES = (
    *(f"merchant_txn_count_{w}d" for w in (1, 30, 90)),
    "merchant_amount_avg_30d",
    "merchant_amount_std_30d",
    "merchant_users_30d",
    "merchant_foreign_share_30d",
    *(f"merchant_fraud_rate_{w}d" for w in (7, 30, 90)),
)
