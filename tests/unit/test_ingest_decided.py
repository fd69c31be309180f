"""Decisions among a source's transactions: what joins, what is left out, in which order velocity had counted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from fraud_platform import schema
from fraud_platform.features import tables
from fraud_platform.features.offline import open_engine
from fraud_platform.features.sequence import counted_order, sequence
from fraud_platform.inference_log.record import DecisionRecord
from fraud_platform.inference_log.table import LogTable
from fraud_platform.ingest.decided import WithDecisions
from fraud_platform.ingest.steps import ingest_transactions
from fraud_platform.lake import Lake
from fraud_platform.quality import every_decision_is_a_transaction
from fraud_platform.settings import Settings
from tests.monitoring_kit import log_decisions
from tests.record_kit import DAY, MIDNIGHT, record

HOUR = 3_600_000_000
NEXT = DAY + timedelta(days=1)


@dataclass(frozen=True)
class Export:
    """A source of given rows: (transaction, user, received in microseconds)."""

    rows: tuple[tuple[str, str, int], ...] = ()
    name: str = "export"

    def first_day(self) -> date:
        return DAY

    def last_day(self) -> date | None:
        return None

    def transactions(self, days: Sequence[date]) -> Iterator[tuple[date, pa.Table]]:
        for day in days:
            start = MIDNIGHT + (day - DAY).days * 24 * HOUR
            mine = [row for row in self.rows if start <= row[2] < start + 24 * HOUR]
            plain = [
                {"transaction_id": name, "user_id": user, "merchant_id": "m-1", "amount_minor": 9_999,
                 "currency": "EUR", "timestamp": at, "received_at": at, "country": "DE"}
                for name, user, at in mine
            ]  # fmt: skip
            yield day, pa.Table.from_pylist(plain, schema.EXPORT)

    def labels(self, days: Sequence[date]) -> Iterator[tuple[date, pa.Table]]:
        yield from ((day, schema.LABELS.empty_table()) for day in days)

    def rates(self, day: date) -> pa.Table:
        return pa.table({"currency": ["USD"], "rate_e9": [2_000_000_000]}, schema.RATES)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def decision(name: str, at: int, number: int, **changes: Any) -> DecisionRecord:
    plain = record(name, decision_id=f"{number:032x}", received_at=at, event_time=at, epoch="e", **changes)
    request = msgspec.structs.replace(plain.request, timestamp=at)
    return msgspec.structs.replace(
        plain, request=request, user_effective_time=at, merchant_effective_time=at,
        user_counted_since=0, merchant_counted_since=0,
    )  # fmt: skip


def ingested(lake: Lake, export: Export, *days: date) -> list[dict[str, Any]]:
    ingest_transactions(lake, WithDecisions(export, LogTable(lake)), days, "EUR")
    return [row for day in days for row in lake.read(tables.RAW_TRANSACTIONS, day).to_pylist()]


def test_a_day_without_decisions_is_the_sources(lake: Lake) -> None:
    export = Export((("t-1", "u-1", MIDNIGHT + HOUR),))
    (row,) = ingested(lake, export, DAY)
    assert (row["amount"], row["decision_id"], row["user_effective_time"]) == (9_999, None, None)
    assert every_decision_is_a_transaction(lake, [DAY]).passed


def test_the_decision_counts_and_the_copy_is_left_out_on_its_day_and_the_next(lake: Lake) -> None:
    log_decisions(lake, [decision("t-1", MIDNIGHT + HOUR, 1), decision("t-2", MIDNIGHT + 23 * HOUR, 2)])
    export = Export(
        (("t-1", "u-1", MIDNIGHT + HOUR + 7), ("t-2", "u-1", MIDNIGHT + 25 * HOUR), ("t-1", "u-2", MIDNIGHT + 2 * HOUR),
         ("own", "u-1", MIDNIGHT + 26 * HOUR))
    )  # fmt: skip
    source = WithDecisions(export, LogTable(lake))
    first, second = ingest_transactions(lake, source, [DAY, NEXT], "EUR")
    assert (first.accepted, first.decided, first.copies) == (3, 2, 1)
    assert (second.accepted, second.decided, second.copies) == (1, 0, 1)
    rows = lake.read(tables.RAW_TRANSACTIONS, DAY).to_pylist()
    told = [(row["transaction_id"], row["user_id"], row["amount"], row["is_duplicate"]) for row in rows]
    # another user's payment of the same id is no copy; it repeats an id, as before
    assert told == [("t-1", "u-1", 4_250, False), ("t-1", "u-2", 9_999, True), ("t-2", "u-1", 4_250, False)]


def test_a_decision_keeps_its_amount_and_what_velocity_assigned(lake: Lake) -> None:
    served = decision("t-1", MIDNIGHT + HOUR, 1, amount=777, decision="block", reason="score_above_threshold")
    request = msgspec.structs.replace(served.request, currency="USD")
    late = msgspec.structs.replace(decision("t-2", MIDNIGHT + 2 * HOUR, 2), epoch=None)
    log_decisions(lake, [msgspec.structs.replace(served, request=request, user_effective_time=5), late])
    blocked, degraded = ingested(lake, Export(), DAY)
    assert (blocked["amount_minor"], blocked["amount"]) == (4_250, 777), "at the rates of then, not of the day: 8,500"
    assert (blocked["user_effective_time"], blocked["decision_id"]) == (5, f"{1:032x}")
    assert (degraded["user_effective_time"], degraded["merchant_effective_time"]) == (None, None)
    assert degraded["decision_id"] == f"{2:032x}"


def test_a_decision_that_came_after_its_day_was_built_is_missed(lake: Lake) -> None:
    log_decisions(lake, [decision("t-1", MIDNIGHT + HOUR, 1)])
    ingested(lake, Export(), DAY)
    assert every_decision_is_a_transaction(lake, [DAY]).passed
    log_decisions(lake, [decision("t-2", MIDNIGHT + HOUR, 2)])
    finding = every_decision_is_a_transaction(lake, [DAY])
    assert not finding.passed
    assert "1 of 2 decisions" in str(finding.facts)
    ingested(lake, Export(), DAY)
    assert every_decision_is_a_transaction(lake, [DAY]).passed


def test_what_velocity_assigned_stands_and_orders(lake: Lake, tmp_path: Path) -> None:
    at = MIDNIGHT + HOUR
    # received first and counted second, by another worker; then one that only the source has, with an older clock
    one, two = decision("b", at, 1), decision("a", at + 10, 2)
    two = msgspec.structs.replace(two, user_effective_time=at + 10, merchant_effective_time=at + 10)
    one = msgspec.structs.replace(one, user_effective_time=at + 11, merchant_effective_time=at + 11)
    log_decisions(lake, [one, two])
    ingested(lake, Export((("c", "u-1", at + 11),)), DAY)
    rows = lake.read(tables.RAW_TRANSACTIONS, DAY)
    assert rows["transaction_id"].to_pylist() == ["b", "a", "c"]
    assert counted_order(rows)["transaction_id"].to_pylist() == ["a", "b", "c"]
    engine = open_engine(Settings(home=tmp_path), lake)
    raw = engine.daily(tables.RAW_TRANSACTIONS, [DAY], schema.RAW_TRANSACTIONS)
    frame = engine.run(sequence(raw, "user")).to_pylist()
    assert {row["transaction_id"]: row["user_effective_time"] - at for row in frame} == {"a": 10, "b": 11, "c": 13}


def test_partitions_older_than_the_columns_are_read(lake: Lake, tmp_path: Path) -> None:
    ingested(lake, Export((("t-1", "u-1", MIDNIGHT + HOUR),)), DAY)
    young = ["decision_id", "user_effective_time", "merchant_effective_time"]
    lake.write(tables.RAW_TRANSACTIONS, DAY, lake.read(tables.RAW_TRANSACTIONS, DAY).drop_columns(young))
    engine = open_engine(Settings(home=tmp_path), lake)
    days = [DAY]
    raw = engine.daily(tables.RAW_TRANSACTIONS, days, schema.RAW_TRANSACTIONS)
    assert engine.run(sequence(raw, "user"))["user_effective_time"].to_pylist() == [MIDNIGHT + HOUR]
    # beside a younger one
    ingested(lake, Export((("t-2", "u-1", MIDNIGHT + 25 * HOUR),)), NEXT)
    raw = engine.daily(tables.RAW_TRANSACTIONS, [DAY, NEXT], schema.RAW_TRANSACTIONS)
    assert len(engine.run(sequence(raw, "user"))) == 2
