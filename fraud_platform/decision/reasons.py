"""What a feature's value says, in plain words: the reasons beside an explanation's figures.

What belongs here: sentences. What does not: which features count most (`answer`). A sentence is made of the feature's
unit and window in the catalogue and one template per aggregate and operand, whatever the feature's name; a feature
without a template is told by its meaning, so that a new one is explained from its first day.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from fraud_platform.features.catalogue import (
    CATALOGUE,
    ENTITIES,
    LABEL_DELAY_DAYS,
    MIN_TRANSACTIONS,
    Aggregate,
    Catalogue,
    Entity,
    Feature,
)

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
_Meaning = tuple[Entity | None, Aggregate, str]
"""Whose, which aggregate, and of what: an operand, or a share's condition."""

_TEMPLATES: dict[_Meaning, str] = {
    ("user", "count", ""): "{value} by this user {window}",
    ("user", "mean", "amount"): "this user's average payment {window} is {value}",
    ("user", "std", "amount"): "this user's payments {window} deviate by {value} from their average",
    ("user", "max", "amount"): "this user's largest payment {window} is {value}",
    ("user", "sum", "amount"): "{value} paid by this user {window}",
    ("user", "distinct", "merchant_id"): "this user paid {value} {window}",
    ("user", "distinct", "country"): "this user paid in {value} {window}",
    ("user", "distinct", "device_key"): "this user paid from {value} {window}",
    (
        "user",
        "share",
        "country <> user_country",
    ): "{value} of this user's payments {window} are outside the home country",
    ("user", "share", "channel = 'online'"): "{value} of this user's payments {window} are online",
    ("user", "share", "hour of event_time < 6"): (
        "{value} of this user's payments {window} are between 00:00 and 06:00 UTC"
    ),
    ("user", "seconds_since_last", ""): "this user's previous payment was {value} ago",
    ("merchant", "count", ""): "{value} at this merchant {window}",
    ("merchant", "mean", "amount"): "this merchant's average payment {window} is {value}",
    ("merchant", "std", "amount"): "this merchant's payments {window} deviate by {value} from their average",
    ("merchant", "distinct", "user_id"): "{value} paid this merchant {window}",
    ("merchant", "share", "country <> user_country"): "{value} of this merchant's payments {window} are from abroad",
    ("merchant", "fraud_rate", ""): (
        f"{{value}} of this merchant's payments over {{days}} days, up to {LABEL_DELAY_DAYS} days ago, are known frauds"
    ),
    (None, "expression", "amount"): "amount is {value}",
    (None, "expression", "amount / user_amount_avg_30d"): "amount is {value} this user's 30-day average",
    (None, "expression", "(amount - user_amount_avg_90d) / user_amount_std_90d"): (
        "amount is {value} this user's 90-day average"
    ),
    (None, "expression", "amount / user_amount_max_90d"): "amount is {value} this user's largest payment in 90 days",
    (None, "expression", "amount / merchant_amount_avg_30d"): "amount is {value} this merchant's 30-day average",
    (None, "expression", "hour of event_time"): "paid between {value}:00 and {value}:59 UTC",
    (None, "expression", "weekday of event_time"): "paid on a {value} (UTC)",
}
_FLAGS: dict[_Meaning, tuple[str, str, str]] = {
    (None, "expression", "channel = 'online'"): ("paid online", "not paid online", "the channel is not given"),
    (None, "expression", "country <> user_country"): (
        "paid outside the user's home country", "paid in the user's home country", "no home country is given",
    ),
    ("user", "is_new", "country"): (
        "first payment seen from this country in 90 days", "this user has paid in this country before",
        "the countries that this user paid in are not known",
    ),
    ("user", "is_new", "device_key"): (
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

    def __init__(self, base_currency: str, exponent: int, catalogue: Catalogue = CATALOGUE) -> None:
        """catalogue: what the vectors follow."""
        self.catalogue = catalogue
        self._count = {entity: catalogue.position[catalogue.seen(entity).name] for entity in ENTITIES}
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
        """What the feature at a position of the vector says. vector: values in the set's order; null is NaN.

        Where too little is known of a user or merchant, medians stand in for its own values, and the sentence says so.
        """
        feature = self.catalogue.features[position]
        sentence = self.sentence(feature, float(vector[position]))
        for entity in self._borrowing(feature):
            if not vector[self._count[entity]] >= MIN_TRANSACTIONS and f"this {entity}'s" in sentence:
                sentence = sentence.replace(f"this {entity}'s", f"a typical {entity}'s")
                sentence += f" (too little is known of this {entity})"
        return sentence

    def sentence(self, feature: Feature, value: float) -> str:
        """What a value of a feature says, in the feature's unit; null is NaN."""
        meant = feature.entity, feature.aggregate, feature.operand or feature.condition
        if meant in _FLAGS:
            yes, no, unknown = _FLAGS[meant]
            return unknown if math.isnan(value) else yes if value else no
        if math.isnan(value):
            return f"not known: {_lower(feature.meaning)}"
        in_unit = self._units.get(feature.unit)
        shown = f"{_figure(value)} {feature.unit}" if in_unit is None else in_unit(value)
        template = _TEMPLATES.get(meant, "{meaning}: {value}")
        window = _WINDOWS.get(feature.window, "")
        days = feature.window.removesuffix("d")
        return template.format(value=shown, window=window, days=days, meaning=_lower(feature.meaning))

    def _borrowing(self, feature: Feature) -> set[Entity]:
        """The entities whose median may stand in for an own value in this feature."""
        position = self.catalogue.position
        columns = [column.partition(".")[2] for column in feature.inputs]
        own = [feature, *(self.catalogue.features[position[name]] for name in columns if name in position)]
        return {one.entity for one in own if one.entity is not None and one.cold_start == "median"}


def effect(contribution: float) -> Effect:
    """Which way a contribution to the margin points."""
    if contribution == 0:
        return "none"
    return "raises risk" if contribution > 0 else "lowers risk"


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
