"""Commands for data: features, imports, the proof of parity.

What belongs here: `features`, `ingest`, `replay`, `prune`. What does not: models.
"""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fraud_platform.cli.screen import (
    JSON,
    console,
    markdown_table,
    now,
    print_json,
    print_table,
    refused,
    settings_of_environment,
    settings_of_home,
    settings_of_policy,
)

if TYPE_CHECKING:
    from fraud_platform.features.catalogue import Catalogue
    from fraud_platform.settings import Settings

app = typer.Typer()


@app.command()
def features(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table as Markdown, as in the documentation.")
    ] = False,
    stored: Annotated[
        bool,
        typer.Option("--stored", help="Show what this home's lake has of them, in the tables of this set and others."),
    ] = False,
    as_json: JSON = False,
) -> None:
    """List the features: name, source, window, unit, dtype, cold start, meaning.

    --stored: days, rows and bytes of each table that follows the features, and which features' columns it holds. A day
    that the set lacks takes those from another set's table, if they stand on the same tiles and payments; the rest is
    computed.
    """
    from fraud_platform.features.catalogue import CATALOGUE

    if stored:
        if markdown:
            raise refused("--markdown lists the features, not what is stored of them: leave out one of the two")
        _show_stored(CATALOGUE, as_json)
        return
    if as_json:
        names = ("name", "source", "window", "unit", "dtype", "cold_start", "meaning")
        features = [
            {"number": number, **{name: getattr(one, name) for name in names}}
            for number, one in enumerate(CATALOGUE.features, start=1)
        ]
        print_json({"catalogue": CATALOGUE.hash, "features": features})
        return
    header = ["#", "feature", "source", "window", "unit", "dtype", "cold start", "meaning"]
    rows = [
        [str(number), one.name, one.source, one.window, one.unit, one.dtype, one.cold_start, one.meaning]
        for number, one in enumerate(CATALOGUE.features, start=1)
    ]
    if markdown:
        typer.echo(markdown_table(header, [[row[0], f"`{row[1]}`", *row[2:]] for row in rows]))
        return
    print_table(f"{len(rows)} features, catalogue {CATALOGUE.hash}", header, rows)


def _show_stored(catalogue: "Catalogue", as_json: bool) -> None:
    from fraud_platform.features.stored import holdings
    from fraud_platform.lake import open_lake

    found = holdings(open_lake(settings_of_home()), catalogue)
    if as_json:
        print_json({"catalogue": catalogue.hash, "tables": found})
        return
    header = ["table", "days", "rows", "MB", "days to take from", "features held", "lacks"]
    rows = []
    for each in found:
        lacks = ", ".join(each.lacking[:3]) + " …" * (len(each.lacking) > 3)
        held = f"{len(each.held)} of {len(each.held) + len(each.lacking)}"
        sizes = [str(each.days), f"{each.rows:,}", f"{each.bytes / 1e6:,.1f}", str(each.noted)]
        rows.append([each.table, *sizes, held, lacks])
    print_table(f"What is stored of the {len(catalogue.features)} features, catalogue {catalogue.hash}", header, rows)


@app.command()
def ingest(
    mapping: Annotated[Path, typer.Option("--mapping", exists=True, dir_okay=False, help="The mapping file (YAML).")],
    check: Annotated[
        bool, typer.Option("--check", help="Read every row and report; write nothing to the lake.")
    ] = False,
    as_json: JSON = False,
) -> None:
    """Check a mapping file against its data before a history is built from it."""
    from fraud_platform.ingest.check import check_mapping, render
    from fraud_platform.ingest.mapping import MappingError

    if not check:
        raise refused(f"to build from this mapping, set FRAUD_MAPPING={mapping} and run `fraud-platform up`")
    try:
        report = check_mapping(mapping, settings_of_environment())
    except MappingError as error:
        raise refused(str(error)) from error
    if as_json:
        print_json(report)
    else:
        console().print(render(report))
    if not report.complete:
        raise refused(
            "some rows were neither accepted nor quarantined: this is a fault of the platform, please report it"
        )
    if not report.accepted:
        raise refused(
            "every row would be quarantined, so there is nothing to build from: correct the mapping or the files"
        )


@app.command()
def prune(
    yes: Annotated[bool, typer.Option("--yes", help="Prune; without it, only show what would be pruned.")] = False,
    as_json: JSON = False,
) -> None:
    """Reduce old feature snapshots to the rows that payments asked for, and have Feast's registry forget views that
    nobody needs. Dagster does both every night.

    A snapshot stays whole for FRAUD_WHOLE_SNAPSHOT_DAYS after a newer one replaced it. Training set and replay find
    the rows they need in what is kept. To load a pruned snapshot, materialize it again. A view is needed while a
    release in force stands on its set, or Redis or PostgreSQL has it.
    """
    from feature_repo.pruning import unneeded_views
    from feature_repo.store import unregister
    from fraud_platform.lake import open_lake
    from fraud_platform.online.retention import left_behind, prune_all

    current = settings_of_home()
    lake = open_lake(current)
    snapshots = left_behind(current, lake, int(now().timestamp() * 1_000_000))
    done = list(prune_all(current, lake, snapshots)) if yes and snapshots else []
    before, after = (sum(one.bytes[i] for one in done) for i in (0, 1))
    views = unneeded_views(current)
    if yes and views:
        unregister(current, [view.name for view in views])
    if as_json:
        named = [{"view": view.name, "day": day} for view, day in snapshots]
        print_json(
            {
                "pruned": yes,
                "whole_snapshot_days": current.whole_snapshot_days,
                "snapshots": named,
                "bytes_before": before,
                "bytes_after": after,
                "feast_views": [{"view": view.name, "set": view.set_hash} for view in views],
            }
        )
        return
    if not snapshots:
        typer.echo(
            f"Nothing to prune: no whole snapshot was replaced more than {current.whole_snapshot_days} days ago."
        )
    elif not yes:
        typer.echo(f"Would prune {len(snapshots)} snapshot(s), {snapshots[0][1]} and later. Do it with: --yes")
    else:
        typer.echo(f"Pruned {len(done)} snapshot(s): {before / 1e6:,.1f} MB became {after / 1e6:,.1f} MB.")
    for view in views:
        said = "Forgot" if yes else "Would forget"
        typer.echo(f"{said} the view {view.name} of set {view.set_hash} in Feast's registry.")


