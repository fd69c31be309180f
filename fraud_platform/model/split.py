"""Which days train, which stop training early, which measure: a split in time that no label can cheat.

What belongs here: windows of days. What does not: reading them (`data`).

    warm-up | train | validation | gap | holdout | maturing |
                                       ^ training cut       ^ evaluation cut: end of history

A transaction without a label is good only once it is `maturity_days` old at the cut, so the last days before either cut
hold frauds found early and no good transactions yet; they are left out. That is the gap before the holdout and the
maturing days at the end. Train and validation take the labels known at the training cut, which is the holdout's
start: no label that arrived later trains the model. The holdout takes those known at the evaluation cut.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from fraud_platform.lake import days_between
from fraud_platform.settings import Settings


class TrainingDataError(RuntimeError):
    """The history cannot train or measure a model; the message says what is missing and which setting helps."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Windows over a history of whole UTC days."""

    first_day: date
    last_day: date
    warmup_days: int
    validation_days: int
    holdout_days: int
    maturity_days: int
    """Age in days at which a silent transaction of the holdout counts as good."""
    delay_days: int | None = None
    """How long a training waits for labels before its cut, and the age at which silence counts as good to it; None: as
    long as maturity."""
    shrunk: bool
    """The history is too short for the windows that the settings ask for, so all shrank in proportion."""

    @property
    def evaluation_cut(self) -> date:
        """Labels that arrived before 00:00 UTC of this day are known to the evaluation."""
        return self.last_day + timedelta(days=1)

    @property
    def training_cut(self) -> date:
        """The holdout's first day; labels that arrived before its 00:00 UTC are known to the training."""
        return self.evaluation_cut - timedelta(days=self.maturity_days + self.holdout_days)

    @property
    def waited_days(self) -> int:
        """Days between the last one that trains and the training cut."""
        return self.maturity_days if self.delay_days is None else self.delay_days

    @property
    def holdout(self) -> list[date]:
        """The last matured days."""
        return _window(self.training_cut, self.holdout_days)

    @property
    def validation(self) -> list[date]:
        """The last days that are matured at the training cut."""
        start = self.training_cut - timedelta(days=self.waited_days + self.validation_days)
        return _window(start, self.validation_days)

    @property
    def train(self) -> list[date]:
        """From the end of the warm-up to the day before validation."""
        start = self.first_day + timedelta(days=self.warmup_days)
        return days_between(start, self.validation[0] - timedelta(days=1))

    @property
    def days(self) -> list[date]:
        """Every day of the three windows, ascending."""
        return [*self.train, *self.validation, *self.holdout]

    def describe(self) -> dict[str, Any]:
        """First and last day of each window and both cuts, as text, for reports and records."""
        windows = {"train": self.train, "validation": self.validation, "holdout": self.holdout}
        spans = {name: [days[0].isoformat(), days[-1].isoformat()] for name, days in windows.items()}
        return spans | {
            "training_cut": self.training_cut.isoformat(),
            "evaluation_cut": self.evaluation_cut.isoformat(),
            "maturity_days": self.maturity_days,
            "shrunk": self.shrunk,
        }


def microseconds(day: date) -> int:
    """00:00 UTC of a day in microseconds since 1970."""
    return int(datetime.combine(day, time(), UTC).timestamp()) * 1_000_000


def plan_split(first_day: date, last_day: date, settings: Settings) -> Split:
    """The split of a history.

    A full history has room for the settings' windows, both gaps, and as many train days as validation and holdout
    together. In a shorter one warm-up, validation, holdout and label maturity are all multiplied by the share of that
    length that there is, rounded down (validation and holdout to at least a day); train takes the rest. The share is of
    the lengths less three days, one each for train, validation and holdout, which every history of three days has.
    Labels are then younger than they should be, so `shrunk` is shown wherever the result is. Raises TrainingDataError.
    """
    history = (last_day - first_day).days + 1
    measured = settings.validation_days + settings.holdout_days
    full = settings.warmup_days + 2 * measured + 2 * settings.label_maturity_days
    share = min(1.0, max(0, history - 3) / (full - 3))
    split = Split(
        first_day=first_day,
        last_day=last_day,
        warmup_days=int(settings.warmup_days * share),
        validation_days=max(1, int(settings.validation_days * share)),
        holdout_days=max(1, int(settings.holdout_days * share)),
        maturity_days=int(settings.label_maturity_days * share),
        shrunk=share < 1,
    )
    if not split.train:
        raise TrainingDataError(
            f"a history of {history} day(s), {first_day} to {last_day}, leaves no day to train on; "
            f"ingest more days (the windows of the settings want {full})"
        )
    return split


def _window(start: date, days: int) -> list[date]:
    return days_between(start, start + timedelta(days=days - 1))
