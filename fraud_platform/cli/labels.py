"""`fraud-platform labels`: whose labels are believed.

What belongs here: the group's commands. What does not: what a distrust is (`features.label_rules`), what it changes
(`features.label_change`).
"""

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fraud_platform.cli.screen import JSON, by_hand, now, print_json, print_table, refused, settings_of_home

if TYPE_CHECKING:
    from fraud_platform.features.label_change import LabelChange
    from fraud_platform.features.label_rules import Distrust, DistrustEvent, LabelRules
    from fraud_platform.settings import Settings

app = typer.Typer(
    help="Labels: which of them count, and how to exclude those that are not to be trusted.", no_args_is_help=True
)

WHY = Annotated[str, typer.Option("--why", help="The reason, which is recorded.")]
YES = Annotated[bool, typer.Option("--yes", help="Do it; without it, only show what would change.")]
ID = Annotated[str, typer.Argument(metavar="ID", help="Id of the distrust, as shown by `labels list`.")]
_MOMENTS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]


@app.command("distrust")
def labels_distrust(
    why: WHY,
    source: Annotated[str | None, typer.Option("--source", help="Labels of this source: chargeback, issuer, …")] = None,
    caller: Annotated[str | None, typer.Option("--caller", help="Labels that this caller sent.")] = None,
    since: Annotated[
        datetime | None,
        typer.Option("--since", formats=_MOMENTS, help="Labels that arrived at or after this time, UTC."),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option("--until", formats=_MOMENTS, help="Labels that arrived before this time, UTC.")
    ] = None,
    yes: YES = False,
    as_json: JSON = False,
) -> None:
    """Exclude labels that match every option given from features, training and reports; `labels trust` undoes it.

    Nothing is deleted, and what was decided stays decided.
    """
    from fraud_platform.features.label_rules import DistrustFile, distrust

    current = settings_of_home()
    moments = {
        name: None if at is None else at.replace(tzinfo=UTC) for name, at in (("since", since), ("until", until))
    }
    try:
        event = distrust(who=by_hand(), why=why, now=now(), source=source, caller=caller, **moments)
    except ValueError as error:
        raise refused(str(error)) from error
    record = DistrustFile(current.home)
    before, after = _rules(current, []), _rules(current, [event])
    change = _changed(current, before, after)
    if yes:
        record.append(event)
    if as_json:
        print_json({"done": yes, "distrust": _plain(after.distrusted[-1]), **_told(current, change)})
        return
    typer.echo(f"{'distrusted' if yes else 'would be distrusted'} ({event.id}): {after.distrusted[-1].said}")
    _say(current, change, taken_out=True)
    if not yes:
        typer.echo("Nothing was changed. Do it with: --yes")


@app.command("trust")
def labels_trust(identifier: ID, why: WHY, yes: YES = False, as_json: JSON = False) -> None:
    """Undo a distrust: its labels count again as if they had never been excluded."""
    from fraud_platform.features.label_rules import DistrustFile, UnknownDistrustError, trust

    current = settings_of_home()
    record = DistrustFile(current.home)
    try:
        event = trust(record, identifier, who=by_hand(), why=why, now=now())
    except UnknownDistrustError as error:
        raise refused(str(error)) from error
    before, after = _rules(current, []), _rules(current, [event])
    undone = next(one for one in before.distrusted if one.id == identifier)
    change = _changed(current, before, after)
    if yes:
        record.append(event)
    if as_json:
        print_json({"done": yes, "distrust": _plain(undone), **_told(current, change)})
        return
    typer.echo(f"{'trusted' if yes else 'would be trusted'} again ({identifier}): {undone.said}")
    _say(current, change, taken_out=False)
    if not yes:
        typer.echo("Nothing was changed. Do it with: --yes")


