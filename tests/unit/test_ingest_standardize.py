"""One day's rows into a partition and a quarantine: each rule, the order, the count."""

import json
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_platform.currency import Rates
from fraud_platform.ingest.standardize import PROBLEM, SOURCE_ROW, standardize
from fraud_platform.processing import device_key
from fraud_platform.schema import EXPORT, QUARANTINE, RAW_TRANSACTIONS

DAY = date(2024, 3, 10)
NOON = datetime(2024, 3, 10, 12, tzinfo=UTC)
RATES = Rates("EUR", {"USD": 920_000_000})
GOOD = {
    "transaction_id": "t1",
    "user_id": "u1",
    "merchant_id": "m1",
    "amount_minor": 1_000,
    "currency": "USD",
    "timestamp": NOON,
    "received_at": NOON + timedelta(seconds=2),
    "country": "DE",
    "user_country": "FR",
    "merchant_category": "5411",
    "channel": "online",
    "device_id": "d1",
    "latitude": 52.5,
    "longitude": -13.4,
}


def export(*rows):
    return pa.Table.from_pylist([GOOD | row for row in rows], schema=EXPORT)


def run(*rows, previous=None):
    return standardize(export(*rows), DAY, RATES, "EUR", previous)


def test_a_row_that_fits_is_converted_and_completed():
    result = run({})
    assert result.quarantine.num_rows == 0
    assert result.transactions.schema.equals(RAW_TRANSACTIONS)
    assert result.transactions.to_pylist() == [
        GOOD
        | {
            "amount": 920,
            "event_time": NOON,
            "clock_skew": False,
            "device_key": device_key("d1"),
            "is_duplicate": False,
            "decision_id": None,
            "user_effective_time": None,
            "merchant_effective_time": None,
            "region": None,
            "user_counted_since": None,
            "merchant_counted_since": None,
            "caller": "default",
        }
    ]


def test_optional_fields_may_all_be_missing():
    optional = ("country", "user_country", "merchant_category", "channel", "device_id", "latitude", "longitude")
    result = run(dict.fromkeys(optional))
    (row,) = result.transactions.to_pylist()
    assert [row[name] for name in (*optional, "device_key")] == [None] * 8


def test_without_received_at_a_payment_was_received_when_it_happened():
    (row,) = run({"received_at": None}).transactions.to_pylist()
    assert row["received_at"] == row["timestamp"] == NOON


def test_a_wrong_clock_is_replaced_and_marked():
    result = run({"timestamp": NOON - timedelta(days=400)})
    (row,) = result.transactions.to_pylist()
    assert (row["event_time"], row["clock_skew"]) == (GOOD["received_at"], True)
    assert row["timestamp"] == NOON - timedelta(days=400)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        *(({name: None}, f"{name} is null") for name in ("transaction_id", "user_id", "merchant_id")),
        *(({name: ""}, f"{name} is empty") for name in ("transaction_id", "user_id", "merchant_id", "device_id")),
        *(({name: "x" * 129}, f"{name} is longer than 128") for name in ("transaction_id", "device_id", "channel")),
        ({"timestamp": None}, "timestamp is null"),
        ({"amount_minor": None}, "amount_minor is null"),
        ({"amount_minor": -1}, "amount is negative"),
        ({"amount_minor": 10**12 + 1, "currency": "EUR"}, "amount is too large"),
        ({"amount_minor": 2 * 10**12}, "amount is too large"),
        ({"currency": None}, "currency is null"),
        ({"currency": "EURO"}, "currency is not an ISO 4217 code"),
        ({"country": "XX"}, "country is not an ISO 3166"),
        ({"user_country": "de"}, "user_country is not an ISO 3166"),
        ({"latitude": 90.01}, "latitude is outside"),
        ({"latitude": float("nan")}, "latitude is outside"),
        ({"longitude": -180.01}, "longitude is outside"),
        ({"received_at": NOON + timedelta(hours=12)}, "received_at is outside the partition's day"),
        ({"received_at": NOON - timedelta(hours=12, microseconds=1)}, "received_at is outside the partition's day"),
    ],
)
def test_a_row_that_does_not_fit_is_kept_with_the_reason(change, reason):
    result = run({"transaction_id": "fits"}, change)
    assert result.transactions["transaction_id"].to_pylist() == ["fits"]
    assert result.quarantine.schema.equals(QUARANTINE)
    (kept,) = result.quarantine.to_pylist()
    assert kept["reason"].startswith(reason)
    row = json.loads(kept["row"])
    (name,) = change if len(change) == 1 else ["amount_minor"]
    expected = change[name].isoformat() if isinstance(change[name], datetime) else change[name]
    assert row[name] == expected or expected != expected


