"""All decisions of a day again, or a sample of them: the proof that no replayed decision differs.

What belongs here: which records, counting. What does not: one record's checks (`decision`).
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from heapq import nsmallest

from tqdm import tqdm

from fraud_platform.audit.decision import DecisionReplay, Replayed
from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.inference_log.record import DecisionRecord
from fraud_platform.inference_log.search import decisions_of
from fraud_platform.inference_log.table import LogTable
from fraud_platform.lake import Lake
from fraud_platform.monitoring.skew import OfflineDay
from fraud_platform.settings import Settings

SHOWN_EXAMPLES = 20


@dataclass
class DayReplay:
    """What came of a day's decisions."""

    day: date
    elsewhere: int = 0
    """Decisions of other regions, which are made again where their policy is kept."""
    decisions: int = 0
    facts: int = 0
    """Facts held: scores, decisions, reasons, values."""
    differing: Counter[str] = field(default_factory=Counter)
    """Differences per fact, `group: what`."""
    decisions_differing: int = 0
    not_kept: Counter[str] = field(default_factory=Counter)
    """Decisions that could not be made again, by what is missing."""
    served_by: Counter[str] = field(default_factory=Counter)
    """Decisions by the model's rung."""
    training_set: Counter[str] = field(default_factory=Counter)
    """Decisions `compared` with the training set, and the others by cause."""
    examples: list[Replayed] = field(default_factory=list)

    @property
    def stands(self) -> bool:
        """Whether every decision was made again and none differs."""
        return not self.decisions_differing and not self.not_kept

    def add(self, replayed: Replayed) -> None:
        """Count one decision."""
        self.decisions += 1
        self.facts += len(replayed.checks)
        self.served_by[replayed.record.served_by.model] += 1
        self.training_set[replayed.training_set or "compared"] += 1
        if replayed.not_kept is not None:
            self.not_kept[replayed.not_kept] += 1
        self.differing.update(f"{check.group}: {check.what}" for check in replayed.differing)
        self.decisions_differing += bool(replayed.differing)
        if not replayed.stands and len(self.examples) < SHOWN_EXAMPLES:
            self.examples.append(replayed)


def replay_decisions(
    settings: Settings, lake: Lake, day: date, sample: int | None = None, catalogue: Catalogue = CATALOGUE
) -> DayReplay:
    """Make a region's decisions of a UTC day again, those of the lake and of the spool; `sample` takes so many of them.

    A sample is drawn by the hash of decision_id: the same one each time, and spread over the day.
    """
    replay, report = DecisionReplay(settings, catalogue), DayReplay(day)
    records = _of_region(decisions_of(settings.home, LogTable(lake), day), settings.region, report)
    if sample is not None:
        records = iter(nsmallest(sample, records, key=_draw))
    offline = OfflineDay(lake, day, catalogue=catalogue)
    for record in tqdm(records, desc=f"decisions of {day}", unit="decision", disable=None):
        report.add(replay.replay(record, offline))
    return report


def _of_region(records: Iterator[DecisionRecord], region: str, report: DayReplay) -> Iterator[DecisionRecord]:
    for record in records:
        if record.region == region:
            yield record
        else:
            report.elsewhere += 1


def _draw(record: DecisionRecord) -> bytes:
    return hashlib.blake2b(record.decision_id.encode(), digest_size=8).digest()
