"""Commands whose output goes nowhere: a closed pipe, a full disk, Ctrl-C. Each in a process of its own, as people call
them: what Python says at its very end counts too."""

import os
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fraud_platform.homes import begin_home

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "fraud_platform.cli"]
CAPACITY = ("capacity", "--peak-tps", "100", "--users", "1e6")
SAYING = [
    (),
    ("--help",),
    ("policy", "kill-switch", "--help"),
    ("features",),
    ("features", "--markdown"),
    ("settings",),
    CAPACITY,
    (*CAPACITY, "--json"),
    ("policy", "show"),
    ("keys", "list"),
    ("status",),
]
"""Little and much, by Typer, by Rich and as JSON."""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    begin_home(tmp_path / "home")
    return {**os.environ, "FRAUD_HOME": str(tmp_path / "home")}


def run(arguments: tuple[str, ...], environment: dict[str, str], **streams: Any) -> "subprocess.CompletedProcess[str]":
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.run(
        [*COMMAND, *arguments], env=environment, cwd=ROOT, text=True, timeout=60, check=False, **streams
    )


def closed_pipe() -> int:
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize("arguments", SAYING, ids=" ".join)
def test_a_closed_pipe_ends_a_command_as_sigpipe_would(arguments: tuple[str, ...], environment: dict[str, str]) -> None:
    writing = closed_pipe()
    done = run(arguments, environment, stdout=writing)
    os.close(writing)
    assert done.returncode == 141, done.stderr
    assert [line for line in done.stderr.splitlines() if not line.startswith("home ")] == []


@pytest.mark.parametrize("arguments", SAYING, ids=" ".join)
def test_a_full_disk_is_said_and_is_no_success(arguments: tuple[str, ...], environment: dict[str, str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = run(arguments, environment, stdout=full)
    assert done.returncode == 74, done.stderr
    (said,) = [line for line in done.stderr.splitlines() if not line.startswith("home ")]
    assert "the output could not be written: No space left on device" in said


@pytest.mark.parametrize(("where", "code"), [("/dev/full", 74), (None, 141)])
def test_where_errors_cannot_be_told_the_code_tells(where: str | None, code: int, environment: dict[str, str]) -> None:
    writing = closed_pipe() if where is None else os.open(where, os.O_WRONLY)
    done = run(("card", "7"), environment, stderr=writing)
    os.close(writing)
    assert (done.returncode, done.stdout) == (code, "")


def test_a_command_that_changes_something_has_changed_it_before_it_says_so(
    environment: dict[str, str], tmp_path: Path
) -> None:
    arguments = ("policy", "kill-switch", "rules_only", "--why", "a test", "--wait", "0")
    with Path("/dev/full").open("w") as full:
        assert run(arguments, environment, stdout=full).returncode == 74
    assert '"rules_only"' in (tmp_path / "home" / "policy" / "current.json").read_text()


def test_ctrl_c_is_no_error_of_the_program(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            [*COMMAND, "reload", "--url", address], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        # held: a connection that is closed would be answered before the signal comes
        connection, _ = silent.accept()
        with connection:
            process.send_signal(signal.SIGINT)
            said, error = process.communicate(timeout=30)
    assert (process.returncode, said, error.strip()) == (130, "", "")


def test_the_installed_command_goes_through_the_same_door() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"fraud-platform": "fraud_platform.cli.__main__:main"}
