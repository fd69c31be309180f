"""Money and country codes: ISO 4217 exponents, amounts as minor units, conversion to the base currency.

What belongs here: exact arithmetic on one amount or a column of amounts, and which codes are valid. What does not:
where rates come from (a source records them) and what happens to a row whose amount does not fit (ingest, the service).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Self, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pycountry

Int64s = npt.NDArray[np.int64]

MAX_MINOR = 10**12
"""Largest amount of one payment, in minor units: a day's sums of such amounts stay exact in an online double."""

RATE_SCALE = 10**9
"""Rates are integers: base-currency units per unit of a currency, times this."""

_INT64_MAX = 2**63 - 1
_MAX_DIGITS = 64
_PLAIN_LENGTH = 16
"""Characters that hold any amount up to MAX_MINOR without zeros in front; a longer text takes the long way."""

# ISO 4217:2015, list one (published by SIX Group, the maintenance agency): exponents other than 2.
_EXPONENTS = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG"), 0),
    **dict.fromkeys(("RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
    **dict.fromkeys(("CLF", "UYW"), 4),
    "BYR": 0,
}
# List three (historic codes): withdrawn since 2005, and found in histories that go years back.
_WITHDRAWN = frozenset(
    ("ANG", "BGN", "BYR", "CUC", "CYP", "EEK", "GHC", "HRK", "LTL", "LVL", "MRO", "MTL", "SIT", "SKK", "SLL", "ZMK")
)
# List one gives these codes no minor unit ("N.A."): metals, bond units, testing. Nobody pays in them.
_NO_MINOR_UNIT = frozenset(("XAG", "XAU", "XBA", "XBB", "XBC", "XBD", "XDR", "XPD", "XPT", "XSU", "XTS", "XUA", "XXX"))


# Codes of countries in payments that ISO 3166-1 does not assign: XK Kosovo (for users to assign; SWIFT and the European
# Commission use it), AC Ascension and TA Tristan da Cunha (reserved exceptionally), AN the Netherlands
# Antilles (withdrawn in 2010, and in histories that go years back). Payment interfaces list all four, such as Shopify's
# CountryCode. ZZ and XX name no country.
_COUNTRIES_IN_USE = frozenset(("AC", "AN", "TA", "XK"))


class AmountError(ValueError):
    """An amount that is no payment; `field` names where it stood, the message says what is wrong with it."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field} {problem}")
        self.field = field


class UnknownCurrency(ValueError):  # noqa: N818 - reads as the condition it names
    """A code that ISO 4217 does not list, or lists without a minor unit."""


class UnknownRate(LookupError):  # noqa: N818 - reads as the condition it names
    """A currency for which the day has no recorded rate."""


@cache
def currency_codes() -> frozenset[str]:
    """The ISO 4217 codes that have a minor unit, those withdrawn since 2005 included."""
    return (frozenset(entry.alpha_3 for entry in pycountry.currencies) | _WITHDRAWN) - _NO_MINOR_UNIT


@cache
def country_codes() -> frozenset[str]:
    """The alpha-2 codes that a payment may bear, upper case: those of ISO 3166-1, and the few others in use."""
    return frozenset(entry.alpha_2 for entry in pycountry.countries) | _COUNTRIES_IN_USE


def is_country(code: str) -> bool:
    """Whether `code` is one of `country_codes`."""
    return code in country_codes()


@cache
def exponent(currency: str) -> int:
    """Decimal places of a currency's minor unit. Raises UnknownCurrency."""
    if currency not in currency_codes():
        raise UnknownCurrency(f"{currency!r} is not an ISO 4217 currency code with a minor unit")
    return _EXPONENTS.get(currency, 2)


def to_minor(amount: Decimal, currency: str, field: str = "amount") -> int:
    """A decimal amount as integer minor units of `currency`; exact, trailing zeros do not count as decimals.

    Raises AmountError naming `field` for NaN, infinity, a negative amount, more decimals than ISO 4217 gives the
    currency, or more than MAX_MINOR minor units; UnknownCurrency for the code.
    """
    places = exponent(currency)
    if not amount.is_finite():
        raise AmountError(field, "is not a finite number")
    if amount.is_zero():
        return 0
    if amount.is_signed():
        raise AmountError(field, "is negative")
    # Magnitude first: the text 1e999999 is short and its integer is not.
    if amount.adjusted() + places >= len(str(MAX_MINOR)):
        raise AmountError(field, f"is above {MAX_MINOR} minor units")
    if amount.adjusted() < -places or len(amount.as_tuple().digits) > _MAX_DIGITS:
        raise AmountError(field, f"has more than {places} decimals, which {currency} does not have")
    numerator, denominator = amount.as_integer_ratio()
    minor, rest = divmod(numerator * _power_of_ten(places), denominator)
    if rest:
        raise AmountError(field, f"has more than {places} decimals, which {currency} does not have")
    if minor > MAX_MINOR:
        raise AmountError(field, f"is above {MAX_MINOR} minor units")
    return minor


def plain_minor(text: bytes, currency: str) -> int | None:
    """`to_minor` of an amount as most are written, digits and at most the currency's decimals, without a Decimal;
    None where it takes a closer look. Raises UnknownCurrency."""
    whole, point, decimals = text.partition(b".")
    missing = exponent(currency) - len(decimals)
    plain = whole.isdigit() and (decimals.isdigit() if point else True)
    if not plain or missing < 0 or len(text) > _PLAIN_LENGTH:
        return None
    minor = int(whole + decimals) * _power_of_ten(missing)
    return minor if minor <= MAX_MINOR else None


@dataclass(frozen=True)
class Rates:
    """A day's exchange rates into one base currency; the base itself converts one to one."""

    base_currency: str
    rate_e9: Mapping[str, int]

    def __post_init__(self) -> None:
        exponent(self.base_currency)
        for currency, rate in self.rate_e9.items():
            exponent(currency)
            if rate <= 0:
                raise ValueError(f"the rate of {currency} is {rate}; a rate is above 0")

    @classmethod
    def from_table(cls, table: pa.Table, base_currency: str) -> Self:
        """From a RATES table; a row of the base currency itself is ignored."""
        pairs = zip(table["currency"].to_pylist(), table["rate_e9"].to_pylist(), strict=True)
        return cls(base_currency, {currency: rate for currency, rate in pairs if currency != base_currency})

    @property
    def currencies(self) -> frozenset[str]:
        """The currencies that convert."""
        return frozenset(self.rate_e9) | {self.base_currency}

    def _fraction(self, currency: str) -> tuple[int, int]:
        """Base minor units per minor unit of `currency`, as numerator and denominator."""
        if currency == self.base_currency:
            return 1, 1
        rate = self.rate_e9.get(currency)
        if rate is None:
            raise UnknownRate(f"no rate from {currency} to {self.base_currency} is recorded")
        step = exponent(self.base_currency) - exponent(currency)
        return rate * _power_of_ten(step), RATE_SCALE * _power_of_ten(-step)

    def known_in_base(self, amount_minor: int, currency: str) -> int | None:
        """`to_base` of one amount; None where no rate is recorded. Raises AmountError."""
        try:
            return self.to_base(amount_minor, currency)
        except UnknownRate:
            return None

    def largest(self, currency: str) -> int:
        """The largest amount in minor units of `currency` that, before and after conversion, is at most MAX_MINOR."""
        numerator, denominator = self._fraction(currency)
        # A half above MAX_MINOR still rounds down to it, since it is even.
        return min(MAX_MINOR, (2 * MAX_MINOR + 1) * denominator // (2 * numerator))

    @overload
    def to_base(self, amount_minor: int, currency: str) -> int: ...
    @overload
    def to_base(self, amount_minor: Int64s, currency: str) -> Int64s: ...
    def to_base(self, amount_minor: int | Int64s, currency: str) -> int | Int64s:
        """Minor units of `currency` as minor units of the base currency, exact, halves to the even neighbour.

        Takes one int or an int64 array of one currency. Raises UnknownRate, and AmountError when an amount is negative
        or above `largest(currency)`.
        """
        if currency == self.base_currency and type(amount_minor) is int and 0 <= amount_minor <= MAX_MINOR:
            # most payments
            return amount_minor
        numerator, denominator = self._fraction(currency)
        limit = self.largest(currency)
        if isinstance(amount_minor, np.ndarray):
            return _convert_column(amount_minor, numerator, denominator, limit)
        amount_minor = int(amount_minor)  # a NumPy scalar would overflow below
        if not 0 <= amount_minor <= limit:
            raise AmountError("amount", f"is negative or above {MAX_MINOR} minor units of the base currency")
        quotient, rest = divmod(amount_minor * numerator, denominator)
        rounds_up = 2 * rest > denominator or (2 * rest == denominator and quotient % 2 == 1)
        return quotient + int(rounds_up)


def _power_of_ten(power: int) -> int:
    return int(10 ** max(power, 0))


def _convert_column(amounts: Int64s, numerator: int, denominator: int, limit: int) -> Int64s:
    if amounts.size == 0:
        return amounts.astype(np.int64)
    top = int(amounts.max())
    if int(amounts.min()) < 0 or top > limit:
        raise AmountError("amount", f"is negative or above {MAX_MINOR} minor units of the base currency")
    if numerator == denominator:
        return amounts.astype(np.int64)
    # int64 where every intermediate fits, Python integers where one does not: exact either way.
    fits = top * numerator <= _INT64_MAX and 2 * denominator <= _INT64_MAX
    scaled = amounts.astype(np.int64 if fits else object) * numerator
    quotient = scaled // denominator
    twice = 2 * (scaled - quotient * denominator)
    up = (twice > denominator) | ((twice == denominator) & (quotient % 2 == 1))
    converted: Int64s = (quotient + up).astype(np.int64)
    return converted
