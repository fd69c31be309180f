"""`fraud-platform backtest`: what something would have stopped in past traffic.

What belongs here: the command. What does not: how it is tried and judged (`fraud_platform.backtest`).
"""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fraud_platform.cli.screen import now, print_table, refused, settings_of_policy

if TYPE_CHECKING:
    from fraud_platform.backtest.run import Backtest
    from fraud_platform.backtest.traffic import InForce
    from fraud_platform.backtest.what import What
    from fraud_platform.settings import Settings

app = typer.Typer()


@app.command()
def backtest(
    rule: Annotated[
        str | None,
        typer.Option("--rule", help="Block where this is true, for example: amount > 500 and country != user_country"),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", min=0, max=1, help="Block above this score, given by what ran or by --model."),
    ] = None,
    model: Annotated[int | None, typer.Option("--model", help="Block as this released version would.")] = None,
    fallback_rules: Annotated[
        bool, typer.Option("--fallback-rules", help="Flag what the fallback rules would flag.")
    ] = False,
    first: Annotated[
        datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First UTC day; default: the first.")
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="Last UTC day; default: the last.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures to this file; -: print them instead of text.")
    ] = None,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="Write a picture of the days to this file (PNG).")
    ] = None,
) -> None:
    """Try a rule, a threshold or a model on past traffic: hits, money and what the labels say. It decides nothing."""
    chosen = [rule is not None, threshold is not None or model is not None, fallback_rules]
    if sum(chosen) != 1:
        raise refused("choose one: --rule, --threshold, --model (with or without --threshold) or --fallback-rules")
    from fraud_platform.backtest.report import as_json, draw
    from fraud_platform.backtest.rule import RuleError
    from fraud_platform.backtest.run import NoTrafficError
    from fraud_platform.backtest.run import backtest as run
    from fraud_platform.backtest.traffic import Traffic
    from fraud_platform.backtest.what import NoSuchModelError, in_force
    from fraud_platform.dataset import OtherDatasetError, find_dataset
    from fraud_platform.lake import open_lake
    from fraud_platform.model.bundle import BundleError

    current = settings_of_policy()
    lake = open_lake(current)
    try:
        standing = in_force(current.home)
        what = _what(current, rule, threshold, model, standing)
        traffic = Traffic(lake, current.base_currency, standing)
        present = find_dataset(current, lake, now()).now(now())
        found = run(current, traffic, what, first.date() if first else None, last.date() if last else None, present)
    except (RuleError, NoTrafficError, NoSuchModelError, BundleError, OtherDatasetError) as error:
        raise refused(str(error)) from error
    printed = json_file is not None and json_file == Path("-")
    if printed:
        typer.echo(as_json(found).decode())
        json_file = None
    else:
        _show(found)
    for file, content in ((json_file, as_json), (plot_file, draw)):
        if file is not None:
            file.write_bytes(content(found))
            typer.echo(f"written: {file}", err=printed)


def _show(found: "Backtest") -> None:
    from fraud_platform.backtest.report import FIGURES, OVERLAP, figure_rows, notes, overlap_rows

    print_table(f"{found.title}, {found.first_day} to {found.last_day}", FIGURES, figure_rows(found))
    print_table(None, OVERLAP, overlap_rows(found))
    for line in notes(found):
        typer.echo(line)


def _what(
    current: "Settings", rule: str | None, threshold: float | None, model: int | None, standing: "InForce | None"
) -> "What":
    from fraud_platform.backtest.what import by_fallback_rules, by_model, by_rule, by_threshold

    if rule is not None:
        return by_rule(rule, current)
    if model is not None:
        return by_model(current.home, model, threshold)
    if threshold is not None:
        return by_threshold(threshold, standing)
    return by_fallback_rules(current)
