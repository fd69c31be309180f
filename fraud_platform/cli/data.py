"""Commands for data: features, imports, the proof of parity.

What belongs here: `features`, `ingest`, `replay`. What does not: models.
"""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from fraud_platform.cli.screen import console, markdown_table, print_table, refused, settings_of_environment

app = typer.Typer()


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
        typer.echo(markdown_table(header, [[row[0], f"`{row[1]}`", *row[2:]] for row in rows]))
        return
    print_table(f"{len(rows)} features, catalogue {CATALOGUE.hash}", header, rows)


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
        raise refused(f"to build the platform from it, set FRAUD_MAPPING={mapping} and run `fraud-platform up`")
    try:
        report = check_mapping(mapping, settings_of_environment())
    except MappingError as error:
        raise refused(str(error)) from error
    console().print(render(report))
    if not report.complete:
        raise refused("rows were read that are neither accepted nor quarantined")


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

    current = settings_of_environment()
    try:
        report = replay_day(current, open_lake(current), date.date(), ensure_redis(current))
    except (MissingPartition, RedisUnavailableError) as error:
        raise refused(str(error)) from error
    console().print(render(report))
    raise typer.Exit(int(report.differences > 0))
