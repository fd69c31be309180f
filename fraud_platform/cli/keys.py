"""`fraud-platform keys`: API keys of the decision service.

What belongs here: the group's commands. What does not: what a key is (`fraud_platform.decision.api_keys`).
"""

from enum import StrEnum
from typing import Annotated

import typer

from fraud_platform.cli.screen import by_hand, now, print_table, refused, settings_of_home

app = typer.Typer(help="API keys of the decision service, kept in <home>/access/keys.json.", no_args_is_help=True)


class Scope(StrEnum):
    """What a key allows."""

    decide = "decide"
    explain = "explain"
    feedback = "feedback"
    admin = "admin"


@app.command("add")
def keys_add(
    name: Annotated[str, typer.Argument(help="Who will call: decisions are kept under this name.")],
    scope: Annotated[list[Scope], typer.Option("--scope", help="What the key allows; give it once for each.")],
) -> None:
    """Make a key and print it, for the only time; a name may have several, so that keys change without a gap."""
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
    typer.secho(f"key {made.id} of {made.caller} for {', '.join(made.scopes)}; it is not shown again:", err=True)
    typer.echo(token)


@app.command("list")
def keys_list() -> None:
    """Show every key: id, caller, scopes, dates."""
    from fraud_platform.decision.api_keys import KeysError, keys_path, read_keys

    try:
        found = read_keys(keys_path(settings_of_home().home))
    except KeysError as error:
        raise refused(str(error)) from error
    rows = [
        [key.id, key.caller, ", ".join(key.scopes), f"{key.created_at:%Y-%m-%d %H:%M}",
         f"{key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else ""]
        for key in found
    ]  # fmt: skip
    print_table(None, ["id", "caller", "scopes", "created", "revoked"], rows)


@app.command("open")
def keys_open(why: Annotated[str, typer.Option("--why", help="The reason, for the ledger.")]) -> None:
    """Let everybody on this machine in again, though keys were made here; counts from the service's next start."""
    from fraud_platform.decision.api_keys import KeysError
    from fraud_platform.decision.key_ledger import note_opening

    home = settings_of_home().home
    try:
        note_opening(home, by_hand(), why, now())
    except KeysError as error:
        raise refused(str(error)) from error
    typer.echo("A service on loopback lets everybody in from its next start, until the next key is made.")


@app.command("revoke")
def keys_revoke(key_id: Annotated[str, typer.Argument(metavar="ID", help="Of `keys list`.")]) -> None:
    """Make a key worthless; the service notices within a second, and the ledger keeps who did it."""
    from fraud_platform.decision.api_keys import KeysError, keys_path, revoke_key
    from fraud_platform.decision.key_ledger import note_key

    home = settings_of_home().home
    try:
        key = revoke_key(keys_path(home), key_id, now())
        note_key(home, key, by_hand(), now())
    except KeysError as error:
        raise refused(str(error)) from error
    typer.echo(f"key {key.id} of {key.caller} is revoked")
