"""Which label counts, and what was known at a cut, against a plain reading of the rules; fraud rates by the same."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fraud_platform import schema
from fraud_platform.features import tables
from fraud_platform.features.label_rules import (
    DistrustFile,
    LabelRules,
    UnknownDistrustError,
    distrust,
    in_force,
    label_rules,
    trust,
)
from fraud_platform.features.label_rules import counting as counting_label
from fraud_platform.features.labels import RESOLVED, label_transactions, read_labels, resolve_labels
from fraud_platform.features.tiles import write_label_tiles
from fraud_platform.ingest.feedback import FeedbackLabel
from fraud_platform.lake import Lake, days_between
from fraud_platform.settings import Settings
from tests.feature_oracle import RANKS

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
MATURITY = 3
RULES = LabelRules()


def micros(time: datetime) -> int:
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def label(
    transaction: str,
    arrived: datetime,
    state: str,
    revision: int = 1,
    source: str = "customer",
    day: int = 0,
    caller: str = "default",
) -> dict[str, Any]:
    return {
        "transaction_id": transaction,
        "caller": caller,
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
    resolved = resolve_labels(table(rows), micros(cut), RULES)
    assert resolved.schema.equals(RESOLVED)
    return {row["transaction_id"]: (row["state"], row["is_fraud"]) for row in resolved.to_pylist()}


# a handful of instants, revisions and sources, so that ties are the rule
LABEL = st.builds(
    label,
    transaction=st.sampled_from("abcdefgh"),
    arrived=st.integers(0, 6).map(lambda n: START + n * timedelta(microseconds=1)),
    state=st.sampled_from(schema.LABEL_STATES),
    revision=st.integers(1, 3),
    source=st.sampled_from(["investigator", "chargeback", "issuer", "customer", "desk", "feedback"]),
    day=st.integers(0, 1),
)
PAYMENT = st.tuples(st.sampled_from("abcdefghij"), st.integers(-2, 2), st.integers(0, 1))


Payment = tuple[str, str, date]


def slow_resolve(rows: list[dict[str, Any]], cut: datetime) -> dict[Payment, dict[str, Any]]:
    """The rules in their own words: what each source stands by, and of these the highest rank."""
    counting: dict[Payment, dict[str, Any]] = {}
    arrived = [row for row in rows if row["arrived_at"] < cut]
    for payment in {payment_of(row) for row in arrived}:
        said = [row for row in arrived if payment_of(row) == payment]
        stands = [
            max(
                (row for row in said if row["source"] == source),
                key=lambda row: (row["revision"], row["arrived_at"], row["state"]),
            )
            for source in {row["source"] for row in said}
        ]
        counting[payment] = max(
            stands, key=lambda row: (RANKS.get(row["source"], 20), row["arrived_at"], row["source"])
        )
    return counting


def payment_of(row: dict[str, Any]) -> Payment:
    return row["caller"], row["transaction_id"], row["transaction_date"]


@settings(max_examples=15, deadline=None)
@given(st.lists(LABEL, max_size=60), st.integers(0, 7))
def test_what_the_highest_rank_stands_by_at_the_cut_counts(rows: list[dict[str, Any]], cut: int) -> None:
    instant = START + cut * timedelta(microseconds=1)
    expected = slow_resolve(rows, instant)
    resolved = resolve_labels(table(rows), micros(instant), RULES).to_pylist()
    assert len(resolved) == len(expected)
    for row in resolved:
        counting = expected[payment_of(row)]
        fraud = {"suspected": None, "confirmed": True, "disputed": True, "cleared": False}[counting["state"]]
        assert (row["state"], row["is_fraud"], row["known_at"]) == (counting["state"], fraud, counting["arrived_at"])
        assert (row["source"], row["revision"]) == (counting["source"], counting["revision"])
        said = [as_said(one) for one in rows if payment_of(one) == payment_of(row) and one["arrived_at"] < instant]
        found = counting_label(said, RULES)
        assert found is not None
        assert (found.state, found.source, found.revision) == (row["state"], row["source"], row["revision"])


def as_said(row: dict[str, Any]) -> FeedbackLabel:
    """A row of LABELS as the service keeps it."""
    return FeedbackLabel(feedback_id="", **{**row, "arrived_at": micros(row["arrived_at"])})


# days apart, so that each label's change is booked on a day of its own
APART = st.builds(
    label,
    transaction=st.sampled_from("abc"),
    arrived=st.integers(0, 12).map(lambda hours: START + DAY + hours * timedelta(hours=9)),
    state=st.sampled_from([*schema.LABEL_STATES, schema.UNLABELLED]),
    revision=st.integers(1, 3),
    source=st.sampled_from(["chargeback", "issuer", "investigator", "feedback", "nobody_knows", "import"]),
    day=st.integers(0, 1),
    caller=st.sampled_from(["default", "shop"]),
)
DISTRUSTED = st.sampled_from(
    [{}, {"source": "issuer"}, {"caller": "shop"}, {"since": START + 3 * DAY}, {"source": "feedback", "caller": "shop"}]
)


WORLD = st.fixed_dictionaries(
    {
        "rows": st.lists(APART, min_size=1, max_size=30),
        "which": DISTRUSTED,
        "ranks": st.sampled_from([{}, {"issuer": 5}]),
        "at": st.integers(1, 7),
    }
)


@settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(world=WORLD)
def test_a_sum_over_label_tiles_is_what_resolving_all_labels_says(
    tmp_path_factory: pytest.TempPathFactory, world: dict[str, Any]
) -> None:
    rows, which, ranks, at = world["rows"], world["which"], world["ranks"], world["at"]
    home = tmp_path_factory.mktemp("tiles")
    current = Settings(home=home, label_ranks=ranks)
    lake, days = Lake(current.lake), days_between(START.date(), START.date() + 7 * DAY)
    payments = [(caller, name, day) for caller in ("default", "shop") for name in "ab" for day in (0, 1)]
    for number, day in enumerate(days):
        paid = [(caller, name) for caller, name, n in payments if n == number]
        lake.write(tables.RAW_TRANSACTIONS, day, raw_day(paid, START + number * DAY))
        lake.write(tables.FRAUD_LABELS, day, table([row for row in rows if row["arrived_at"].date() == day]))
    if which:
        DistrustFile(home).append(distrust(who="me", why="a test", now=START, **which))
    write_label_tiles(current, lake, days[:4])
    write_label_tiles(current, lake, days[4:])
    booked: dict[str, Counter[tuple[str, date]]] = {"fraud": Counter(), "unknown": Counter()}
    for day in days[: at + 1]:
        for tile in lake.read(tables.LABEL_TILES, day).to_pylist():
            for kind, sums in booked.items():
                sums[tile["merchant_id"], tile["transaction_date"]] += tile[f"{kind}_delta"]
    cut = micros(midnight_after(days[at]))
    resolved = resolve_labels(read_labels(lake, days), cut, label_rules(current)).to_pylist()
    found = {
        "fraud": {payment_of(row) for row in resolved if row["is_fraud"]},
        "unknown": {payment_of(row) for row in resolved if row["state"] == schema.UNLABELLED},
    }
    for kind, sums in booked.items():
        paid_at = [
            (f"m-{caller}", START.date() + n * DAY)
            for caller, name, n in payments
            if (caller, name, START.date() + n * DAY) in found[kind]
        ]
        assert +sums == Counter(paid_at)
        assert min(sums.values(), default=0) >= 0


def midnight_after(day: date) -> datetime:
    return datetime.combine(day + DAY, datetime.min.time(), UTC)


def raw_day(paid: list[tuple[str, str]], received: datetime) -> pa.Table:
    """Counted transactions of a day as (caller, transaction_id); a caller's are all at one merchant."""
    return pa.table(
        {
            "transaction_id": pa.array([name for _, name in paid], pa.string()),
            "caller": pa.array([caller for caller, _ in paid], pa.string()),
            "merchant_id": pa.array([f"m-{caller}" for caller, _ in paid], pa.string()),
            "is_duplicate": pa.array([False] * len(paid), pa.bool_()),
            "received_at": pa.array([received] * len(paid), schema.TIME),
        }
    )


