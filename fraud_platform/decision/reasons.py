"""What a feature's value says, in plain words: the reasons beside an explanation's figures.

What belongs here: sentences. What does not: which features count most (`answer`). A sentence is made of the feature's
unit and window in the catalogue and one template per kind of feature; a feature without a template is told by its
meaning, so that a new one is explained from its first day.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from fraud_platform.features.catalogue import CATALOGUE, ENTITIES, LABEL_DELAY_DAYS, MIN_TRANSACTIONS, Entity, Feature

Effect = Literal["raises risk", "lowers risk", "none"]

_WINDOWS = {
    "1m": "in the last minute",
    "10m": "in the last 10 minutes",
    "1h": "in the last hour",
    "24h": "in the last 24 hours",
    "1d": "on the last full day",
    "7d": "in the last 7 days",
    "30d": "in the last 30 days",
    "90d": "in the last 90 days",
}
_TEMPLATES = {
    "user_txn_count": "{value} by this user {window}",
    "user_amount_avg": "this user's average payment {window} is {value}",
    "user_amount_std": "this user's payments {window} deviate by {value} from their average",
    "user_amount_max": "this user's largest payment {window} is {value}",
    "user_amount_sum": "{value} paid by this user {window}",
    "user_merchants": "this user paid {value} {window}",
    "user_countries": "this user paid in {value} {window}",
    "user_devices": "this user paid from {value} {window}",
    "user_foreign_share": "{value} of this user's payments {window} are outside the home country",
    "user_online_share": "{value} of this user's payments {window} are online",
    "user_night_share": "{value} of this user's payments {window} are between 00:00 and 06:00 UTC",
    "merchant_txn_count": "{value} at this merchant {window}",
    "merchant_amount_avg": "this merchant's average payment {window} is {value}",
    "merchant_amount_std": "this merchant's payments {window} deviate by {value} from their average",
    "merchant_users": "{value} paid this merchant {window}",
    "merchant_foreign_share": "{value} of this merchant's payments {window} are from abroad",
    "merchant_fraud_rate": (
        f"{{value}} of this merchant's payments over {{days}} days, up to {LABEL_DELAY_DAYS} days ago, are known frauds"
    ),
    "amount": "amount is {value}",
    "amount_to_user_avg_30d": "amount is {value} this user's 30-day average",
    "amount_zscore_90d": "amount is {value} this user's 90-day average",
    "amount_to_user_max_90d": "amount is {value} this user's largest payment in 90 days",
    "amount_to_merchant_avg_30d": "amount is {value} this merchant's 30-day average",
    "hour_of_day": "paid between {value}:00 and {value}:59 UTC",
    "day_of_week": "paid on a {value} (UTC)",
    "seconds_since_last": "this user's previous payment was {value} ago",
}
_FLAGS = {
    "is_online": ("paid online", "not paid online", "the channel is not given"),
    "country_mismatch": (
        "paid outside the user's home country", "paid in the user's home country", "no home country is given",
    ),
    "country_is_new": (
        "first payment seen from this country in 90 days", "this user has paid in this country before",
        "the countries that this user paid in are not known",
    ),
    "device_is_new": (
        "first payment seen from this device in 90 days", "this user has paid from this device before",
        "no device is given, or this user's devices are not known",
    ),
}  # fmt: skip
"""What a flag says where it is 1, 0 and null."""

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_SPANS = ((172_800, 86_400, "days"), (7_200, 3_600, "hours"), (120, 60, "minutes"), (0, 1, "seconds"))
"""Seconds from which a unit is used, seconds in it, its name."""


class Reasons:
    """Sentences about vectors; amounts are shown in the base currency, which has `exponent` decimals."""

    def __init__(self, base_currency: str, exponent: int) -> None:
        self._units: Mapping[str, Callable[[float], str]] = {
            "minor units": lambda value: f"{value / 10**exponent:,.{exponent}f} {base_currency}",
            "transactions": lambda value: _counted(value, "payment"),
            "merchants": lambda value: _counted(value, "merchant"),
            "countries": lambda value: _counted(value, "country", "countries"),
            "devices": lambda value: _counted(value, "device"),
            "users": lambda value: _counted(value, "user"),
            "share": lambda value: f"{_figure(100 * value)}%",
            "ratio": lambda value: f"{_figure(value)}×",
            "deviations": _deviations,
            "seconds": _span,
            "hours": lambda value: f"{value:02.0f}",
            "days": lambda value: _DAYS[int(value)],
        }

    def of(self, position: int, vector: Sequence[float]) -> str:
        """What the feature at a position of the vector says. vector: 50 values in the catalogue's order; null is NaN.

        Where too little is known of a user or merchant, medians stand in for its own values, and the sentence says so.
        """
        feature = CATALOGUE.features[position]
        sentence = self.sentence(feature, float(vector[position]))
        for entity in _borrowing(feature):
            if not vector[_COUNT[entity]] >= MIN_TRANSACTIONS and f"this {entity}'s" in sentence:
                sentence = sentence.replace(f"this {entity}'s", f"a typical {entity}'s")
                sentence += f" (too little is known of this {entity})"
        return sentence

    def sentence(self, feature: Feature, value: float) -> str:
        """What a value of a feature says, in the feature's unit; null is NaN."""
        if feature.name in _FLAGS:
            yes, no, unknown = _FLAGS[feature.name]
            return unknown if math.isnan(value) else yes if value else no
        if math.isnan(value):
            return f"not known: {_lower(feature.meaning)}"
        in_unit = self._units.get(feature.unit)
        shown = f"{_figure(value)} {feature.unit}" if in_unit is None else in_unit(value)
        template = _TEMPLATES.get(feature.name.removesuffix(f"_{feature.window}"), "{meaning}: {value}")
        window = _WINDOWS.get(feature.window, "")
        days = feature.window.removesuffix("d")
        return template.format(value=shown, window=window, days=days, meaning=_lower(feature.meaning))


