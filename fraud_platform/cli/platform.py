"""Commands for the platform as a whole: start, end, look, settings.

What belongs here: `up`, `init`, `down`, `status`, `settings`, `reload`. What does not: data and models.
"""

from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from fraud_platform.cli.screen import (
    JSON,
    console,
    now,
    print_json,
    print_table,
    refused,
    say_home,
    settings_of_environment,
    settings_of_home,
)

app = typer.Typer()


@app.command()
def up(
    exit_when_ready: Annotated[
        bool,
        typer.Option("--exit-when-ready", help="Stop with exit code 0 as soon as the sample payments are decided."),
    ] = False,
) -> None:
    """Build what is missing, start every server, decide sample payments; run until Ctrl-C."""
    from fraud_platform.run.up import up as run

    raise typer.Exit(run(say_home(settings_of_environment()), console(), now, exit_when_ready))


@app.command()
def init() -> None:
    """Make the folder FRAUD_HOME a home and build nothing, so that keys or a gateway can be set up first; `up` does
    this by itself."""
    from fraud_platform.homes import begin_home, is_home

    home = settings_of_environment().home
    known = is_home(home)
    try:
        begin_home(home)
    except OSError as error:
        raise refused(f"FRAUD_HOME: no home can begin there: {error}") from error
    typer.echo(f"{home.absolute()} is a home {'already' if known else 'now'}")


@app.command()
def down() -> None:
    """Stop everything that `up` started in this home, including Redis and PostgreSQL."""
    from fraud_platform.online.embedded_postgres import PostgresUnavailableError
    from fraud_platform.online.embedded_redis import RedisUnavailableError
    from fraud_platform.run.status import down as run

    try:
        raise typer.Exit(run(settings_of_home(), console()))
    except (RedisUnavailableError, PostgresUnavailableError) as error:
        raise refused(str(error)) from error


@app.command()
def status(as_json: JSON = False) -> None:
    """Show what is running; the exit code is 0 if all of it is ready."""
    from fraud_platform.run.screen import status_table
    from fraud_platform.run.status import is_up
    from fraud_platform.run.status import status as look

    current = settings_of_home()
    lines = look(current)
    up = is_up(lines)
    if as_json:
        parts = [{"what": line.name, "state": line.state, "address": line.url} for line in lines]
        print_json({"home": current.home.absolute(), "up": up, "parts": parts})
    else:
        console().print(status_table(lines))
    raise typer.Exit(int(not up))


@app.command()
def settings(as_json: JSON = False) -> None:
    """List every setting: environment variable, value, default, meaning."""
    current = settings_of_environment()
    rows = []
    for name, field in type(current).model_fields.items():
        value = getattr(current, name)
        default = "" if field.default is None else str(field.default)
        rows.append([f"FRAUD_{name.upper()}", _masked(value), default, field.description or ""])
    header = ["setting", "value", "default", "meaning"]
    if as_json:
        print_json([dict(zip(header, row, strict=True)) for row in rows])
        return
    print_table(None, header, rows)


@app.command()
def reload(
    url: Annotated[
        str | None, typer.Option("--url", help="Address of the service; default: the one of this home, on loopback.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Make every worker of the service check for a new release now; needs a key with the scope admin in FRAUD_API_KEY.

    The exit code is 0 if every worker has checked and serves what it found.
    """
    import httpx

    current = settings_of_environment()
    address = url or f"http://127.0.0.1:{current.service_port}"
    key = current.api_key
    headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    try:
        response = httpx.post(f"{address}/v1/admin/reload", json={}, headers=headers, timeout=30, trust_env=False)
    except httpx.HTTPError as error:
        raise refused(f"no service answers at {address}: {error}") from error
    answer = response.json() if "json" in response.headers.get("content-type", "") else {}
    if not response.is_success:
        raise refused(f"the service refuses ({response.status_code}): {answer.get('detail', response.reason_phrase)}")
    workers = answer["workers"]
    good = bool(workers) and all(worker["looked"] and not worker["error"] for worker in workers)
    if as_json:
        print_json(answer)
        raise typer.Exit(int(not good))
    rows = [
        [str(worker["pid"]), worker["model_version"] or "none", "yes" if worker["looked"] else "no",
         worker["error"] or ""]
        for worker in workers
    ]  # fmt: skip
    print_table(None, ["worker", "model", "looked", "error"], rows)
    raise typer.Exit(int(not good))


def _masked(value: Any) -> str:
    """A setting's value as it may be shown: without the password of an address."""
    if value is None:
        return ""
    text = str(value)
    password = urlsplit(text).password if "://" in text else None
    return text.replace(f":{password}@", ":***@") if password else text
