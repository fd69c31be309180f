"""What hits are worth: caught and wrongly stopped payments, money, intervals, overlap, a line per day.

What belongs here: arithmetic on gathered payments. What does not: gathering them (`run`), showing figures (`report`).

Only matured payments are judged: old enough at the cut that a payment without a label is good, and not under
investigation. Younger ones would count the frauds that were found early and none of the good payments beside them.
"""

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from fraud_platform.model.costs import in_units
from fraud_platform.model.data import EPOCH
from fraud_platform.model.evaluate import Money, money
from fraud_platform.model.ranking import Interval
from fraud_platform.monitoring.performance import share
from fraud_platform.settings import Settings

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Gathered:
    """Past payments; arrays of shape (n,)."""

    days: NDArray[np.int32]
    """UTC day of received_at, in days since 1970, ascending."""
    amounts: NDArray[np.float64]
    """Minor units of the base currency; NaN where it is not known."""
    hit: Bools
    ran: Bools
    """What ran stopped it, in the same sense as a hit."""
    matured: Bools
    """Judged: matured, and its label is known."""
    is_fraud: Bools
    """Of those judged."""


@dataclass(frozen=True)
class Judged:
    """Hits of which it is known what they were."""

    caught: int
    wrongly: int
    precision: Interval | None
    """Share of frauds among the hits; None without a hit."""
    recall: Interval | None
    """Share of the frauds that were hit; None without a fraud."""
    false_positive_rate: Interval | None
    money: Money


@dataclass(frozen=True)
class Figures:
    """What one side stops."""

    hits: int
    users: int
    """Distinct users among the hits."""
    amount: float
    """Of the hits, units of the base currency."""
    judged: Judged | None
    """None where nothing has matured."""


@dataclass(frozen=True)
class Overlap:
    """Payments that were stopped by both sides, or by one alone; frauds and good of those judged."""

    name: str
    payments: int
    amount: float
    frauds: int
    good: int


@dataclass(frozen=True)
class DayLine:
    """One day."""

    day: date
    payments: int
    hits: int
    ran: int
    matured: int
    frauds: int
    caught: int
    wrongly: int


def figures(gathered: Gathered, stopped: Bools, users: int, settings: Settings) -> Figures:
    """What stopping some of the payments is worth. users: distinct ones among them."""
    amounts = in_units(gathered.amounts, settings)
    return Figures(
        hits=int(stopped.sum()),
        users=users,
        amount=float(amounts[stopped].sum()),
        judged=_judged(gathered, stopped, settings) if gathered.matured.any() else None,
    )


def _judged(gathered: Gathered, stopped: Bools, settings: Settings) -> Judged:
    hit, fraud = stopped[gathered.matured], gathered.is_fraud[gathered.matured]
    amounts = in_units(gathered.amounts[gathered.matured], settings)
    return Judged(
        caught=int((hit & fraud).sum()),
        wrongly=int((hit & ~fraud).sum()),
        precision=share(fraud[hit]),
        recall=share(hit[fraud]),
        false_positive_rate=share(hit[~fraud]),
        money=money(fraud, hit, amounts, settings),
    )


def overlap(gathered: Gathered, settings: Settings) -> list[Overlap]:
    """Both, only this, only what ran."""
    amounts = in_units(gathered.amounts, settings)
    hit, ran = gathered.hit, gathered.ran
    return [
        Overlap(
            name=name,
            payments=int(rows.sum()),
            amount=float(amounts[rows].sum()),
            frauds=int((rows & gathered.matured & gathered.is_fraud).sum()),
            good=int((rows & gathered.matured & ~gathered.is_fraud).sum()),
        )
        for name, rows in (("both", hit & ran), ("only this", hit & ~ran), ("only what ran", ran & ~hit))
    ]


def by_day(gathered: Gathered) -> list[DayLine]:
    """A line for each day that has payments."""
    days, at = np.unique(gathered.days, return_inverse=True)
    judged, fraud, hit = gathered.matured, gathered.is_fraud, gathered.hit

    def count(rows: Bools) -> list[int]:
        return [int(n) for n in np.bincount(at[rows], minlength=len(days))]

    columns = [
        np.ones(len(at), np.bool_), hit, gathered.ran, judged, judged & fraud, judged & fraud & hit,
        judged & ~fraud & hit,
    ]  # fmt: skip
    counted = zip(*(count(rows) for rows in columns), strict=True)
    return [DayLine(EPOCH + timedelta(days=int(day)), *numbers) for day, numbers in zip(days, counted, strict=True)]
