"""What a day's figures mean: retrain, look, or nothing that can be said.

What belongs here: the rules and their limits. What does not: the figures (`drift`, `performance`), who is told
(`alerts`), what is started (`assets`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

import numpy as np
import pyarrow as pa

from fraud_platform.lake import Lake
from fraud_platform.monitoring.drift import FEATURE_DRIFT, SCORE
from fraud_platform.monitoring.performance import PERFORMANCE
from fraud_platform.settings import Settings

Action = Literal["retrain", "alert", "none"]
BASELINE_DAYS = 7
"""Days before a day that its rates are held against."""
_LEAST_BASELINE_DAYS = 4


@dataclass(frozen=True)
class Signal:
    """One rule that spoke about one day. `cause` is the same for every tick that meets the same trouble."""

    cause: str
    """`feature_psi`, `score_psi`, `fraud_rate`, `false_positive_rate` or `too_few_rows`."""
    day: date
    release: str
    subject: str
    """The feature, or what the rate is of."""
    value: float
    limit: float
    action: Action

    @property
    def sentence(self) -> str:
        """For people."""
        if self.cause == "too_few_rows":
            return f"{self.day}: {self.value:.0f} decisions to compare, {self.limit:.0f} are needed; nothing is decided"
        what = self.cause.replace("_", " ")
        return (
            f"{self.day}: {what} of {self.subject} is {self.value:.4g}, the limit is {self.limit:.4g} ({self.release})"
        )


def drift_signals(lake: Lake, settings: Settings, day: date) -> list[Signal]:
    """Signals of a day's `feature_drift`, the strongest first. Raises MissingPartition."""
    rows = lake.read(FEATURE_DRIFT, day, ["name", "release", "rows", "decisions", "psi", "usual_psi"]).to_pylist()
    if not rows:
        return []
    compared, release = rows[0]["rows"], rows[0]["release"]
    # what is left of a day after an outage lacks its hours, and would be called drift for that
    needed = max(settings.drift_min_rows, settings.drift_min_share * rows[0]["decisions"])
    if compared < needed:
        return [Signal("too_few_rows", day, release, "decisions", compared, needed, "none")]
    found = []
    for row in rows:
        limit = drift_limit(settings, row["name"], row["usual_psi"])
        if row["name"] == SCORE:
            found.append(Signal("score_psi", day, release, SCORE, row["psi"], limit, "alert"))
        else:
            found.append(Signal("feature_psi", day, release, row["name"], row["psi"], limit, "retrain"))
    return sorted((each for each in found if each.value > each.limit), key=lambda each: -each.value / each.limit)


def drift_limit(settings: Settings, name: str, usual_psi: float) -> float:
    """The PSI of a feature, or of SCORE, above which there is a signal: what one of the reference's own days reaches is
    no drift."""
    limit = settings.score_psi_limit if name == SCORE else settings.feature_psi_limit
    return max(limit, settings.drift_unusual * usual_psi)


def performance_signals(lake: Lake, settings: Settings, day: date) -> list[Signal]:
    """Signals of a day's `performance` against the days before it. Raises MissingPartition."""
    today = outcomes(lake.read(PERFORMANCE, day))
    if today is None:
        return []
    if today.labelled < settings.drift_min_rows:
        return [Signal("too_few_rows", day, today.models, "labels", today.labelled, settings.drift_min_rows, "none")]
    before = baseline(lake, day)
    if not before:
        return []
    return [*_fraud_rate(today, before, settings, day), *_false_positives(today, before, settings, day)]


@dataclass(frozen=True)
class Outcomes:
    """What a day's decisions came to, all models together."""

    labelled: int
    frauds: int
    blocked_frauds: float
    blocked_good: float
    models: str

    @property
    def fraud_rate(self) -> float:
        """Share of frauds among the labelled."""
        return self.frauds / self.labelled

    @property
    def catch_rate(self) -> float | None:
        """Share of frauds that were blocked; None of none."""
        return self.blocked_frauds / self.frauds if self.frauds else None

    @property
    def false_positive_rate(self) -> float:
        """Share of good payments that were blocked."""
        return self.blocked_good / max(self.labelled - self.frauds, 1)


def baseline(lake: Lake, day: date) -> list[Outcomes]:
    """The BASELINE_DAYS before a day, as far as they have labels; none where too few have."""
    before = [
        summed
        for back in range(1, BASELINE_DAYS + 1)
        if lake.exists(PERFORMANCE, day - timedelta(days=back))
        and (summed := outcomes(lake.read(PERFORMANCE, day - timedelta(days=back)))) is not None
    ]
    return before if len(before) >= _LEAST_BASELINE_DAYS else []


def usual_false_positive_rate(before: Sequence[Outcomes]) -> float:
    """The false-positive rate of a baseline's days as one."""
    return sum(each.blocked_good for each in before) / sum(each.labelled - each.frauds for each in before)


def outcomes(rows: pa.Table) -> Outcomes | None:
    """All models of a day of `performance` together; None where no label is known."""
    plain = rows.to_pylist()
    labelled = sum(row["labelled"] for row in plain)
    if not labelled:
        return None
    good = [(row["labelled"] - row["frauds"], row["false_positive_rate"] or 0.0) for row in plain]
    return Outcomes(
        labelled,
        sum(row["frauds"] for row in plain),
        sum(row["frauds"] * (row["catch_rate"] or 0.0) for row in plain),
        sum(count * rate for count, rate in good),
        ", ".join(row["model_version"] for row in plain),
    )


def _fraud_rate(today: Outcomes, before: Sequence[Outcomes], settings: Settings, day: date) -> list[Signal]:
    """Outside the band of the baseline: its spread over days, and no narrower than counting alone makes it."""
    rates = np.array([each.fraud_rate for each in before])
    mean = sum(each.frauds for each in before) / sum(each.labelled for each in before)
    counting = np.sqrt(max(mean, 1 / today.labelled) * (1 - mean) / today.labelled)
    width = settings.fraud_rate_sigmas * max(float(rates.std(ddof=1)), float(counting))
    rate = today.fraud_rate
    if abs(rate - mean) <= width:
        return []
    limit = mean + width if rate > mean else mean - width
    return [Signal("fraud_rate", day, today.models, "fraud", rate, limit, "retrain")]


def _false_positives(today: Outcomes, before: Sequence[Outcomes], settings: Settings, day: date) -> list[Signal]:
    usual = usual_false_positive_rate(before)
    limit = usual * (1 + settings.false_positive_rise)
    # one blocked payment more than usual is no rise
    if today.false_positive_rate <= limit or today.blocked_good - usual * today.labelled < 2:
        return []
    return [
        Signal("false_positive_rate", day, today.models, "good payments", today.false_positive_rate, limit, "alert")
    ]
