"""What every command needs: the settings, the screen, the clock, and how a command says no.

What belongs here: input and output as people see it. What does not: any command.
"""

import os
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

_BROKEN_ROWS = 200
"""Rows up to which a table's cells are broken to fit the screen."""

if TYPE_CHECKING:
    from rich.console import Console

    from fraud_platform.settings import Settings

NO_HOME = 3
"""Exit code of a command in a folder that is no home."""
JSON = Annotated[bool, typer.Option("--json", help="Print JSON for scripts instead of text; times are UTC.")]


def settings_of_environment() -> "Settings":
    """The settings; a wrong one ends the command with its name and what is wrong with it."""
    from pydantic import ValidationError

    from fraud_platform.settings import Settings

    try:
        return Settings()
    except ValidationError as error:
        problems = [f"FRAUD_{'.'.join(map(str, part['loc'])).upper()}: {part['msg']}" for part in error.errors()]
        raise typer.BadParameter("\n".join(problems), param_hint="environment") from error


def settings_of_home() -> "Settings":
    """The settings, once it is said on stderr which home they name; where that is none, this ends the command.

    Every command that acts on a home or speaks of one begins with this, but for those that begin one.
    """
    from fraud_platform.homes import is_home

    settings = settings_of_environment()
    if not is_home(settings.home):
        raise _no_home(settings)
    return say_home(settings)


def settings_of_server() -> "Settings":
    """`settings_of_home` for a server that may be the first in a home, as in a container: it begins the one that
    FRAUD_HOME names. In a folder that nobody named it would serve nobody, and is refused."""
    from fraud_platform.homes import begin_home, is_home

    settings = settings_of_environment()
    if not is_home(settings.home) and "home" not in settings.model_fields_set:
        raise _no_home(settings)
    try:
        begin_home(settings.home)
    except OSError as error:
        raise refused(f"FRAUD_HOME: no home can begin there: {error}") from error
    return say_home(settings)


def settings_of_policy() -> "Settings":
    """The settings of a home whose copy of the policy is as the control store has it, where one is named; where that is
    away, it is said so."""
    from fraud_platform.control.store import ControlError
    from fraud_platform.decision.policy_control import refresh
    from fraud_platform.decision.policy_record import PolicyError

    settings = settings_of_home()
    try:
        refresh(settings)
    except (ControlError, PolicyError) as error:
        typer.secho(f"this home's copy of the policy is used: {error}", fg=typer.colors.RED, err=True)
    return settings


def say_home(settings: "Settings") -> "Settings":
    """Say on stderr which home the settings name."""
    typer.echo(f"home {settings.home.absolute()}", err=True)
    return settings


def _no_home(settings: "Settings") -> typer.Exit:
    which = ", which FRAUD_HOME names," if "home" in settings.model_fields_set else ""
    return refused(
        f"{settings.home.absolute()}{which} is no home: no platform was ever begun in it. Set FRAUD_HOME to the folder "
        "of the home, or change to the folder where `make run` was called; `make run` (`fraud-platform up`) builds one "
        "here, `fraud-platform init` begins one and builds nothing.",
        NO_HOME,
    )


def console() -> "Console":
    """The screen, or a pipe wide enough for names."""
    from rich.console import Console

    screen = Console()
    if not screen.is_terminal and "COLUMNS" not in os.environ:
        screen.width = 180  # a pipe or a log has no width of its own: names must not be broken there
    return screen


def now() -> datetime:
    """The present in UTC by the platform's clock."""
    from fraud_platform.clock import present

    return present(settings_of_environment())


def by_hand() -> str:
    """Who asks, for the ledger."""
    import getpass

    return f"{getpass.getuser()} by hand"


def refused(message: str, code: int = 1) -> typer.Exit:
    """Say on stderr why a command was not done, and end with this code."""
    typer.secho(message, fg=typer.colors.RED, err=True)
    return typer.Exit(code)


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A table for a document."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _print_long(title: str | None, header: list[str], rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (header, *rows)]
    typer.echo("\n".join([*([title] if title else []), *lines]))


def print_table(title: str | None, header: list[str], rows: list[list[str]]) -> None:
    """A table for the screen; a long one has lines of its own width, since breaking cells costs a millisecond a row."""
    if len(rows) > _BROKEN_ROWS:
        _print_long(title, header, rows)
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, title_justify="left")
    for number, name in enumerate(header):
        table.add_column(name, overflow="fold", no_wrap=number == 0 and name != "meaning")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console().print(table)


def print_json(told: Any) -> None:
    """What a command tells, as JSON on stdout: its keys stay, times are RFC 3339 in UTC, shares lie in [0, 1]."""
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(told, enc_hook=_plain), indent=2).decode())


def _plain(value: Any) -> Any:
    """What JSON has no word for: numbers of NumPy, paths."""
    return value.item() if hasattr(value, "item") else str(value)
