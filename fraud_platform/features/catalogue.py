"""The catalogue: the only place where a feature's name, meaning, unit and cold-start default stand.

What belongs here: the list, look-ups over it, and the hashes by which what was computed is known again. What does not:
arithmetic. A feature's position here is its position in the vector.

A feature's hash follows whatever its values follow. A set's hash follows its members, by name and hash, in order: what
was stored under one set is never read under another.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Source = Literal["user", "merchant", "velocity", "request"]
Entity = Literal["user", "merchant"]
ENTITIES: tuple[Entity, ...] = ("user", "merchant")
Aggregate = Literal[
    "count", "sum", "mean", "std", "max", "distinct", "share", "fraud_rate", "is_new", "seconds_since_last",
    "expression",
]  # fmt: skip
ColdStart = Literal["median", "zero", "null"]

COMPILED: tuple[Source, ...] = ("velocity", "request")
"""Blocks that every set has as they are."""

_SEEN = ("count", "90d")
"""Aggregate and window of the feature that says whether an entity is personal."""

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

_NAMED_BEFORE = {
    "e4b5927cfeaa": "72ced253273c",
    "34a064131616": "245935cadee1",
    "f9f79a6921d9": "4f96445056f3",
}
"""Digests of the first fifty features by version of their values, and the names that these sets had before features had
hashes: homes, bundles and records carry them, so they stay."""
FIRST_SETS = frozenset(_NAMED_BEFORE.values())
"""Those names."""


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One column of the vector; every value is a float32, null is NaN."""

    name: str
    source: Source
    """The block of the vector that it stands in: where it is computed."""
    entity: Entity | None
    """Whose payments it speaks of; None: of this payment alone."""
    aggregate: Aggregate
    operand: str = ""
    """What is aggregated: a column of a payment; of an `expression` its text."""
    condition: str = ""
    """Which payments a `share` is of."""
    window: str
    delay_days: int = 0
    """Days between the window's end and the snapshot."""
    unit: str
    cold_start: ColdStart
    meaning: str
    inputs: tuple[str, ...]
    """Columns that the value is made of, as `table.column`, in the order in which its aggregate takes them."""
    dtype: str = "float32"

    @property
    def days(self) -> int:
        """Days of a batch feature's window. Raises ValueError for a window that is not of days."""
        count, unit = self.window[:-1], self.window[-1]
        if unit != "d":
            raise ValueError(f"{self.name}: a batch feature's window is of days, as 30d, not {self.window}")
        return int(count)


