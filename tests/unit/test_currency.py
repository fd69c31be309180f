"""Exponents, amounts and conversion, against fractions.Fraction as the oracle."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_platform.currency import (
    MAX_MINOR,
    AmountError,
    Rates,
    UnknownCurrency,
    UnknownRate,
    currency_codes,
    exponent,
    is_country,
    plain_minor,
    to_minor,
)
from fraud_platform.schema import RATES

PLACES = {"JPY": 0, "EUR": 2, "KWD": 3, "CLF": 4}


def converted(amount: int, currency: str, rate_e9: int, base: str) -> int:
    """The definition: exact value in base units, in minor units, rounded half to even by Fraction's own rounding."""
    value = Fraction(amount, 10 ** PLACES[currency]) * Fraction(rate_e9, 10**9)
    return round(value * 10 ** PLACES[base])


@given(
    amounts=st.lists(st.integers(0, MAX_MINOR), min_size=1, max_size=20),
    currency=st.sampled_from(sorted(PLACES)),
    base=st.sampled_from(sorted(PLACES)),
    rate=st.one_of(st.integers(1, 10**15), st.sampled_from([10**9, 5 * 10**8, 25 * 10**7, 10**8])),
)
def test_conversion_is_exact_for_one_amount_and_for_columns(amounts, currency, base, rate):
    rates = Rates(base, {} if currency == base else {currency: rate})
    effective = 10**9 if currency == base else rate
    limit = rates.largest(currency)
    expected = [converted(amount, currency, effective, base) for amount in amounts]
    for amount, wanted in zip(amounts, expected, strict=True):
        assert (amount <= limit) == (wanted <= MAX_MINOR)
        if amount <= limit:
            assert rates.to_base(amount, currency) == wanted
        else:
            with pytest.raises(AmountError):
                rates.to_base(amount, currency)
    fitting = [(amount, wanted) for amount, wanted in zip(amounts, expected, strict=True) if amount <= limit]
    column = np.array([amount for amount, _ in fitting], dtype=np.int64)
    result = rates.to_base(column, currency)
    assert result.dtype == np.int64
    assert result.tolist() == [wanted for _, wanted in fitting]


def test_halves_round_to_the_even_neighbour():
    rates = Rates("EUR", {"USD": 500_000_000})
    assert [rates.to_base(n, "USD") for n in (1, 3, 5, 7)] == [0, 2, 2, 4]
    assert rates.to_base(np.array([1, 3, 5, 7]), "USD").tolist() == [0, 2, 2, 4]


def test_rates_come_from_their_table_and_the_base_needs_none():
    table = pa.table([["USD", "EUR"], [920_000_000, 7]], schema=RATES)
    rates = Rates.from_table(table, "EUR")
    assert rates.to_base(1_000, "EUR") == 1_000
    assert rates.to_base(1_000, "USD") == 920
    assert rates.currencies == {"EUR", "USD"}
    with pytest.raises(UnknownRate, match="GBP"):
        rates.to_base(1, "GBP")


@pytest.mark.parametrize("amounts", [-1, np.array([5, -1])])
def test_a_negative_amount_does_not_convert(amounts):
    with pytest.raises(AmountError):
        Rates("EUR", {"USD": 1}).to_base(amounts, "USD")


def test_a_rate_of_zero_is_refused():
    with pytest.raises(ValueError, match="above 0"):
        Rates("EUR", {"USD": 0})


@given(
    minor=st.integers(0, MAX_MINOR),
    currency=st.sampled_from(sorted(PLACES)),
    zeros=st.integers(0, 5),
)
def test_an_amount_written_with_its_decimals_is_its_minor_units(minor, currency, zeros):
    text = f"{Decimal(minor).scaleb(-PLACES[currency]):f}"
    text += ("" if "." in text else ".") + "0" * zeros if zeros else ""
    assert to_minor(Decimal(text), currency) == minor


@given(
    text=st.from_regex(r"\A-?\d{1,14}(\.\d{0,6})?([eE][+-]?\d)?\Z") | st.text("0123456789.-+e ١", max_size=8),
    currency=st.sampled_from(sorted(PLACES)),
)
def test_the_short_way_says_what_the_long_one_says_or_nothing(text, currency):
    short = plain_minor(text.encode(), currency)
    assert short is None or short == to_minor(Decimal(text), currency)


def test_most_amounts_go_the_short_way():
    assert [plain_minor(text, "EUR") for text in (b"12.34", b"5", b"0.1", b"007", b"10000000000")] == [
        1234, 500, 10, 7_00, MAX_MINOR,
    ]  # fmt: skip
    assert [plain_minor(text, "EUR") for text in (b"", b".5", b"5.", b"1.234", b"-1", b"1e3", b"10000000000.01")] == [
        None
    ] * 7


@given(minor=st.integers(0, 10**11), currency=st.sampled_from(sorted(PLACES)), digit=st.integers(1, 9))
def test_one_more_decimal_than_the_currency_has_is_refused(minor, currency, digit):
    with pytest.raises(AmountError, match="more than") as caught:
        to_minor(Decimal(10 * minor + digit).scaleb(-PLACES[currency] - 1), currency, field="total")
    assert caught.value.field == "total"


@pytest.mark.parametrize(
    ("amount", "problem"),
    [
        ("NaN", "finite"),
        ("sNaN", "finite"),
        ("Infinity", "finite"),
        ("-0.01", "negative"),
        ("10000000000.01", "above"),
        ("1e13", "above"),
        ("1e999999999", "above"),
        ("1e-999999", "more than"),
    ],
)
def test_what_is_no_amount_is_refused_by_name(amount, problem):
    with pytest.raises(AmountError, match=f"^amount .*{problem}"):
        to_minor(Decimal(amount), "EUR")


def test_zero_is_an_amount_however_it_is_written():
    assert [to_minor(Decimal(text), "EUR") for text in ("0", "-0", "0e999999", "0.000000")] == [0, 0, 0, 0]


def test_exponents_follow_iso_4217():
    assert {code: exponent(code) for code in (*PLACES, "USD", "ISK", "TND")} == PLACES | {
        "USD": 2,
        "ISK": 0,
        "TND": 3,
    }
    assert exponent("HRK") == 2  # withdrawn in 2023, and in every older history
    for code in ("XXX", "XAU", "eur", "", "ABC"):
        assert code not in currency_codes()
        with pytest.raises(UnknownCurrency):
            exponent(code)


def test_countries_are_upper_case_alpha_2():
    assert is_country("DE")
    assert not any(is_country(code) for code in ("de", "DEU", "XX", ""))
