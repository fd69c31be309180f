"""`--json` of every command that shows something: it parses, and carries what people are shown."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from fraud_platform import schema
from fraud_platform.cli import app
from fraud_platform.decision.api_keys import add_key, keys_path, revoke_key
from fraud_platform.decision.policy_change import change_policy, parse_change
from fraud_platform.features import tables
from fraud_platform.features.label_rules import DistrustFile, distrust
from fraud_platform.homes import begin_home
from fraud_platform.lake import open_lake
from fraud_platform.model.ledger import Change, append_change
from fraud_platform.settings import Settings
from tests.integration.service_kit import publish_small_model
from tests.unit.commands_kit import arguments, commands, missing_in

NOW = datetime(2026, 11, 25, 9, tzinfo=UTC)
SAYS_ONE_SENTENCE = {
    *("up", "init", "down", "compose-secrets", "keys open", "gateway start", "gateway switch", "gateway split"),
    *("gateway drain", "gateway rollback", "gateway reload", "inference-log run", "region publish", "region follow"),
}
"""Servers, and changes whose exit code says all that there is to say."""
SHOWN_ELSEWHERE = {
    "backtest": "test_backtest",
    "drill": "test_recovery",
    "erase": "test_erase",
    "evaluate": "test_model_evaluate",
    "ingest": "test_ingest_mapping",
    "inference-log status": "test_inference_log",
    "package": "test_packaging",
    "release promote": "like `release challenge`, by the same function",
    "release challenge": "wants MLflow: test_registry",
    "release rebuild-registry": "wants MLflow",
    "reload": "test_decision_workers",
    "replay": "test_audit",
}
"""What wants more than a small home is called with `--json` where its world is built."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a policy of several versions, keys, a distrust, a release with its card."""
    home = tmp_path_factory.mktemp("shown")
    begin_home(home)
    settings = Settings(home=home)
    publish_small_model(home, version=7, seed=1)
    (home / "releases" / "fraud-detector-7" / "card.md").write_text("# fraud-detector 7\n")
    append_change(home, Change(at=NOW, who="test", why="first", to="fraud-detector-7"))
    for change in (
        {"why": "too few blocks", "threshold": 0.65},
        {"why": "card testing", "block_list_add": [{"kind": "device", "value": "d-881"}]},
        {"why": "salaries", "allow_list_add": [{"kind": "user", "value": "u-17", "until": "2100-01-02T03:04:00Z"}]},
    ):
        change_policy(settings, parse_change(json.dumps(change).encode()), "ann by hand", NOW)
    for name in ("shop", "lost"):
        _, key = add_key(keys_path(home), name, ["decide", "explain"], NOW)
    revoke_key(keys_path(home), key.id, NOW)
    event = distrust(who="ann", why="a bad feed", now=NOW, source="issuer", caller=None, since=NOW, until=None)
    DistrustFile(home).append(event)
    label = {
        "transaction_id": "t-1", "caller": "shop", "transaction_date": NOW.date(), "arrived_at": NOW,
        "source": "issuer", "revision": 1, "state": "confirmed",
    }  # fmt: skip
    open_lake(settings).write(tables.FRAUD_LABELS, NOW.date(), pa.Table.from_pylist([label], schema.LABELS))
    return home


@pytest.fixture
def called(home: Path, tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Calls a command in the home and returns its exit code and what it printed on stdout."""

    def call(name: str, *more: str) -> tuple[int, str]:
        words = [*name.split(), *own(name, home, tmp_path), *more]
        environment = {"COLUMNS": "250", "NO_COLOR": "1", "FRAUD_HOME": str(home)}
        result = CliRunner().invoke(app, words, env=environment)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        return result.exit_code, result.stdout

    return call


def own(name: str, home: Path, folder: Path) -> tuple[str, ...]:
    """Arguments that find something in the home."""
    distrusted = DistrustFile(home).events()[0].id
    special = {
        "labels show": (distrusted,),
        "labels trust": (distrusted, "--why", "it was not"),
        "labels distrust": ("--source", "issuer", "--why", "a bad feed"),
        "keys revoke": (json.loads(keys_path(home).read_text())["keys"][1]["id"],),
        "policy list-remove": ("block", "user", "u-2", "--why", "a test"),
    }
    return special.get(name, arguments(name, folder))


def test_every_command_that_shows_something_takes_json() -> None:
    takes = {name for name, command in commands().items() if any("--json" in one.opts for one in command.params)}
    assert {*commands()} - takes == SAYS_ONE_SENTENCE


SHOWN_HERE = [
    "features", "settings", "status", "card", "capacity", "scenario", "release status", "release seal",
    "region status", "policy show", "policy history", "keys list", "labels list", "labels show", "labels trust",
    "labels distrust", "gateway status", "prune", "inference-log retain",
]  # fmt: skip
CHANGES = {
    "policy set", "policy list-add", "policy list-remove", "policy kill-switch", "keys add", "keys revoke",
    "release rollback", "backup", "restore",
}  # fmt: skip


def test_every_command_is_shown_somewhere() -> None:
    assert {*commands()} == SAYS_ONE_SENTENCE | {*SHOWN_ELSEWHERE, *SHOWN_HERE, *CHANGES}


@pytest.mark.parametrize("name", SHOWN_HERE)
def test_json_carries_what_the_table_shows(called: Callable[..., tuple[int, str]], name: str) -> None:
    code, table = called(name)
    code_of_json, text = called(name, "--json")
    told = json.loads(text)
    assert code == code_of_json
    assert told
    shown = [line for line in table.splitlines() if "─" not in line and not line.startswith(("home ", "written"))]
    assert shown
    assert missing_in(told, shown) == []


def test_moments_are_utc(called: Callable[..., tuple[int, str]]) -> None:
    told = json.loads(called("keys list", "--json")[1])
    assert [key["created_at"] for key in told] == ["2026-11-25T09:00:00Z"] * 2
    assert [key["revoked_at"] for key in told] == [None, "2026-11-25T09:00:00Z"]
    assert json.loads(called("policy show", "--json")[1])["allow_list"][0]["until"] == "2100-01-02T03:04:00Z"


def test_changes_tell_what_they_changed(called: Callable[..., tuple[int, str]], home: Path, tmp_path: Path) -> None:
    unasked = ("--wait", "0", "--json")
    told = json.loads(called("policy set", *unasked)[1])
    assert told == {"version": 5, "changed": True, "in_force": None, "workers": [], "seconds": 0.0}
    added = json.loads(called("keys add", *unasked)[1])
    assert added["key"].startswith(f"fp_{added['id']}_")
    assert (added["caller"], added["scopes"]) == ("shop", ["decide"])
    revoked = json.loads(called("keys revoke", *unasked)[1])
    assert datetime.fromisoformat(revoked["revoked_at"]) == NOW
    kept = json.loads(called("backup", "--json")[1])
    assert (kept["folder"], kept["files"] > 5) == (str(tmp_path / "files" / "new"), True) or kept["folder"]
    missing = CliRunner().invoke(app, ["restore", kept["folder"], "--json"], env={"FRAUD_HOME": str(tmp_path / "lost")})
    files = json.loads(missing.stdout)
    assert (files["done"], len(files["files"])) == (False, kept["files"])
