"""Countries and currencies of the simulated world.

What belongs here: constants. What does not: who lives where (`population`), what a currency costs today (`rates`).
"""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

from fraud_platform.simulator.randomness import Floats


class Country(NamedTuple):
    """One country: share of users who live there, of merchants who sell there, of trips that go there."""

    code: str
    currency: str
    zone: str
    latitude: float
    longitude: float
    users: float
    merchants: float
    trips: float


COUNTRIES = (
    Country("DE", "EUR", "Europe/Berlin", 51.1, 10.4, 0.27, 0.245, 0.08),
    Country("FR", "EUR", "Europe/Paris", 46.6, 2.4, 0.18, 0.165, 0.12),
    Country("NL", "EUR", "Europe/Amsterdam", 52.2, 5.3, 0.13, 0.12, 0.06),
    Country("ES", "EUR", "Europe/Madrid", 40.2, -3.7, 0.12, 0.105, 0.20),
    Country("IT", "EUR", "Europe/Rome", 42.8, 12.5, 0.12, 0.105, 0.16),
    Country("AT", "EUR", "Europe/Vienna", 47.6, 14.1, 0.06, 0.055, 0.08),
    Country("BE", "EUR", "Europe/Brussels", 50.6, 4.7, 0.06, 0.055, 0.03),
    Country("IE", "EUR", "Europe/Dublin", 53.2, -8.2, 0.02, 0.04, 0.02),
    Country("GB", "GBP", "Europe/London", 52.4, -1.5, 0.022, 0.035, 0.07),
    Country("CH", "CHF", "Europe/Zurich", 46.8, 8.2, 0.018, 0.025, 0.04),
    Country("PL", "PLN", "Europe/Warsaw", 52.1, 19.4, 0.013, 0.02, 0.03),
    Country("SE", "SEK", "Europe/Stockholm", 59.6, 16.5, 0.008, 0.012, 0.02),
    Country("US", "USD", "America/New_York", 40.1, -75.0, 0.006, 0.03, 0.05),
    Country("JP", "JPY", "Asia/Tokyo", 35.7, 139.2, 0.003, 0.01, 0.04),
)

EURO_PER_UNIT = {
    "EUR": 1.0,
    "GBP": 1.17,
    "USD": 0.92,
    "CHF": 1.05,
    "JPY": 0.0061,
    "PLN": 0.233,
    "SEK": 0.0885,
    "DKK": 0.134,
    "CZK": 0.0397,
}
"""Where each exchange rate starts its walk."""

EXPONENT = {currency: 0 if currency == "JPY" else 2 for currency in EURO_PER_UNIT}
"""ISO 4217 minor-unit digits."""

CURRENCY_OF = np.array([list(EURO_PER_UNIT).index(country.currency) for country in COUNTRIES])
"""Index into EURO_PER_UNIT by index into COUNTRIES."""


def shares(field: str) -> Floats:
    """One share per country, summing to 1. `field`: users, merchants or trips."""
    raw = np.array([getattr(country, field) for country in COUNTRIES], np.float64)
    return np.asarray(raw / raw.sum())


def utc_offsets(ordinal: int) -> Floats:
    """Hours that each country's clocks are ahead of UTC at noon of a day."""
    noon = datetime(1, 1, 1, 12, tzinfo=UTC) + timedelta(days=ordinal - 1)
    offsets = [noon.astimezone(ZoneInfo(country.zone)).utcoffset() or timedelta() for country in COUNTRIES]
    return np.array([offset.total_seconds() / 3600 for offset in offsets])
