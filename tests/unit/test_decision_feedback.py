"""A label that a caller sends back: what is taken, that it is kept, and that a model learns from it."""

import asyncio
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from fraud_platform.decision.feedback import OLDEST_DAYS, FeedbackDesk
from fraud_platform.decision.problem import Problem
from fraud_platform.decision.request import InvalidRequest, MalformedBody
from fraud_platform.features import tables
from fraud_platform.features.label_rules import LabelRules
from fraud_platform.features.labels import resolve_labels
from fraud_platform.ingest.feedback import (
    DamagedFeedbackError,
    FeedbackWriter,
    LabelSender,
    feedback_folder,
    read_feedback,
)
from fraud_platform.ingest.feedback_index import FeedbackIndex
from fraud_platform.ingest.source import open_source
from fraud_platform.ingest.steps import ingest_labels
from fraud_platform.ingest.told import WithFeedback
from fraud_platform.ingest.waiting import read_given_up, waiting_standing
from fraud_platform.lake import Lake
from fraud_platform.quality import evaluate
from fraud_platform.schema import EXPORT, LABELS, RATES
from fraud_platform.settings import Settings

TODAY = date(2026, 11, 23)
PAID = date(2026, 11, 20)
NOON = int(datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()) * 1_000_000
HOUR = 3_600_000_000


@dataclass
class Desk:
    """A feedback desk of a home, with a clock to turn and one payment that was decided."""

    home: Path
    now: int = NOON
    desk: FeedbackDesk = field(init=False)

    def __post_init__(self) -> None:
        self.writer = FeedbackWriter(self.home, f"{os.getpid()}-1")
        self.desk = self.of(self.writer)

    def of(self, writer: FeedbackWriter, **limits: Any) -> FeedbackDesk:
        """A worker's desk."""

        async def decided_on(caller: str, transaction_id: str, about: date | None) -> date | None:
            return PAID if (caller, transaction_id) == ("shop", "t-1") else None

        return FeedbackDesk(writer, FeedbackIndex(self.home), decided_on, lambda: self.now, **limits)

    def send(self, caller: str = "shop", **body: Any) -> dict[str, Any]:
        """Send a label; returns what was answered."""
        answer = asyncio.run(self.desk.take(msgspec.json.encode({"transaction_id": "t-1", **body}), caller))
        assert answer.status == 202
        return msgspec.json.decode(answer.body)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@dataclass(frozen=True)
class Bank:
    """A source with one label of its own a day."""

    name: str = "bank"

    def first_day(self) -> date:
        return date(2026, 11, 1)

    def last_day(self) -> date | None:
        return None

    def transactions(self, days: Sequence[date]) -> Iterator[tuple[date, pa.Table]]:
        yield from ((day, EXPORT.empty_table()) for day in days)

    def labels(self, days: Sequence[date]) -> Iterator[tuple[date, pa.Table]]:
        for day in days:
            arrived = datetime.combine(day, datetime.min.time(), UTC) + timedelta(hours=13)
            row = {"transaction_id": "t-0", "caller": "default", "transaction_date": PAID, "arrived_at": arrived,
                   "source": "investigator", "revision": 1, "state": "confirmed"}  # fmt: skip
            yield day, pa.Table.from_pylist([row], LABELS)

    def rates(self, day: date) -> pa.Table:
        return RATES.empty_table()


def resolved(home: Path, days: Sequence[date] = (TODAY,)) -> dict[str, tuple[str, bool | None]]:
    """What is known of each payment after the days were ingested, a second time as well."""
    lake = Lake(str(home / "lake"))
    source = WithFeedback(Bank(), home, lake)
    counts = ingest_labels(lake, source, days)
    assert ingest_labels(lake, source, days) == counts
    labels = lake.read_days(tables.FRAUD_LABELS, days)
    assert labels is not None
    cut = NOON + 48 * HOUR
    return {
        row["transaction_id"]: (row["state"], row["is_fraud"])
        for row in resolve_labels(labels, cut, LabelRules()).to_pylist()
    }


