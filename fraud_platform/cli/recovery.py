"""`fraud-platform backup`, `restore` and `drill`: for the day on which something is lost.

What belongs here: options and tables. What does not: the work (`fraud_platform.recovery`).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fraud_platform.cli.screen import (
    JSON,
    now,
    print_json,
    print_table,
    refused,
    say_home,
    settings_of_environment,
    settings_of_home,
    settings_of_policy,
)

if TYPE_CHECKING:
    from fraud_platform.recovery.drill import Outcome

app = typer.Typer()


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="A folder that does not exist yet, outside the home.")],
    as_json: JSON = False,
) -> None:
    """Back up what cannot be rebuilt: ledger, releases, candidates, MLflow, keys, policies, labels from callers."""
    from fraud_platform.recovery.backup import BackupError
    from fraud_platform.recovery.backup import backup as run

    current = settings_of_policy()
    try:
        kept = run(current, folder, now())
    except (BackupError, OSError) as error:
        raise refused(str(error)) from error
    if as_json:
        print_json({"folder": folder, "files": kept.files, "bytes": kept.size, "at": kept.at})
        return
    typer.echo(f"{folder}: {kept.files} files, {kept.size / 1e6:.1f} MB, of {kept.at}")
    typer.echo("It holds hashes of API keys and the key to erased users' pseudonyms: protect it like those.")


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="What `fraud-platform backup` made.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without it, only show what would be restored.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Also restore files that differ, not only missing ones.")
    ] = False,
    as_json: JSON = False,
) -> None:
    """Restore missing files from a backup, which is verified first; nothing is deleted. Stop the platform before."""
    from fraud_platform.recovery.backup import BackupError
    from fraud_platform.recovery.backup import restore as run
    from fraud_platform.run.home import open_home
    from fraud_platform.run.lock import runner

    current = say_home(settings_of_environment())
    held_by = runner(open_home(current))
    if yes and held_by:
        raise refused(f"the platform of {current.home} is running (process {held_by}): run `fraud-platform down` first")
    try:
        names = run(current, folder, overwrite=overwrite, dry_run=not yes)
    except (BackupError, OSError) as error:
        raise refused(str(error)) from error
    if as_json:
        print_json({"done": yes, "files": names})
        return
    for name in names:
        typer.echo(name)
    said = "Put back" if yes else "Would put back"
    typer.echo(f"{said} {len(names)} file(s)." + ("" if yes or not names else " Do it with: --yes"))


@app.command()
def drill(
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Folder for the copy, which is kept; default: a temporary folder.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """On a copy of this home, lose Redis, PostgreSQL, registry, ledger and the log's record, recover each, and compare.

    The live home is only read. The exit code is 0 when everything came back as it was.
    """
    import shutil
    import tempfile

    from fraud_platform.recovery.copied import DrillError
    from fraud_platform.recovery.drill import drill as run

    current = settings_of_home()
    place = Path(tempfile.mkdtemp(prefix="fraud-drill-")) if folder is None else folder.absolute()
    copy = place / "home"
    try:
        outcomes = run(current, copy, lambda step: typer.echo(f"→ {step}", err=True))
    except (DrillError, OSError) as error:
        raise refused(str(error)) from error
    finally:
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)
    if as_json:
        print_json(outcomes)
    else:
        _print_outcomes(outcomes)
    raise typer.Exit(int(not all(one.same for one in outcomes)))


def _print_outcomes(outcomes: "list[Outcome]") -> None:
    rows = [
        [one.lost, f"{one.seconds:.1f} s", one.meanwhile, one.afterwards, one.compared,
         "as before" if one.same else "DIFFERS"]
        for one in outcomes
    ]  # fmt: skip
    header = ["lost", "back after", "a payment meanwhile", "a payment then", "compared", "outcome"]
    print_table("Drill on a copy of the home", header, rows)
