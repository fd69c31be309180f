"""Decisions among a source's transactions: what joins, what is left out, in which order velocity had counted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from fraud_platform import schema
from fraud_platform.currency import MAX_MINOR, Rates
from fraud_platform.features import tables
from fraud_platform.features.in_force import spans
from fraud_platform.features.offline import open_engine
from fraud_platform.features.sequence import counted_order, sequence
from fraud_platform.features.snapshots import write_medians, write_merchant_features, write_user_features
from fraud_platform.features.tiles import write_label_tiles, write_merchant_tiles, write_user_tiles
from fraud_platform.features.training_set import write_training_set
from fraud_platform.inference_log.callers import with_callers
from fraud_platform.inference_log.record import DecisionRecord
from fraud_platform.inference_log.table import LogTable
from fraud_platform.ingest.decided import WithDecisions
from fraud_platform.ingest.steps import ingest_transactions
from fraud_platform.lake import Lake
from fraud_platform.monitoring.skew import offline_vectors
from fraud_platform.online.warm import attempts
from fraud_platform.quality import every_decision_is_a_transaction, exported_rows_have_their_caller
from fraud_platform.settings import Settings
from tests.monitoring_kit import log_decisions
from tests.record_kit import DAY, MIDNIGHT, record

HOUR = 3_600_000_000
NEXT = DAY + timedelta(days=1)


@dataclass(frozen=True)
class Export:
    """A source of given rows: (transaction, user, received in microseconds)."""

    rows: tuple[tuple[str, str, int], ...] = ()
    caller: str | None = None
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
            export = pa.Table.from_pylist(plain, schema.EXPORT)
            if self.caller is not None:
                export = export.append_column("caller", pa.repeat(self.caller, export.num_rows))
            yield day, export

    def labels(self, days: Sequence[date]) -> Iterator[tuple[date, pa.Table]]:
        """Each row's, a day after it."""
        for day in days:
            ((before, rows),) = self.transactions([day - timedelta(days=1)])
            count = rows.num_rows
            plain = {
                "transaction_id": rows["transaction_id"].to_pylist(), "caller": [self.caller or "default"] * count,
                "transaction_date": [before] * count, "arrived_at": [MIDNIGHT] * count, "source": ["import"] * count,
                "revision": [1] * count, "state": ["confirmed"] * count,
            }  # fmt: skip
            yield day, pa.table([pa.array(plain[f.name], f.type) for f in schema.LABELS], schema.LABELS)

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
    found = [(row["transaction_id"], row["user_id"], row["amount"], row["is_duplicate"]) for row in rows]
    # another user's payment of the same id is no copy; it is marked
    assert found == [("t-1", "u-1", 4_250, False), ("t-1", "u-2", 9_999, True), ("t-2", "u-1", 4_250, False)]


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


def file_of(lake: Lake, day: date) -> bytes:
    return Path(lake.path(tables.RAW_TRANSACTIONS, day)).read_bytes()


def told(lake: Lake, *days: date) -> list[tuple[str, str, str | None, bool]]:
    return [
        (row["transaction_id"], row["caller"], row["decision_id"] and row["decision_id"][-1], row["is_duplicate"])
        for day in days
        for row in lake.read(tables.RAW_TRANSACTIONS, day).to_pylist()
    ]


def test_callers_that_use_one_id_have_a_payment_each(lake: Lake) -> None:
    at = MIDNIGHT + HOUR
    log_decisions(lake, [decision("t-1", at, 1, caller="b"), decision("t-1", at, 2, caller="a")])
    log_decisions(lake, [decision("t-1", at + 23 * HOUR, 3, caller="b")])
    ingested(lake, Export((("t-1", "u-1", at + 7), ("t-1", "u-1", at + 8))), DAY, NEXT)
    assert told(lake, DAY) == [
        ("t-1", "a", "2", False), ("t-1", "b", "1", False), ("t-1", "default", None, False),
        ("t-1", "default", None, True),
    ]  # fmt: skip
    assert told(lake, NEXT) == [("t-1", "b", "3", True)], "the first of a caller's decisions within 24 hours stands"


@pytest.mark.parametrize("caller", [None, "acme"])
@pytest.mark.parametrize("ahead", [1, -1], ids=["export first", "decision first"])
def test_an_exported_row_and_a_decision_of_a_day_are_one_payment(lake: Lake, ahead: int, caller: str | None) -> None:
    at = MIDNIGHT + 5 * HOUR
    log_decisions(lake, [decision("t-1", at, 1, caller=caller or "default"), decision("t-1", at, 2, caller="another")])
    ingested(lake, Export((("t-1", "u-1", at - ahead * HOUR),), caller=caller), DAY)
    decided = [("t-1", "another", "2", False), ("t-1", caller or "default", "1", False)]
    assert told(lake, DAY) == sorted(decided, key=lambda row: row[1])


