"""Every command of the Typer app, found by walking it, and for each the arguments with which it can be called.

What belongs here: what all tests of commands share. What does not: what one command does.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from fraud_platform.cli import app

WHY = ("--why", "a test")


def commands() -> dict[str, TyperCommand]:
    """Every command by the words that call it, such as `policy show`."""
    return dict(_walk("", typer.main.get_command(app)))


def _walk(name: str, command: object) -> Iterator[tuple[str, TyperCommand]]:
    if isinstance(command, TyperGroup):
        for word, each in command.commands.items():
            yield from _walk(f"{name} {word}".strip(), each)
    else:
        assert isinstance(command, TyperCommand)
        yield name, command


def arguments(name: str, folder: Path) -> tuple[str, ...]:
    """What a command needs beside its name to do its work. folder: of files that a command takes, made where missing.

    A command that is not here has no test: add it.
    """
    (folder / "backup").mkdir(parents=True, exist_ok=True)
    (folder / "mapping.yaml").touch()
    return {
        "up": (),
        "down": (),
        "init": (),
        "status": (),
        "settings": (),
        "reload": ("--url", "http://127.0.0.1:9"),
        "features": (),
        "ingest": ("--mapping", str(folder / "mapping.yaml"), "--check"),
        "prune": ("--yes",),
        "replay": ("--decision", "t-1"),
        "evaluate": (),
        "card": ("7",),
        "backtest": ("--rule", "amount > 500"),
        "scenario": (),
        "capacity": ("--peak-tps", "100", "--users", "1e6", "--bench", str(folder / "bench")),
        "erase": ("--user", "u-1", "--yes"),
        "backup": (str(folder / "new"),),
        "restore": (str(folder / "backup"),),
        "drill": (),
        "package": ("--bento-only",),
        "compose-secrets": (str(folder / "secrets"),),
        "release status": (),
        "release rollback": WHY,
        "release promote": WHY,
        "release rebuild-registry": (),
        "release seal": (),
        "release retire": ("fraud-detector-6", *WHY),
        "release challenge": ("7", *WHY),
        "region publish": ("--once",),
        "region follow": ("--once",),
        "region status": (),
        "policy show": (),
        "policy set": ("--threshold", "0.6", *WHY),
        "policy list-add": ("block", "user", "u-1", *WHY),
        "policy list-remove": ("block", "user", "u-1", *WHY),
        "policy kill-switch": ("rules_only", *WHY),
        "policy listed": ("user", "u-1"),
        "policy history": (),
        "control join": (),
        "control status": (),
        "keys add": ("shop", "--scope", "decide"),
        "keys list": (),
        "keys open": WHY,
        "keys revoke": ("00000000",),
        "labels distrust": ("--source", "issuer", "--yes", *WHY),
        "labels trust": ("00000000", "--yes", *WHY),
        "labels list": (),
        "labels show": ("00000000",),
        "inference-log run": (),
        "inference-log status": ("--seconds", "0"),
        "inference-log retain": ("--yes",),
        "gateway start": (),
        "gateway status": (),
        "gateway switch": ("green", *WHY),
        "gateway split": ("green", "10", *WHY),
        "gateway drain": ("green", *WHY),
        "gateway rollback": WHY,
        "gateway reload": (),
    }[name]


def missing_in(told: Any, cells: Iterable[str]) -> list[str]:
    """Words with a digit of a table's cells that JSON does not carry: ids, dates, counts, whatever way they are
    written."""
    known = {word for value in _scalars(told) for text in _written(value) for word in _words(text)}
    return [word for cell in cells for word in _words(cell) if word not in known]


def _words(text: str) -> list[str]:
    return [word.strip(".,;:()") for word in text.replace("/", " ").split() if any(letter.isdigit() for letter in word)]


def _scalars(told: Any) -> Iterator[Any]:
    if isinstance(told, dict):
        for name, value in told.items():
            yield name
            yield from _scalars(value)
    elif isinstance(told, list):
        yield len(told)
        for value in told:
            yield from _scalars(value)
    else:
        yield told


def _written(value: Any) -> Iterator[str]:
    yield str(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield from (f"{value:,}", f"{value:g}", f"{value:.1f}", f"{value:,.1f}", f"{value:,.2f}", f"{value}%")
        yield from (f"{value:.0%}", f"{value:.1%}", f"{value:.3%}", f"{value:,.0f}")
    elif isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return
        yield f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if moment.tzinfo else value
        yield f"{moment:%Y-%m-%d %H:%M}"
