"""Commands for looking at models.

What belongs here: `evaluate`, `card`. What does not: who decides (`release`).
"""

from pathlib import Path
from typing import Annotated

import typer

from fraud_platform.cli.screen import (
    JSON,
    markdown_table,
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
        int | None,
        typer.Option(
            "--delay-days",
            min=0,
            help="Days after which silence counts as good in training; default: --maturity-days.",
        ),
    ] = None,
    maturity_days: Annotated[
        int | None,
        typer.Option(
            "--maturity-days",
            min=0,
            help="Days after which silence counts as good in tests; default: FRAUD_LABEL_MATURITY_DAYS.",
        ),
    ] = None,
    test_days: Annotated[int, typer.Option("--test-days", min=1, help="Days that each date is tested on.")] = 14,
    dates: Annotated[int, typer.Option("--dates", min=1, help="Number of consecutive dates.")] = 2,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Parameter sets tried per date; 1: the defaults.")] = 1,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    as_json: JSON = False,
) -> None:
    """Train and test models side by side on consecutive dates of any imported data; write results and a plot."""
    from fraud_platform.ingest.mapping import MappingError
    from fraud_platform.model.prequential import HEADER, Windows, conclusion, summary
    from fraud_platform.model.split import TrainingDataError
    from fraud_platform.model.study import run_study

    current = settings_of_home() if mapping is None else say_home(settings_of_environment())
    if mapping is not None:
        current = current.model_copy(update={"mapping": mapping})
    maturity = current.label_maturity_days if maturity_days is None else maturity_days
    windows = Windows(train_days, maturity if delay_days is None else delay_days, test_days, dates, maturity)
    try:
        study = run_study(current, folder, windows, trials, now())
    except (MappingError, TrainingDataError) as error:
        raise refused(str(error)) from error
    rows = summary(study.results)
    if as_json:
        table = {"header": HEADER, "rows": rows}
        print_json({"windows": windows, "table": table, "results": study.results, "plot_file": study.plot_file})
        return
    if markdown:
        typer.echo(markdown_table(HEADER, rows))
    else:
        print_table(f"mean ± standard deviation over {dates} date(s)", HEADER, rows)
    typer.echo(conclusion(study.results))
    typer.echo(f"results: {study.results_file}\nplot:    {study.plot_file}")


@app.command()
def card(
    version: Annotated[int, typer.Argument(help="A registered version, such as 7 of fraud-detector/7.")],
    as_json: JSON = False,
) -> None:
    """Print a version's model card as Markdown: use, data, figures, features, limits, lineage, and when it decided."""
    from fraud_platform.model.bundle import MODEL_NAME, BundleError
    from fraud_platform.model.card import standing_markdown
    from fraud_platform.model.ledger import read_ledger
    from fraud_platform.model.registry import NoCardError, read_card

    current = settings_of_home()
    try:
        text = read_card(current, version)
    except (BundleError, NoCardError) as error:
        raise refused(str(error)) from error
    standing = standing_markdown(f"{MODEL_NAME}-{version}", read_ledger(current.home))
    if as_json:
        print_json({"release": f"{MODEL_NAME}-{version}", "card": text, "in_force": standing})
        return
    typer.echo(f"{text}\n{standing}", nl=False)