def test_a_row_that_was_built_before_it_was_decided_is_the_decisions_payment(lake: Lake) -> None:
    at = MIDNIGHT + 20 * HOUR
    export = Export(
        (("t-1", "u-1", at), ("old", "u-1", at - 18 * HOUR), ("own", "u-1", at + 1), ("t-1", "u-1", at + 2))
    )
    ingested(lake, export, DAY)
    assert told(lake, DAY)[1:] == [("t-1", "default", None, False), ("own", "default", None, False),
                                   ("t-1", "default", None, True)]  # fmt: skip
    log_decisions(lake, [decision("t-1", at + 15 * HOUR, 1), decision("own", at + 15 * HOUR, 2, caller="another"),
                         decision("old", at + 6 * HOUR, 3)])  # fmt: skip
    (report,) = ingest_transactions(lake, WithDecisions(export, LogTable(lake)), [NEXT], "EUR")
    assert (report.decided, report.marked_before) == (3, 1)
    assert told(lake, DAY, NEXT) == [
        # exactly 24 hours later an id is another payment's
        ("old", "default", None, False), ("t-1", "default", None, True), ("own", "default", None, False),
        ("t-1", "default", None, True),
        ("old", "default", "3", False), ("own", "another", "2", False), ("t-1", "default", "1", False),
    ]  # fmt: skip
    first, second = (file_of(lake, day) for day in (DAY, NEXT))
    for days in ([DAY], [NEXT], [DAY, NEXT]):
        ingested(lake, export, *days)
        assert (file_of(lake, DAY), file_of(lake, NEXT)) == (first, second)


def test_another_users_row_under_a_decided_identity_is_a_conflict_and_no_payment(lake: Lake) -> None:
    at = MIDNIGHT + 20 * HOUR
    export = Export((("t-1", "u-2", at), ("t-2", "u-2", at + 6 * HOUR)))
    ingested(lake, export, DAY)
    log_decisions(lake, [decision("t-1", at + 7 * HOUR, 1), decision("t-2", at + 7 * HOUR, 2)])
    ingested(lake, export, NEXT)
    assert told(lake, DAY) == [("t-1", "default", None, True)]
    assert told(lake, NEXT) == [
        ("t-2", "default", None, True), ("t-1", "default", "1", False), ("t-2", "default", "2", False),
    ]  # fmt: skip
    assert every_decision_is_a_transaction(lake, [NEXT]).passed


