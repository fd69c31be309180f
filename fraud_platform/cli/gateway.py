"""`fraud-platform gateway`: nginx before the decision service, and which colour of it gets payments.

What belongs here: the group's commands. What does not: what a change does (`fraud_platform.gateway.switch`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from fraud_platform.cli.screen import (
    JSON,
    by_hand,
    console,
    now,
    print_json,
    print_table,
    refused,
    settings_of_home,
    settings_of_server,
)

if TYPE_CHECKING:
    from fraud_platform.gateway.config import Weights
    from fraud_platform.model.release import Reason

app = typer.Typer(
    help="The gateway in front of the decision service: TLS, limits, blue and green. The ledger records every change.",
    no_args_is_help=True,
)

WHY = Annotated[str, typer.Option("--why", help="The reason, recorded in the ledger.")]


class Colour(StrEnum):
    """Two releases of the service side by side."""

    blue = "blue"
    green = "green"


COLOUR = Annotated[Colour, typer.Argument(help="blue or green.")]


@app.command("start")
def gateway_start() -> None:
    """Run nginx and the fallback rules until Ctrl-C; requests in progress are finished first."""
    from fraud_platform.gateway.run import run

    current = settings_of_server()
    with _refusing():
        typer.echo(f"https://{current.gateway_host}:{current.gateway_port}  Ctrl-C ends it.")
        run(current, now())


@app.command("status")
def gateway_status(as_json: JSON = False) -> None:
    """Show who gets payments and who is ready; exit code 0 if the gateway and all who get payments are ready."""
    from fraud_platform.gateway.config import COLOURS, HOST, folder, servers
    from fraud_platform.gateway.nginx import master
    from fraud_platform.gateway.switch import readiness, weights_in_force

    current = settings_of_home()
    weights = weights_in_force(current)
    runs = master(folder(current)) is not None
    address, rules = f"{current.gateway_host}:{current.gateway_port}", f"{HOST}:{current.rules_port}"
    behind = [(colour, at, readiness(at)) for colour in COLOURS for at in servers(current, colour)]
    by_rules = readiness(rules) is not None
    good = runs and all(lacks is not None or colour not in weights for colour, _, lacks in behind)
    if as_json:
        told = [
            {"colour": colour, "address": at, "percent": weights.get(colour, 0), "ready": lacks is not None,
             "lacks": lacks}
            for colour, at, lacks in behind
        ]  # fmt: skip
        of_rules = {"address": rules, "percent": 0 if weights else 100, "ready": by_rules}
        gateway = {"address": address, "runs": runs}
        print_json({"good": good, "gateway": gateway, "servers": told, "rules": of_rules})
        raise typer.Exit(int(not good))
    rows = [["gateway", address, "", "runs" if runs else "down"]]
    rows += [[colour, at, f"{weights.get(colour, 0)}%", _state(lacks)] for colour, at, lacks in behind]
    rows.append(["rules", rules, "backup" if weights else "100%", "ready" if by_rules else "down"])
    print_table(None, ["what", "address", "payments", "state"], rows)
    raise typer.Exit(int(not good))


@app.command("switch")
def gateway_switch(colour: COLOUR, why: WHY) -> None:
    """Send every payment to a colour once it is ready; returns when the other has none left."""
    from fraud_platform.gateway.switch import switch

    with _refusing():
        switch(settings_of_home(), colour.value, _reason(why), now())
    console().print(f"{colour.value} gets every payment.")


@app.command("split")
def gateway_split(
    colour: COLOUR, percent: Annotated[int, typer.Argument(help="Percentage of payments, 1 to 99.")], why: WHY
) -> None:
    """Send a random share of payments to a colour and the rest to the other: a canary of a whole release."""
    from fraud_platform.gateway.switch import split

    with _refusing():
        split(settings_of_home(), colour.value, percent, _reason(why), now())
    console().print(f"{colour.value} gets {percent} per cent of payments.")


@app.command("drain")
def gateway_drain(colour: COLOUR, why: WHY) -> None:
    """Send a colour no more payments, so that its servers can be stopped; the other colour, else the rules, decide."""
    from fraud_platform.gateway.switch import drain, weights_in_force

    current = settings_of_home()
    with _refusing():
        drain(current, colour.value, _reason(why), now())
    console().print(f"{colour.value} gets no payment any more; {_said(weights_in_force(current))}.")


@app.command("rollback")
def gateway_rollback(why: WHY) -> None:
    """Return to the weights before the last change."""
    from fraud_platform.gateway.switch import roll_back

    with _refusing():
        weights = roll_back(settings_of_home(), _reason(why), now())
    console().print(f"As before: {_said(weights)}.")


@app.command("reload")
def gateway_reload() -> None:
    """Apply changed settings or a new certificate; no request is lost."""
    from fraud_platform.gateway.switch import reload

    with _refusing():
        reload(settings_of_home())


def _reason(why: str) -> "Reason":
    from fraud_platform.model.release import Reason

    return Reason(who=by_hand(), why=why)


def _said(weights: "Weights") -> str:
    return ", ".join(f"{colour} {weight}%" for colour, weight in weights.items()) or "the rules alone decide"


def _state(lacks: list[str] | None) -> str:
    if lacks is None:
        return "down"
    return f"ready, lacks {', '.join(lacks)}" if lacks else "ready"


@contextmanager
def _refusing() -> Iterator[None]:
    from fraud_platform.decision.api_keys import KeysError
    from fraud_platform.gateway.config import GatewayError

    try:
        yield
    except (GatewayError, KeysError) as error:
        raise refused(str(error)) from error
