"""`fraud-platform labels`: what it says of a home, what it changes, and that everything which learns goes by it."""

import json
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from fraud_platform import schema
from fraud_platform.cli import app
from fraud_platform.features import tables
from fraud_platform.features.label_rules import label_rules
from fraud_platform.features.tiles import write_label_tiles
from fraud_platform.lake import Lake, days_between
from fraud_platform.model.data import labels_before
from fraud_platform.monitoring.performance import performance
from fraud_platform.settings import Settings
from tests.monitoring_kit import log_decisions
from tests.record_kit import record

runner = CliRunner()
PAID = date(2026, 11, 20)
LABELLED = date(2026, 11, 22)
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
def said(tmp_path: Path) -> Any:
    """Runs a command in a home of its own; `code` is the expected exit code."""

    def run(*arguments: str, code: int = 0) -> str:
        environment = {"COLUMNS": "200", "NO_COLOR": "1", "FRAUD_HOME": str(tmp_path)}
        result = runner.invoke(app, ["labels", *arguments], env=environment)
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result.stdout if code == 0 else result.output

    return run


def label(name: str, caller: str, source: str, state: str, minute: int = 0) -> dict[str, Any]:
    arrived = NOON + timedelta(minutes=minute)
    return {
        "transaction_id": name, "caller": caller, "transaction_date": PAID, "arrived_at": arrived, "source": source,
        "revision": 1, "state": state,
    }  # fmt: skip


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Three payments of `shop` at one merchant; its key was stolen, and clears what the issuer had not yet reported."""
    lake = Lake(str(tmp_path / "lake"))
    labels = [
        label("t-1", "shop", "investigator", "confirmed"),
        label("t-1", "shop", "chargeback", "cleared", 1),
        label("t-2", "shop", "chargeback", "confirmed", 2),
        label("t-3", "shop", "chargeback", "cleared", 3),
        label("t-1", "other", "chargeback", "confirmed", 4),
    ]
    lake.write(tables.FRAUD_LABELS, LABELLED, pa.Table.from_pylist(labels, schema.LABELS))
    payments = pa.table(
        {
            "transaction_id": ["t-1", "t-2", "t-3"],
            "caller": ["shop"] * 3,
            "merchant_id": ["m"] * 3,
            "is_duplicate": [False] * 3,
        }
    )
    for day in days_between(PAID, LABELLED):
        lake.write(tables.RAW_TRANSACTIONS, day, payments if day == PAID else payments.slice(0, 0))
    write_label_tiles(Settings(home=tmp_path), lake, [LABELLED])
    morning = int(datetime(2026, 11, 20, 9, tzinfo=UTC).timestamp()) * 1_000_000
    decided = [
        record(f"t-{n}", caller="shop", decision_id=f"{n:032x}", received_at=morning + n, amount=10**n)
        for n in (1, 2, 3)
    ]
    log_decisions(lake, decided)
    return lake


def frauds(lake: Lake, home: Path) -> dict[str, bool | None]:
    """What training knows of shop's payments."""
    resolved = labels_before(lake, date(2026, 12, 1), label_rules(Settings(home=home))).to_pylist()
    return {row["transaction_id"]: row["is_fraud"] for row in resolved if row["caller"] == "shop"}


def booked(lake: Lake, home: Path) -> int:
    """Known frauds at the merchant by label tiles that are written now."""
    write_label_tiles(Settings(home=home), lake, [LABELLED])
    return sum(tile["fraud_delta"] for tile in lake.read(tables.LABEL_TILES, LABELLED).to_pylist())


def missed(lake: Lake, home: Path) -> int:
    """Money of the day's frauds that were let through, by `performance`."""
    (row,) = performance(lake, Settings(home=home), PAID).to_pylist()
    return int(row["missed_fraud_minor"])


def test_a_distrust_takes_labels_out_of_all_that_learns_and_back_again(said: Any, lake: Lake, tmp_path: Path) -> None:
    before = {"t-1": False, "t-2": True, "t-3": False}
    assert (frauds(lake, tmp_path), booked(lake, tmp_path), missed(lake, tmp_path)) == (before, 1, 100)
    arguments = ("distrust", "--caller", "shop", "--source", "chargeback", "--why", "key stolen")
    would = said(*arguments)
    assert "Nothing was changed" in would
    assert (frauds(lake, tmp_path), booked(lake, tmp_path), missed(lake, tmp_path)) == (before, 1, 100)
    done = said(*arguments, "--yes")
    for what, value in {
        "labels taken out": "3",
        "payments they speak of": "3",
        "payments: good → fraud": "1",
        "payments: fraud → no label": "1",
        "payments: good → no label": "1",
        "stale days of label_tiles": "1, 2026-11-22 to 2026-11-22",
        "stale days of performance": "none",
    }.items():
        for output in (would, done):
            assert re.search(rf"{re.escape(what)} +{re.escape(value)} *$", output, re.MULTILINE), output
    assert (frauds(lake, tmp_path), booked(lake, tmp_path)) == ({"t-1": True}, 1)
    assert missed(lake, tmp_path) == 10, "the silence of the others is innocence"
    (one,) = json.loads(said("list", "--json"))["distrusted"]
    assert (one["caller"], one["source"], one["why"]) == ("shop", "chargeback", "key stolen")
    assert "caller shop" in said("list")
    back = said("trust", one["id"], "--why", "it was not", "--yes")
    assert re.search(r"payments: fraud → good +1", back)
    assert (frauds(lake, tmp_path), booked(lake, tmp_path), missed(lake, tmp_path)) == (before, 1, 100)
    assert "undone" in said("show", one["id"])
    assert [event["what"] for event in json.loads(said("show", one["id"], "--json"))["events"]] == ["distrust", "trust"]


def test_since_and_until_bound_what_is_meant(said: Any, lake: Lake, tmp_path: Path) -> None:
    said("distrust", "--since", "2026-11-22T12:02", "--until", "2026-11-22T12:03", "--why", "a bad feed", "--yes")
    assert frauds(lake, tmp_path) == {"t-1": False, "t-3": False}


def test_what_cannot_be_meant_is_refused(said: Any, lake: Lake, tmp_path: Path) -> None:
    assert "say which labels" in said("distrust", "--why", "all of them", code=1)
    assert "until must be after since" in said(
        "distrust", "--since", "2026-11-22", "--until", "2026-11-22", "--why", "no", code=1
    )
    assert "no distrust 12345678 is in force" in said("trust", "12345678", "--why", "no", code=1)
    assert "no distrust 12345678 was ever" in said("show", "12345678", code=1)
    assert not (tmp_path / "labels").exists()
