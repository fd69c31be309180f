"""`fraud-platform inference-log`: decisions on their way into the lake.

What belongs here: the group's commands. What does not: the way itself (`fraud_platform.inference_log`).
"""

import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fraud_platform.cli.screen import JSON, now, print_json, print_table, refused, settings_of_home, settings_of_server

if TYPE_CHECKING:
    from fraud_platform.inference_log.standing import Standing
    from fraud_platform.inference_log.width import Look

app = typer.Typer(
    help="The inference log: every decision, from the service's spool into the lake.", no_args_is_help=True
)


class Part(StrEnum):
    """What the log's process does."""

    ship = "ship"
    consume = "consume"
    measure = "measure"


@app.command("run")
def log_run(
    only: Annotated[
        Part | None,
        typer.Option("--only", help="ship: spool to broker; consume: broker to lake; measure: metrics. Default: all."),
    ] = None,
) -> None:
    """Carry decisions into the lake until Ctrl-C; `up` does this by itself. Metrics are served on FRAUD_LOG_PORT."""
    from fraud_platform.inference_log.process import PARTS, AlreadyDoneError, run
    from fraud_platform.run.behind import step_behind
    from fraud_platform.run.signals import stop_event

    current = settings_of_server()
    step_behind()
    with stop_event() as stop:
        try:
            run(current, (only.value,) if only else PARTS, stop)
        except (AlreadyDoneError, OSError) as error:
            raise refused(str(error)) from error


@app.command("status")
def log_status(
    seconds: Annotated[
        float, typer.Option("--seconds", min=0, help="Seconds between two looks at Kafka's partitions; 0: look once.")
    ] = 10.0,
    as_json: JSON = False,
) -> None:
    """Show where decisions are: bytes in the spool, records in the broker, rows in the lake.

    Where Kafka is the broker, also who reads each partition, whether they keep up, and what to do if not.
    """
    from fraud_platform.inference_log.broker import BrokerError
    from fraud_platform.inference_log.standing import log_standing

    settings = settings_of_home()
    try:
        standing = log_standing(settings)
        earlier = standing.look
        if earlier is not None and seconds:
            time.sleep(seconds)
            standing = log_standing(settings)
    except BrokerError as error:
        raise refused(f"the broker does not answer: {error}") from error
    if as_json:
        _print_json(standing, earlier if seconds else None)
        return
    days = f"{len(standing.days)}, {standing.days[0]} to {standing.days[-1]}" if standing.days else "none"
    rows = [
        ["spool, bytes that the broker does not have", str(standing.waiting_bytes)],
        [f"{standing.broker}, records that the lake does not have", str(standing.lag)],
        ["lake, days with decisions", days],
        ["lake, commits", str(standing.commits)],
    ]
    print_table(None, ["what", "value"], rows)
    if earlier is not None and standing.look is not None and seconds:
        _print_partitions(earlier, standing.look)


def _print_json(standing: "Standing", earlier: "Look | None") -> None:
    from fraud_platform.inference_log.width import advise, growth

    told: dict[str, Any] = {
        "spool_waiting_bytes": standing.waiting_bytes,
        "broker": standing.broker,
        "lag_records": standing.lag,
        "commits": standing.commits,
        "days": standing.days,
    }
    later = standing.look
    if later is not None:
        grown = growth(earlier, later) if earlier else {}
        told["partitions"] = [
            {"partition": name, "lag": lag, "per_second": grown.get(name), "read_by": later.owners.get(name)}
            for name, lag in later.lags.items()
        ]
        told["consumers"] = later.members
        told["advice"] = list(advise(earlier, later)) if earlier else []
    print_json(told)


def _print_partitions(earlier: "Look", later: "Look") -> None:
    from fraud_platform.inference_log.width import advise, growth

    grown = growth(earlier, later)
    rows = [
        [partition, f"{behind:,}", f"{grown[partition]:+,.0f}", later.owners.get(partition, "nobody")]
        for partition, behind in later.lags.items()
    ]
    print_table(None, ["partition", "lag", "per second", "read by"], rows)
    typer.echo(f"consumers: {later.members}")
    for line in advise(earlier, later):
        typer.echo(line)


@app.command("retain")
def log_retain(
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only show what would be deleted.")] = False,
    as_json: JSON = False,
) -> None:
    """Delete decisions from the lake that are older than FRAUD_LOG_RETENTION_DAYS."""
    from fraud_platform.inference_log.table import LogTable
    from fraud_platform.lake import open_lake

    current = settings_of_home()
    table = LogTable(open_lake(current))
    days = table.expired(now().date(), current.log_retention_days)
    if yes:
        table.delete(days)
    if as_json:
        print_json({"deleted": yes, "days": days, "retention_days": current.log_retention_days})
        return
    if not days:
        typer.echo(f"Nothing is older than {current.log_retention_days} days.")
        return
    said = "Deleted" if yes else "Would delete"
    typer.echo(f"{said} {len(days)} day(s), {days[0]} to {days[-1]}." + ("" if yes else " Do it with: --yes"))
