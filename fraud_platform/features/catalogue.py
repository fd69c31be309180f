"""The catalogue: the only place where a feature's name, source, window, unit, cold-start default and meaning stand.

What belongs here: the list and look-ups over it. What does not: arithmetic. A feature's position here is its position
in the vector; `CATALOGUE.hash` changes with anything that changes a value, so tables, views and models are keyed by it.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Source = Literal["user", "merchant", "velocity", "request"]
ColdStart = Literal["median", "zero", "null"]

MIN_TRANSACTIONS = 5
"""Transactions in 90 days that make an entity personal; below, its `median` features take the population's median."""

LABEL_DELAY_DAYS = 7
"""Merchant fraud rates end this many days before the snapshot: labels of newer transactions have hardly arrived."""

VALUES_VERSION = 3
"""Raised by hand when the arithmetic behind a feature changes but its entry here does not.

2: an effective time is no longer ahead of received_at, which changes the 11 velocity features and `seconds_since_last`
where a payment was dated ahead; once a clock has jumped, they are null until they are known again.
3: `amount` may be null, which changes the features that are made of amounts, and `channel` is read by a vocabulary,
which changes `is_online` and `user_online_share_30d`. Each with its cause: docs/features.md, What a value was before.
"""

MINUTE, HOUR, DAY = 60_000_000, 3_600_000_000, 86_400_000_000
VELOCITY_WINDOWS: dict[str, int] = {"1m": MINUTE, "10m": 10 * MINUTE, "1h": HOUR, "24h": DAY}
"""Velocity windows in microseconds: (t − w, t] over effective time, the transaction itself included."""

LIVE_HISTORY = 48 * HOUR
"""Microseconds of effective time that the online velocity store keeps; an older previous attempt comes from the
snapshot."""


@dataclass(frozen=True)
class Feature:
    """One column of the vector; every value is a float32, null is NaN."""

    name: str
    source: Source
    window: str
    unit: str
    cold_start: ColdStart
    meaning: str
    inputs: tuple[str, ...]
    """Columns that the value is made of, as `table.column`: the lineage shown to people."""
    dtype: str = "float32"