@settings(max_examples=12, deadline=None)
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
        if ("default", name, day) in counting:
            state = counting["default", name, day]["state"]
            expected.append(None if state == "suspected" else state in ("confirmed", "disputed"))
        else:
            expected.append(False if instant - received >= MATURITY * DAY else None)
    labelled = label_transactions(frame, resolve_labels(table(rows), micros(instant), RULES), micros(instant), MATURITY)
    assert labelled.column("is_fraud").to_pylist() == expected
    assert labelled.drop_columns("is_fraud").equals(frame)


def test_a_label_that_arrives_at_the_cut_is_not_known_yet() -> None:
    rows = [label("a", START, "confirmed"), label("b", START - timedelta(microseconds=1), "confirmed")]
    assert known(rows, START) == {"b": ("confirmed", True)}


def test_one_callers_label_touches_no_other_callers_payment() -> None:
    frame = transactions([("a", START), ("a", START)]).append_column("caller", pa.array(["A", "B"]))
    rows = [
        label("a", START + DAY, "confirmed", source="chargeback", caller="A"),
        label("a", START + 2 * DAY, "cleared", source="chargeback", revision=1_000_000, caller="B"),
    ]
    cut = micros(START + 400 * DAY)
    labelled = label_transactions(frame, resolve_labels(table(rows), cut, RULES), cut, MATURITY)
    assert labelled.column("is_fraud").to_pylist() == [True, False]


