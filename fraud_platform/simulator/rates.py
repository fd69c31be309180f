"""Daily exchange rates: a small random walk whose value on any day needs no other day.

What belongs here: the walk. What does not: conversion of amounts (`rows`).
"""

import numpy as np

from fraud_platform.simulator.geography import EURO_PER_UNIT
from fraud_platform.simulator.randomness import Salt, uniform

OCTAVES = 10
"""Time scales of the walk: 1, 2, 4, … 512 days."""

DAILY_MOVE = 0.0025
"""Deviation of one octave at the scale of a day; a scale of s days moves √s times as far."""


def _noise(seed: int, currency: int, scale: int, ordinal: int) -> float:
    """Smooth noise around 0 with a knot every `scale` days: interpolated between hashed knots."""
    knot, rest = divmod(ordinal, scale)
    knots = uniform(seed, Salt.RATE, currency, scale, np.array([knot, knot + 1])) * 2 - 1
    weight = rest / scale
    return float(knots[0] * (1 - weight) + knots[1] * weight)


def rates_e9(seed: int, ordinal: int, base_currency: str) -> dict[str, int]:
    """Base-currency units per unit of each currency, times 10^9; the base itself is 10^9. All are positive."""
    euros: dict[str, float] = {}
    for index, (currency, start) in enumerate(EURO_PER_UNIT.items()):
        walk = sum(
            DAILY_MOVE * 2 ** (octave / 2) * _noise(seed, index, 2**octave, ordinal) for octave in range(OCTAVES)
        )
        euros[currency] = start if currency == "EUR" else start * float(np.exp(walk))
    return {currency: round(euro / euros[base_currency] * 1e9) for currency, euro in euros.items()}
