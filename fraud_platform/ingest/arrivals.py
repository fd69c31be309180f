"""Which days of a mapped history are to be built anew because its files have appeared or changed.

What belongs here: comparing what the files say now with what they said, day by day. What does not: reading files
(`mapped_source`), building days, starting it (`assets`).
"""

from datetime import date

import msgspec

from fraud_platform.dataset import Dataset
from fraud_platform.ingest.mapped_source import MappedSource
from fraud_platform.lake import days_between

MOST_ATTEMPTS = 3


class Arrivals(msgspec.Struct, frozen=True):
    """What a sensor's cursor keeps of the files."""

    fingerprint: str
    versions: dict[date, str]
    """Per day something that changes with its rows."""
    asked: list[date] = []
    """First and last day that were last asked for; empty before."""
    attempt: int = 0

    @property
    def key(self) -> str:
        """Unique per state of the files and attempt."""
        return f"files-{self.fingerprint}-{self.attempt}"


def known_so_far(source: MappedSource, dataset: Dataset) -> Arrivals:
    """What to compare with at the first look: the files as they are, up to the last day that the history knows."""
    versions = source.day_versions()
    return Arrivals("", {day: version for day, version in versions.items() if day <= (dataset.last_day or day)})


def look_at_files(source: MappedSource, known: Arrivals) -> Arrivals:
    """The files as they are; reads them only where names, sizes or times have changed. Raises MappingError."""
    if known.fingerprint == source.fingerprint:
        return known
    return Arrivals(source.fingerprint, source.day_versions())


def changed_days(before: Arrivals, now: Arrivals, dataset: Dataset, last_complete_day: date) -> list[date]:
    """From the first day whose rows differ to the last complete one, since every later day looks back on it; empty when
    none differs. Days before the dataset's first are not its own."""
    differ = [
        day for day in before.versions.keys() | now.versions.keys() if before.versions.get(day) != now.versions.get(day)
    ]
    inside = [day for day in differ if dataset.first_day <= day <= last_complete_day]
    return days_between(min(inside), last_complete_day) if inside else []