def test_a_chargeback_is_reversed_by_a_chargeback_alone() -> None:
    rows = [
        label("a", START, "suspected", source="investigator"),
        label("a", START + DAY, "confirmed", source="chargeback"),
        label("a", START + 2 * DAY, "cleared", source="investigator", revision=9),
    ]
    assert known(rows, START + 3 * DAY) == {"a": ("confirmed", True)}
    rows.append(label("a", START + 4 * DAY, "cleared", source="chargeback", revision=2))
    assert known(rows, START + 5 * DAY) == {"a": ("cleared", False)}


def test_ranks_are_settable() -> None:
    rows = [
        label("a", START, "confirmed", source="chargeback"),
        label("a", START + DAY, "cleared", source="investigator"),
    ]
    rules = label_rules(Settings(home=Path("nowhere"), label_ranks={"investigator": 50}))
    (row,) = resolve_labels(table(rows), micros(START + 2 * DAY), rules).to_pylist()
    assert row["state"] == "cleared", "of equal ranks the latest"


def test_a_label_file_older_than_callers_is_the_default_callers(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    old, new = table([label("a", START, "confirmed")]), table([label("b", START + DAY, "confirmed", caller="shop")])
    lake.write(tables.FRAUD_LABELS, START.date(), old.drop_columns("caller"))
    lake.write(tables.FRAUD_LABELS, START.date() + DAY, new)
    rows = read_labels(lake, days_between(START.date(), START.date() + DAY))
    assert rows.column("caller").to_pylist() == ["default", "shop"]


def test_distrust_is_kept_undone_and_never_cut_short(tmp_path: Path) -> None:
    record = DistrustFile(tmp_path)
    first = distrust(who="ann", why="key stolen", now=START, caller="shop", since=START)
    record.append(first)
    with (tmp_path / "labels" / "distrust.jsonl").open("ab") as file:
        file.write(b'{"what": "dist')  # a writer was killed
    second = distrust(who="bob", why="broken feed", now=START, source="issuer")
    record.append(second)
    assert [one.id for one in in_force(record.events())] == [first.id, second.id]
    record.append(trust(record, first.id, who="ann", why="key was not used", now=START + DAY))
    assert [one.said for one in in_force(record.events())] == ["source issuer"]
    assert [event.who for event in record.events()] == ["ann", "bob", "ann"]
    with pytest.raises(UnknownDistrustError, match=first.id):
        trust(record, first.id, who="ann", why="again", now=START)
    with pytest.raises(ValueError, match="which labels"):
        distrust(who="ann", why="all", now=START)


def test_a_lower_revision_that_arrives_later_changes_nothing() -> None:
    rows = [label("a", START, "cleared", revision=2), label("a", START + DAY, "confirmed", revision=1)]
    assert known(rows, START + 2 * DAY) == {"a": ("cleared", False)}


def test_a_suspected_case_stays_unknown_however_old() -> None:
    frame = transactions([("a", START), ("b", START)])
    cut = micros(START + 400 * DAY)
    resolved = resolve_labels(table([label("a", START + DAY, "suspected")]), cut, RULES)
    assert label_transactions(frame, resolved, cut, MATURITY).column("is_fraud").to_pylist() == [None, False]


def test_an_id_used_again_on_another_day_keeps_its_own_label() -> None:
    frame = transactions([("a", START), ("a", START + 5 * DAY)])
    cut = micros(START + 30 * DAY)
    resolved = resolve_labels(table([label("a", START + 7 * DAY, "confirmed", day=5)]), cut, RULES)
    assert label_transactions(frame, resolved, cut, MATURITY).column("is_fraud").to_pylist() == [False, True]


def test_many_transactions_keep_their_order() -> None:
    rows = [(f"t{n * 7919 % 100_000}", START + timedelta(seconds=n % 86_400)) for n in range(100_000)]
    frame = transactions(rows)
    frauds = [label(name, START + DAY, "confirmed") for name, _ in rows[::100]]
    cut = micros(START + 10 * DAY)
    labelled = label_transactions(frame, resolve_labels(table(frauds), cut, RULES), cut, MATURITY)
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
    labelled = label_transactions(frame, resolve_labels(table(rows), cut, RULES), cut, MATURITY)
    assert labelled.column("is_fraud").to_pylist() == [None, True, False, None, False]