@dataclass(frozen=True)
class Catalogue:
    """The ordered features."""

    features: tuple[Feature, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names in the vector's order."""
        return tuple(feature.name for feature in self.features)

    @cached_property
    def position(self) -> dict[str, int]:
        """Where each feature stands in the vector, by name."""
        return {name: index for index, name in enumerate(self.names)}

    def of(self, source: Source) -> tuple[Feature, ...]:
        """The features of one source, in the vector's order."""
        return tuple(feature for feature in self.features if feature.source == source)

    def columns(self, source: Source) -> slice:
        """Where a source's features lie in the vector; each source is one contiguous block."""
        positions = [index for index, feature in enumerate(self.features) if feature.source == source]
        return slice(positions[0], positions[-1] + 1)

    def seen(self, entity: Entity) -> Feature:
        """The feature that says whether an entity is personal: its transactions in 90 days."""
        return next(one for one in self.of(entity) if (one.aggregate, one.window) == _SEEN)

    def only(self, names: Sequence[str]) -> "Catalogue":
        """The set of some of the features, in the order given. Raises KeyError."""
        return Catalogue(tuple(self.features[self.position[name]] for name in names))

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Twelve hex digits per feature, by name: they change with anything that changes its values, and with nothing
        else."""
        return self._hashes(VALUES_VERSION)

    @cached_property
    def hash(self) -> str:
        """Twelve hex digits that name this set."""
        return self.hash_of(self.names)

    @cached_property
    def alike(self) -> frozenset[str]:
        """`alike_of` the whole."""
        return self.alike_of(self.names)

    def hash_of(self, names: Sequence[str]) -> str:
        """The hash of the set that some of the features make, in the order given. Raises KeyError."""
        return self._hash_of(names, VALUES_VERSION)

    def alike_of(self, names: Sequence[str]) -> frozenset[str]:
        """The hashes under which these features stood in this order, though their values may have differed."""
        return frozenset(self._hash_of(names, version) for version in range(1, VALUES_VERSION + 1))

    def _hash_of(self, names: Sequence[str], version: int) -> str:
        hashes = self._hashes(version)
        digest = digest_of([[name, hashes[name]] for name in names])
        return _NAMED_BEFORE.get(digest, digest)

    def _hashes(self, version: int) -> dict[str, str]:
        """Raises ValueError where features are made of each other in a circle."""
        by_name = {feature.name: feature for feature in self.features}
        known: dict[str, str] = {}
        under_way: set[str] = set()

        def hashed(name: str) -> str:
            if name not in known:
                if name in under_way:
                    raise ValueError(f"{name} is made of itself")
                under_way.add(name)
                one = by_name[name]
                columns = [each.partition(".")[2] for each in one.inputs]
                inputs = [
                    each if column == name or column not in by_name else hashed(column)
                    for each, column in zip(one.inputs, columns, strict=True)
                ]
                least = MIN_TRANSACTIONS if one.cold_start == "median" else 0
                known[name] = digest_of(
                    [version, one.source, one.entity, one.aggregate, one.operand, one.condition, one.window,
                     one.delay_days, one.cold_start, least, one.dtype, inputs]
                )  # fmt: skip
            return known[name]

        return {name: hashed(name) for name in self.names}


def digest_of(parts: Sequence[object]) -> str:
    """Twelve hex digits of plain values, the same on every machine."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class _Kind:
    """What features of one stem share: aggregate, operand, condition, and the columns of its entity's tiles that it
    sums."""

    aggregate: Aggregate
    columns: tuple[str, ...]
    operand: str = ""
    condition: str = ""


_OF_TILES = {
    "txn_count": _Kind("count", ("txn_count",)),
    "amount_avg": _Kind("mean", ("amount_sum", "amount_known"), "amount"),
    "amount_std": _Kind("std", ("amount_sum", "amount_square_sum", "amount_known"), "amount"),
    "amount_max": _Kind("max", ("amount_max",), "amount"),
    "foreign_share": _Kind("share", ("foreign_count", "foreign_known"), condition="country <> user_country"),
    "online_share": _Kind("share", ("online_count", "channel_known"), condition="channel = 'online'"),
    "night_share": _Kind("share", ("night_count", "txn_count"), condition="hour of event_time < 6"),
    "merchants": _Kind("distinct", ("merchants",), "merchant_id"),
    "countries": _Kind("distinct", ("countries",), "country"),
    "devices": _Kind("distinct", ("devices",), "device_key"),
    "users": _Kind("distinct", ("users",), "user_id"),
    "fraud_rate": _Kind("fraud_rate", ("txn_count",)),
}
_LIVE: dict[str, tuple[Aggregate, str]] = {"txn_count": ("count", ""), "amount_sum": ("sum", "amount")}


def _batch(entity: Entity, stem: str, window: str, unit: str, cold_start: ColdStart, meaning: str) -> Feature:
    kind = _OF_TILES[stem]
    inputs = tuple(f"{entity}_tiles.{column}" for column in kind.columns)
    labelled = kind.aggregate == "fraud_rate"
    if labelled:
        inputs += ("label_tiles.fraud_delta", "label_tiles.unknown_delta")
    return Feature(
        name=f"{entity}_{stem}_{window}", source=entity, entity=entity, aggregate=kind.aggregate, operand=kind.operand,
        condition=kind.condition, window=window, delay_days=LABEL_DELAY_DAYS if labelled else 0, unit=unit,
        cold_start=cold_start, meaning=meaning, inputs=inputs,
    )  # fmt: skip


def _user(stem: str, window: str, unit: str, cold_start: ColdStart, meaning: str) -> Feature:
    return _batch("user", stem, window, unit, cold_start, meaning)


def _merchant(stem: str, window: str, unit: str, cold_start: ColdStart, meaning: str) -> Feature:
    return _batch("merchant", stem, window, unit, cold_start, meaning)


def _velocity(entity: Entity, stem: str, window: str, unit: str, meaning: str) -> Feature:
    aggregate, operand = _LIVE[stem]
    columns = (f"{entity}_id", "event_time", "received_at", *((operand,) if operand else ()))
    return Feature(
        name=f"{entity}_{stem}_{window}", source="velocity", entity=entity, aggregate=aggregate, operand=operand,
        window=window, unit=unit, cold_start="null", meaning=meaning,
        inputs=tuple(f"raw_transactions.{column}" for column in columns),
    )  # fmt: skip


def _request(name: str, unit: str, meaning: str, expression: str, *inputs: str) -> Feature:
    return Feature(
        name=name, source="request", entity=None, aggregate="expression", operand=expression, window="now", unit=unit,
        cold_start="null", meaning=meaning, inputs=inputs,
    )  # fmt: skip


def _of_user(name: str, aggregate: Aggregate, operand: str, unit: str, meaning: str, *inputs: str) -> Feature:
    return Feature(
        name=name, source="request", entity="user", aggregate=aggregate, operand=operand, window="now", unit=unit,
        cold_start="null", meaning=meaning, inputs=inputs,
    )  # fmt: skip


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
        _request(
            "amount", "minor units", "Amount of the payment in the base currency.", "amount", "raw_transactions.amount"
        ),
        _request(
            "amount_to_user_avg_30d",
            "ratio",
            "Amount by the user's mean amount in 30 days.",
            "amount / user_amount_avg_30d",
            "raw_transactions.amount",
            "user_features.user_amount_avg_30d",
        ),
        _request(
            "amount_zscore_90d",
            "deviations",
            "Amount less the user's 90-day mean, by the 90-day deviation.",
            "(amount - user_amount_avg_90d) / user_amount_std_90d",
            "raw_transactions.amount",
            "user_features.user_amount_avg_90d",
            "user_features.user_amount_std_90d",
        ),
        _request(
            "amount_to_user_max_90d",
            "ratio",
            "Amount by the user's largest amount in 90 days.",
            "amount / user_amount_max_90d",
            "raw_transactions.amount",
            "user_features.user_amount_max_90d",
        ),
        _request(
            "amount_to_merchant_avg_30d",
            "ratio",
            "Amount by the merchant's mean amount in 30 days.",
            "amount / merchant_amount_avg_30d",
            "raw_transactions.amount",
            "merchant_features.merchant_amount_avg_30d",
        ),
        _request(
            "hour_of_day", "hours", "Hour of the event time, UTC.", "hour of event_time", "raw_transactions.event_time"
        ),
        _request(
            "day_of_week",
            "days",
            "Day of the event time, Monday is 0, UTC.",
            "weekday of event_time",
            "raw_transactions.event_time",
        ),
        _request("is_online", "flag", "The channel is online.", "channel = 'online'", "raw_transactions.channel"),
        _request(
            "country_mismatch",
            "flag",
            "The country is not the user's home country.",
            "country <> user_country",
            "raw_transactions.country",
            "raw_transactions.user_country",
        ),
        _of_user(
            "country_is_new",
            "is_new",
            "country",
            "flag",
            "The user has not paid in this country in 90 days.",
            "raw_transactions.country",
            "user_features.known_countries",
        ),
        _of_user(
            "device_is_new",
            "is_new",
            "device_key",
            "flag",
            "The user has not paid from this device in 90 days.",
            "raw_transactions.device_key",
            "user_features.known_devices",
        ),
        _of_user(
            "seconds_since_last",
            "seconds_since_last",
            "",
            "seconds",
            "Time since the user's previous attempt.",
            "raw_transactions.event_time",
            "raw_transactions.received_at",
            "user_features.last_seen_us",
        ),
    )
)
"""The features in force."""