@app.command()
def replay(
    date: Annotated[
        datetime | None,
        typer.Option(
            "--date", formats=["%Y-%m-%d"], help="Send the transactions of a UTC day through the online path again."
        ),
    ] = None,
    decision: Annotated[
        str | None, typer.Option("--decision", help="Repeat one decision, given its decision_id or transaction_id.")
    ] = None,
    decided_on: Annotated[
        datetime | None, typer.Option("--decided-on", formats=["%Y-%m-%d"], help="Repeat all decisions of a UTC day.")
    ] = None,
    caller: Annotated[
        str | None, typer.Option("--caller", help="The caller, if several callers used this transaction_id.")
    ] = None,
    vector: Annotated[bool, typer.Option("--vector", help="Show the decision's 50 values.")] = False,
    sample: Annotated[
        int | None, typer.Option("--sample", min=1, help="Repeat only this many decisions of the day.")
    ] = None,
    region: Annotated[
        str | None,
        typer.Option("--region", help="What this region saw, empty for the first region; default: this home's."),
    ] = None,
    as_json: JSON = False,
) -> None:
    """Prove the past: --date compares the online path with the training set, the other options repeat decisions.

    --date: a day's raw transactions through the online path, all values against the training set; keys go to a space of
    their own in Redis and are deleted afterwards. --decision, --decided-on: the recorded vector through the recorded
    model and policy, bit for bit. The exit code is 0 when nothing differs.
    """
    if sum(option is not None for option in (date, decision, decided_on)) != 1:
        raise refused("give exactly one of --date, --decision and --decided-on")
    if decision is None and (caller is not None or vector):
        raise refused("--caller and --vector go with --decision")
    if decided_on is None and sample is not None:
        raise refused("--sample goes with --decided-on")
    if decision is not None and region is not None:
        raise refused("--region goes with --date and --decided-on")
    same = True
    if date is not None:
        same = _replay_transactions(date, region, as_json)
    if decision is not None:
        same = _replay_decision(decision, caller, vector, as_json)
    if decided_on is not None:
        same = _replay_decisions(decided_on, sample, region, as_json)
    raise typer.Exit(int(not same))


def _settings_of(region: str | None) -> "Settings":
    """This home's settings, as that region's."""
    current = settings_of_policy()
    return current if region is None else current.model_copy(update={"region": region})


def _replay_transactions(day: datetime, region: str | None, as_json: bool) -> bool:
    from fraud_platform.lake import MissingPartition, open_lake
    from fraud_platform.online.embedded_redis import RedisUnavailableError, ensure_redis
    from fraud_platform.replay import replay_day
    from fraud_platform.replay_report import plain, render

    current = _settings_of(region)
    try:
        report = replay_day(current, open_lake(current), day.date(), ensure_redis(current))
    except (MissingPartition, RedisUnavailableError) as error:
        raise refused(str(error)) from error
    print_json(plain(report)) if as_json else console().print(render(report))
    return report.differences == 0


def _replay_decision(identifier: str, caller: str | None, vector: bool, as_json: bool) -> bool:
    from fraud_platform.audit.decision import DecisionReplay
    from fraud_platform.audit.screen import plain_decision, render_decision
    from fraud_platform.inference_log.search import UnknownDecisionError, the_decision
    from fraud_platform.inference_log.table import LogTable
    from fraud_platform.lake import open_lake
    from fraud_platform.monitoring.skew import OfflineDay

    current = settings_of_policy()
    lake = open_lake(current)
    try:
        record = the_decision(current.home, LogTable(lake), identifier, caller)
    except UnknownDecisionError as error:
        raise refused(str(error)) from error
    offline = OfflineDay(lake, record.day, record.request.transaction_id)
    replayed = DecisionReplay(current).replay(record, offline)
    print_json(plain_decision(replayed)) if as_json else console().print(render_decision(replayed, vector))
    return replayed.stands


def _replay_decisions(day: datetime, sample: int | None, region: str | None, as_json: bool) -> bool:
    from fraud_platform.audit.day import replay_decisions
    from fraud_platform.audit.screen import plain_day, render_day
    from fraud_platform.lake import open_lake

    current = _settings_of(region)
    report = replay_decisions(current, open_lake(current), day.date(), sample)
    if not report.decisions:
        raise refused(f"the log holds no decision of {day.date()}")
    print_json(plain_day(report)) if as_json else console().print(render_day(report))
    return report.stands
