"""The command line: its commands answer, quickly, and hide what must not be shown."""

import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from fraud_platform.cli import app
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.homes import MARK, begin_home
from fraud_platform.settings import Settings
from tests.unit.commands_kit import commands

runner = CliRunner()


def said(*arguments: str, code: int = 0, **environment: str) -> str:
    result = runner.invoke(app, list(arguments), env={"COLUMNS": "200", "NO_COLOR": "1", **environment})
    assert result.exit_code == code, result.output
    return result.output


def test_help_names_each_command_with_a_sentence() -> None:
    text = said("--help")
    for command in ("up", "down", "status", "features", "ingest", "settings"):
        assert re.search(rf"\b{command}\b +\S+ \S+ .*\.", text), command


def test_the_module_imports_nothing_heavy() -> None:
    code = "import sys, fraud_platform.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    heavy = {"pandas", "numpy", "pyarrow", "duckdb", "dagster", "bentoml", "mlflow", "feast", "xgboost", "redis"}
    assert set(done.stdout.split()) & heavy == set()


def test_features_shows_every_feature_of_the_catalogue() -> None:
    text = said("features")
    assert CATALOGUE.hash in text
    for name in CATALOGUE.names:
        assert f" {name} " in text


def test_the_markdown_table_has_a_row_per_feature_and_the_same_columns_in_each() -> None:
    lines = said("features", "--markdown").strip().splitlines()
    assert len(lines) == 2 + len(CATALOGUE.names)
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    for name, line in zip(CATALOGUE.names, lines[2:], strict=True):
        assert f"| `{name}` |" in line


def test_settings_lists_every_variable_with_its_value() -> None:
    text = said("settings", FRAUD_DAGSTER_PORT="4321")
    for name in Settings.model_fields:
        assert f"FRAUD_{name.upper()} " in text
    assert re.search(r"FRAUD_DAGSTER_PORT +4321 +3000 +Port of the Dagster webserver\.", text)


def test_passwords_in_addresses_are_not_shown() -> None:
    text = said("settings", FRAUD_REDIS_URL="redis://user:s3cret@db.example:6379/0")
    assert "s3cret" not in text
    assert "redis://user:***@db.example:6379/0" in text


@pytest.mark.parametrize("command", ["status", "settings", "up"])
def test_a_wrong_setting_is_named_without_a_traceback(command: str) -> None:
    text = said(command, code=2, FRAUD_DAGSTER_PORT="many")
    assert "FRAUD_DAGSTER_PORT" in text
    assert "Traceback" not in text


def test_status_of_a_home_where_nothing_runs_says_so(settings: Settings) -> None:
    begin_home(settings.home)
    text = said("status", code=1, FRAUD_HOME=str(settings.home))
    assert text.count(" down ") == 3


def test_down_of_a_home_where_nothing_runs_says_so_and_creates_nothing(settings: Settings) -> None:
    begin_home(settings.home)
    assert "Nothing of" in said("down", FRAUD_HOME=str(settings.home))
    assert [path.name for path in settings.home.iterdir()] == [MARK]


_UNITS = re.compile(
    r"\b(days?|seconds?|amount|base currency|score|version|per cent|payments|users|merchants|features|decisions|dates|"
    r"sets)\b",
    re.I,
)


@pytest.mark.parametrize("name", sorted(commands()))
def test_each_option_is_explained_and_a_number_says_of_what(name: str) -> None:
    command = commands()[name]
    assert command.help
    for one in command.params:
        told = getattr(one, "help", None)
        assert told, f"{name} {one.name} has no help"
        assert len(told.split()) > 2, f"{name} {one.name}: {told!r} says too little"
        if one.type_descriptor.annotation in (int, float):
            assert _UNITS.search(told), f"{name} {one.name}: {told!r} names no unit"
