"""No command obeys a home that never was: each is called in a wrong folder, and says so, and changes nothing."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fraud_platform.cli import app
from fraud_platform.cli.screen import NO_HOME
from fraud_platform.homes import MARK, begin_home, is_home
from tests.unit.commands_kit import arguments, commands

NEED_NONE = {"features", "settings", "reload", "ingest", "capacity", "compose-secrets", "scenario"}
"""What they speak of is the program's, the environment's, a service's by its address, or in files that are named; a
scenario begins a home of its own."""
BEGIN_ONE = {
    "up": "builds it",
    "init": "begins it",
    "restore": "for the home that was lost",
    "region follow": "the home of a region begins by following",
}
WHERE_NAMED = {
    "inference-log run": "a consumer of a machine of its own",
    "gateway start": "a gateway of a machine of its own",
}
"""These begin a home where FRAUD_HOME names it, as in a container, and refuse a folder that nobody named."""


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Calls a command in an empty folder where FRAUD_HOME is not set."""
    place = tmp_path / "wrong"
    place.mkdir()
    monkeypatch.chdir(place)

    def call(name: str, *more: str, **environment: str) -> Any:
        words = [*name.split(), *arguments(name, tmp_path / "files"), *more]
        return CliRunner().invoke(app, words, env={"COLUMNS": "200", "NO_COLOR": "1", **environment})

    return call


@pytest.mark.parametrize("name", sorted({*commands()} - {*NEED_NONE, *BEGIN_ONE}))
def test_a_command_refuses_a_folder_that_is_no_home(called: Any, name: str, tmp_path: Path) -> None:
    result = called(name)
    assert result.exit_code == NO_HOME, result.output
    assert f"{tmp_path / 'wrong' / 'var'} is no home" in result.stderr
    assert "FRAUD_HOME" in result.stderr
    assert "make run" in result.stderr
    assert result.stdout == ""
    assert list((tmp_path / "wrong").iterdir()) == []


@pytest.mark.parametrize("name", sorted({*commands()} - {*NEED_NONE, *BEGIN_ONE, *WHERE_NAMED}))
def test_a_command_refuses_a_home_that_is_named_and_not_there(called: Any, name: str, tmp_path: Path) -> None:
    result = called(name, FRAUD_HOME=str(tmp_path / "typo"))
    assert result.exit_code == NO_HOME, result.output
    assert f"{tmp_path / 'typo'}, which FRAUD_HOME names, is no home" in result.stderr
    assert not (tmp_path / "typo").exists()
    assert list((tmp_path / "wrong").iterdir()) == []


def test_what_older_versions_of_these_commands_wrote_in_a_wrong_folder_makes_no_home(called: Any) -> None:
    for folder in ("policy", "access", "inference_log", "redis"):
        (Path("var") / folder).mkdir(parents=True)
    ledger = Path("var") / "releases" / "ledger.jsonl"
    ledger.parent.mkdir()
    ledger.touch()
    assert called("policy kill-switch").exit_code == NO_HOME


@pytest.mark.parametrize("sign", ["dagster", "lake", "feedback", "releases/current.json", "releases/followed.json"])
def test_a_home_of_an_older_version_is_one(tmp_path: Path, sign: str) -> None:
    assert not is_home(tmp_path)
    (tmp_path / sign).mkdir(parents=True)
    assert is_home(tmp_path)


def test_a_home_begins_once_and_for_its_user_alone(tmp_path: Path) -> None:
    home = tmp_path / "new"
    begin_home(home)
    assert home.stat().st_mode & 0o777 == 0o700
    assert is_home(home)
    (home / MARK).chmod(0o400)
    begin_home(home)


def test_init_begins_the_home_that_is_named_and_a_command_then_says_which_it_acts_on(
    called: Any, tmp_path: Path
) -> None:
    home = tmp_path / "named"
    assert called("init", FRAUD_HOME=str(home)).exit_code == 0
    assert is_home(home)
    result = called("policy show", FRAUD_HOME=str(home))
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines()[0] == f"home {home}"
    again = called("init", FRAUD_HOME=str(home))
    assert (again.exit_code, "is a home already" in again.output) == (0, True)


def test_a_restore_begins_a_home_and_saying_what_it_would_do_begins_none(called: Any, tmp_path: Path) -> None:
    begin_home(tmp_path / "old")
    assert called("keys add", FRAUD_HOME=str(tmp_path / "old")).exit_code == 0
    kept, new = str(tmp_path / "kept"), {"FRAUD_HOME": str(tmp_path / "new")}
    assert CliRunner().invoke(app, ["backup", kept], env={"FRAUD_HOME": str(tmp_path / "old")}).exit_code == 0
    assert CliRunner().invoke(app, ["restore", kept], env=new).exit_code == 0
    assert not (tmp_path / "new").exists()
    assert CliRunner().invoke(app, ["restore", kept, "--yes"], env=new).exit_code == 0
    assert (tmp_path / "new" / MARK).exists()
    assert "shop" in CliRunner().invoke(app, ["keys", "list"], env=new).stdout
