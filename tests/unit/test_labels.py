"""Labels as of a cut, against a plain reading of the rules."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_platform import schema
from fraud_platform.features.labels import RESOLVED, label_transactions, resolve_labels

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
MATURITY = 3


def micros(time: datetime) -> int:
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def label(
    transaction: str, arrived: datetime, state: str, revision: int = 1, source: str = "customer", day: int = 0
) -> dict[str, Any]:
    return {
        "transaction_id": transaction,
        "transaction_date": START.date() + day * DAY,
        "arrived_at": arrived,
        "source": source,
        "revision": revision,
        "state": state,
    }


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema.LABELS)


def transactions(rows: list[tuple[str, datetime]]) -> pa.Table:
    return pa.table(
        {
            "transaction_id": [name for name, _ in rows],
            "transaction_date": pa.array([received.date() for _, received in rows], pa.date32()),
            "received_at": pa.array([received for _, received in rows], schema.TIME),
            "amount_minor": pa.array(range(len(rows)), pa.int64()),
        }
    )


def known(rows: list[dict[str, Any]], cut: datetime) -> dict[str, tuple[str, bool | None]]:
    resolved = resolve_labels(table(rows), micros(cut))
    assert resolved.schema.equals(RESOLVED)
    return {row["transaction_id"]: (row["state"], row["is_fraud"]) for row in resolved.to_pylist()}


# a handful of instants, revisions and sources, so that ties are the rule
LABEL = st.builds(
    label,
    transaction=st.sampled_from("abcdefgh"),
    arrived=st.integers(0, 6).map(lambda n: START + n * timedelta(microseconds=1)),
    state=st.sampled_from(schema.LABEL_STATES),
    revision=st.integers(1, 3),
    source=st.sampled_from(["investigator", "chargeback", "customer"]),
    day=st.integers(0, 1),
)
PAYMENT = st.tuples(st.sampled_from("abcdefghij"), st.integers(-2, 2), st.integers(0, 1))


def slow_resolve(rows: list[dict[str, Any]], cut: datetime) -> dict[tuple[str, date], dict[str, Any]]:
    """The rules, one label after the other."""
    counting: dict[tuple[str, date], dict[str, Any]] = {}
    for row in rows:
        if row["arrived_at"] >= cut:
            continue
        key = (row["transaction_id"], row["transaction_date"])
        rival = counting.get(key)
        if rival is None:
            counting[key] = row
            continue
        for name in ("revision", "arrived_at", "source", "state"):
            if row[name] != rival[name]:
                if row[name] > rival[name]:
                    counting[key] = row
                break
    return counting


@settings(max_examples=25, deadline=None)
@given(st.lists(LABEL, max_size=60), st.integers(0, 7))
def test_the_highest_revision_that_arrived_before_the_cut_counts(rows: list[dict[str, Any]], cut: int) -> None:
    instant = START + cut * timedelta(microseconds=1)
    expected = slow_resolve(rows, instant)
    resolved = resolve_labels(table(rows), micros(instant)).to_pylist()
    assert len(resolved) == len(expected)
    for row in resolved:
        counting = expected[row["transaction_id"], row["transaction_date"]]
        fraud = {"suspected": None, "confirmed": True, "disputed": True, "cleared": False}[counting["state"]]
        assert (row["state"], row["is_fraud"], row["known_at"]) == (counting["state"], fraud, counting["arrived_at"])


@settings(max_examples=20, deadline=None)
@given(st.lists(LABEL, max_size=30), st.lists(PAYMENT, max_size=30), st.integers(0, 7))
def test_a_transaction_is_good_only_by_label_or_by_age(
    rows: list[dict[str, Any]], payments: list[tuple[str, int, int]], cut: int
) -> None:
    instant = START + cut * timedelta(microseconds=1) + MATURITY * DAY
    # received within two microseconds of being exactly mature at the cut, or a day later
    frame = transactions(
        [(name, instant + offset * timedelta(microseconds=1) - MATURITY * DAY + late * DAY)
         for name, offset, late in payments]
    )  # fmt: skip
    counting = slow_resolve(rows, instant)
    expected = []
    for name, day, received in zip(*(frame.column(i).to_pylist() for i in range(3)), strict=True):
        if (name, day) in counting:
            state = counting[name, day]["state"]
            expected.append(None if state == "suspected" else state in ("confirmed", "disputed"))
        else:
            expected.append(False if instant - received >= MATURITY * DAY else None)
    labelled = label_transactions(frame, resolve_labels(table(rows), micros(instant)), micros(instant), MATURITY)
    assert labelled.column("is_fraud").to_pylist() == expected
    assert labelled.drop_columns("is_fraud").equals(frame)


def test_a_label_that_arrives_at_the_cut_is_not_known_yet() -> None:
    rows = [label("a", START, "confirmed"), label("b", START - timedelta(microseconds=1), "confirmed")]
    assert known(rows, START) == {"b": ("confirmed", True)}


def test_a_lower_revision_that_arrives_later_changes_nothing() -> None:
    rows = [label("a", START, "cleared", revision=2), label("a", START + DAY, "confirmed", revision=1)]
    assert known(rows, START + 2 * DAY) == {"a": ("cleared", False)}


def test_a_suspected_case_stays_unknown_however_old() -> None:
    frame = transactions([("a", START), ("b", START)])
    cut = micros(START + 400 * DAY)
    resolved = resolve_labels(table([label("a", START + DAY, "suspected")]), cut)
    assert label_transactions(frame, resolved, cut, MATURITY).column("is_fraud").to_pylist() == [None, False]


def test_an_id_used_again_on_another_day_keeps_its_own_label() -> None:
    frame = transactions([("a", START), ("a", START + 5 * DAY)])
    cut = micros(START + 30 * DAY)
    resolved = resolve_labels(table([label("a", START + 7 * DAY, "confirmed", day=5)]), cut)
    assert label_transactions(frame, resolved, cut, MATURITY).column("is_fraud").to_pylist() == [False, True]


def test_many_transactions_keep_their_order() -> None:
    rows = [(f"t{n * 7919 % 100_000}", START + timedelta(seconds=n % 86_400)) for n in range(100_000)]
    frame = transactions(rows)
    frauds = [label(name, START + DAY, "confirmed") for name, _ in rows[::100]]
    cut = micros(START + 10 * DAY)
    labelled = label_transactions(frame, resolve_labels(table(frauds), cut), cut, MATURITY)
    marked = labelled.column("is_fraud").to_pylist()
    expected = {row["transaction_id"] for row in frauds}
    assert marked == [name in expected and received.date() == START.date() for name, received in rows]


def test_a_blocked_payment_is_known_by_what_somebody_found_out_alone() -> None:
    names = ["silent", "found", "cleared", "imported", "released"]
    frame = transactions([(name, START) for name in names])
    frame = frame.append_column("blocked", pa.array([True, True, True, True, False]))
    rows = [
        label("found", START + DAY, "confirmed", source="investigator"),
        label("cleared", START + DAY, "cleared", source="customer"),
        label("imported", START + DAY, "cleared", source="import"),
    ]
    cut = micros(START + 400 * DAY)
    labelled = label_transactions(frame, resolve_labels(table(rows), cut), cut, MATURITY)
    assert labelled.column("is_fraud").to_pylist() == [None, True, False, None, False]