@pytest.mark.parametrize(
    "change",
    [
        {"transaction_id": "x" * 128},
        {"amount_minor": 0},
        {"amount_minor": 10**12, "currency": "EUR"},
        {"latitude": -90.0, "longitude": 180.0},
        {"received_at": datetime(2024, 3, 10, tzinfo=UTC)},
        {"received_at": datetime(2024, 3, 10, 23, 59, 59, 999_999, tzinfo=UTC)},
    ],
)
def test_a_row_on_the_boundary_fits(change):
    assert run(change).quarantine.num_rows == 0


def test_what_the_source_could_not_read_is_kept_as_it_stood_there():
    table = export({"amount_minor": None}, {"transaction_id": "t2"})
    table = table.append_column(PROBLEM, pa.array(["amount is not a number", None], pa.string()))
    table = table.append_column(SOURCE_ROW, pa.array(['{"amt":"12,x"}', None], pa.string()))
    result = standardize(table, DAY, RATES, "EUR")
    assert result.quarantine.to_pylist() == [{"reason": "amount is not a number", "row": '{"amt":"12,x"}'}]
    assert result.transactions["transaction_id"].to_pylist() == ["t2"]


def test_rows_come_in_processing_order_and_repeats_are_marked_not_dropped():
    later = {"received_at": NOON + timedelta(seconds=9)}
    result = run(
        {"transaction_id": "b"} | later,
        {"transaction_id": "z"},
        {"transaction_id": "a"} | later,
        {"transaction_id": "b"},
    )
    rows = [(row["transaction_id"], row["is_duplicate"]) for row in result.transactions.to_pylist()]
    assert rows == [("b", False), ("z", False), ("a", False), ("b", True)]


def test_repeats_reach_back_into_the_day_before_but_not_to_its_duplicates():
    before = datetime(2024, 3, 9, 13, tzinfo=UTC)
    shape = {"timestamp": before}
    first = standardize(
        export(
            {"transaction_id": "x", "received_at": before - timedelta(hours=2)} | shape,
            {"transaction_id": "x", "received_at": before} | shape,
            {"transaction_id": "y", "received_at": before} | shape,
        ),
        date(2024, 3, 9),
        RATES,
        "EUR",
    ).transactions
    assert first["is_duplicate"].to_pylist() == [False, True, False]
    result = run({"transaction_id": "x"}, {"transaction_id": "y"}, previous=first)
    assert {row["transaction_id"]: row["is_duplicate"] for row in result.transactions.to_pylist()} == {
        "x": False,
        "y": True,
    }


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "transaction_id": st.sampled_from(["a", "b", "", None, "x" * 200]),
                "amount_minor": st.sampled_from([0, 5, -5, None, 10**13]),
                "currency": st.sampled_from(["EUR", "USD", "GBP", "nope", None]),
                "country": st.sampled_from(["DE", "XX", None]),
                "timestamp": st.sampled_from([NOON, None]),
                "received_at": st.sampled_from([NOON, None, NOON + timedelta(days=1)]),
                "latitude": st.sampled_from([0.0, 91.0, None]),
            }
        ),
        max_size=30,
    )
)
def test_every_row_is_accepted_or_quarantined(rows):
    result = run(*rows)
    assert result.transactions.num_rows + result.quarantine.num_rows == len(rows)
    assert (
        result.transactions.select([f.name for f in RAW_TRANSACTIONS if not f.nullable]).to_pandas().notna().all().all()
    )


def test_rates_into_another_currency_are_refused():
    with pytest.raises(ValueError, match="base currency is USD"):
        standardize(export({}), DAY, RATES, "USD")


def test_an_amount_without_a_rate_is_null_and_the_row_counts():
    result = run({"currency": "EUR"}, {"transaction_id": "kwd", "currency": "KWD"})
    assert result.quarantine.num_rows == 0
    rows = {row["transaction_id"]: row for row in result.transactions.to_pylist()}
    assert (rows["kwd"]["amount"], rows["kwd"]["amount_minor"], rows["kwd"]["is_duplicate"]) == (None, 1_000, False)
    assert sum(row["amount"] is not None for row in rows.values()) == 1


def test_what_was_decided_without_a_rate_stays_null_whatever_rates_the_import_has():
    from fraud_platform.ingest.decided import decided_rows
    from tests.record_kit import DAY as DECIDED_ON
    from tests.record_kit import record

    known = record("known", amount=99, decision_id="1" * 32)
    unknown = record("unknown", amount=None, decision_id="2" * 32)
    rows = decided_rows([known, unknown])
    result = standardize(rows, DECIDED_ON, Rates("EUR", {"USD": 10**9}), "EUR")
    amounts = dict(zip(*(result.transactions[name].to_pylist() for name in ("transaction_id", "amount")), strict=True))
    assert amounts == {"known": 99, "unknown": None}
