"""Which history this home holds: the source and its days, fixed at the first run, and that each of them is over.

What belongs here: the record DATASET in the lake and its rules. What does not: reading the source (`ingest`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import pyarrow as pa

from fraud_platform.features.gaps import DATASET
from fraud_platform.ingest.source import Source, open_source
from fraud_platform.lake import Lake, days_between
from fraud_platform.settings import Settings


class OtherDatasetError(RuntimeError):
    """The home holds the history of another source than the settings name."""


class UnfinishedDayError(RuntimeError):
    """A day was asked for that is not over: what is built of it now would pass for the whole day."""


def refuse_unfinished(days: Iterable[date], now: datetime) -> None:
    """Raises UnfinishedDayError where one of `days` is not over at `now`, in UTC."""
    newest = max(days, default=None)
    if newest is not None and newest >= now.date():
        raise UnfinishedDayError(
            f"{newest} is not over: it is {now:%Y-%m-%d %H:%M} UTC. Ask for days up to "
            f"{now.date() - timedelta(days=1)}; the nightly run builds each day once it is over"
        )


@dataclass(frozen=True)
class FinishedDays:
    """A source that refuses days which are not over at `now`; everything else is the source's own."""

    source: Source
    now: datetime

    @property
    def name(self) -> str:
        """The source's."""
        return self.source.name

    def first_day(self) -> date:
        """The source's."""
        return self.source.first_day()

    def last_day(self) -> date | None:
        """The source's."""
        return self.source.last_day()

    def transactions(self, days: Sequence[date]) -> Iterator[tuple[date, pa.Table]]:
        """The source's. Raises UnfinishedDayError."""
        refuse_unfinished(days, self.now)
        return self.source.transactions(days)

    def labels(self, days: Sequence[date]) -> Iterator[tuple[date, pa.Table]]:
        """The source's. Raises UnfinishedDayError."""
        refuse_unfinished(days, self.now)
        return self.source.labels(days)

    def rates(self, day: date) -> pa.Table:
        """The source's. Raises UnfinishedDayError."""
        refuse_unfinished([day], self.now)
        return self.source.rates(day)


@dataclass(frozen=True)
class Dataset:
    """The history's days: `last_day` is None while the source, or what the service decides, goes on."""

    first_day: date
    last_day: date | None

    def last_complete_day(self, now: datetime) -> date:
        """The newest UTC day that is over and that the source has."""
        yesterday = now.date() - timedelta(days=1)
        return min(yesterday, self.last_day) if self.last_day else yesterday

    def days(self, now: datetime) -> list[date]:
        """Every complete day, ascending."""
        return days_between(self.first_day, self.last_complete_day(now))

    def now(self, now: datetime) -> datetime:
        """The present as the history sees it: an export that ended years ago has no later labels to wait for."""
        end = datetime.combine(self.last_complete_day(now) + timedelta(days=1), datetime.min.time(), now.tzinfo)
        return min(now, end) if self.last_day else now


def _identity(settings: Settings) -> dict[str, Any]:
    """What makes two histories different."""
    if settings.mapping is not None:
        return {"mapping": settings.mapping.resolve().as_posix(), "base_currency": settings.base_currency}
    return {
        **({"behaviour": settings.bank_behaviour} if settings.bank_behaviour else {}),
        "seed": settings.seed,
        "users": settings.users,
        "merchants": settings.merchants,
        "transactions_per_day": settings.transactions_per_day,
        "base_currency": settings.base_currency,
    }


def find_dataset(settings: Settings, lake: Lake, now: datetime) -> Dataset:
    """The dataset of this home: as recorded, else as the first run would record it. Writes nothing.

    Raises OtherDatasetError when the record is of another source.
    """
    record = lake.read_record(DATASET)
    if record is None:
        return _first_look(settings, now)[0]
    if record["source"] != _identity(settings):
        raise OtherDatasetError(
            f"{settings.home} holds the history of {record['source']}, the settings name {_identity(settings)}; "
            "keep each history in its own folder with FRAUD_HOME"
        )
    return _dataset(settings, date.fromisoformat(record["first_day"]), record["last_day"])


def fix_dataset(settings: Settings, lake: Lake, now: datetime) -> tuple[Dataset, Source]:
    """The dataset and its open source, recorded if this is the first run. The source gives no day that is not over at
    `now`. Raises OtherDatasetError."""
    if lake.read_record(DATASET) is None:
        dataset, source = _first_look(settings, now)
        if lake.create_record(DATASET, _record(settings, dataset.first_day, source.last_day())):
            return dataset, FinishedDays(source, now)
    dataset = find_dataset(settings, lake, now)
    return dataset, FinishedDays(open_source(settings, dataset.first_day), now)


def follow_source(settings: Settings, lake: Lake, source: Source, now: datetime) -> Dataset:
    """The dataset once its recorded last day has moved on to that of `source`; it never moves back."""
    dataset, known = find_dataset(settings, lake, now), (lake.read_record(DATASET) or {}).get("last_day")
    last_day = source.last_day()
    if last_day is not None and known is not None and last_day > date.fromisoformat(known):
        lake.write_record(DATASET, _record(settings, dataset.first_day, last_day))
    return find_dataset(settings, lake, now)


def _record(settings: Settings, first_day: date, last_day: date | None) -> dict[str, Any]:
    days = {"first_day": first_day.isoformat(), "last_day": last_day.isoformat() if last_day else None}
    return {"source": _identity(settings), **days}


def _dataset(settings: Settings, first_day: date, last_day: str | None) -> Dataset:
    ends = last_day is not None and not settings.history_goes_on
    return Dataset(first_day, date.fromisoformat(last_day) if ends and last_day else None)


def _first_look(settings: Settings, now: datetime) -> tuple[Dataset, Source]:
    first_day = settings.history_start or now.date() - timedelta(days=settings.history_days)
    source = open_source(settings, first_day)
    last_day = source.last_day()
    return _dataset(settings, source.first_day(), last_day.isoformat() if last_day else None), source
