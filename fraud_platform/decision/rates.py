"""The exchange rates in force on the online path: the newest recorded day, held in memory.

What belongs here: choosing the day and refreshing it. What does not: conversion (`currency`) and recording (`ingest`).
"""

from datetime import date

from fraud_platform.currency import Rates
from fraud_platform.features.tables import FX_RATES
from fraud_platform.lake import Lake


class LakeRates:
    """Rates of the newest day in the lake; only the base currency converts while there is none."""

    def __init__(self, lake: Lake, base_currency: str) -> None:
        self._lake = lake
        self._base_currency = base_currency
        self._day: date | None = None
        self._rates = Rates(base_currency, {})

    def refresh(self) -> None:
        """Read the newest recorded day unless it is held. Blocks on the lake: not for the event loop."""
        days = self._lake.days(FX_RATES)
        if days and days[-1] != self._day:
            # one assignment: a request that runs meanwhile sees the old rates or the new
            self._rates = Rates.from_table(self._lake.read(FX_RATES, days[-1]), self._base_currency)
            self._day = days[-1]

    def __call__(self) -> Rates:
        """The rates in force."""
        return self._rates
