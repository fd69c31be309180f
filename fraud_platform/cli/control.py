"""`fraud-platform control`: the control store that homes share, and this home's part in it.

What belongs here: the group's commands. What does not: the store (`fraud_platform.control`), what a home gives and gets
(`fraud_platform.decision.policy_control`).
"""

from typing import Annotated

import typer

from fraud_platform.cli.screen import JSON, print_json, print_table, refused, settings_of_home

app = typer.Typer(
    help="The control store of FRAUD_CONTROL_URL: homes that name one share the policy.", no_args_is_help=True
)


@app.command("join")
def control_join(
    grant: Annotated[
        list[str] | None,
        typer.Option("--grant", metavar="ROLE", help="A role of PostgreSQL that may follow and change; no more."),
    ] = None,
    as_json: JSON = False,
) -> None:
    """Make the store's tables, give it what this home has and it lacks, and get what this home lacks; again: nothing.

    The files of the home stay where they are: from then on they are its copy of what the store says.
    """
    from fraud_platform.control.store import ControlError, control_url
    from fraud_platform.decision.policy_control import join
    from fraud_platform.decision.policy_record import PolicyError

    current = settings_of_home()
    url = control_url(current)
    said = []
    try:
        if url is not None:
            from fraud_platform.control.schema import prepare

            if prepare(url, tuple(grant or ())):
                said.append("the control store's tables are up to date now")
        said += join(current)
    except (ControlError, PolicyError, OSError) as error:
        raise refused(str(error)) from error
    if as_json:
        print_json({"done": said})
        return
    typer.echo("\n".join(said) if said else "this home and the control store have the same already")


@app.command("status")
def control_status(as_json: JSON = False) -> None:
    """Whether the store answers, what is in force there and here, and which workers of which homes follow it."""
    from fraud_platform.control.store import ControlError, control_url
    from fraud_platform.decision.policy_control import standing
    from fraud_platform.decision.policy_record import PolicyError

    current = settings_of_home()
    if control_url(current) is None:
        raise refused("FRAUD_CONTROL_URL names no control store: this home is alone")
    try:
        found = standing(current)
    except (ControlError, PolicyError) as error:
        raise refused(str(error)) from error
    workers = [{"home": note.home, "pid": note.pid, "policy": note.policy} for note in found.workers]
    if as_json:
        print_json({"policy": found.there, "policy_here": found.here, "changes": found.changes, "workers": workers})
        return
    typer.echo(f"policy {found.there} is in force after {found.changes} changes, policy {found.here} in this home")
    if workers:
        print_table(
            None,
            ["home", "worker", "policy"],
            [[str(each["home"]), str(each["pid"]), str(each["policy"])] for each in workers],
        )
