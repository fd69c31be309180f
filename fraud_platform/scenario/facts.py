"""What has happened in a scenario, day by day, gathered from what the platform itself wrote down.

What belongs here: facts and their figures. What does not: making them happen (`play`), judging them (`sentences`).
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path

from fraud_platform.inference_log.table import LogTable
from fraud_platform.lake import Lake
from fraud_platform.model.ledger import read_ledger
from fraud_platform.model.routing import read_routing
from fraud_platform.monitoring.drift import FEATURE_DRIFT, SCORE
from fraud_platform.monitoring.signals import drift_limit
from fraud_platform.monitoring.skew import SKEW
from fraud_platform.settings import Settings


@dataclass
class DayFigures:
    """One played day as its callers saw it."""

    number: int
    day: date
    payments: int = 0
    errors: int = 0
    """Answers that are no decision: any status but 200, resets and timeouts."""
    degraded: int = 0
    frauds: int = 0
    """By the simulator's own knowledge, which no label tells for certain."""
    blocked_frauds: int = 0
    caught_frauds: int = 0
    """Blocked or flagged."""
    blocked_good: int = 0
    decided_by: Counter[str] = field(default_factory=Counter)
    """Payments by model version, `fraud-detector/2`."""
    served_by: Counter[str] = field(default_factory=Counter)
    """Payments by the store of the user's features."""
    drift: float | None = None
    """PSI of the feature that drifts most, as so many times the limit above which it starts a training."""
    drifting: str | None = None
    """That feature."""
    score_drift: float | None = None
    """The same of the score, and the limit at which people are told."""


@dataclass(frozen=True)
class Fact:
    """Something that the loop did."""

    day: int
    kind: str
    """`training`, `in shadow`, `a canary`, `the champion`, `rolled back` or `alert`."""
    subject: str
    text: str


@dataclass
class Facts:
    """A scenario's outcome."""

    days: list[DayFigures]
    facts: list[Fact]
    champion: str
    largest_weight: float
    answered: int
    in_lake: int
    twice_in_lake: int
    skew_compared: int
    skew_differences: int

    def of(self, kind: str) -> list[Fact]:
        """Facts of a kind, by day."""
        return [fact for fact in self.facts if fact.kind == kind]

    def first_by(self, kind: str, subject: str, day: int) -> str | None:
        """None when such a fact happened up to a day, else what happened instead. subject: empty for any."""
        found = [fact for fact in self.of(kind) if subject in ("", fact.subject)]
        if found and found[0].day <= day:
            return None
        return f"it was so on day {found[0].day}" if found else "it never was"


def gather(
    settings: Settings, lake: Lake, days: list[DayFigures], trainings: list[Fact], answered: set[str], first: date
) -> Facts:
    """Everything that was written down. trainings: what the sensors asked for. first: date of day 1."""
    home = settings.home
    facts = sorted([*trainings, *_releases(home, first), *_alerts(home, first)], key=lambda fact: fact.day)
    for figures in days:
        _add_drift(lake, settings, figures)
    seen = Counter(
        transaction
        for day in LogTable(lake).days()
        for transaction in LogTable(lake).read(day, ["transaction_id"]).column("transaction_id").to_pylist()
    )
    skew = [
        row
        for figures in days
        if lake.exists(SKEW, figures.day)
        for row in lake.read(SKEW, figures.day, ["compared", "differences"]).to_pylist()
    ]
    weights = [entry["to"]["weight"] for entry in read_ledger(home) if entry["what"] == "challenger"]
    return Facts(
        days=days,
        facts=facts,
        champion=read_routing(home).release,
        largest_weight=max(weights, default=0.0),
        answered=len(answered),
        in_lake=len(answered & seen.keys()),
        twice_in_lake=sum(count > 1 for transaction, count in seen.items() if transaction in answered),
        skew_compared=sum(row["compared"] for row in skew),
        skew_differences=sum(row["differences"] for row in skew),
    )


def _number(at: str, first: date) -> int:
    return (datetime.fromisoformat(at).date() - first).days + 1


def _releases(home: Path, first: date) -> list[Fact]:
    facts = []
    for entry in read_ledger(home):
        day = _number(entry["at"], first)
        if day < 1:
            continue
        if entry["what"] == "champion":
            facts.append(Fact(day, "the champion", _version(entry["to"]), entry["why"]))
        elif entry["what"] == "challenger":
            facts.append(_arm(day, entry["from"], entry["to"], entry["why"]))
    return facts


def _arm(day: int, before: Mapping[str, str], after: Mapping[str, str], why: str) -> Fact:
    if after["challenger"] is None:
        return Fact(day, "rolled back", _version(before["challenger"]), why)
    stage = "in shadow" if after["stage"] == "shadow" else "a canary"
    return Fact(day, stage, _version(after["challenger"]), why)


def _version(release: str) -> str:
    return f"version {release.rpartition('-')[2]}"


def _alerts(home: Path, first: date) -> list[Fact]:
    path = home / "alerts" / "alerts.jsonl"
    if not path.exists():
        return []
    told = [json.loads(line) for line in path.read_text().splitlines()]
    return [Fact(_number(each["at"], first), "alert", each["cause"], each["text"]) for each in told]


def _add_drift(lake: Lake, settings: Settings, figures: DayFigures) -> None:
    if not lake.exists(FEATURE_DRIFT, figures.day):
        return
    rows = lake.read(FEATURE_DRIFT, figures.day, ["name", "psi", "usual_psi"]).to_pylist()
    drift = {
        row["name"]: row["psi"] / drift_limit(settings, row["name"], row["usual_psi"]) for row in rows if row["psi"]
    }
    figures.score_drift = drift.pop(SCORE, None)
    if drift:
        figures.drifting = max(drift, key=lambda name: drift[name])
        figures.drift = drift[figures.drifting]
