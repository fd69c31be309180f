"""What every command needs: the settings, the screen, the clock, and how a command says no.

What belongs here: input and output as people see it. What does not: any command.
"""

import os
from datetime import datetime
from typing import TYPE_CHECKING

import typer

_BROKEN_ROWS = 200
"""Rows up to which a table's cells are broken to fit the screen."""

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from fraud_platform.settings import Settings


def settings_of_environment() -> "Settings":
    """The settings; a wrong one ends the command with its name and what is wrong with it."""
    from pydantic import ValidationError

    from fraud_platform.settings import Settings

    try:
        return Settings()
    except ValidationError as error:
        problems = [f"FRAUD_{'.'.join(map(str, part['loc'])).upper()}: {part['msg']}" for part in error.errors()]
        raise typer.BadParameter("\n".join(problems), param_hint="environment") from error


def home_of(settings: "Settings") -> "Path":
    """The settings' home, where there is one; a folder that never was a home ends the command."""
    home = settings.home.absolute()
    if not any((home / folder).exists() for folder in ("lake", "releases", "dagster", "feedback")):
        raise refused(f"{home} is no home: nothing was ever built in it. Set FRAUD_HOME, or change the folder")
    return home


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


def refused(message: str) -> typer.Exit:
    """Say on stderr why a command was not done, and end with code 1."""
    typer.secho(message, fg=typer.colors.RED, err=True)
    return typer.Exit(1)


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
