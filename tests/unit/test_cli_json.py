"""`--json` of every command that shows something: it parses, and carries what people are shown."""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
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
from fraud_platform.model.bundle import Bundle
from fraud_platform.model.ledger import Change, append_change
from fraud_platform.model.prequential import MODELS, Result
from fraud_platform.model.study import Study
from fraud_platform.packaging.image import Bento
from fraud_platform.recovery.drill import Outcome
from fraud_platform.settings import Settings
from tests.integration.service_kit import publish_small_model
from tests.unit.commands_kit import arguments, commands, missing_in

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 11, 25, 9, tzinfo=UTC)
SAYS_ONE_SENTENCE = {
    *("up", "init", "down", "compose-secrets", "keys open", "gateway start", "gateway switch", "gateway split"),
    *("gateway drain", "gateway rollback", "gateway reload", "inference-log run", "region publish", "region follow"),
}
"""Servers, and changes whose exit code says all that there is to say."""
SHOWN_ELSEWHERE = {
    "backtest": "tests/unit/test_backtest.py",
    "control join": "tests/integration/test_control_service.py",
    "control status": "tests/integration/test_control_service.py",
    "erase": "tests/integration/test_erase.py",
    "inference-log status": "tests/integration/test_inference_log.py",
    "reload": "tests/unit/test_decision_workers.py",
    "replay": "tests/unit/test_audit.py",
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
    "region status", "policy show", "policy listed", "policy history", "keys list", "labels list", "labels show",
    "labels trust",
    "gateway status", "prune", "inference-log retain",
]  # fmt: skip
CHANGES = {
    "policy set", "policy list-add", "policy list-remove", "policy kill-switch", "keys add", "keys revoke",
    "release rollback", "release promote", "release challenge", "release rebuild-registry", "release retire", "backup",
    "restore",
    "labels distrust",
}  # fmt: skip


LONG_WORK = {"drill", "evaluate", "ingest", "package"}


def test_every_command_is_shown_somewhere() -> None:
    assert {*commands()} == SAYS_ONE_SENTENCE | LONG_WORK | {*SHOWN_ELSEWHERE, *SHOWN_HERE, *CHANGES}
    for file in SHOWN_ELSEWHERE.values():
        assert '"--json"' in (ROOT / file).read_text(), file


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
    distrusted = json.loads(called("labels distrust", "--json")[1])
    assert (distrusted["done"], distrusted["labels"], distrusted["distrust"]["source"]) == (False, 0, "issuer")
    kept = json.loads(called("backup", "--json")[1])
    assert (kept["folder"], kept["files"] > 5) == (str(tmp_path / "new"), True)
    missing = CliRunner().invoke(app, ["restore", kept["folder"], "--json"], env={"FRAUD_HOME": str(tmp_path / "lost")})
    files = json.loads(missing.stdout)
    assert (files["done"], len(files["files"])) == (False, kept["files"])


def test_a_drill_s_outcomes(called: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = [
        Outcome("Redis", 1.5, "by the cold store", "as before", True, "12 keys"),
        Outcome("the ledger", 0.25, "as before", "otherwise", False, "3 lines"),
    ]
    monkeypatch.setattr("fraud_platform.recovery.drill.drill", lambda *_: outcomes)
    code, table = called("drill")
    code_of_json, text = called("drill", "--json")
    assert (code, code_of_json) == (1, 1)
    assert [(one["lost"], one["same"]) for one in json.loads(text)] == [("Redis", True), ("the ledger", False)]
    assert missing_in(json.loads(text), table.replace(" s ", " ").splitlines()) == []


def test_a_study_s_table_and_results(
    called: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    results = [
        Result(day, model, 900, 300, 30, 0.5 + number / 10, 0.8, 0.25, 0.75, None)
        for day in (date(2026, 11, 1), date(2026, 11, 15))
        for number, model in enumerate(MODELS)
    ]
    study = Study(results, tmp_path / "results.json", tmp_path / "plot.png")
    monkeypatch.setattr("fraud_platform.model.study.run_study", lambda *_: study)
    _, table = called("evaluate")
    told = json.loads(called("evaluate", "--json")[1])
    assert [row[0] for row in told["table"]["rows"]] == list(MODELS)
    assert {result["date"] for result in told["results"]} == {"2026-11-01", "2026-11-15"}
    assert told["windows"]["dates"] == 2
    shown = [line for line in table.splitlines() if "results:" not in line and "plot:" not in line]
    assert missing_in(told, shown) == []


def test_a_mapping_s_check(called: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    rows = ("id,user,shop,amount,at,land", "1,u,s,3.50,2026-03-01T10:00:00Z,AT", "2,u,s,x,2026-03-01T11:00:00Z,AT")
    (tmp_path / "export.csv").write_text("\n".join(rows))
    columns = "transaction_id: id, user_id: user, merchant_id: shop, amount: amount, timestamp: at, country: land"
    mapping = f"path: {tmp_path / 'export.csv'}\ncurrency: EUR\ncolumns: {{{columns}}}\n"
    (tmp_path / "mapping.yaml").write_text(mapping)
    _, text = called("ingest", "--json")
    told = json.loads(text)
    assert (told["rows"], told["accepted"], told["quarantined"], told["first_day"]) == (2, 1, 1, "2026-03-01")


def test_what_was_packaged(
    called: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("fraud_platform.packaging.image.build_bento", lambda _: Bento("fraud_detector:7-01", tmp_path))
    told = json.loads(called("package", "--json")[1])
    assert told == {"bento": {"tag": "fraud_detector:7-01", "folder": str(tmp_path)}, "images": []}


def test_who_decides_after_a_change_of_release(
    called: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    """The registry's part is its own tests'."""
    monkeypatch.setattr("fraud_platform.model.registry.challenge", lambda *_, **__: None)
    monkeypatch.setattr(
        "fraud_platform.model.registry.bundle_of",
        lambda settings, _: Bundle.load(settings.home / "releases" / "fraud-detector-7"),
    )
    monkeypatch.setattr("fraud_platform.model.registry_rebuild.rebuild_registry", lambda _: [7])
    told = json.loads(called("release challenge", "--wait", "0", "--json")[1])
    assert (told["champion"], told["challenger"], told["in_force"]) == ("fraud-detector-7", None, None)
    assert json.loads(called("release rebuild-registry", "--json")[1]) == {"registered": [7]}
    assert called("release retire", "--json") == (1, ""), "there is no such release"
    former = home / "releases" / "fraud-detector-6"
    former.mkdir()
    assert json.loads(called("release retire", "--json")[1]) == {"retired": "fraud-detector-6"}
    former.rmdir()
    code, text = called("release promote", "--json")
    assert (code, text) == (1, ""), "there is no challenger"