def check_served(catalogue: Catalogue) -> None:
    """Raise ValueError for a set whose vectors this code does not assemble: its blocks are of users, of merchants, of
    velocity and of the request, in this order, and the last two are those in force, since they are compiled, in Redis'
    script and in `features.request`."""
    blocks: tuple[Source, ...] = (*ENTITIES, *COMPILED)
    ordered = tuple(one.name for block in blocks for one in catalogue.of(block))
    if catalogue.names != ordered or len(set(ordered)) != len(ordered):
        raise ValueError(f"its features are not blocks in the order {', '.join(blocks)}")
    compiled = [one.name for block in COMPILED for one in catalogue.of(block)]
    if compiled != [one.name for block in COMPILED for one in CATALOGUE.of(block)]:
        raise ValueError("sets differ in batch features alone: velocity and request features are compiled")
    # the hash of a request feature follows the batch features that it is made of
    other = [name for name in compiled if catalogue.hashes[name] != CATALOGUE.hashes[name]]
    if other:
        raise ValueError(f"{', '.join(other)}: compiled as something else, or made of features that are missing")
    for entity in ENTITIES:
        if not any((one.aggregate, one.window) == _SEEN for one in catalogue.of(entity)):
            raise ValueError(f"no feature counts the transactions of a {entity} in 90 days")
