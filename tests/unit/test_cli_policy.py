"""`fraud-platform policy` and what `release status` says of it."""

import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from fraud_platform.cli import app
from fraud_platform.decision.policy_change import change_policy, parse_change
from fraud_platform.decision.policy_record import Entry, put_in_force, read_policy
from fraud_platform.homes import begin_home
from fraud_platform.model.ledger import Change, append_change
from fraud_platform.settings import Settings
from tests.integration.service_kit import publish_small_model

runner = CliRunner()


@pytest.fixture
def said(tmp_path: Path) -> Any:
    """Runs a command in a home of its own; `code` is the expected exit code."""
    begin_home(tmp_path)

    def run(*arguments: str, code: int = 0) -> str:
        environment = {"COLUMNS": "200", "NO_COLOR": "1", "FRAUD_HOME": str(tmp_path)}
        unasked = (
            ("--wait", "0") if arguments[0] == "policy" and arguments[1] not in ("show", "history", "listed") else ()
        )
        result = runner.invoke(app, [*arguments, *unasked], env=environment)
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result.output

    return run


def test_the_policy_is_shown_changed_and_its_history_told(said: Any, tmp_path: Path) -> None:
    assert "no policy yet: version 1" in said("policy", "show")
    assert read_policy(tmp_path) is None
    assert "policy 2 is kept" in said("policy", "set", "--threshold", "0.65", "--why", "too few blocks")
    said("policy", "list-add", "block", "device", "d-881", "--for", "7d", "--why", "card testing")
    said("policy", "list-add", "allow", "merchant", "m-1", "--until", "2100-01-01", "--why", "salaries")
    said("policy", "list-remove", "allow", "merchant", "m-1", "--why", "a mistake")
    said("policy", "kill-switch", "rules_only", "--why", "scores look wrong")
    assert "policy 6 already says so" in said("policy", "kill-switch", "rules_only", "--why", "again")
    shown = said("policy", "show")
    assert re.search(r"threshold +0\.65 ", shown)
    assert re.search(r"kill_switch +rules_only ", shown)
    end = datetime.now(UTC) + timedelta(days=7)
    assert re.search(rf"block +device +d-881 +{end:%Y-%m-%d} \d\d:\d\d +card testing", shown)
    assert "m-1" not in shown
    assert re.search(r"allow +merchant +m-1 +2100-01-01 00:00 +salaries", said("policy", "show", "--version", "4"))
    history = said("policy", "history")
    for version, difference in {
        1: "threshold 0.7, review_threshold 0.4, rule_high_amount 10,000",
        2: "threshold 0.7 → 0.65",
        3: "block_list + device d-881",
        4: "allow_list + merchant m-1",
        5: "allow_list − merchant m-1",
        6: "kill_switch off → rules_only",
    }.items():
        assert re.search(rf"^ {version} .*{re.escape(difference)}", history, re.MULTILINE), (version, history)


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("set", "--threshold", "0.6"), 2, "--why"),
        (("set", "--why", "because"), 1, "asks for no change"),
        (("set", "--review-threshold", "0.8", "--why", "x"), 1, "review_threshold: 0.8 would be above threshold"),
        (("set", "--threshold", "1.5", "--why", "x"), 1, "threshold: "),
        (("set", "--threshold", "0.6", "--why", "x", "--expected-version", "9"), 1, "at version 1, not 9"),
        (("list-add", "block", "card", "1", "--why", "x"), 2, "card"),
        (("list-add", "block", "country", "Germany", "--why", "x"), 1, "Germany is not an ISO 3166"),
        (("list-add", "block", "user", "u", "--for", "soon", "--why", "x"), 1, "such as 12h or 7d"),
        (("list-add", "block", "user", "u", "--until", "2020-01-01", "--why", "x"), 1, "is in the past"),
        (
            ("list-add", "block", "user", "u", "--until", "2100-01-01", "--for", "1d", "--why", "x"),
            1,
            "either --until or --for",
        ),
        (("list-remove", "allow", "user", "u", "--why", "x"), 1, "user u is not on the list"),
        (("kill-switch", "on", "--why", "x"), 2, "allow_all"),
        (("show", "--version", "9"), 1, "no version 9"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_by_name(
    said: Any, tmp_path: Path, arguments: tuple[str, ...], code: int, named: str
) -> None:
    assert named in said("policy", *arguments, code=code)
    record = read_policy(tmp_path)
    assert record is None or record.version == 1


def test_a_champion_that_was_measured_at_other_thresholds_proposes_them(said: Any, tmp_path: Path) -> None:
    publish_small_model(tmp_path, version=7, seed=1)
    append_change(tmp_path, Change(at=datetime.now(UTC), who="test", why="first", to="fraud-detector-7"))
    status = " ".join(said("release", "status").split())
    assert "policy 1 decides by thresholds 0.7 and 0.4; fraud-detector-7 was measured at 0.6 and 0.3" in status
    proposed = re.search(r"`fraud-platform (policy set [^`]*)`", status)
    assert proposed
    said(*proposed[1].split(), "--why", "as measured")
    assert "measured" not in said("release", "status")


def test_whether_somebody_is_listed_is_told_with_who_when_and_why(said: Any, tmp_path: Path) -> None:
    said("policy", "list-add", "block", "user", "u-1", "--why", "case 4711")
    said("policy", "list-add", "block", "user", "u-1", "--until", "2100-01-01", "--why", "case 4711 again")
    said("policy", "list-add", "allow", "merchant", "m-1", "--for", "1h", "--why", "salaries")
    line = re.escape("block list: user u-1, until 2100-01-01 00:00 UTC; put there ")
    assert re.search(
        rf"{line}\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC by \w+ by hand, with policy 3: case 4711 again\n$",
        said("policy", "listed", "user", " u-1\u200b"),
    )
    assert "merchant m-1" in said("policy", "listed", "merchant", "m-1")
    assert "user m-1 is on no list of policy 4 (lists match exact)" in said("policy", "listed", "user", "m-1", code=1)
    said("policy", "listed", "user", "U-1", code=1)
    said("policy", "set", "--list-matching", "case", "--why", "they write as they like")
    assert re.search(r"list_matching +case ", said("policy", "show"))
    assert "list_matching exact → case" in said("policy", "history")
    assert "block list: user u-1" in said("policy", "listed", "user", "U-1")
    said("policy", "kill-switch", "allow_all", "--why", "storm")
    assert "no list counts at the moment" in said("policy", "listed", "user", "u-1")
    assert "--help" in said("policy", "listed", "user", code=2)


def test_an_entry_that_has_expired_is_told_and_counts_no_more(said: Any, tmp_path: Path) -> None:
    past = datetime(2026, 1, 2, tzinfo=UTC)
    said("policy", "set", "--threshold", "0.6", "--why", "x")
    record = read_policy(tmp_path)
    assert record is not None
    entry = Entry(kind="user", value="u-1", until=past, why="a week")
    put_in_force(tmp_path, msgspec.structs.replace(record, block_list=(entry,)))
    told = said("policy", "listed", "user", "u-1", code=1)
    assert (
        "2026-01-02 00:00 UTC, which has passed, so it no longer counts; the ledger does not say since when: a week"
        in told
    )
    assert "is on no list" in told


def test_long_lists_are_shown_and_told_at_once(said: Any, tmp_path: Path) -> None:
    """What every entry costs is what a list of ten thousand takes: no entry may read settings, or be laid out anew."""
    settings = Settings(home=tmp_path)
    for part in range(10):
        entries = [{"kind": "user", "value": f"u-{part}-{number}"} for number in range(1_000)]
        change = parse_change(msgspec.json.encode({"why": "a feed", "block_list_add": entries}))
        change_policy(settings, change, "ann", datetime.now(UTC))
    took = {}
    for command in (("show", "--version", "1"), ("show",), ("history",), ("listed", "user", "u-9-999")):
        began = time.process_time()
        shown = said("policy", *command)
        took[command] = time.process_time() - began
        assert ("u-9-999" in shown) == (command in (("show",), ("listed", "user", "u-9-999")))
    assert said("policy", "history").count("980 more") == 10
    assert "\nblock list: user u-9-999, for good; put there " in shown
    shortest = took.pop(("show", "--version", "1"))
    assert max(took.values()) < shortest + 2, took
