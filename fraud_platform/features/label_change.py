"""What a change of trust in labels changes: which labels and payments, and what was built before it.

What belongs here: the comparison before and after, and the days that are built anew. What does not: the record
(`label_rules`), building (`assets`).
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime

import pyarrow as pa
import pyarrow.compute as pc

from fraud_platform.features import tables
from fraud_platform.features.label_rules import Distrust, LabelRules
from fraud_platform.features.labels import PAYMENT, read_labels, resolve_labels
from fraud_platform.lake import Lake, days_between
from fraud_platform.schema import LABELS, UNLABELLED

Verdict = str
"""`fraud`, `good`, `open` (suspected only) or `no label`."""
_VERDICTS: dict[bool | None, Verdict] = {True: "fraud", False: "good", None: "open"}


@dataclass(frozen=True)
class LabelChange:
    """What differs between two sets of rules, by the labels in the lake."""

    labels: int
    """Labels that count under one of the two alone."""
    payments: int
    """Payments that they speak of."""
    verdicts: dict[tuple[Verdict, Verdict], int]
    """Payments by what was known of them and what is now; those that stay what they were are left out."""
    first_day: date | None
    """UTC day of arrival of the first of these labels: what was built from it on is stale."""
    paid: tuple[date, date] | None
    """First and last day of the payments."""

    def stale(self, lake: Lake, table: str) -> list[date]:
        """Days of a table that were built by the other rules."""
        return [] if self.first_day is None else [day for day in lake.days(table) if day >= self.first_day]


def label_change(lake: Lake, before: LabelRules, after: LabelRules, now: datetime) -> LabelChange:
    """Compare two sets of rules that differ in what is distrusted. now: labels up to it are looked at."""
    own = {_key(one) for one in before.distrusted} ^ {_key(one) for one in after.distrusted}
    moved = [one for one in (*before.distrusted, *after.distrusted) if _key(one) in own]
    labels = read_labels(lake, lake.days(tables.FRAUD_LABELS)) if moved else LABELS.empty_table()
    said = labels.filter(pc.not_equal(labels["state"], UNLABELLED))
    near = said.filter(_any_fits(said, moved)).to_pylist()
    mine = [row for row in near if _counts(before, row) != _counts(after, row)]
    payments = {_payment(row) for row in mine}
    concerned = labels.filter(
        pc.is_in(labels["transaction_id"], value_set=pa.array([name for _, name, _ in payments], pa.string()))
    )
    verdicts: Counter[tuple[Verdict, Verdict]] = Counter()
    cut = int(now.timestamp() * 1_000_000)
    was, is_ = (_verdicts(resolve_labels(concerned, cut, rules)) for rules in (before, after))
    verdicts.update((was.get(each, "no label"), is_.get(each, "no label")) for each in payments)
    days = sorted({payment[2] for payment in payments})
    return LabelChange(
        labels=len(mine),
        payments=len(payments),
        verdicts={change: count for change, count in sorted(verdicts.items()) if change[0] != change[1]},
        first_day=min((row["arrived_at"].date() for row in mine), default=None),
        paid=(days[0], days[-1]) if days else None,
    )


def stale_since(lake: Lake, before: LabelRules, after: LabelRules, now: datetime) -> list[date]:
    """Days whose label tiles, and what stands on them, are other by the second rules than by the first."""
    built = lake.days(tables.LABEL_TILES)
    if not built:
        return []
    if dict(before.ranks) != dict(after.ranks):
        return days_between(built[0], built[-1])
    first = label_change(lake, before, after, now).first_day
    return [] if first is None or first > built[-1] else days_between(max(first, built[0]), built[-1])


def _key(one: Distrust) -> tuple[object, ...]:
    return one.source, one.caller, one.since, one.until


def _any_fits(labels: pa.Table, which: Iterable[Distrust]) -> pa.ChunkedArray:
    """Which rows fit one of them; true for some that only seem to, by their source and caller."""
    found = pa.repeat(False, labels.num_rows)
    for one in which:
        fits = pa.repeat(True, labels.num_rows)
        for column, value in (("source", one.source), ("caller", one.caller)):
            if value is not None:
                fits = pc.and_(fits, pc.equal(labels[column], value))
        found = pc.or_(found, fits)
    return found


def _fits(which: Iterable[Distrust], row: dict[str, object]) -> bool:
    return any(one.fits(str(row["source"]), str(row["caller"]), _moment(row)) for one in which)


def _counts(rules: LabelRules, row: dict[str, object]) -> bool:
    return not _fits(rules.distrusted, row)


def _moment(row: dict[str, object]) -> datetime:
    at = row["arrived_at"]
    assert isinstance(at, datetime)
    return at


def _payment(row: dict[str, object]) -> tuple[str, str, date]:
    caller, name, on = (row[column] for column in PAYMENT)
    assert isinstance(on, date)
    return str(caller), str(name), on


def _verdicts(resolved: pa.Table) -> dict[tuple[str, str, date], Verdict]:
    labelled = resolved.filter(pc.not_equal(resolved["state"], UNLABELLED))
    return {_payment(row): _VERDICTS[row["is_fraud"]] for row in labelled.to_pylist()}
