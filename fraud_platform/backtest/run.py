"""A backtest: every day of past traffic through what is tried, then labels as they are known, then figures.

What belongs here: the way through the days, and what has to be said beside the figures. What does not: what is tried
(`what`), the figures (`figures`).
"""

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from fraud_platform.backtest.figures import DayLine, Figures, Gathered, Overlap, by_day, figures, overlap
from fraud_platform.backtest.traffic import Bools, Day, Span, Traffic
from fraud_platform.backtest.what import What
from fraud_platform.features import tables
from fraud_platform.features.catalogue import DAY
from fraud_platform.features.label_rules import label_rules
from fraud_platform.features.labels import label_transactions
from fraud_platform.lake import Lake
from fraud_platform.model.data import EPOCH, labels_before
from fraud_platform.model.split import microseconds
from fraud_platform.settings import Settings


class NoTrafficError(LookupError):
    """There is no past traffic in the days asked for; the message says which days there are."""


@dataclass(frozen=True)
class Backtest:
    """What was tried, on what, and what came of it."""

    title: str
    hit_is: str
    """`block` or `alert`: what a hit does, and what of what ran it is held against."""
    currency: str
    first_day: date
    last_day: date
    payments: int
    decided: int
    """Payments that the service decided; the others are of imported history."""
    ran_by: str | None
    """Version of the release that history is held by; None where none is in force."""
    undecided: int
    """Payments that what was tried has nothing to decide by: no hits."""
    learned: int
    """Payments of days that its model learned from."""
    ran_learned: int
    """The same for the release that history is held by."""
    cut: date | None
    """Labels that arrived before 00:00 UTC of this day are known; None without labels."""
    maturity_days: int
    immature: int
    """Payments too young at the cut to be judged."""
    open_cases: int
    """Payments under investigation at the cut, or of an import whose silence means nothing."""
    frauds: int
    """Of those judged."""
    fraud_amount: float
    this: Figures
    ran: Figures
    overlap: list[Overlap]
    days: list[DayLine]


@dataclass
class _Gathering:
    days: list[np.ndarray] = field(default_factory=list)
    amounts: list[np.ndarray] = field(default_factory=list)
    hit: list[Bools] = field(default_factory=list)
    ran: list[Bools] = field(default_factory=list)
    matured: list[Bools] = field(default_factory=list)
    is_fraud: list[Bools] = field(default_factory=list)
    decided: int = 0
    undecided: int = 0
    immature: int = 0
    users: set[str] = field(default_factory=set)
    ran_users: set[str] = field(default_factory=set)
    history: list[tuple[date, int]] = field(default_factory=list)
    """Payments of imported history per day."""

    def add(self, day: Day, what: What, hit: Bools, undecided: Bools, label: pa.Array, old_enough: Bools) -> None:
        """Add a day. label: bool, null where unknown; old_enough: at the cut."""
        ran = day.ran_block if what.hit_is == "block" else day.ran_alert
        known = np.asarray(label.is_valid().to_numpy(zero_copy_only=False), np.bool_)
        users = day.payments.column("user_id")
        self.days.append(np.full(len(hit), (day.day - EPOCH).days, np.int32))
        self.amounts.append(day.amounts)
        self.hit.append(hit)
        self.ran.append(ran)
        self.matured.append(old_enough & known)
        self.is_fraud.append(np.asarray(label.fill_null(False).to_numpy(zero_copy_only=False), np.bool_))
        self.decided += int(day.decided.sum())
        self.undecided += int(undecided.sum())
        self.immature += int((~old_enough).sum())
        self.users.update(users.filter(pa.array(hit)).to_pylist())
        self.ran_users.update(users.filter(pa.array(ran)).to_pylist())
        self.history.append((day.day, int((~day.decided).sum())))

    def gathered(self) -> Gathered:
        """All of it as arrays."""
        parts = (self.days, self.amounts, self.hit, self.ran, self.matured, self.is_fraud)
        return Gathered(*(np.concatenate(part) for part in parts))


