"""Attempts that only one side counted: velocity online, or the training set, and not both.

What belongs here: finding them, and which decisions have one in their windows. What does not: comparing (`skew`).

A source may hold payments that the service never saw: velocity did not count them, the training set does. A payment
decided while Redis was away was counted at an instant that nobody recorded, and one that was decided under an earlier
rule of effective time at another than training's. And a decision may be no training row, as a duplicate of another
region's, or one of the next day, by a clock that was ahead. Values of a decision with such an attempt in its windows
differ by right.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import pyarrow as pa

from fraud_platform.features.catalogue import CATALOGUE, LIVE_HISTORY, Catalogue
from fraud_platform.features.offline import conformed
from fraud_platform.features.sequence import WINDOW_LOOKBACK_DAYS
from fraud_platform.features.tables import tables_of
from fraud_platform.features.training_set import training_schema
from fraud_platform.inference_log.callers import with_callers
from fraud_platform.inference_log.record import DecisionRecord
from fraud_platform.lake import Lake, days_between
from fraud_platform.online.warm import warmed_until
from fraud_platform.schema import FIRST_REGION

Row = dict[str, Any]

_ENTITIES = ("user", "merchant")
_NAMED = ["caller", "transaction_id", "received_at", *(f"{entity}_id" for entity in _ENTITIES)]
_TIMES = [f"{entity}_effective_time" for entity in _ENTITIES]
_COUNTED = [*_TIMES, *(f"{entity}_counted_since" for entity in _ENTITIES)]
ATTEMPT = [*_NAMED, *_COUNTED, "region", "epoch"]
"""Columns of the inference log that say which attempt a decision was."""

Key = tuple[str, str, int]
"""One row of the training set: caller, transaction_id, and received_at in UTC microseconds."""


@dataclass
class OneSided:
    """Effective times of such attempts per region, entity and its epoch, ascending."""

    times: dict[tuple[str, str, str, int], list[int]] = field(default_factory=lambda: defaultdict(list))

    def touches(self, record: DecisionRecord) -> bool:
        """Whether one lies in what the decision's velocity looks back on, the longest window and the last attempt."""
        user = (record.region, "user", record.request.user_id, record.user_counted_since or 0)
        merchant = (record.region, "merchant", record.request.merchant_id, record.merchant_counted_since or 0)
        return self._within(user, record.user_effective_time) or self._within(merchant, record.merchant_effective_time)

    def _within(self, where: tuple[str, str, str, int], at: int) -> bool:
        times = self.times.get(where, [])
        position = bisect_right(times, at)
        return position > 0 and times[position - 1] > at - LIVE_HISTORY

    def add(self, row: Row) -> None:
        """Take one in. row: of the training set or of the log."""
        for entity in _ENTITIES:
            where = (row["region"] or FIRST_REGION, entity, row[f"{entity}_id"], row[f"{entity}_counted_since"] or 0)
            self.times[where].append(row[f"{entity}_effective_time"])


def find_one_sided(
    lake: Lake, day: date, epoch: str, attempts: Sequence[Row], catalogue: Catalogue = CATALOGUE
) -> OneSided:
    """The attempts that matter to decisions of `day` in one epoch of velocity.

    attempts: `plain` rows of ATTEMPT, the decisions of the day, of the WINDOW_LOOKBACK_DAYS before it and of the day
    after. What was warmed up when the epoch began is on both sides.
    """
    found, held = OneSided(), set()
    counted = {_key(row): row for row in attempts if row["epoch"] is not None}
    warmed = warmed_until(lake, epoch)
    for row in _training_rows(lake, day, catalogue):
        held.add(_key(row))
        served = counted.get(_key(row))
        if served is None:
            if warmed is None or row["transaction_date"] > warmed:
                found.add(row)
        elif served["epoch"] == epoch and any(served[time] != row[time] for time in _TIMES):
            found.add(row)
            found.add(served)
    for row in attempts:
        if row["epoch"] == epoch and _key(row) not in held:
            found.add(row)
    for times in found.times.values():
        times.sort()
    return found


def plain(rows: pa.Table) -> list[Row]:
    """Rows with received_at in UTC microseconds, which a float of seconds would not hold."""
    position = rows.schema.get_field_index("received_at")
    plainly: list[Row] = rows.set_column(position, "received_at", rows["received_at"].cast(pa.int64())).to_pylist()
    return plainly


def _key(row: Row) -> Key:
    return row["caller"], row["transaction_id"], row["received_at"]


def _training_rows(lake: Lake, day: date, catalogue: Catalogue) -> list[Row]:
    days = days_between(day - timedelta(days=WINDOW_LOOKBACK_DAYS), day)
    table, row_schema = tables_of(catalogue).training_set, training_schema(catalogue)
    wanted = pa.schema([row_schema.field(name) for name in [*_NAMED, *_COUNTED, "transaction_date", "region"]])
    return [
        row
        for each in days
        if lake.exists(table, each)
        for row in plain(with_callers(lake, conformed(lake.read(table, each), wanted)).select(wanted.names))
    ]
