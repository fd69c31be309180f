"""Payments that the service decided, as transactions: what was decided is also what happened.

What belongs here: how a day of the inference log joins a source's transactions. What does not: carrying decisions into
the lake (`inference_log`), checking and converting rows (`standardize`).

A payment belongs to the UTC day of its received_at and keeps what the service settled of it: received_at, amount in the
base currency and the effective times that velocity assigned. Every attempt counts, blocked ones too. Where the source
has the payment as well, the same transaction_id of the same user at the same merchant on that day or the day after the
decision, the decision's row counts and the source's copy is left out.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from fraud_platform.inference_log.record import DecisionRecord
from fraud_platform.inference_log.table import LogTable
from fraud_platform.ingest.source import Source
from fraud_platform.ingest.standardize import COPIES, DECIDED
from fraud_platform.schema import EXPORT

_IDENTITY = ["transaction_id", "user_id", "merchant_id"]
_ROW = pa.schema([*EXPORT, *DECIDED])
_OF_REQUEST = [name for name in EXPORT.names if name != "received_at"]


def decided_rows(records: Iterable[DecisionRecord]) -> pa.Table:
    """Decisions as EXPORT rows with DECIDED's columns, in their order.

    Effective times are null where the decision was made without Redis: velocity counted it later, when nobody knows.
    """
    return pa.Table.from_pylist([_row(record) for record in records], _ROW)


def _row(record: DecisionRecord) -> dict[str, object]:
    counted = record.epoch is not None
    return {
        **{name: getattr(record.request, name) for name in _OF_REQUEST},
        "received_at": record.received_at,
        "decision_id": record.decision_id,
        "decided_amount": record.amount,
        "user_effective_time": record.user_effective_time if counted else None,
        "merchant_effective_time": record.merchant_effective_time if counted else None,
        "region": record.region or None,
        "user_counted_since": record.user_counted_since if counted else None,
        "merchant_counted_since": record.merchant_counted_since if counted else None,
    }


@dataclass(frozen=True)
class WithDecisions:
    """A source whose transactions are joined by what the service decided; everything else is the source's own."""

    source: Source
    log: LogTable

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
        """Per day the source's rows that no decision stands for, then the decisions'; COPIES says what was left out."""
        decided_on = set(self.log.days())
        for day, rows in self.source.transactions(days):
            before, today = (each if each in decided_on else None for each in (day - timedelta(days=1), day))
            yield day, self._joined(rows, before, today)

    def _joined(self, rows: pa.Table, before: date | None, today: date | None) -> pa.Table:
        known = [self.log.read(each, _IDENTITY) for each in (before, today) if each is not None]
        if not known:
            return rows
        kept = rows.filter(pc.invert(_among(rows, pa.concat_tables(known))))
        decided = decided_rows(() if today is None else self.log.records(today))
        joined = pa.concat_tables([kept, decided], promote_options="default")
        return joined.replace_schema_metadata({COPIES: str(rows.num_rows - kept.num_rows)})

    def labels(self, days: Sequence[date]) -> Iterator[tuple[date, pa.Table]]:
        """The source's."""
        return self.source.labels(days)

    def rates(self, day: date) -> pa.Table:
        """The source's."""
        return self.source.rates(day)


def _among(rows: pa.Table, decided: pa.Table) -> pa.Array:
    """Which rows are of a payment that was decided; a row without all three identifiers is of none."""
    identities = set(zip(*(decided[name].to_pylist() for name in _IDENTITY), strict=True))
    told = zip(*(rows[name].to_pylist() for name in _IDENTITY), strict=True)
    return pa.array([each in identities for each in told], pa.bool_())
