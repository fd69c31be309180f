"""The sentence of every feature, word for word, and what it says where values are missing or borrowed."""

import math
from pathlib import Path

import numpy as np
import pytest

from fraud_platform.decision.reasons import Reasons, effect
from fraud_platform.features.catalogue import CATALOGUE, Feature

GOLDEN = Path(__file__).parents[1] / "golden" / "reasons.txt"
VALUES = {
    "transactions": 5, "minor units": 4_250, "share": 0.123, "ratio": 8.2, "deviations": -3.1, "hours": 3, "days": 0,
    "flag": 1, "seconds": 4_000, "merchants": 1, "countries": 0, "devices": 2, "users": 1_200,
}  # fmt: skip
EUR = Reasons("EUR", 2)
POSITION = {name: index for index, name in enumerate(CATALOGUE.names)}


def vector(**values: float) -> np.ndarray:
    """A vector of well-known entities, with some values set."""
    found = np.full(len(CATALOGUE.names), np.nan, np.float32)
    for name, value in {"user_txn_count_90d": 50, "merchant_txn_count_90d": 500, **values}.items():
        found[POSITION[name]] = value
    return found


def reason(name: str, **values: float) -> str:
    return EUR.of(POSITION[name], vector(**values))


def test_every_feature_says_its_sentence_word_for_word() -> None:
    lines = []
    for position, feature in enumerate(CATALOGUE.features):
        value = VALUES[feature.unit]
        lines += [
            f"{feature.name}: {EUR.of(position, vector(**{feature.name: value}))}",
            f"  0: {EUR.of(position, vector(**{feature.name: 0}))}",
            f"  null: {EUR.sentence(feature, math.nan)}",
        ]
    assert "\n".join(lines) + "\n" == GOLDEN.read_text()


def test_no_feature_makes_do_with_the_sentence_of_an_unknown_one() -> None:
    for feature in CATALOGUE.features:
        assert not EUR.sentence(feature, VALUES[feature.unit]).startswith(feature.meaning[:12].lower() + ":")
        assert feature.meaning.rstrip(".").lower() not in EUR.sentence(feature, VALUES[feature.unit]).lower()


def test_the_sentences_that_people_asked_for() -> None:
    assert reason("amount_to_user_avg_30d", amount_to_user_avg_30d=8.2) == "amount is 8.2× this user's 30-day average"
    assert reason("user_txn_count_1m", user_txn_count_1m=5) == "5 payments by this user in the last minute"
    assert reason("country_is_new", country_is_new=1) == "first payment seen from this country in 90 days"


def test_a_feature_without_a_template_is_told_by_its_meaning() -> None:
    new = Feature(
        name="user_refunds_30d", source="user", entity="user", aggregate="distinct", operand="refund_id", window="30d",
        unit="refunds", cold_start="zero", meaning="Refunds of the user in 30 days.", inputs=(),
    )  # fmt: skip
    assert EUR.sentence(new, 3.0) == "refunds of the user in 30 days: 3 refunds"
    assert EUR.sentence(new, math.nan) == "not known: refunds of the user in 30 days"


@pytest.mark.parametrize("count", [0, 4, math.nan])
def test_a_median_that_stands_in_for_a_new_user_is_not_called_the_user_s(count: float) -> None:
    borrowed = " (too little is known of this user)"
    told = reason("amount_to_user_avg_30d", amount_to_user_avg_30d=2, user_txn_count_90d=count)
    assert told == "amount is 2× a typical user's 30-day average" + borrowed
    told = reason("user_online_share_30d", user_online_share_30d=0.5, user_txn_count_90d=count)
    assert told == "50% of a typical user's payments in the last 30 days are online" + borrowed
    told = reason("amount_to_merchant_avg_30d", amount_to_merchant_avg_30d=2, user_txn_count_90d=count)
    assert told == "amount is 2× this merchant's 30-day average"
    told = reason("user_txn_count_30d", user_txn_count_30d=3, user_txn_count_90d=count)
    assert told == "3 payments by this user in the last 30 days"
    told = reason("seconds_since_last", seconds_since_last=5, user_txn_count_90d=count)
    assert told == "this user's previous payment was 5 seconds ago"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("amount_to_user_avg_30d", 0.031, "amount is 0.031× this"),
        ("amount_to_user_avg_30d", 4_312.4, "amount is 4,312× this"),
        ("amount_to_user_avg_30d", 9.96, "amount is 10.0× this"),
        ("merchant_fraud_rate_30d", 1e-7, "under 0.001% of this"),
        ("amount_zscore_90d", 1.0, "amount is 1 standard deviation above this"),
        ("amount", 123_456_789, "amount is 1,234,567.89 EUR"),
        ("seconds_since_last", 0.4, "this user's previous payment was 0.4 seconds ago"),
        ("seconds_since_last", 300, "this user's previous payment was 5 minutes ago"),
        ("seconds_since_last", 7_200, "this user's previous payment was 2 hours ago"),
        ("seconds_since_last", 864_000, "this user's previous payment was 10 days ago"),
        ("user_txn_count_1m", 1, "1 payment by"),
        ("user_amount_avg_30d", math.inf, "this user's average payment in the last 30 days is inf EUR"),
    ],
)
def test_figures_are_as_long_as_a_reader_needs(name: str, value: float, expected: str) -> None:
    feature = CATALOGUE.features[POSITION[name]]
    assert EUR.sentence(feature, value).startswith(expected)


def test_amounts_have_the_currency_s_decimals() -> None:
    feature = CATALOGUE.features[POSITION["amount"]]
    assert Reasons("JPY", 0).sentence(feature, 4_250.0) == "amount is 4,250 JPY"
    assert Reasons("KWD", 3).sentence(feature, 4_250.0) == "amount is 4.250 KWD"


def test_the_effect_is_the_sign() -> None:
    assert [effect(value) for value in (0.2, -0.2, 0.0)] == ["raises risk", "lowers risk", "none"]