def test_tables_of_the_day_before_follow_and_the_snapshot_that_served_stays(lake: Lake, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    at = MIDNIGHT + 20 * HOUR
    export = Export((("t-1", "u-1", at), ("own", "u-1", at + 5)))
    stages = [
        lambda days: write_user_tiles(settings, lake, days),
        lambda days: write_merchant_tiles(settings, lake, days),
        lambda days: lake.write(tables.FRAUD_LABELS, days[-1], schema.LABELS.empty_table()),
        lambda days: write_label_tiles(settings, lake, days),
        lambda days: write_user_features(settings, lake, days),
        lambda days: write_merchant_features(settings, lake, days),
        lambda days: write_medians(lake, days),
        lambda days: write_training_set(settings, lake, days, *[spans([DAY, NEXT], [], 2)] * 2),
    ]
    ingested(lake, export, DAY)
    for stage in stages:
        stage([DAY])
    served = lake.read(tables.USER_FEATURES, DAY)
    assert served["user_txn_count_1d"].to_pylist() == [2.0]
    log_decisions(lake, [decision("t-1", at + 15 * HOUR, 1)])
    ingested(lake, export, NEXT)
    for stage in stages:
        stage([NEXT])
    for tile in (tables.USER_TILES, tables.MERCHANT_TILES):
        assert [lake.read(tile, day)["txn_count"].to_pylist() for day in (DAY, NEXT)] == [[1], [1]]
    rows = [row for day in (DAY, NEXT) for row in lake.read(tables.TRAINING_SET, day).to_pylist()]
    assert [(row["transaction_id"], row["user_txn_count_24h"]) for row in rows] == [("own", 1.0), ("t-1", 2.0)]
    assert lake.read(tables.USER_FEATURES, NEXT)["user_txn_count_30d"].to_pylist() == [2.0], "each payment once"
    assert lake.read(tables.USER_FEATURES, DAY).equals(served)


def test_a_partition_older_than_callers_is_read_as_whose_it_was(lake: Lake, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    at = MIDNIGHT + 20 * HOUR
    late = {"caller": "bank", "region": "west"}
    log_decisions(lake, [decision("t-1", at, 1, caller="bank"), decision("t-3", at + 9, 9, **late)])
    ingested(lake, Export((("t-2", "u-1", at), ("t-1", "u-1", at + 1))), DAY)
    spanned = [spans([DAY], [], 2)] * 2
    write_training_set(settings, lake, [DAY], *spanned)
    now = {table: lake.read(table, DAY) for table in (tables.RAW_TRANSACTIONS, tables.TRAINING_SET)}
    for table, rows in now.items():
        lake.write(table, DAY, rows.drop_columns(["caller"]))
    old = lake.read(tables.RAW_TRANSACTIONS, DAY, ["caller", "transaction_id", "received_at"])
    assert old.column_names == ["transaction_id", "received_at"]
    for table, rows in now.items():
        assert with_callers(lake, lake.read(table, DAY))["caller"].to_pylist() == rows["caller"].to_pylist()
    assert set(offline_vectors(lake, DAY)) == {
        ("bank", "t-1", at), ("default", "t-1", at + 1), ("default", "t-2", at), ("bank", "t-3", at + 9),
    }  # fmt: skip
    # the day after finds its repeats by caller, and rebuilding the training set names them again
    ingested(lake, Export((("t-1", "u-1", at + 5 * HOUR), ("t-2", "u-1", at + 5 * HOUR)), caller="bank"), NEXT)
    assert told(lake, NEXT) == [("t-2", "bank", None, False)], "the other was decided the day before"
    write_training_set(settings, lake, [DAY], *spanned)
    assert lake.read(tables.TRAINING_SET, DAY)["caller"].to_pylist() == now[tables.TRAINING_SET]["caller"].to_pylist()
    both = with_callers(lake, lake.read_days(tables.RAW_TRANSACTIONS, [DAY, NEXT]))
    assert both["caller"].to_pylist() == [*now[tables.RAW_TRANSACTIONS]["caller"].to_pylist(), "bank"]
    assert attempts(settings, lake, NEXT)["caller"].to_pylist() == ["bank", "default", "default", "bank"]


def test_a_mapping_that_names_the_wrong_caller_is_warned_of(lake: Lake) -> None:
    at = MIDNIGHT + 5 * HOUR
    log_decisions(lake, [decision("t-1", at, 1, caller="acme"), decision("t-2", at, 2, caller="acme")])
    # another user's payment under a caller's id is no sign of anything
    rows = (("t-1", "u-1", at), ("t-2", "u-2", at), ("own", "u-1", at))
    ingested(lake, Export(rows), DAY)
    finding = exported_rows_have_their_caller(lake, [DAY])
    assert (finding.passed, finding.severity) == (False, "warn")
    assert finding.facts["examples"] == {DAY.isoformat(): {"decided for acme": 1}}
    ingested(lake, Export(rows, caller="acme"), DAY)
    assert exported_rows_have_their_caller(lake, [DAY]).passed


def test_a_label_of_a_copy_is_of_the_day_of_its_decision(lake: Lake) -> None:
    at = MIDNIGHT + 20 * HOUR
    after = NEXT + timedelta(days=1)
    log_decisions(lake, [decision("early", at + 15 * HOUR, 1), decision("late", at, 2), decision("same", at, 3),
                         decision("theirs", at + 15 * HOUR, 4, caller="another")])  # fmt: skip
    # one that does not stand, first told and then marked
    log_decisions(lake, [decision("marked", at + 15 * HOUR, 5)])
    log_decisions(lake, [decision("marked", at + 15 * HOUR, 5, superseded_by="f" * 32)])
    rows = (
        ("early", "u-1", at), ("same", "u-1", at), ("theirs", "u-1", at), ("marked", "u-1", at),
        ("late", "u-1", at + 10 * HOUR),
    )  # fmt: skip
    source = WithDecisions(Export(rows), LogTable(lake))
    dated = [
        (row["transaction_id"], row["transaction_date"])
        for _, labels in source.labels([NEXT, after])
        for row in labels.to_pylist()
    ]
    assert dated == [("early", NEXT), ("same", DAY), ("theirs", DAY), ("marked", DAY), ("late", DAY)]
    ingest_transactions(lake, source, [DAY, NEXT], "EUR")
    counted = {
        (row["transaction_id"], row["caller"]): day
        for day in (DAY, NEXT)
        for row in lake.read(tables.RAW_TRANSACTIONS, day).to_pylist()
        if not row["is_duplicate"]
    }
    assert all(counted[name, "default"] == day for name, day in dated), "where its payment is"


@dataclass(frozen=True)
class Silent(Export):
    """Rows of which silence means nothing: each is unlabelled from its receipt on."""

    def labels(self, days: Sequence[date]) -> Iterator[tuple[date, pa.Table]]:
        for day, rows in self.transactions(days):
            said = [
                {"transaction_id": name, "caller": "default", "transaction_date": day, "arrived_at": at,
                 "source": "import", "revision": 1, "state": schema.UNLABELLED}
                for name, at in zip(rows["transaction_id"].to_pylist(), rows["received_at"].to_pylist(), strict=True)
            ]  # fmt: skip
            yield day, pa.Table.from_pylist(said, schema.LABELS)


def test_silence_on_a_copy_is_of_its_decision_and_of_no_later_day(lake: Lake) -> None:
    at = MIDNIGHT + 20 * HOUR
    log_decisions(lake, [decision("same", at, 1), decision("before", at, 2), decision("after", at + 15 * HOUR, 3)])
    rows = (("same", "u-1", at), ("after", "u-1", at), ("before", "u-1", at + 10 * HOUR), ("alone", "u-1", at))
    dated = {
        row["transaction_id"]: (day, row["transaction_date"])
        for day, labels in WithDecisions(Silent(rows), LogTable(lake)).labels([DAY, NEXT])
        for row in labels.to_pylist()
    }
    assert dated == {"same": (DAY, DAY), "after": (DAY, DAY), "before": (NEXT, DAY), "alone": (DAY, DAY)}


def test_a_label_is_never_older_than_its_payment_and_is_not_lost_for_it(lake: Lake) -> None:
    at = MIDNIGHT + 20 * HOUR

    class AtOnce(Export):
        """Each row's label arrives with it."""

        def labels(self, days: Sequence[date]) -> Iterator[tuple[date, pa.Table]]:
            for day, labels in Export.labels(self, [day + timedelta(days=1) for day in days]):
                yield day - timedelta(days=1), labels

    source = WithDecisions(AtOnce((("t-1", "u-1", at), ("other", "u-1", at))), LogTable(lake))
    log_decisions(lake, [decision("t-1", at + 5 * HOUR, 1)])

    def dated(*days: date) -> list[tuple[date, str, date, datetime]]:
        return [
            (day, row["transaction_id"], row["transaction_date"], row["arrived_at"])
            for day, labels in source.labels(days)
            for row in labels.to_pylist()
        ]

    midnight = datetime.combine(NEXT, time(), UTC)
    of_day = [(DAY, name, DAY, datetime.combine(DAY, time(), UTC)) for name in ("t-1", "other")]
    of_next = [(NEXT, "t-1", NEXT, midnight)]
    assert dated(DAY, NEXT) == of_day + of_next
    assert (dated(DAY), dated(NEXT)) == (of_day, of_next), "whatever days are built together"


def test_an_amount_that_was_taken_is_not_too_large_at_the_nights_rates(lake: Lake) -> None:
    largest = Rates("EUR", {"USD": 1_900_000_000}).largest("USD")
    plain = decision("t-1", MIDNIGHT + HOUR, 1, amount=MAX_MINOR)
    request = msgspec.structs.replace(plain.request, currency="USD", amount_minor=largest)
    log_decisions(lake, [msgspec.structs.replace(plain, request=request)])
    (row,) = ingested(lake, Export(), DAY)
    assert (row["amount"], row["amount_minor"]) == (MAX_MINOR, largest)
    assert lake.size(tables.QUARANTINE, DAY)[0] == 0


def test_a_payment_that_became_a_duplicate_is_no_fraud_of_its_merchant(lake: Lake, tmp_path: Path) -> None:
    settings, at = Settings(home=tmp_path), MIDNIGHT + 20 * HOUR
    export = Export((("t-1", "u-1", at),))
    label = {
        "transaction_id": "t-1", "caller": "default", "transaction_date": DAY, "arrived_at": at, "source": "customer",
        "revision": 1, "state": "confirmed",
    }  # fmt: skip
    lake.write(tables.FRAUD_LABELS, DAY, pa.Table.from_pylist([label], schema.LABELS))
    lake.write(tables.FRAUD_LABELS, NEXT, schema.LABELS.empty_table())

    def night(day: date) -> None:
        ingested(lake, export, day)
        write_merchant_tiles(settings, lake, [day])
        write_label_tiles(settings, lake, [day])

    night(DAY)
    assert lake.read(tables.LABEL_TILES, DAY)["fraud_delta"].to_pylist() == [1]
    # the decision comes after the night in which the copy was labelled and counted
    log_decisions(lake, [decision("t-1", at + 5 * HOUR, 1)])
    night(NEXT)
    assert lake.size(tables.MERCHANT_TILES, DAY)[0] == 0
    assert lake.size(tables.LABEL_TILES, DAY)[0] == 0