def effect(contribution: float) -> Effect:
    """Which way a contribution to the margin points."""
    if contribution == 0:
        return "none"
    return "raises risk" if contribution > 0 else "lowers risk"


_COUNT = {entity: CATALOGUE.position[CATALOGUE.seen(entity).name] for entity in ENTITIES}


def _borrowing(feature: Feature) -> set[Entity]:
    """The entities whose median may stand in for an own value in this feature."""
    own = [feature] + [
        CATALOGUE.features[CATALOGUE.position[name]]
        for name in (column.partition(".")[2] for column in feature.inputs)
        if name in CATALOGUE.position
    ]
    return {one.entity for one in own if one.entity is not None and one.cold_start == "median"}


def _lower(meaning: str) -> str:
    return (meaning[:1].lower() + meaning[1:]).removesuffix(".")


def _figure(value: float) -> str:
    """As many digits as say something: 0.031, 8.2, 120, 4,300."""
    if abs(value) >= 10 or value.is_integer():
        return f"{value:,.0f}"
    if abs(value) >= 0.95:
        return f"{value:.1f}"
    return f"{value:.2g}" if abs(value) >= 0.001 else "under 0.001"


def _counted(value: float, one: str, many: str | None = None) -> str:
    if value == 0:
        return f"no {one}"
    return f"1 {one}" if value == 1 else f"{value:,.0f} {many or one + 's'}"


def _deviations(value: float) -> str:
    size = _figure(abs(value))
    noun = "standard deviation" if size == "1" else "standard deviations"
    return f"{size} {noun} {'below' if value < 0 else 'above'}"


def _span(seconds: float) -> str:
    seconds = max(seconds, 0)  # a clock that went back
    size, name = next((size, name) for least, size, name in _SPANS if seconds >= least)
    return f"{_figure(seconds / size)} {name}"