def backtest(
    settings: Settings, traffic: Traffic, what: What, first: date | None, last: date | None, now: datetime
) -> Backtest:
    """Try something on the traffic of the days from `first` to `last`, both included; None: no bound.

    now: the present as the history sees it; labels that arrived before its day are known. Raises NoTrafficError, and
    what `what` raises.
    """
    days = traffic.days(first, last)
    if not days:
        held = traffic.days(None, None)
        there = f"some from {held[0]} to {held[-1]}" if held else "none: build the platform first"
        raise NoTrafficError(f"no past traffic from {first or '…'} to {last or '…'}; there is {there}")
    in_force, lake = traffic.in_force, traffic.lake
    cut = _cut(lake, now)
    resolved = None if cut is None else labels_before(lake, cut, label_rules(settings))
    found = _Gathering()
    for each in tqdm(days, desc="backtest", unit="day", disable=None):
        day = traffic.day(each)
        hit, undecided = what.hits(day)
        label, old_enough = _labels(day, resolved, cut, settings.label_maturity_days)
        found.add(day, what, hit, undecided, label, old_enough)
    gathered = found.gathered()
    judged_fraud = gathered.matured & gathered.is_fraud
    return Backtest(
        title=what.title,
        hit_is=what.hit_is,
        currency=settings.base_currency,
        first_day=days[0],
        last_day=days[-1],
        payments=len(gathered.hit),
        decided=found.decided,
        ran_by=None if in_force is None else in_force.model.version,
        undecided=found.undecided,
        learned=_within(gathered, what.learned),
        ran_learned=_history_within(found, None if in_force is None else in_force.learned),
        cut=cut,
        maturity_days=settings.label_maturity_days,
        immature=found.immature,
        open_cases=int((~gathered.matured).sum()) - found.immature,
        frauds=int(judged_fraud.sum()),
        fraud_amount=figures(gathered, judged_fraud, 0, settings).amount,
        this=figures(gathered, gathered.hit, len(found.users), settings),
        ran=figures(gathered, gathered.ran, len(found.ran_users), settings),
        overlap=overlap(gathered, settings),
        days=by_day(gathered),
    )


def _cut(lake: Lake, now: datetime) -> date | None:
    """The day before which labels are known: a day whose labels were not ingested would look as if it had no fraud."""
    days = [day for day in lake.days(tables.FRAUD_LABELS) if day < now.date()]
    return days[-1] + timedelta(days=1) if days else None


def _labels(day: Day, resolved: pa.Table | None, cut: date | None, maturity_days: int) -> tuple[pa.Array, Bools]:
    """Whether each payment is fraud, null where unknown, and whether it is old enough at the cut to be judged."""
    count = len(day.amounts)
    if resolved is None or cut is None:
        return pa.nulls(count, pa.bool_()), np.zeros(count, np.bool_)
    keys = day.payments.select(["caller", "transaction_id", "received_at"]).append_column(
        "transaction_date", pa.array([day.day] * count, pa.date32())
    )
    of_day = resolved.filter(pc.equal(resolved.column("transaction_date"), pa.scalar(day.day, pa.date32())))
    labelled = label_transactions(keys, of_day, microseconds(cut), maturity_days)
    label = pa.concat_arrays(labelled.column("is_fraud").chunks) if count else pa.nulls(0, pa.bool_())
    return label, np.asarray(day.received_at + maturity_days * DAY <= microseconds(cut), np.bool_)


def _history_within(found: _Gathering, span: Span | None) -> int:
    return 0 if span is None else sum(count for day, count in found.history if span[0] <= day <= span[1])


def _within(gathered: Gathered, span: Span | None) -> int:
    if span is None:
        return 0
    first, last = ((day - EPOCH).days for day in span)
    return int(((gathered.days >= first) & (gathered.days <= last)).sum())
