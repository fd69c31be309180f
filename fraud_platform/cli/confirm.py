"""Whether a change is in force: what a command says once every worker of the service has confirmed it, or has not.

What belongs here: the sentence, the exit code, the option. What does not: how workers tell (`decision.workers`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fraud_platform.cli.screen import print_json, refused

if TYPE_CHECKING:
    from fraud_platform.decision.workers import WorkerNote

NOT_CONFIRMED = 4
"""Exit code where a change is kept and not every worker confirms it, or none runs that could."""

WAIT = Annotated[
    float,
    typer.Option(
        "--wait", min=0, metavar="SECONDS", help="Seconds to wait for every worker to confirm; 0: do not wait."
    ),
]
WAIT_SECONDS = 10.0


def confirm(
    home: Path,
    what: str,
    follows: "Callable[[WorkerNote], bool]",
    wait: float,
    *,
    told: dict[str, Any] | None = None,
    needed: bool = True,
    err: bool = False,
    elsewhere: "Callable[[], list[WorkerNote]]" = list,
) -> None:
    """Wait until every worker of this home says that it follows a change, and say how many do. Raises Exit
    NOT_CONFIRMED where one does not.

    what: subject of the sentence, such as "policy 2". told: what is printed as JSON in the sentence's place, with the
    workers beside it. needed: whether it is a failure that no worker runs. err: stdout is for something else.
    elsewhere: what workers of other homes say, which follow the same.
    """
    from fraud_platform.decision.workers import confirm as ask

    if not wait:
        _print(told, {"in_force": None, "workers": [], "seconds": 0.0}, f"{what} is kept; no worker was asked", err)
        return
    found = ask(home, follows, wait, elsewhere)
    count = len(found.following) + len(found.late)
    workers = [_told(note, in_force=True) for note in found.following]
    workers += [_told(note, in_force=False) for note in found.late]
    complete = count > 0 and not found.late
    sentence = f"{what} is in force in {len(found.following)} of {count} workers after {found.seconds:.1f} s"
    _print(
        told,
        {"in_force": complete, "workers": workers, "seconds": round(found.seconds, 3)},
        sentence if complete else f"{what} is kept",
        err,
    )
    if found.late:
        late = ", ".join(map(_named, found.late))
        raise refused(f"{sentence}; worker {late} has not confirmed: check whether it hangs, or end it", NOT_CONFIRMED)
    if not count:
        said = (
            "no worker of this home runs on this machine, so none confirms it; those in other containers or on other "
            "machines follow by themselves within a second, and one that starts begins with it"
        )
        if needed:
            raise refused(said, NOT_CONFIRMED)
        typer.echo(said, err=True)


def _told(note: "WorkerNote", *, in_force: bool) -> dict[str, Any]:
    return {"pid": note.pid, "in_force": in_force} | ({} if note.home is None else {"home": note.home})


def _named(note: "WorkerNote") -> str:
    return f"{note.pid}{f' of {note.home}' if note.home else ''}{f' ({note.error})' if note.error else ''}"


def _print(told: dict[str, Any] | None, confirmed: dict[str, Any], sentence: str, err: bool) -> None:
    if told is None:
        typer.echo(sentence, err=err)
    else:
        print_json(told | confirmed)