def test_a_label_sent_is_a_label_learned_from(desk: Desk, tmp_path: Path) -> None:
    answer = desk.send(state="confirmed", source="chargeback", comment="goods never arrived")
    assert answer == {
        "feedback_id": answer["feedback_id"], "transaction_id": "t-1", "transaction_date": "2026-11-20",
        "arrived_at": "2026-11-23T12:00:00Z", "source": "chargeback", "revision": 1, "state": "confirmed",
        "counts": "from the next nightly run",
        "standing": {"source": "chargeback", "revision": 1, "state": "confirmed"},
    }  # fmt: skip
    assert resolved(tmp_path) == {"t-0": ("confirmed", True), "t-1": ("confirmed", True)}
    rows = Lake(str(tmp_path / "lake")).read(tables.FRAUD_LABELS, TODAY).to_pylist()
    assert [(row["transaction_id"], row["source"], row["revision"]) for row in rows] == [
        ("t-1", "chargeback", 1),
        ("t-0", "investigator", 1),
    ]


def test_labels_sent_to_another_region_are_taken_up_without_their_comments(tmp_path: Path) -> None:
    home, lake = tmp_path / "first", Lake(str(tmp_path / "first" / "lake"))
    west = Desk(tmp_path / "west")
    west.send(state="suspected", source="chargeback", comment="a name")
    sender = LabelSender(tmp_path / "west", lake, "west")
    assert (sender.step(), sender.step()) == (1, 0)
    assert resolved(home)["t-1"] == ("suspected", None)
    west.send(state="confirmed", source="chargeback", revision=2)
    assert (sender.step(), LabelSender(tmp_path / "west", lake, "west").step()) == (1, 1)
    assert resolved(home)["t-1"] == ("confirmed", True)
    (path,) = lake.files("regions/west", "*.jsonl")
    assert b"a name" not in (lake.document(lake.name_of(path)) or b"")


def test_the_settings_source_brings_feedback_along(desk: Desk, tmp_path: Path) -> None:
    desk.send(state="confirmed")
    settings = Settings(home=tmp_path, users=50, merchants=10, transactions_per_day=20)
    lake = Lake(settings.lake)
    ingest_labels(lake, open_source(settings, TODAY), [TODAY])
    sent = [row for row in lake.read(tables.FRAUD_LABELS, TODAY).to_pylist() if row["transaction_id"] == "t-1"]
    assert [(row["state"], row["source"], row["transaction_date"]) for row in sent] == [("confirmed", "feedback", PAID)]


def test_the_latest_revision_counts_and_of_equal_ones_the_latest_arrival(desk: Desk, tmp_path: Path) -> None:
    desk.send(state="confirmed", revision=2)
    desk.now += HOUR
    desk.send(state="cleared", revision=1)
    assert resolved(tmp_path)["t-1"] == ("confirmed", True)
    desk.now += HOUR
    desk.send(state="cleared", revision=2)
    assert resolved(tmp_path)["t-1"] == ("cleared", False)
    desk.now += HOUR
    desk.send(state="confirmed", revision=2)
    assert resolved(tmp_path)["t-1"] == ("confirmed", True)


def test_a_label_belongs_to_its_day_of_arrival(desk: Desk, tmp_path: Path) -> None:
    desk.now = NOON + 12 * HOUR - 1
    desk.send(state="suspected")
    desk.now += 1
    desk.send(state="confirmed", revision=2)
    tomorrow = TODAY + timedelta(days=1)
    assert resolved(tmp_path)["t-1"] == ("suspected", None)
    assert resolved(tmp_path, (TODAY, tomorrow))["t-1"] == ("confirmed", True)


def test_a_label_sent_twice_is_one_row(desk: Desk, tmp_path: Path) -> None:
    for _ in range(3):
        desk.send(state="confirmed")
        desk.now += 1
    assert len(read_feedback(tmp_path, TODAY)) == 3
    resolved(tmp_path)
    assert Lake(str(tmp_path / "lake")).read(tables.FRAUD_LABELS, TODAY).num_rows == 2


