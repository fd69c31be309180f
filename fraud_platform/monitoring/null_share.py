"""Columns that go null: a day's share of nulls in a column, held against the same column's days before it.

What belongs here: which columns are looked at, and when a share is unusual. What does not: columns that must not be
null at all (`quality`), distributions (`drift`). All of it is read from the files' own statistics: no row is.

The limit of a share is that of Laney's p′ chart, which is a control chart for shares whose days differ by more than
chance: p̄ + LIMIT · σ_z · √(p̄ (1 − p̄) / n), where p̄ is the share of all days before, n the day's rows, and
σ_z = mean |z_i − z_(i−1)| / 1.128 of the days' own z_i = (p_i − p̄) / √(p̄ (1 − p̄) / n_i). 1.128 is the mean range of
two values of a normal distribution. D. B. Laney, "Improved Control Charts for Attributes", Quality Engineering 14 (4),
2002, 531–537. σ_z below 1 counts as 1. Of many rows every little change is significant, so a share must also have risen
by LEAST_RISE before anybody is told.

A column that stays null becomes its own history after some weeks. So a column that was null throughout the last
NULL_DAYS is told as well, for as long as a year ago it had values, or while the source maps it.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise

from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.features.tables import tables_of
from fraud_platform.ingest.mapping import load_mapping
from fraud_platform.lake import Lake
from fraud_platform.quality import Finding, footer, null_counts
from fraud_platform.settings import Settings

HISTORY_DAYS = 28
LEAST_DAYS = 14
"""Of them with enough rows: fewer are no history."""
LEAST_ROWS = 100
"""Of a day that is compared."""
LIMIT = 3
LEAST_RISE = 0.05
NULL_DAYS = 7
_MEAN_RANGE = 1.128
_FURTHER_BACK = [HISTORY_DAYS * n for n in range(1, 14)]
"""Days before a day that are asked whether a column ever had values: a year, in steps."""

_OPTIONAL = (
    "amount", "country", "user_country", "merchant_category", "channel", "device_id", "latitude", "longitude",
)  # fmt: skip


def columns_of(catalogue: Catalogue) -> Mapping[str, tuple[str, ...]]:
    """The columns of each table that may be null, and whose nulls mean that something is not known. The training set
    stands for the snapshots too: in these a value is null of whoever did nothing lately, which is more of them as a
    history grows, and old ones are pruned."""
    return {tables.RAW_TRANSACTIONS: _OPTIONAL, tables_of(catalogue).training_set: catalogue.names}


@dataclass(frozen=True)
class _Day:
    rows: int
    nulls: Mapping[str, int]

    def share(self, column: str) -> float:
        return self.nulls.get(column, 0) / self.rows

    def has_values(self, column: str) -> bool:
        return self.nulls.get(column, 0) < self.rows


class _Days:
    """The partitions of a table, each looked at once."""

    def __init__(self, lake: Lake, table: str) -> None:
        self._lake, self._table = lake, table
        self._held = set(lake.days(table))
        self._seen: dict[date, _Day] = {}

    def of(self, days: Sequence[date]) -> list[_Day]:
        """Those of `days` that the lake holds and that have rows, in order."""
        return [found for day in days if day in self._held and (found := self._look(day)).rows]

    def _look(self, day: date) -> _Day:
        if day not in self._seen:
            file = footer(self._lake, self._table, day)
            self._seen[day] = _Day(file.num_rows, null_counts(file))
        return self._seen[day]


def mapped_columns(settings: Settings) -> frozenset[str]:
    """The columns of raw_transactions that the mapping gives; none of the simulated bank, which speaks for itself."""
    if settings.mapping is None:
        return frozenset()
    mapping = load_mapping(settings.mapping)
    given = {*mapping.columns.model_dump(exclude_none=True), *mapping.defaults.model_dump(exclude_none=True)}
    return frozenset(given & set(_OPTIONAL))


def null_shares(
    lake: Lake,
    table: str,
    days: Sequence[date],
    mapped: Collection[str] = (),
    catalogue: Catalogue = CATALOGUE,
) -> Finding:
    """No column of `table` is null more often on one of `days` than it usually is, nor null for NULL_DAYS.

    mapped: columns that the source gives. catalogue: the features that the table is of, where it is of any.
    """
    seen, bad, compared, columns = _Days(lake, table), {}, 0, columns_of(catalogue)[table]
    for day in days:
        today = next(iter(seen.of([day])), None)
        if today is None:
            continue
        before = seen.of(_back(day, range(HISTORY_DAYS, 0, -1)))
        history = [each for each in before if each.rows >= LEAST_ROWS]
        told = {}
        if today.rows >= LEAST_ROWS and len(history) >= LEAST_DAYS:
            compared += 1
            told = {name: said for name in columns if (said := _unusual(name, today, history))}
        week = seen.of(_back(day, range(NULL_DAYS)))
        if len(week) == NULL_DAYS:
            gone = [name for name in columns if not any(each.has_values(name) for each in week)]
            earlier = seen.of(_back(day, [*range(NULL_DAYS, HISTORY_DAYS), *_FURTHER_BACK])) if gone else []
            for name in gone:
                if name in mapped:
                    told[name] = f"null on each of the last {NULL_DAYS} days, though the mapping gives it"
                elif any(each.has_values(name) for each in earlier):
                    told[name] = f"null on each of the last {NULL_DAYS} days, and it had values before"
        if told:
            bad[day.isoformat()] = told
    facts = {
        "days": len(days),
        "days_compared": compared,
        "bad_days": len(bad),
        "examples": dict(list(bad.items())[:20]),
        "remedy": "docs/closed-loop.md, Columns that go null",
    }
    return Finding("null_share", not bad, "warn", facts)


def _back(day: date, steps: Sequence[int]) -> list[date]:
    return [day - timedelta(days=step) for step in steps]


def _unusual(column: str, today: _Day, history: Sequence[_Day]) -> str | None:
    """Today's share and the usual one in words, where it is above the limit; None where it is not."""
    share = today.share(column)
    usual = sum(each.nulls.get(column, 0) for each in history) / sum(each.rows for each in history)
    limit = max(usual + LEAST_RISE, _limit(column, today.rows, history, usual))
    if share <= limit:
        return None
    return f"{share:.1%} null, usually {usual:.1%}, at most {limit:.1%}"


def _limit(column: str, rows: int, history: Sequence[_Day], usual: float) -> float:
    spread = math.sqrt(usual * (1 - usual))
    if spread == 0:
        return usual
    scores = [(each.share(column) - usual) / (spread / math.sqrt(each.rows)) for each in history]
    steps = [abs(after - before) for before, after in pairwise(scores)]
    wider = max(1.0, sum(steps) / len(steps) / _MEAN_RANGE)
    return usual + LIMIT * wider * spread / math.sqrt(rows)
