"""Which snapshot was in force when: the calendar of history, then the recorded loads of the online store.

What belongs here: the rule. What does not: performing or recording a load (`online.snapshot_load`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import pyarrow as pa

from fraud_platform.features.catalogue import DAY
from fraud_platform.schema import FIRST_REGION

NIGHTLY_LOAD = time(2, 0)
"""UTC time of the day after a snapshot's day at which history takes the snapshot as loaded."""

FOREVER_US = 2**62


@dataclass(frozen=True)
class Span:
    """A snapshot was in force in a region for received_at in [visible_from_us, visible_until_us), UTC microseconds."""

    snapshot: date
    visible_from_us: int
    visible_until_us: int
    region: str = FIRST_REGION


def nightly_visible_from(snapshot: date) -> int:
    """UTC microseconds at which history takes a snapshot as loaded: 02:00 of the next day."""
    instant = datetime.combine(snapshot + timedelta(days=1), NIGHTLY_LOAD, UTC)
    return int(instant.timestamp()) * 1_000_000


def spans(
    snapshots: Sequence[date], loads: Sequence[tuple[int, date]], ttl_days: int, region: str = FIRST_REGION
) -> list[Span]:
    """When each snapshot was in force in a region, ascending; past its time to live a snapshot that nothing followed is
    missing.

    snapshots: days that were computed. loads: (visible_from in µs, snapshot) of the region's online store. History is
    what came before the first recorded load: there a snapshot counts as loaded the night after its day. From then on
    only recorded loads count, for a snapshot that was never loaded was never seen by a payment. History is the first
    region's: of any other, `snapshots` are left empty.
    """
    recorded = sorted(loads)
    first = recorded[0][0] if recorded else FOREVER_US
    history = [(nightly_visible_from(day), day) for day in sorted(snapshots)]
    timeline = [entry for entry in history if entry[0] < first] + recorded
    ends = [visible_from for visible_from, _ in timeline[1:]] + [FOREVER_US] * bool(timeline)
    life = ttl_days * DAY
    return [
        Span(day, start, min(end, start + life + 1), region) for (start, day), end in zip(timeline, ends, strict=True)
    ]


def spans_table(rows: Sequence[Span]) -> pa.Table:
    """`spans` as Arrow: snapshot date32, visible_from_us and visible_until_us int64, region string."""
    return pa.table(
        {
            "snapshot": pa.array([span.snapshot for span in rows], pa.date32()),
            "visible_from_us": pa.array([span.visible_from_us for span in rows], pa.int64()),
            "visible_until_us": pa.array([span.visible_until_us for span in rows], pa.int64()),
            "region": pa.array([span.region for span in rows], pa.string()),
        }
    )
