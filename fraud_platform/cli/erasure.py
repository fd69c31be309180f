"""`fraud-platform erase`: one user out of everything.

What belongs here: options and tables. What does not: the work (`fraud_platform.erasure`).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fraud_platform.cli.screen import JSON, by_hand, console, now, print_json, print_table, refused, settings_of_home

if TYPE_CHECKING:
    from fraud_platform.erasure.erase import Look

app = typer.Typer()


@app.command()
def erase(
    user: Annotated[str, typer.Option("--user", metavar="ID", help="The user's identifier as it appears in payments.")],
    backup: Annotated[
        list[Path] | None,
        typer.Option(
            "--backup", exists=True, file_okay=False, help="A backup to remove the user from as well; may be repeated."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without it, only show what would be done.")] = False,
    as_json: JSON = False,
) -> None:
    """Delete one user's rows where nothing needs them, replace the user by a pseudonym where sums do, then check.

    The exit code is 0 when nothing names the user any more: after the erasure all that is kept is searched once more,
    by other means. Run again after a kill, it goes on.
    """
    from fraud_platform.control.store import ControlError
    from fraud_platform.decision.policy_record import PolicyError
    from fraud_platform.erasure.erase import OUT_OF_REACH, look
    from fraud_platform.erasure.erase import erase as run
    from fraud_platform.identifiers import canonical
    from fraud_platform.model.bundle import BundleError
    from fraud_platform.online.embedded_postgres import PostgresUnavailableError
    from fraud_platform.online.embedded_redis import RedisUnavailableError
    from fraud_platform.recovery.backup import BackupError
    from fraud_platform.versions import NewerVersionError

    if not canonical(user) or user.startswith("erased-"):
        raise refused("--user: give the user's own identifier, not a pseudonym")
    current, backups = settings_of_home(), backup or []
    failures = (
        *(RedisUnavailableError, PostgresUnavailableError, PolicyError, ControlError),
        *(BundleError, BackupError, NewerVersionError, OSError),
    )
    pseudonym, after = None, None
    try:
        if not yes:
            before = look(current, user, backups=backups, plainly=False)
        else:
            done = run(current, user, who=by_hand(), now=now(), backups=backups)
            pseudonym, before, after = done.pseudonym, done.before, done.after
    except failures as error:
        raise refused(f"the erasure is not complete, run it again: {error}") from error
    if as_json:
        looks = {"before": _plain(before), "after": after and _plain(after)}
        print_json({"done": yes, "pseudonym": pseudonym, **looks, "out_of_reach": OUT_OF_REACH})
    else:
        _show(f"Done; in its place stands {pseudonym}" if yes else "Would be done; do it with --yes", before, after)
        console().print("Out of reach:", *(f"- {line}" for line in OUT_OF_REACH), sep="\n", highlight=False)
    if after is not None and after.total:
        raise refused(
            f"the user is still named {after.total} time(s): the lines above with a ! say where and what to do. A "
            "spool's segment that a running worker has open is cut when the worker begins another; run this again then"
        )


def _plain(look: "Look") -> dict[str, Any]:
    return {"stores": look.stores, "total": look.total, "notes": look.notes}


def _show(title: str, before: "Look", after: "Look | None") -> None:
    left = {} if after is None else {store.name: store.count for store in after.stores}
    shown = {store.name: store for store in (*(after.stores if after else ()), *before.stores)}
    counted = {store.name: store.count for store in before.stores}
    rows = [
        [name, str(counted.get(name, 0)), *([] if after is None else [str(left.get(name, 0))]), store.fate]
        for name, store in sorted(shown.items())
    ]
    print_table(title, ["store", "before", *([] if after is None else ["after"]), "what becomes of it"], rows)
    for note in (after or before).notes:
        console().print(f"! {note}", highlight=False)
