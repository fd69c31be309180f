"""Payments that the service decided, as transactions: what was decided is also what happened.

What belongs here: how a day of the inference log joins a source's transactions. What does not: carrying decisions into
the lake (`inference_log`), checking and converting rows (`standardize`), which row of a payment counts (`processing`).

A payment belongs to the UTC day of its received_at and keeps what the service settled of it: received_at, amount in the
base currency and the effective times that velocity assigned. Every attempt counts, blocked ones too.

A source's row and a decision with the same caller and transaction_id are the same payment, whichever came first, and
the decision's row is the one that counts. The source's row is a copy and is left out where it lies on the decision's
day or the day after, at the same user and merchant. A row of another user or merchant under the identity is a conflict,
not a copy: it stays, as a duplicate. So does a row of the day before that was received less than 24 hours before the
decision: a day may have been built, and its rows counted by snapshots, before anybody decided.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from fraud_platform.callers import DEFAULT_CALLER
from fraud_platform.inference_log.record import DecisionRecord
from fraud_platform.inference_log.table import LogTable
from fraud_platform.ingest.source import Source
from fraud_platform.ingest.standardize import CALLER, COPIES, DECIDED, STANDS_ELSEWHERE
from fraud_platform.processing import Bools, decided_later, identities
from fraud_platform.schema import EXPORT, UNLABELLED

_COPY = ["caller", "transaction_id", "user_id", "merchant_id"]
_ROW = pa.schema([*EXPORT, CALLER, *DECIDED])
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
        "caller": record.caller,
        "channel": record.read_channel,
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
        """Per day the source's rows but for copies, then the decisions'; COPIES says what was left out."""
        decided_on = set(self.log.days())
        for day, rows in self.source.transactions(days):
            around = [day + timedelta(days=n) for n in (-1, 0, 1)]
            yield day, self._joined(rows, *(each if each in decided_on else None for each in around))

    def _joined(self, rows: pa.Table, before: date | None, today: date | None, after: date | None) -> pa.Table:
        if before is today is after is None:
            return rows
        rows = _with_caller(rows)
        known = [self.log.read(each, _COPY) for each in (before, today) if each is not None]
        kept = rows.filter(pc.invert(_among(rows, pa.concat_tables(known)))) if known else rows
        if after is not None:
            kept = kept.append_column(STANDS_ELSEWHERE, pa.array(_decided_on(self.log, after, kept)))
        decided = decided_rows(() if today is None else self.log.records(today))
        joined = pa.concat_tables([kept, decided], promote_options="default")
        return joined.replace_schema_metadata({COPIES: str(rows.num_rows - kept.num_rows)})

    def labels(self, days: Sequence[date]) -> Iterator[tuple[date, pa.Table]]:
        """The source's; one of a copy that lies a day beside the decision bears the decision's day, where the payment
        is. That a copy is unlabelled is not said of a later day: nothing is known of a payment before it was received,
        and the silence on that decision counts as on any other.

        A label that arrived on the day before the decision speaks of the copy there, and arrives again as the
        decision's day begins: no label is older than its payment.
        """
        wanted, decided_on = set(days), set(self.log.days())
        first = self.first_day()
        read = sorted(wanted | {day - timedelta(days=1) for day in wanted if day in decided_on and day > first})
        before: tuple[date, pa.Table] | None = None
        for day, labels in self.source.labels(read):
            if day in wanted:
                told = self._of_payments(labels, decided_on, day)
                if day in decided_on and before is not None and before[0] == day - timedelta(days=1):
                    told = pa.concat_tables([told, self._awaited(before[1], decided_on, day)])
                yield day, told
            before = day, labels

    def _awaited(self, labels: pa.Table, decided_on: set[date], day: date) -> pa.Table:
        """The day before's labels on payments that were decided on `day`, as they arrive then."""
        dated = self._of_payments(labels, decided_on, day)
        early = dated.filter(pc.equal(dated["transaction_date"], pa.scalar(day)))
        field = early.schema.field("arrived_at")
        midnight = pa.repeat(pa.scalar(datetime(day.year, day.month, day.day, tzinfo=UTC), field.type), early.num_rows)
        return early.set_column(early.schema.get_field_index(field.name), field, midnight)

    def _of_payments(self, labels: pa.Table, decided_on: set[date], last: date) -> pa.Table:
        """The labels, each with the day on which its payment was decided, where that is no later than `last`."""
        dates: list[date] = labels["transaction_date"].to_pylist()
        around = {each + timedelta(days=n) for each in set(dates) for n in (-1, 0, 1)}
        near = {each for each in around & decided_on if each <= last}
        names = pc.unique(labels["transaction_id"])
        decided = {(*key, day) for day in near for key in self.log.decided_among(day, names)}
        told = zip(_with_caller(labels)["caller"].to_pylist(), labels["transaction_id"].to_pylist(), strict=True)
        near_days = [(0, -1) if state == UNLABELLED else (0, -1, 1) for state in labels["state"].to_pylist()]
        moved = [
            next((on for n in days if (*key, on := at + timedelta(days=n)) in decided), at)
            for key, at, days in zip(told, dates, near_days, strict=True)
        ]
        if moved == dates:
            return labels
        field = labels.schema.field("transaction_date")
        return labels.set_column(labels.schema.get_field_index(field.name), field, pa.array(moved, field.type))

    def rates(self, day: date) -> pa.Table:
        """The source's."""
        return self.source.rates(day)


def _among(rows: pa.Table, decided: pa.Table) -> pa.Array:
    """Which rows are copies of decisions; a row without all its identifiers is none."""
    known = set(zip(*(decided[name].to_pylist() for name in _COPY), strict=True))
    told = zip(*(rows[name].to_pylist() for name in _COPY), strict=True)
    return pa.array([each in known for each in told], pa.bool_())


def _decided_on(log: LogTable, day: date, rows: pa.Table) -> Bools:
    """Which of a source's rows were decided on a later day, within 24 hours."""
    decided = log.read(day, ["caller", "transaction_id", "received_at"])
    received = pc.fill_null(pc.coalesce(rows["received_at"], rows["timestamp"]).cast(pa.int64()), 0)
    at = decided["received_at"].cast(pa.int64())
    return decided_later(identities(rows), received.to_numpy(), identities(decided), at.to_numpy())


def _with_caller(rows: pa.Table) -> pa.Table:
    """A source's rows with CALLER, null nowhere."""
    if CALLER.name not in rows.column_names:
        return rows.append_column(CALLER, pa.repeat(DEFAULT_CALLER, rows.num_rows))
    position = rows.schema.get_field_index(CALLER.name)
    return rows.set_column(position, CALLER, pc.fill_null(rows[CALLER.name], DEFAULT_CALLER))