def test_workers_do_not_disturb_each_other_and_a_killed_one_loses_what_it_never_acknowledged(
    desk: Desk, tmp_path: Path
) -> None:
    desk.send(state="confirmed")
    other = Desk(tmp_path)
    other.writer = FeedbackWriter(tmp_path, "other-1")
    other.now += 1
    other.desk = other.of(other.writer)
    other.send(state="cleared")
    file = feedback_folder(tmp_path, TODAY) / "other-1.jsonl"
    file.write_bytes(file.read_bytes() + b'{"feedback_id": "half')
    assert [label.state for label in read_feedback(tmp_path, TODAY)] == ["confirmed", "cleared"]
    file.write_bytes(b"no json\n")
    with pytest.raises(DamagedFeedbackError, match=r"other-1\.jsonl, line 1"):
        read_feedback(tmp_path, TODAY)


def test_an_answer_waits_for_the_disk(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(descriptor), real(descriptor))[1])
    desk.send(state="confirmed")
    assert len(synced) == 4  # the folders that are new, and the line
    desk.send(state="cleared")
    assert len(synced) == 5


def test_a_full_disk_is_an_error_and_leaves_the_file_as_it_was(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.send(state="confirmed")
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: real(descriptor, line[:20]))
    with pytest.raises(OSError, match="20 of"):
        desk.send(state="cleared")
    monkeypatch.undo()
    desk.send(state="disputed")
    assert [label.state for label in read_feedback(tmp_path, TODAY)] == ["confirmed", "disputed"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"state": "guilty"}, "state"),
        ({}, "state"),
        ({"state": "confirmed", "transaction_id": ""}, "transaction_id"),
        ({"state": "confirmed", "transaction_id": "a\nb"}, "transaction_id"),
        ({"state": "confirmed", "source": "Some Body"}, "source"),
        ({"state": "confirmed", "revision": 0}, "revision"),
        ({"state": "confirmed", "revision": 2**40}, "revision"),
        ({"state": "confirmed", "transaction_date": "yesterday"}, "transaction_date"),
        ({"state": "confirmed", "transaction_date": "2026-11-24"}, "transaction_date"),
        ({"state": "confirmed", "transaction_date": str(TODAY - timedelta(days=OLDEST_DAYS + 1))}, "transaction_date"),
        ({"state": "confirmed", "comment": "write to jane@example.org"}, "comment"),
        ({"state": "confirmed", "comment": "card 4111 1111 1111 1111"}, "comment"),
        ({"state": "confirmed", "comment": "x" * 281}, "comment"),
    ],
)
def test_what_breaks_the_contract_is_named(desk: Desk, tmp_path: Path, body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        desk.send(**body)
    assert refusal.value.field == field
    assert not (tmp_path / "feedback").exists()


def test_a_payment_that_nobody_knows_needs_its_date(desk: Desk, tmp_path: Path) -> None:
    for caller, transaction in (("shop", "t-9"), ("other", "t-1")):
        with pytest.raises(Problem) as problem:
            desk.send(caller, transaction_id=transaction, state="confirmed")
        assert problem.value.status == 404
    answer = desk.send("other", state="confirmed", transaction_date="2026-11-21")
    assert (answer["transaction_date"], answer["counts"][:8]) == ("2026-11-21", "waiting:")
    assert "t-1" not in resolved(tmp_path), "another caller's payment is not what it speaks of"


def test_a_wrong_transaction_date_yields_to_the_decisions(desk: Desk, tmp_path: Path) -> None:
    answer = desk.send(state="confirmed", transaction_date="2026-11-01")
    assert (answer["transaction_date"], answer["sent_transaction_date"]) == ("2026-11-20", "2026-11-01")
    assert "sent_transaction_date" not in desk.send(state="confirmed", transaction_date="2026-11-20")
    assert resolved(tmp_path)["t-1"] == ("confirmed", True)


def test_corrected_labels_of_one_revision_are_all_taken_and_the_checks_take_them_too(
    desk: Desk, tmp_path: Path
) -> None:
    for state in ("confirmed", "cleared", "confirmed", "cleared"):
        # the same microsecond, as two workers can have it
        assert desk.send(state=state)["counts"] != ""
        assert desk.send("other", state=state, transaction_date="2026-11-20")["counts"][:7] == "waiting"
    desk.now += 1
    assert desk.send(state="disputed")["standing"]["state"] == "disputed"
    home, lake = tmp_path, Lake(str(tmp_path / "lake"))
    assert resolved(home)["t-1"] == ("disputed", True)
    findings = evaluate(Settings(home=home), lake, tables.FRAUD_LABELS, [TODAY], TODAY)
    assert [finding.rule for finding in findings if not finding.passed] == []


def test_an_answer_says_what_outranks_the_label(desk: Desk, tmp_path: Path) -> None:
    assert desk.send(state="suspected", source="investigator")["counts"] == "from the next nightly run"
    desk.now += HOUR
    assert desk.send(state="confirmed", source="chargeback", revision=2)["counts"] == "from the next nightly run"
    desk.now += HOUR
    again = desk.send(state="cleared", source="chargeback")
    assert again["counts"] == "outranked by chargeback revision 2"
    assert again["standing"] == {"source": "chargeback", "revision": 2, "state": "confirmed"}
    assert (
        desk.send(state="cleared", source="investigator", revision=7)["counts"] == "outranked by chargeback revision 2"
    )
    assert resolved(tmp_path)["t-1"] == ("confirmed", True)
    # another worker, which has to read what this one wrote
    other = Desk(tmp_path)
    other.now = desk.now + 1
    other.desk = other.of(FeedbackWriter(tmp_path, "other-1"))
    reversed_ = other.send(state="cleared", source="chargeback", revision=3)
    assert (reversed_["counts"], reversed_["standing"]["state"]) == ("from the next nightly run", "cleared")
    assert resolved(tmp_path)["t-1"] == ("cleared", False)


def paid(home: Path, caller: str, transaction: str, day: date) -> None:
    """A day of raw_transactions with one payment."""
    rows = pa.table({"transaction_id": [transaction], "caller": [caller], "is_duplicate": [False]})
    Lake(str(home / "lake")).write(tables.RAW_TRANSACTIONS, day, rows)


def test_a_label_that_waits_joins_the_day_that_finds_its_payment_for_good(desk: Desk, tmp_path: Path) -> None:
    lake, yesterday, tomorrow = Lake(str(tmp_path / "lake")), TODAY - timedelta(days=1), TODAY + timedelta(days=1)
    desk.send(transaction_id="t-7", state="confirmed", transaction_date=str(yesterday), comment="goods never came")
    desk.now += HOUR
    desk.send(transaction_id="t-7", state="cleared", transaction_date=str(yesterday))
    desk.send(transaction_id="t-8", state="confirmed", transaction_date=str(yesterday))
    assert "t-7" not in resolved(tmp_path)
    assert (waiting_standing(tmp_path, lake).waiting, waiting_standing(tmp_path, lake).oldest) == ({"shop": 3}, TODAY)
    paid(tmp_path, "other", "t-7", yesterday)
    assert "t-7" not in resolved(tmp_path, (TODAY, tomorrow))
    # a zone's day beside the one that was said
    paid(tmp_path, "shop", "t-7", yesterday - timedelta(days=1))
    assert resolved(tmp_path, (TODAY, tomorrow, tomorrow + timedelta(days=1)))["t-7"] == ("cleared", False)
    rows = [
        row
        for day in (TODAY, tomorrow)
        for row in lake.read(tables.FRAUD_LABELS, day).to_pylist()
        if row["transaction_id"] == "t-7"
    ]
    assert {row["transaction_date"] for row in rows} == {yesterday - timedelta(days=1)}
    assert [row["state"] for row in rows] == ["confirmed", "cleared"]
    assert waiting_standing(tmp_path, lake).waiting == {"shop": 1}
    again = resolved(tmp_path, (tomorrow,))
    assert len(read_feedback(tmp_path, TODAY)) + len(read_feedback(tmp_path, tomorrow)) == 2, again


def test_labels_that_wait_are_bounded_and_given_up_in_numbers(desk: Desk, tmp_path: Path) -> None:
    desk.desk = desk.of(desk.writer, most_waiting=3, waiting_days=10)
    other = Desk(tmp_path)
    other.desk = other.of(FeedbackWriter(tmp_path, "other-1"), most_waiting=3, waiting_days=10)
    for number, worker in enumerate((desk, other, desk)):
        worker.send(transaction_id=f"u-{number}", state="confirmed", transaction_date="2026-11-21")
    with pytest.raises(Problem, match="3 labels of yours wait") as problem:
        other.send(transaction_id="u-9", state="confirmed", transaction_date="2026-11-21")
    assert (problem.value.status, problem.value.retry_after) == (429, 3600)
    desk.send(state="confirmed")
    desk.send("another", transaction_id="u-9", state="confirmed", transaction_date="2026-11-21")
    lake, late = Lake(str(tmp_path / "lake")), TODAY + timedelta(days=11)
    paid(tmp_path, "shop", "u-1", date(2026, 11, 21))
    source = WithFeedback(Bank(), tmp_path, lake, waiting_days=10)
    ingest_labels(lake, source, [TODAY, late])
    assert [(one.caller, one.labels) for one in read_given_up(tmp_path)] == [("another", 1), ("shop", 2)]
    standing = waiting_standing(tmp_path, lake)
    assert (standing.waiting, standing.given_up) == ({}, 3)
    ingest_labels(lake, source, [TODAY, late])
    assert [(one.caller, one.labels) for one in read_given_up(tmp_path)] == [("another", 1), ("shop", 2)]
    labels = lake.read(tables.FRAUD_LABELS, TODAY).to_pylist()
    assert [row["transaction_id"] for row in labels if row["transaction_id"].startswith("u")] == ["u-1"]


def test_a_caller_sends_so_many_labels_a_minute(desk: Desk) -> None:
    desk.desk = desk.of(desk.writer, per_minute=60)
    for _ in range(10):
        desk.send(state="confirmed")
    with pytest.raises(Problem, match="at most 60 labels a minute") as problem:
        desk.send(state="confirmed")
    assert (problem.value.status, problem.value.retry_after) == (429, 1)
    desk.send("another", state="confirmed", transaction_date="2026-11-20")
    desk.now += 1_000_000
    desk.send(state="confirmed")


def test_a_label_never_arrives_before_its_payments_day(desk: Desk, tmp_path: Path) -> None:
    desk.now = int(datetime(2026, 11, 19, 23, 59, 59, 999_999, tzinfo=UTC).timestamp() * 1_000_000)
    assert desk.send(state="confirmed")["arrived_at"] == "2026-11-20T00:00:00Z"


def test_what_is_no_json_is_told_so(desk: Desk) -> None:
    with pytest.raises(MalformedBody):
        asyncio.run(desk.desk.take(b"{", "shop"))


def test_a_label_knows_its_payment_in_every_spelling_and_refuses_a_key_that_stands_twice(desk: Desk) -> None:
    answer = desk.send(transaction_id=" t\u200b-1 ", state="confirmed")
    assert (answer["transaction_id"], answer["transaction_date"]) == ("t-1", str(PAID))
    assert desk.send(state="cleared", source="investigator")["counts"] == "from the next nightly run"
    twice = b'{"transaction_id": "t-1", "state": "confirmed", "state": "cleared"}'
    with pytest.raises(InvalidRequest, match="stands twice") as caught:
        asyncio.run(desk.desk.take(twice, "shop"))
    assert caught.value.field == "state"
