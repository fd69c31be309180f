"""`fraud-platform keys`: API keys of the decision service.

What belongs here: the group's commands. What does not: what a key is (`fraud_platform.decision.api_keys`).
"""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from fraud_platform.cli.confirm import WAIT, WAIT_SECONDS, confirm
from fraud_platform.cli.screen import JSON, by_hand, now, print_json, print_table, refused, settings_of_home

app = typer.Typer(help="API keys of the decision service, kept in <home>/access/keys.json.", no_args_is_help=True)


class Scope(StrEnum):
    """What a key allows."""

    decide = "decide"
    explain = "explain"
    feedback = "feedback"
    admin = "admin"


@app.command("add")
def keys_add(
    name: Annotated[str, typer.Argument(help="Name of the caller; its decisions are kept under this name.")],
    scope: Annotated[
        list[Scope], typer.Option("--scope", help="What the key allows; repeat the option for several scopes.")
    ],
    wait: WAIT = WAIT_SECONDS,
    as_json: JSON = False,
) -> None:
    """Create a key and print it, this once. A caller may have several, so that keys can be rotated without a gap."""
    from fraud_platform.decision.api_keys import KeysError, add_key, keys_path
    from fraud_platform.decision.key_ledger import note_key

    settings = settings_of_home()
    home = settings.home
    try:
        token, made = add_key(keys_path(home), name, [one.value for one in scope], now())
        note_key(home, made, by_hand(), now())
    except KeysError as error:
        raise refused(str(error)) from error
    if settings.jwt_keys is not None:
        typer.secho(f"tokens whose `sub` is {made.caller} are refused from now on: the name is the key's", err=True)
    if not as_json:
        # before anything is waited for: it is lost if this is interrupted
        typer.secho(f"key {made.id} of {made.caller} for {', '.join(made.scopes)}; it is not shown again:", err=True)
        typer.echo(token)
        sys.stdout.flush()
    told = {"id": made.id, "caller": made.caller, "scopes": made.scopes, "key": token} if as_json else None
    _confirm(home, f"key {made.id}", wait, told=told, needed=False, err=True)


@app.command("list")
def keys_list(as_json: JSON = False) -> None:
    """Show every key: id, caller, scopes, dates."""
    from fraud_platform.decision.api_keys import KeysError, keys_path, read_keys

    try:
        found = read_keys(keys_path(settings_of_home().home))
    except KeysError as error:
        raise refused(str(error)) from error
    if as_json:
        names = ("id", "caller", "scopes", "created_at", "revoked_at")
        print_json([{name: getattr(key, name) for name in names} for key in found])
        return
    rows = [
        [key.id, key.caller, ", ".join(key.scopes), f"{key.created_at:%Y-%m-%d %H:%M}",
         f"{key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else ""]
        for key in found
    ]  # fmt: skip
    print_table(None, ["id", "caller", "scopes", "created (UTC)", "revoked (UTC)"], rows)


@app.command("open")
def keys_open(why: Annotated[str, typer.Option("--why", help="The reason, recorded in the ledger.")]) -> None:
    """Let everybody on this machine in again although keys exist; takes effect at the service's next start."""
    from fraud_platform.decision.api_keys import KeysError
    from fraud_platform.decision.key_ledger import note_opening

    home = settings_of_home().home
    try:
        note_opening(home, by_hand(), why, now())
    except KeysError as error:
        raise refused(str(error)) from error
    typer.echo("A service on loopback lets everybody in from its next start, until the next key is made.")


@app.command("revoke")
def keys_revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the key, as shown by `keys list`.")],
    wait: WAIT = WAIT_SECONDS,
    as_json: JSON = False,
) -> None:
    """Revoke a key and wait until every worker refuses it; the ledger records who did it."""
    from fraud_platform.decision.api_keys import KeysError, keys_path, revoke_key
    from fraud_platform.decision.key_ledger import note_key

    home = settings_of_home().home
    try:
        key = revoke_key(keys_path(home), key_id, now())
        note_key(home, key, by_hand(), now())
    except KeysError as error:
        raise refused(str(error)) from error
    told = {"id": key.id, "caller": key.caller, "revoked_at": key.revoked_at} if as_json else None
    _confirm(home, f"the revocation of key {key.id} of {key.caller}", wait, told=told)


def _confirm(home: Path, what: str, wait: float, **how: Any) -> None:
    """Wait until every worker goes by the keys that are kept now."""
    from fraud_platform.decision.api_keys import KeyFile

    kept = KeyFile(home)
    confirm(home, what, lambda worker: worker.keys is not None and worker.keys == kept.state(), wait, **how)