@dataclass(frozen=True)
class Catalogue:
    """The ordered features."""

    features: tuple[Feature, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names in the vector's order."""
        return tuple(feature.name for feature in self.features)

    def of(self, source: Source) -> tuple[Feature, ...]:
        """The features of one source, in the vector's order."""
        return tuple(feature for feature in self.features if feature.source == source)

    def columns(self, source: Source) -> slice:
        """Where a source's features lie in the vector; each source is one contiguous block."""
        positions = [index for index, feature in enumerate(self.features) if feature.source == source]
        return slice(positions[0], positions[-1] + 1)

    @cached_property
    def hash(self) -> str:
        """Twelve hex digits that name this version of the features."""
        return self._hash(VALUES_VERSION)

    @cached_property
    def alike(self) -> frozenset[str]:
        """The hashes under which the same features stood in the same order, though their values may have differed."""
        return frozenset(map(self._hash, range(1, VALUES_VERSION + 1)))

    def _hash(self, version: int) -> str:
        values = [(f.name, f.source, f.window, f.unit, f.cold_start, f.dtype) for f in self.features]
        text = repr((version, MIN_TRANSACTIONS, LABEL_DELAY_DAYS, values))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


_TILE_COLUMNS: dict[str, tuple[str, ...]] = {
    "txn_count": ("txn_count",),
    "amount_avg": ("amount_sum", "amount_known"),
    "amount_std": ("amount_sum", "amount_square_sum", "amount_known"),
    "amount_max": ("amount_max",),
    "foreign_share": ("foreign_count", "foreign_known"),
    "online_share": ("online_count", "channel_known"),
    "night_share": ("night_count", "txn_count"),
    "merchants": ("merchants",),
    "countries": ("countries",),
    "devices": ("devices",),
    "users": ("users",),
}
"""What a batch feature sums: columns of its entity's tiles."""


def _user(name: str, window: str, unit: str, cold_start: ColdStart, meaning: str) -> Feature:
    inputs = tuple(f"user_tiles.{column}" for column in _TILE_COLUMNS[name])
    return Feature(f"user_{name}_{window}", "user", window, unit, cold_start, meaning, inputs)


def _merchant(name: str, window: str, unit: str, cold_start: ColdStart, meaning: str) -> Feature:
    columns = ("txn_count",) if name == "fraud_rate" else _TILE_COLUMNS[name]
    inputs = tuple(f"merchant_tiles.{column}" for column in columns)
    if name == "fraud_rate":
        inputs += ("label_tiles.fraud_delta", "label_tiles.unknown_delta")
    return Feature(f"merchant_{name}_{window}", "merchant", window, unit, cold_start, meaning, inputs)


def _velocity(entity: str, name: str, window: str, unit: str, meaning: str) -> Feature:
    columns = (f"{entity}_id", "event_time", "received_at", *(("amount",) if name == "amount_sum" else ()))
    inputs = tuple(f"raw_transactions.{column}" for column in columns)
    return Feature(f"{entity}_{name}_{window}", "velocity", window, unit, "null", meaning, inputs)


def _request(name: str, unit: str, meaning: str, *inputs: str) -> Feature:
    return Feature(name, "request", "now", unit, "null", meaning, inputs)


CATALOGUE = Catalogue(
    (
        _user("txn_count", "1d", "transactions", "zero", "Transactions of the user on the snapshot's day."),
        _user("txn_count", "7d", "transactions", "zero", "Transactions of the user in 7 days."),
        _user("txn_count", "30d", "transactions", "zero", "Transactions of the user in 30 days."),
        _user("txn_count", "90d", "transactions", "zero", "Transactions of the user in 90 days."),
        _user("amount_avg", "7d", "minor units", "median", "Mean amount of the user in 7 days."),
        _user("amount_avg", "30d", "minor units", "median", "Mean amount of the user in 30 days."),
        _user("amount_avg", "90d", "minor units", "median", "Mean amount of the user in 90 days."),
        _user("amount_std", "30d", "minor units", "median", "Sample standard deviation of the amount in 30 days."),
        _user("amount_std", "90d", "minor units", "median", "Sample standard deviation of the amount in 90 days."),
        _user("amount_max", "30d", "minor units", "median", "Largest amount of the user in 30 days."),
        _user("amount_max", "90d", "minor units", "median", "Largest amount of the user in 90 days."),
        _user("merchants", "30d", "merchants", "zero", "Distinct merchants that the user paid in 30 days."),
        _user("countries", "90d", "countries", "zero", "Distinct countries that the user paid in, in 90 days."),
        _user("devices", "90d", "devices", "zero", "Distinct devices that the user paid from in 90 days."),
        _user("foreign_share", "90d", "share", "median", "Share of the user's payments outside the home country."),
        _user("online_share", "30d", "share", "median", "Share of the user's payments made online in 30 days."),
        _user("night_share", "30d", "share", "median", "Share of the user's payments from 00:00 to 06:00 UTC."),
        _merchant("txn_count", "1d", "transactions", "zero", "Transactions at the merchant on the snapshot's day."),
        _merchant("txn_count", "30d", "transactions", "zero", "Transactions at the merchant in 30 days."),
        _merchant("txn_count", "90d", "transactions", "zero", "Transactions at the merchant in 90 days."),
        _merchant("amount_avg", "30d", "minor units", "median", "Mean amount at the merchant in 30 days."),
        _merchant("amount_std", "30d", "minor units", "median", "Sample standard deviation at the merchant, 30 days."),
        _merchant("users", "30d", "users", "zero", "Distinct users who paid the merchant in 30 days."),
        _merchant("foreign_share", "30d", "share", "median", "Share of the merchant's payments from abroad."),
        _merchant("fraud_rate", "7d", "share", "median", "Known frauds by transactions, 7 days, ended by label delay."),
        _merchant("fraud_rate", "30d", "share", "median", "Known frauds by transactions, 30 days, same delay."),
        _merchant("fraud_rate", "90d", "share", "median", "Known frauds by transactions, 90 days, same delay."),
        _velocity("user", "txn_count", "1m", "transactions", "Attempts of the user in the last minute, this included."),
        _velocity("user", "txn_count", "10m", "transactions", "Attempts of the user in the last ten minutes."),
        _velocity("user", "txn_count", "1h", "transactions", "Attempts of the user in the last hour."),
        _velocity("user", "txn_count", "24h", "transactions", "Attempts of the user in the last 24 hours."),
        _velocity("user", "amount_sum", "1m", "minor units", "Amount of the user's attempts in the last minute."),
        _velocity("user", "amount_sum", "10m", "minor units", "Amount of the user's attempts in ten minutes."),
        _velocity("user", "amount_sum", "1h", "minor units", "Amount of the user's attempts in the last hour."),
        _velocity("user", "amount_sum", "24h", "minor units", "Amount of the user's attempts in the last 24 hours."),
        _velocity("merchant", "txn_count", "10m", "transactions", "Attempts at the merchant in ten minutes."),
        _velocity("merchant", "txn_count", "1h", "transactions", "Attempts at the merchant in the last hour."),
        _velocity("merchant", "txn_count", "24h", "transactions", "Attempts at the merchant in the last 24 hours."),
        _request("amount", "minor units", "Amount of the payment in the base currency.", "raw_transactions.amount"),
        _request(
            "amount_to_user_avg_30d",
            "ratio",
            "Amount by the user's mean amount in 30 days.",
            "raw_transactions.amount",
            "user_features.user_amount_avg_30d",
        ),
        _request(
            "amount_zscore_90d",
            "deviations",
            "Amount less the user's 90-day mean, by the 90-day deviation.",
            "raw_transactions.amount",
            "user_features.user_amount_avg_90d",
            "user_features.user_amount_std_90d",
        ),
        _request(
            "amount_to_user_max_90d",
            "ratio",
            "Amount by the user's largest amount in 90 days.",
            "raw_transactions.amount",
            "user_features.user_amount_max_90d",
        ),
        _request(
            "amount_to_merchant_avg_30d",
            "ratio",
            "Amount by the merchant's mean amount in 30 days.",
            "raw_transactions.amount",
            "merchant_features.merchant_amount_avg_30d",
        ),
        _request("hour_of_day", "hours", "Hour of the event time, UTC.", "raw_transactions.event_time"),
        _request("day_of_week", "days", "Day of the event time, Monday is 0, UTC.", "raw_transactions.event_time"),
        _request("is_online", "flag", "The channel is online.", "raw_transactions.channel"),
        _request(
            "country_mismatch",
            "flag",
            "The country is not the user's home country.",
            "raw_transactions.country",
            "raw_transactions.user_country",
        ),
        _request(
            "country_is_new",
            "flag",
            "The user has not paid in this country in 90 days.",
            "raw_transactions.country",
            "user_features.known_countries",
        ),
        _request(
            "device_is_new",
            "flag",
            "The user has not paid from this device in 90 days.",
            "raw_transactions.device_key",
            "user_features.known_devices",
        ),
        _request(
            "seconds_since_last",
            "seconds",
            "Time since the user's previous attempt.",
            "raw_transactions.event_time",
            "raw_transactions.received_at",
            "user_features.last_seen_us",
        ),
    )
)
"""The features in force."""