@app.command("list")
def labels_list(as_json: JSON = False) -> None:
    """Show which labels are distrusted, and the ranks of the sources."""
    from fraud_platform.features.label_rules import UNKNOWN_RANK

    current = settings_of_home()
    rules = _rules(current, [])
    if as_json:
        told = {"ranks": dict(rules.ranks), "rank_of_any_other": UNKNOWN_RANK}
        print_json({**told, "distrusted": [_plain(one) for one in rules.distrusted]})
        return
    rows = [[one.id, one.said, f"{one.at:%Y-%m-%d %H:%M}", one.who, one.why] for one in rules.distrusted]
    if rows:
        print_table(None, ["id", "labels", "at (UTC)", "who", "why"], rows)
    else:
        typer.echo("No labels are distrusted.")
    ranks = sorted(rules.ranks.items(), key=lambda item: (-item[1], item[0]))
    print_table(
        None, ["source", "rank"], [*([name, str(rank)] for name, rank in ranks), ["any other", str(UNKNOWN_RANK)]]
    )


@app.command("show")
def labels_show(identifier: ID, as_json: JSON = False) -> None:
    """Show one distrust and its history, whether or not it is in force."""
    from fraud_platform.features.label_rules import DistrustFile, in_force

    home = settings_of_home().home
    events = [event for event in DistrustFile(home).events() if event.id == identifier]
    if not events:
        raise refused(f"no distrust {identifier} was ever recorded: `fraud-platform labels list` shows those in force")
    first = in_force(events[:1])[0]
    if as_json:
        told = [{name: getattr(one, name) for name in ("what", "at", "who", "why")} for one in events]
        print_json({**_plain(first), "in_force": bool(in_force(events)), "events": told})
        return
    typer.echo(f"{identifier}: {first.said}; {'in force' if in_force(events) else 'undone'}")
    rows = [[one.what, f"{one.at:%Y-%m-%d %H:%M}", one.who, one.why] for one in events]
    print_table(None, ["what", "at (UTC)", "who", "why"], rows)


def _rules(current: "Settings", events: "list[DistrustEvent]") -> "LabelRules":
    """The rules in force once these events are recorded too."""
    from dataclasses import replace

    from fraud_platform.features.label_rules import DistrustFile, in_force, label_rules

    recorded = DistrustFile(current.home).events()
    return replace(label_rules(current), distrusted=in_force([*recorded, *events]))


def _changed(current: "Settings", before: "LabelRules", after: "LabelRules") -> "LabelChange":
    from fraud_platform.features.label_change import label_change
    from fraud_platform.lake import open_lake

    return label_change(open_lake(current), before, after, now())


def _told(current: "Settings", change: "LabelChange") -> dict[str, Any]:
    """A change of what counts, for a program."""
    verdicts = [{"was": was, "is": is_, "payments": count} for (was, is_), count in change.verdicts.items()]
    counts = {"labels": change.labels, "payments": change.payments}
    return {**counts, "verdicts": verdicts, "stale_days": _stale(current, change)}


def _stale(current: "Settings", change: "LabelChange") -> dict[str, list[date]]:
    """The days of each table that have to be built anew."""
    from fraud_platform.features import tables
    from fraud_platform.lake import open_lake
    from fraud_platform.monitoring.performance import PERFORMANCE

    lake, paid = open_lake(current), change.paid
    built = (tables.LABEL_TILES, tables.MERCHANT_FEATURES, tables.TRAINING_SET)
    judged = [day for day in lake.days(PERFORMANCE) if paid is not None and paid[0] <= day <= paid[1]]
    return {**{table.split("/")[0]: change.stale(lake, table) for table in built}, PERFORMANCE: judged}


def _say(current: "Settings", change: "LabelChange", *, taken_out: bool) -> None:
    what = "taken out" if taken_out else "put back"
    rows = [[f"labels {what}", f"{change.labels:,}"], ["payments they speak of", f"{change.payments:,}"]]
    rows += [[f"payments: {was} → {is_}", f"{count:,}"] for (was, is_), count in change.verdicts.items()]
    rows += [[f"stale days of {table}", _days(days)] for table, days in _stale(current, change).items()]
    print_table(None, ["what", "value"], rows)
    if change.labels:
        typer.echo(
            "Training, evaluation and backtests go by it from now on. Stale days are built anew by Dagster: its sensor "
            "`label_rules` starts the job `relabel` within a minute while Dagster runs, else once it runs again."
        )


def _days(days: list[date]) -> str:
    return f"{len(days)}, {days[0]} to {days[-1]}" if days else "none"


def _plain(one: "Distrust") -> dict[str, Any]:
    names = ("id", "at", "who", "why", "source", "caller", "since", "until")
    return {name: getattr(one, name) for name in names}
