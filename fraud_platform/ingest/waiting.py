"""Labels that wait for their payment: no decision of the caller was known when they were sent.

What belongs here: finding their payments in raw_transactions, giving up those that wait too long, counting both. What
does not: taking them (`decision.feedback`), their files while they wait (`feedback`).

A label that waits lies in `<home>/feedback/waiting/arrived=…`. The first day ingested that finds its payment, which is
the same caller's transaction_id on the day that was given, or on the one before or after, takes it up for good: a line
in that day's `<home>/feedback/arrived=…/joined.jsonl`. Building a day again finds it there.
"""

import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from fraud_platform.features import tables
from fraud_platform.features.labels import with_caller
from fraud_platform.ingest.feedback import (
    FeedbackLabel,
    decode_labels,
    feedback_folder,
    of_other_regions,
    read_folder,
)
from fraud_platform.lake import Lake
from fraud_platform.model.bundle import exclusive, replace_file

JOINED = "joined.jsonl"
PATIENCE_DAYS = 2
"""An export may hold a payment a day after it was paid; a label that waits longer than that is likely an error."""

Identity = tuple[str, str, date]
"""Caller, transaction_id, UTC day of its received_at."""


class GivenUp(msgspec.Struct, frozen=True, kw_only=True):
    """Labels of one caller and day of arrival whose payment was never found."""

    day: date
    caller: str
    labels: int


@dataclass(frozen=True)
class Standing:
    """What waits, and what was given up."""

    waiting: Counter[str] = field(default_factory=Counter)
    """Labels by caller."""
    oldest: date | None = None
    """Day on which the oldest of them was sent."""
    given_up: int = 0
    """Labels, ever."""


_lines = msgspec.json.Encoder().encode_lines


def take_up_waiting(home: Path, lake: Lake, day: date, waiting_days: int) -> int:
    """Let the labels sent up to `day` whose payments the lake holds arrive on `day`; returns how many.

    One sent that day keeps its moment, an older one arrives at the day's beginning. Labels sent over `waiting_days`
    before are given up. Raises DamagedFeedbackError, OSError.
    """
    since = day - timedelta(days=waiting_days)
    if not any(_folders(home)) and not of_other_regions(lake, waiting=True):
        return 0
    with exclusive(home / "feedback" / ".waiting.lock"):
        found = list(_found(lake, list(_waiting(home, lake, since, day)), day))
        if found:
            path = feedback_folder(home, day) / JOINED
            path.parent.mkdir(parents=True, exist_ok=True)
            before = path.read_bytes() if path.exists() else b""
            replace_file(path, before + _lines(list(_arriving(found, day))))
        _give_up(home, since)
    return len(found)


def waiting_standing(home: Path, lake: Lake) -> Standing:
    """What waits in this home and in the lake's regions. Raises DamagedFeedbackError."""
    labels = list(_waiting(home, lake, date.min, date.max))
    oldest = min((label.day for label in labels), default=None)
    return Standing(Counter(label.caller for label in labels), oldest, sum(one.labels for one in read_given_up(home)))


def read_given_up(home: Path) -> list[GivenUp]:
    """Every label that was given up, in numbers."""
    try:
        payload = _given_up_path(home).read_bytes()
    except FileNotFoundError:
        return []
    return [msgspec.json.decode(line, type=GivenUp) for line in payload.splitlines()]


def _given_up_path(home: Path) -> Path:
    return home / "feedback" / "waiting" / "given_up.json"


def _waiting(home: Path, lake: Lake, first: date, last: date) -> Iterator[FeedbackLabel]:
    """Labels sent on the days from `first` to `last` that have not joined, oldest first."""
    here = dict(_folders(home))
    there = of_other_regions(lake, waiting=True)
    days = sorted(day for day in {*here, *there} if first <= day <= last)
    joined = _joined(home, days[0]) if days else set()
    for day in days:
        labels = read_folder(here[day]) if day in here else []
        for path in there.get(day, ()):
            labels += decode_labels(path, lake.document(lake.name_of(path)) or b"")
        labels.sort(key=lambda label: label.arrived_at)
        yield from (label for label in labels if label.feedback_id not in joined)


def _folders(home: Path) -> Iterator[tuple[date, Path]]:
    for folder in (home / "feedback" / "waiting").glob("arrived=*"):
        yield date.fromisoformat(folder.name.removeprefix("arrived=")), folder


def _joined(home: Path, since: date) -> set[str]:
    """Ids of the labels that have joined on a day from `since` on."""
    return {
        label.feedback_id
        for path in (home / "feedback").glob(f"arrived=*/{JOINED}")
        if date.fromisoformat(path.parent.name.removeprefix("arrived=")) >= since
        for label in decode_labels(str(path), path.read_bytes())
    }


def _found(lake: Lake, labels: list[FeedbackLabel], last: date) -> Iterator[FeedbackLabel]:
    """Those whose payments the lake holds, with the day on which they were received."""
    known = known_payments(lake, ((label.transaction_id, day) for label in labels for day in _days(label, last)))
    for label in labels:
        on = next((day for day in _days(label, last) if (label.caller, label.transaction_id, day) in known), None)
        if on is not None:
            yield msgspec.structs.replace(label, transaction_date=on)


def known_payments(lake: Lake, asked: Iterable[tuple[str, date]]) -> set[Identity]:
    """Counted payments in raw_transactions that have one of these ids on its day."""
    wanted: dict[date, set[str]] = defaultdict(set)
    for name, day in asked:
        wanted[day].add(name)
    held = lake.held(tables.RAW_TRANSACTIONS, sorted(wanted))
    return {identity for day in held for identity in _paid(lake, day, wanted[day])}


def _days(label: FeedbackLabel, last: date) -> list[date]:
    """Where its payment may be: clocks and zones differ by a day."""
    given = label.transaction_date
    return [day for day in (given, given - timedelta(days=1), given + timedelta(days=1)) if day <= last]


def _paid(lake: Lake, day: date, ids: set[str]) -> Iterator[Identity]:
    rows = lake.read(tables.RAW_TRANSACTIONS, day)
    rows = rows.filter(pc.is_in(rows["transaction_id"], value_set=pa.array(sorted(ids), pa.string())))
    rows = with_caller(rows).filter(pc.invert(rows["is_duplicate"]))
    for caller, name in zip(rows["caller"].to_pylist(), rows["transaction_id"].to_pylist(), strict=True):
        yield caller, name, day


def _arriving(labels: Iterable[FeedbackLabel], day: date) -> Iterator[FeedbackLabel]:
    """The labels as they arrive on `day`; those that were sent before come first, in their order."""
    midnight = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000
    for number, label in enumerate(labels):
        if label.day == day:
            yield label
        else:
            yield msgspec.structs.replace(label, sent_at=label.arrived_at, arrived_at=midnight + number)


def _give_up(home: Path, since: date) -> None:
    """Count and delete what was sent before `since`. What has joined is kept where it joined."""
    old = sorted((day, folder) for day, folder in _folders(home) if day < since)
    if not old:
        return
    joined = _joined(home, old[0][0])
    counted = read_given_up(home)
    for day, folder in old:
        callers = Counter(label.caller for label in read_folder(folder) if label.feedback_id not in joined)
        counted = [one for one in counted if one.day != day]
        counted += [GivenUp(day=day, caller=caller, labels=labels) for caller, labels in sorted(callers.items())]
    # counted first: killed in between, the folders are counted again as what they are
    replace_file(_given_up_path(home), _lines(counted))
    for _, folder in old:
        shutil.rmtree(folder)
