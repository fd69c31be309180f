"""Words and rates that come later change nothing of a built day, and the days that they would change are named."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fraud_platform import schema
from fraud_platform.channels import words
from fraud_platform.features import tables
from fraud_platform.ingest.read_by import RECORD, read_otherwise
from fraud_platform.ingest.steps import ingest_rates, ingest_transactions
from fraud_platform.lake import Lake, days_between
from fraud_platform.quality import Finding, days_are_read_alike

FIRST = date(2026, 3, 1)
DAYS = days_between(FIRST, FIRST + timedelta(days=3))


@dataclass
class Export:
    """A source with one payment a day, at noon: (channel, currency) by its day."""

    rows: Mapping[date, tuple[str | None, str]]
    rate_e9: dict[date, dict[str, int]] = field(default_factory=dict)
    decided: bool = False
    name: str = "export"

    def first_day(self) -> date:
        return FIRST

    def last_day(self) -> date | None:
        return None

    def transactions(self, days: Sequence[date]) -> Iterator[tuple[date, pa.Table]]:
        for day in days:
            channel, currency = self.rows[day]
            at = ((day - date(1970, 1, 1)).days * 24 + 12) * 3_600_000_000
            row = {
                "transaction_id": f"t-{day}", "user_id": "u", "merchant_id": "m", "amount_minor": 100,
                "currency": currency, "timestamp": at, "received_at": at, "channel": channel,
            }  # fmt: skip
            rows = pa.Table.from_pylist([row], schema.EXPORT)
            beside = {"caller": "default", "decision_id": "d"} if self.decided else {}
            for name, value in beside.items():
                rows = rows.append_column(name, pa.array([value]))
            yield day, rows

    def labels(self, days: Sequence[date]) -> Iterator[tuple[date, pa.Table]]:
        yield from ((day, schema.LABELS.empty_table()) for day in days)

    def rates(self, day: date) -> pa.Table:
        known = self.rate_e9.get(day, {})
        return pa.table([list(known), list(known.values())], schema=schema.RATES)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def build(lake: Lake, source: Any, days: Sequence[date], known: Mapping[str, str]) -> None:
    ingest_rates(lake, source, days)
    ingest_transactions(lake, source, days, "EUR", known)


def found(lake: Lake, source: Any, known: Mapping[str, str]) -> Finding:
    return days_are_read_alike(lake, read_otherwise(lake, source, known))


def test_days_that_were_built_under_other_words_are_named_with_the_command(lake: Lake) -> None:
    source = Export(dict(zip(DAYS, [("portal", "EUR"), (None, "EUR"), ("portal", "EUR"), ("pos", "EUR")], strict=True)))
    build(lake, source, DAYS[:3], words({}))
    assert found(lake, source, words({})).passed
    later = words({"Portal": "online"})
    build(lake, source, DAYS[3:], later)

    finding = found(lake, source, later)

    assert (finding.rule, finding.severity, finding.passed) == ("read_alike", "warn", False)
    assert finding.facts["other_words"] == f"2 day(s), {DAYS[0]} to {DAYS[2]}", "one of them has no text at all"
    assert finding.facts["command"].endswith(f"--partition-range {DAYS[0]}...{DAYS[3]}")
    assert lake.read(tables.RAW_TRANSACTIONS, DAYS[0])["channel"].to_pylist() == [None], "nothing was changed"
    build(lake, source, DAYS, later)
    assert found(lake, source, later).passed
    assert lake.read(tables.RAW_TRANSACTIONS, DAYS[0])["channel"].to_pylist() == ["online"]


def test_rates_that_come_later_or_are_corrected_are_told_where_a_payment_has_the_currency(lake: Lake) -> None:
    source = Export(dict(zip(DAYS, [(None, "KWD"), (None, "USD"), (None, "USD"), (None, "EUR")], strict=True)))
    source.rate_e9 = {day: {"USD": 900_000_000} for day in DAYS}
    build(lake, source, DAYS, words({}))
    assert found(lake, source, words({})).passed

    source.rate_e9 = {day: {"USD": 900_000_000, "KWD": 3_000_000_000, "JPY": 6_000_000} for day in DAYS}
    source.rate_e9[DAYS[2]]["USD"] += 1

    finding = found(lake, source, words({}))
    assert finding.facts["other_rates"] == {
        "KWD": f"1 day(s), {DAYS[0]} to {DAYS[0]}",
        "USD": f"1 day(s), {DAYS[2]} to {DAYS[2]}",
    }
    assert finding.facts["days"] == 2
    # transactions alone stand on the rates that are recorded
    ingest_transactions(lake, source, DAYS, "EUR", words({}))
    assert not found(lake, source, words({})).passed
    build(lake, source, DAYS, words({}))
    assert found(lake, source, words({})).passed


def test_what_the_service_decided_was_read_once(lake: Lake) -> None:
    source = Export(dict.fromkeys(DAYS, ("portal", "KWD")), decided=True)
    build(lake, source, DAYS, words({}))
    source.rate_e9 = {day: {"KWD": 3_000_000_000} for day in DAYS}
    assert found(lake, source, words({"portal": "online"})).passed


def test_days_of_before_the_record_are_not_told(lake: Lake) -> None:
    source = Export(dict.fromkeys(DAYS, ("portal", "EUR")))
    build(lake, source, DAYS, words({}))
    lake.remove([lake.document_path(RECORD)])
    finding = found(lake, source, words({"portal": "online"}))
    assert (finding.passed, finding.facts["other_words"]) == (True, "none")


def test_two_runs_that_note_their_days_at_once_keep_each_others(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Export(dict.fromkeys(DAYS, ("portal", "EUR")))
    seen = Lake.seen
    build(lake, source, DAYS[:1], words({}))

    def meanwhile(self: Lake, path: str) -> str | None:
        version = seen(self, path)
        monkeypatch.setattr(Lake, "seen", seen)
        build(Lake(lake.root), source, DAYS[2:], words({"portal": "pos"}))
        return version

    monkeypatch.setattr(Lake, "seen", meanwhile)
    build(lake, source, DAYS[1:2], words({}))
    assert found(lake, source, words({})).facts["other_words"] == f"2 day(s), {DAYS[2]} to {DAYS[3]}"
    assert found(lake, source, words({"portal": "pos"})).facts["days"] == 2
