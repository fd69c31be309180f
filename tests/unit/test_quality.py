"""Each quality rule passes on a good day and fails on a day that breaks it."""

from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from fraud_platform import schema
from fraud_platform.features import tables
from fraud_platform.ingest.steps import ingest_transactions
from fraud_platform.lake import Lake, days_between
from fraud_platform.quality import Finding, evaluate, every_transaction_has_a_row, quarantine_share
from fraud_platform.settings import Settings
from fraud_platform.simulator.bank import SimulatedBank

DAY = date(2026, 3, 10)
RAW = tables.RAW_TRANSACTIONS


@pytest.fixture
def bank(tmp_path: Path) -> tuple[Settings, Lake]:
    """Five good days of a small simulated bank."""
    settings = Settings(home=tmp_path)
    lake = Lake(settings.lake)
    first = DAY - timedelta(days=4)
    source = SimulatedBank(
        seed=1, first_day=first, users=200, merchants=40, transactions_per_day=300, base_currency="EUR"
    )
    ingest_transactions(lake, source, days_between(first, DAY), "EUR")
    return settings, lake


def findings(bank: tuple[Settings, Lake], day: date = DAY) -> dict[str, Finding]:
    settings, lake = bank
    return {finding.rule: finding for finding in evaluate(settings, lake, RAW, [day], day)}


def failed(bank: tuple[Settings, Lake]) -> set[str]:
    return {rule for rule, finding in findings(bank).items() if not finding.passed}


def rewrite(bank: tuple[Settings, Lake], change: str, values: pa.Array | pa.ChunkedArray) -> None:
    rows = bank[1].read(RAW, DAY)
    position = rows.schema.get_field_index(change)
    bank[1].write(RAW, DAY, rows.set_column(position, rows.schema.field(position), values))


def test_a_good_day_passes_every_rule(bank: tuple[Settings, Lake]) -> None:
    assert {rule: f.passed for rule, f in findings(bank).items()} == dict.fromkeys(
        ("schema", "nulls", "duplicates", "ranges", "row_count", "freshness"), True
    )


def test_an_amount_below_zero_breaks_ranges(bank: tuple[Settings, Lake]) -> None:
    rewrite(bank, "amount", pc.negate(bank[1].read(RAW, DAY).column("amount")))
    assert failed(bank) == {"ranges"}
    assert "amount >= 0" in str(findings(bank)["ranges"].facts)


def test_a_counted_transaction_twice_breaks_duplicates(bank: tuple[Settings, Lake]) -> None:
    rows = bank[1].read(RAW, DAY).slice(0, 150)
    bank[1].write(RAW, DAY, pa.concat_tables([rows, rows]))
    assert failed(bank) == {"duplicates"}


def test_another_caller_s_transaction_under_the_same_id_breaks_nothing(bank: tuple[Settings, Lake]) -> None:
    rows = bank[1].read(RAW, DAY)
    position = rows.schema.get_field_index("caller")
    theirs = rows.set_column(position, rows.schema.field(position), pa.repeat("another", rows.num_rows))
    bank[1].write(RAW, DAY, pa.concat_tables([rows.slice(0, 150), theirs.slice(0, 150)]))
    assert failed(bank) == set()


def test_a_flagged_duplicate_breaks_nothing(bank: tuple[Settings, Lake]) -> None:
    rows = bank[1].read(RAW, DAY)
    flags = pa.array([True] * rows.num_rows)
    again = rows.set_column(
        rows.schema.get_field_index("is_duplicate"), schema.RAW_TRANSACTIONS.field("is_duplicate"), flags
    )
    bank[1].write(RAW, DAY, pa.concat_tables([rows, again]))
    assert failed(bank) == set()


def test_a_missing_user_breaks_nulls(bank: tuple[Settings, Lake]) -> None:
    rows = bank[1].read(RAW, DAY)
    users = pa.array([None, *rows.column("user_id").to_pylist()[1:]], pa.string())
    loose = pa.schema([field.with_nullable(True) for field in rows.schema])
    position = rows.schema.get_field_index("user_id")
    bank[1].write(RAW, DAY, rows.cast(loose).set_column(position, loose.field(position), users))
    assert failed(bank) == {"nulls"}


def test_a_column_of_another_type_breaks_schema(bank: tuple[Settings, Lake]) -> None:
    rows = bank[1].read(RAW, DAY)
    position = rows.schema.get_field_index("clock_skew")
    changed = rows.set_column(position, "clock_skew", rows.column("clock_skew").cast(pa.int8()))
    bank[1].write(RAW, DAY, changed)
    assert failed(bank) == {"schema"}


def test_a_day_with_a_tenth_of_its_rows_warns(bank: tuple[Settings, Lake]) -> None:
    bank[1].write(RAW, DAY, bank[1].read(RAW, DAY).slice(0, 30))
    finding = findings(bank)["row_count"]
    assert not finding.passed
    assert finding.severity == "warn"


def test_a_table_that_stopped_warns(bank: tuple[Settings, Lake]) -> None:
    settings, lake = bank
    rules = {f.rule: f for f in evaluate(settings, lake, RAW, [DAY], DAY + timedelta(days=1))}
    assert not rules["freshness"].passed
    assert rules["freshness"].severity == "warn"


def test_a_broken_export_stops_at_the_quarantine(bank: tuple[Settings, Lake]) -> None:
    lake = bank[1]
    assert quarantine_share(lake, [DAY]).passed
    rows = {"reason": ["amount is negative"] * 100, "row": ["{}"] * 100}
    lake.write(tables.QUARANTINE, DAY, pa.table(rows, schema=schema.QUARANTINE))
    finding = quarantine_share(lake, [DAY])
    assert not finding.passed
    assert finding.facts["rows"] == 100


def test_a_training_set_that_lost_a_row_is_seen(bank: tuple[Settings, Lake]) -> None:
    settings, lake = bank
    counted = lake.read(RAW, DAY).filter(pc.invert(lake.read(RAW, DAY).column("is_duplicate")))
    lake.write(tables.TRAINING_SET, DAY, counted.select(["transaction_id"]))
    assert every_transaction_has_a_row(settings, lake, [DAY]).passed
    lake.write(tables.TRAINING_SET, DAY, counted.select(["transaction_id"]).slice(1))
    assert not every_transaction_has_a_row(settings, lake, [DAY]).passed
