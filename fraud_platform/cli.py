"""The `fraud-platform` command.

What belongs here: names, options and help. What does not: work; each command imports what it needs when it is called,
so that `--help` answers at once.
"""

import os
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from fraud_platform.model.release import Reason
    from fraud_platform.settings import Settings

app = typer.Typer(
    help="A fraud-decision platform: raw logs to live decisions. Settings are FRAUD_* variables, see `settings`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
keys = typer.Typer(help="API keys of the decision service, kept in <home>/access/keys.json.", no_args_is_help=True)
app.add_typer(keys, name="keys")
log = typer.Typer(
    help="The inference log: every decision, from the service's spool into the lake.", no_args_is_help=True
)
app.add_typer(log, name="inference-log")
release = typer.Typer(
    help="Who decides: champion, challenger and its share of users; each change is a line in the ledger.",
    no_args_is_help=True,
)
app.add_typer(release, name="release")


def _settings() -> "Settings":
    from pydantic import ValidationError

    from fraud_platform.settings import Settings

    try:
        return Settings()
    except ValidationError as error:
        problems = [f"FRAUD_{'.'.join(map(str, part['loc'])).upper()}: {part['msg']}" for part in error.errors()]
        raise typer.BadParameter("\n".join(problems), param_hint="environment") from error


def _console() -> "Console":
    from rich.console import Console

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 180  # a pipe or a log has no width of its own: names must not be broken there
    return console


def _now() -> datetime:
    return datetime.now(UTC)


@app.command()
def up(
    exit_when_ready: Annotated[
        bool, typer.Option("--exit-when-ready", help="End again, with code 0, once the sample payments are decided.")
    ] = False,
) -> None:
    """Build what is missing, start every server, decide sample payments; runs until Ctrl-C."""
    from fraud_platform.run.up import up as run

    raise typer.Exit(run(_settings(), _console(), _now, exit_when_ready))


@app.command()
def down() -> None:
    """End everything that `up` started in this home, Redis and PostgreSQL included."""
    from fraud_platform.online.embedded_postgres import PostgresUnavailableError
    from fraud_platform.online.embedded_redis import RedisUnavailableError
    from fraud_platform.run.status import down as run

    try:
        raise typer.Exit(run(_settings(), _console()))
    except (RedisUnavailableError, PostgresUnavailableError) as error:
        raise _refused(str(error)) from error


@app.command()
def status() -> None:
    """Show what runs; the exit code is 0 when all of it is ready."""
    from fraud_platform.run.status import status as run

    raise typer.Exit(run(_settings(), _console()))


@app.command()
def features(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the Markdown table of the documentation.")
    ] = False,
) -> None:
    """List the features: name, source, window, unit, dtype, cold start, meaning."""
    from fraud_platform.features.catalogue import CATALOGUE

    header = ["#", "feature", "source", "window", "unit", "dtype", "cold start", "meaning"]
    rows = [
        [str(number), one.name, one.source, one.window, one.unit, one.dtype, one.cold_start, one.meaning]
        for number, one in enumerate(CATALOGUE.features, start=1)
    ]
    if markdown:
        typer.echo(_markdown(header, [[row[0], f"`{row[1]}`", *row[2:]] for row in rows]))
        return
    _print_table(f"{len(rows)} features, catalogue {CATALOGUE.hash}", header, rows)


@app.command()
def settings() -> None:
    """List every setting: environment variable, value, default, meaning."""
    current = _settings()
    rows = []
    for name, field in type(current).model_fields.items():
        value = getattr(current, name)
        default = "" if field.default is None else str(field.default)
        rows.append([f"FRAUD_{name.upper()}", _masked(value), default, field.description or ""])
    _print_table(None, ["setting", "value", "default", "meaning"], rows)


@app.command()
def ingest(
    mapping: Annotated[Path, typer.Option("--mapping", exists=True, dir_okay=False, help="The mapping file (YAML).")],
    check: Annotated[
        bool, typer.Option("--check", help="Read every row and report; write nothing to the lake.")
    ] = False,
) -> None:
    """Check a mapping file against the data it points at, before a history is built from it."""
    from fraud_platform.ingest.check import check_mapping, render
    from fraud_platform.ingest.mapping import MappingError

    if not check:
        raise _refused(f"to build the platform from it, set FRAUD_MAPPING={mapping} and run `fraud-platform up`")
    try:
        report = check_mapping(mapping, _settings())
    except MappingError as error:
        raise _refused(str(error)) from error
    _console().print(render(report))
    if not report.complete:
        raise _refused("rows were read that are neither accepted nor quarantined")


@app.command()
def evaluate(
    mapping: Annotated[
        Path | None,
        typer.Option("--mapping", exists=True, dir_okay=False, help="Mapping file (YAML); default: the home's data."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Where the study's tables and results go; default <home>/evaluate/…")
    ] = None,
    train_days: Annotated[int, typer.Option("--train-days", min=2, help="Days that each date trains on.")] = 60,
    delay_days: Annotated[
        int | None, typer.Option("--delay-days", min=0, help="Days for labels to arrive; default: label maturity.")
    ] = None,
    test_days: Annotated[int, typer.Option("--test-days", min=1, help="Days that each date is tested on.")] = 14,
    dates: Annotated[int, typer.Option("--dates", min=1, help="How many dates, back to back.")] = 2,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Parameter sets tried per date; 1: the defaults.")] = 1,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
) -> None:
    """Train and test models side by side on dates back to back, on any imported data; writes results and a plot."""
    from fraud_platform.ingest.mapping import MappingError
    from fraud_platform.model.prequential import HEADER, Windows, summary
    from fraud_platform.model.split import TrainingDataError
    from fraud_platform.model.study import run_study

    current = _settings()
    if mapping is not None:
        current = current.model_copy(update={"mapping": mapping})
    windows = Windows(train_days, current.label_maturity_days if delay_days is None else delay_days, test_days, dates)
    try:
        study = run_study(current, folder, windows, trials, _now())
    except (MappingError, TrainingDataError) as error:
        raise _refused(str(error)) from error
    rows = summary(study.results)
    if markdown:
        typer.echo(_markdown(HEADER, rows))
    else:
        _print_table(f"mean ± standard deviation over {dates} date(s)", HEADER, rows)
    typer.echo(f"results: {study.results_file}\nplot:    {study.plot_file}")


@app.command()
def replay(
    date: Annotated[datetime, typer.Option("--date", formats=["%Y-%m-%d"], help="The UTC day to replay.")],
) -> None:
    """Send a day's raw transactions through the online path and hold all values against the training set.

    The exit code is 0 when nothing differs. Keys go to a space of their own in Redis and are deleted afterwards.
    """
    from fraud_platform.lake import MissingPartition, open_lake
    from fraud_platform.online.embedded_redis import RedisUnavailableError, ensure_redis
    from fraud_platform.replay import render, replay_day

    current = _settings()
    try:
        report = replay_day(current, open_lake(current), date.date(), ensure_redis(current))
    except (MissingPartition, RedisUnavailableError) as error:
        raise _refused(str(error)) from error
    _console().print(render(report))
    raise typer.Exit(int(report.differences > 0))


_WHY = Annotated[str, typer.Option("--why", help="The reason, for the ledger.")]


def _reason(why: str) -> "Reason":
    import getpass

    from fraud_platform.model.release import Reason

    return Reason(who=f"{getpass.getuser()} by hand", why=why)


@release.command("status")
def release_status(
    at: Annotated[
        datetime | None, typer.Option("--at", formats=["%Y-%m-%dT%H:%M"], help="A moment in UTC; default: now.")
    ] = None,
) -> None:
    """Who decides now, and what a challenger still has to show; with --at: who decided then, by the ledger."""
    from fraud_platform.lake import open_lake
    from fraud_platform.model.ledger import arms_in_force
    from fraud_platform.model.rollout import look

    current = _settings()
    arms = arms_in_force(current.home, at.replace(tzinfo=UTC) if at else _now())
    _print_table(
        None, ["champion", "challenger", "stage", "weight"],
        [[arms["champion"] or "none", arms["challenger"] or "none", arms["stage"], f"{arms['weight']:.0%}"]],
    )  # fmt: skip
    found = None if at else look(open_lake(current), current, _now())
    if found is not None:
        _console().print(f"{found[2].action}: {'; '.join(found[2].reasons)}")


@release.command("rollback")
def release_rollback(why: _WHY) -> None:
    """Take the challenger out; without one, return to the champion before. In force within seconds."""
    from fraud_platform.model.bundle import BundleError, NoReleaseError
    from fraud_platform.model.release import ReleaseError, champion_before, return_to, roll_back
    from fraud_platform.model.routing import read_routing

    home = _settings().home
    try:
        routing = read_routing(home)
        if routing.challenger is not None:
            roll_back(home, routing.challenger, _reason(why), _now())
            _console().print(f"{routing.challenger} decides nothing any more.")
        else:
            before = champion_before(home)
            return_to(home, before, _reason(why), _now())
            _console().print(f"{before} decides again.")
    except (BundleError, NoReleaseError, ReleaseError) as error:
        raise _refused(str(error)) from error


@release.command("promote")
def release_promote(why: _WHY) -> None:
    """Make the challenger the champion now, whatever is not shown yet."""
    from fraud_platform.model.bundle import BundleError, NoReleaseError
    from fraud_platform.model.registry import promote
    from fraud_platform.model.routing import read_routing

    current = _settings()
    try:
        challenger = read_routing(current.home).challenger
        if challenger is None:
            raise _refused("there is no challenger to promote")
        version = int(challenger.rpartition("-")[2])
        promote(current, version, who=_reason(why).who, why=why, now=_now())
    except (BundleError, NoReleaseError) as error:
        raise _refused(str(error)) from error
    _console().print(f"{challenger} decides.")


@release.command("challenge")
def release_challenge(
    version: Annotated[int, typer.Argument(help="A registered version, also one that was rolled back before.")],
    why: _WHY,
) -> None:
    """Put a registered version into shadow beside the champion, in the place of any other challenger."""
    from fraud_platform.model.bundle import BundleError, NoReleaseError
    from fraud_platform.model.registry import challenge
    from fraud_platform.model.release import ReleaseError

    try:
        routing = challenge(_settings(), version, _reason(why), _now(), again=True)
    except (BundleError, NoReleaseError, ReleaseError) as error:
        raise _refused(str(error)) from error
    _console().print(f"{routing.challenger} is in shadow.")


@app.command()
def reload(
    url: Annotated[
        str | None, typer.Option("--url", help="Address of the service; default: this home's, on loopback.")
    ] = None,
) -> None:
    """Make every worker of the service look at the registry now; needs a key with the scope admin in FRAUD_API_KEY.

    The exit code is 0 when every worker has looked and serves what it found.
    """
    import httpx

    current = _settings()
    address = url or f"http://127.0.0.1:{current.service_port}"
    key = current.api_key
    headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    try:
        response = httpx.post(f"{address}/v1/admin/reload", json={}, headers=headers, timeout=30, trust_env=False)
    except httpx.HTTPError as error:
        raise _refused(f"no service answers at {address}: {error}") from error
    answer = response.json() if "json" in response.headers.get("content-type", "") else {}
    if not response.is_success:
        raise _refused(f"the service refuses ({response.status_code}): {answer.get('detail', response.reason_phrase)}")
    workers = answer["workers"]
    rows = [
        [str(worker["pid"]), worker["model_version"] or "none", "yes" if worker["looked"] else "no",
         worker["error"] or ""]
        for worker in workers
    ]  # fmt: skip
    _print_table(None, ["worker", "model", "looked", "error"], rows)
    raise typer.Exit(int(not workers or any(worker["error"] or not worker["looked"] for worker in workers)))


class Scope(StrEnum):
    """What a key allows."""

    decide = "decide"
    explain = "explain"
    feedback = "feedback"
    admin = "admin"


@keys.command("add")
def keys_add(
    name: Annotated[str, typer.Argument(help="Who will call: decisions are kept under this name.")],
    scope: Annotated[list[Scope], typer.Option("--scope", help="What the key allows; give it once for each.")],
) -> None:
    """Make a key and print it, for the only time; a name may have several, so that keys change without a gap."""
    from fraud_platform.decision.api_keys import KeysError, add_key, keys_path

    try:
        token, made = add_key(keys_path(_settings().home), name, [one.value for one in scope], _now())
    except KeysError as error:
        raise _refused(str(error)) from error
    typer.secho(f"key {made.id} of {made.caller} for {', '.join(made.scopes)}; it is not shown again:", err=True)
    typer.echo(token)


@keys.command("list")
def keys_list() -> None:
    """Show every key: id, caller, scopes, dates."""
    from fraud_platform.decision.api_keys import KeysError, keys_path, read_keys

    try:
        found = read_keys(keys_path(_settings().home))
    except KeysError as error:
        raise _refused(str(error)) from error
    rows = [
        [key.id, key.caller, ", ".join(key.scopes), f"{key.created_at:%Y-%m-%d %H:%M}",
         f"{key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else ""]
        for key in found
    ]  # fmt: skip
    _print_table(None, ["id", "caller", "scopes", "created", "revoked"], rows)


@keys.command("revoke")
def keys_revoke(key_id: Annotated[str, typer.Argument(metavar="ID", help="Of `keys list`.")]) -> None:
    """Make a key worthless; the service notices within a second."""
    from fraud_platform.decision.api_keys import KeysError, keys_path, revoke_key

    try:
        key = revoke_key(keys_path(_settings().home), key_id, _now())
    except KeysError as error:
        raise _refused(str(error)) from error
    typer.echo(f"key {key.id} of {key.caller} is revoked")


class Part(StrEnum):
    """What the log's process does."""

    ship = "ship"
    consume = "consume"


@log.command("run")
def log_run(
    only: Annotated[
        Part | None, typer.Option("--only", help="ship: spool to broker; consume: broker to lake. Default: both.")
    ] = None,
) -> None:
    """Carry decisions into the lake until Ctrl-C; `up` does this already. Metrics are on FRAUD_LOG_PORT."""
    from fraud_platform.inference_log.process import PARTS, AlreadyDoneError, run
    from fraud_platform.run.signals import stop_event

    with stop_event() as stop:
        try:
            run(_settings(), (only.value,) if only else PARTS, stop)
        except (AlreadyDoneError, OSError) as error:
            raise _refused(str(error)) from error


@log.command("status")
def log_status() -> None:
    """Show where decisions are: bytes in the spool, records in the broker, rows in the lake."""
    from fraud_platform.inference_log.broker import BrokerError
    from fraud_platform.inference_log.process import log_standing

    try:
        standing = log_standing(_settings())
    except BrokerError as error:
        raise _refused(f"the broker does not answer: {error}") from error
    days = f"{len(standing.days)}, {standing.days[0]} to {standing.days[-1]}" if standing.days else "none"
    rows = [
        ["spool, bytes that the broker does not have", str(standing.waiting_bytes)],
        [f"{standing.broker}, records that the lake does not have", str(standing.lag)],
        ["lake, days with decisions", days],
        ["lake, commits", str(standing.commits)],
    ]
    _print_table(None, ["what", "value"], rows)


@log.command("retain")
def log_retain(
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without, only say what would be deleted.")] = False,
) -> None:
    """Delete decisions from the lake that are older than FRAUD_LOG_RETENTION_DAYS."""
    from fraud_platform.inference_log.table import LogTable
    from fraud_platform.lake import open_lake

    current = _settings()
    table = LogTable(open_lake(current))
    days = table.expired(_now().date(), current.log_retention_days)
    if not days:
        typer.echo(f"Nothing is older than {current.log_retention_days} days.")
        return
    if yes:
        table.delete(days)
    said = "Deleted" if yes else "Would delete"
    typer.echo(f"{said} {len(days)} day(s), {days[0]} to {days[-1]}." + ("" if yes else " Do it with: --yes"))


def _refused(message: str) -> typer.Exit:
    """Say on stderr why a command was not done, and end with code 1."""
    typer.secho(message, fg=typer.colors.RED, err=True)
    return typer.Exit(1)


def _masked(value: Any) -> str:
    """A setting's value as it may be shown: without the password of an address."""
    if value is None:
        return ""
    text = str(value)
    password = urlsplit(text).password if "://" in text else None
    return text.replace(f":{password}@", ":***@") if password else text


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _print_table(title: str | None, header: list[str], rows: list[list[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, title_justify="left")
    for number, name in enumerate(header):
        table.add_column(name, overflow="fold", no_wrap=number == 0 and name != "meaning")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    _console().print(table)


if __name__ == "__main__":
    app()
