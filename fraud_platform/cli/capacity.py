"""`fraud-platform capacity`: what a load costs.

What belongs here: options and tables. What does not: the arithmetic (`fraud_platform.capacity`).
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fraud_platform.cli.screen import JSON, console, print_json, print_table, refused

if TYPE_CHECKING:
    from fraud_platform.capacity.figures import Figures
    from fraud_platform.capacity.plan import Plan
    from fraud_platform.capacity.prices import Rules
    from fraud_platform.capacity.reference import Reference
    from fraud_platform.capacity.width import Wide

app = typer.Typer()


def _positive(value: str) -> float:
    """A number as people write it, 100e6 too."""
    try:
        number = float(value)
    except ValueError:
        raise typer.BadParameter(f"{value!r} is not a number") from None
    if not 0 < number < float("inf"):
        raise typer.BadParameter(f"must be more than 0 and finite, got {value}")
    return number


@app.command()
def capacity(
    peak_tps: Annotated[
        float, typer.Option("--peak-tps", parser=_positive, metavar="NUMBER", help="Payments per second at the peak.")
    ],
    users: Annotated[float, typer.Option("--users", parser=_positive, metavar="NUMBER", help="Users in the store.")],
    merchants: Annotated[
        float | None,
        typer.Option(
            "--merchants",
            parser=_positive,
            metavar="NUMBER",
            help="Merchants; default: one per 100 users.",
        ),
    ] = None,
    features: Annotated[
        int, typer.Option("--features", min=1, help="Number of features; each above 50 takes 4 more bytes per user.")
    ] = 50,
    daily: Annotated[
        float | None,
        typer.Option("--daily", parser=_positive, metavar="NUMBER", help="Payments per day; default: 10,000 × peak."),
    ] = None,
    retention_days: Annotated[
        int, typer.Option("--retention-days", min=1, help="Days that the log and daily tables are kept.")
    ] = 90,
    prices: Annotated[
        Path | None, typer.Option("--prices", exists=True, dir_okay=False, help="Price table (YAML); default: shipped.")
    ] = None,
    bench: Annotated[
        Path, typer.Option("--bench", help="Folder of `make bench-serving`, `bench-width` and `bench-footprint`.")
    ] = Path("var/bench"),
    as_json: JSON = False,
) -> None:
    """Estimate machines, memory, disk and cost from measured figures and list prices, beside the reference design's."""
    from fraud_platform.capacity.figures import FiguresError, read_figures
    from fraud_platform.capacity.plan import REFERENCE_DAILY_PER_TPS, Load, plan
    from fraud_platform.capacity.prices import SHIPPED, PricesError, read_prices
    from fraud_platform.capacity.reference import reference
    from fraud_platform.capacity.width import TYPICAL_RATES, wide

    try:
        table = read_prices(prices or SHIPPED)
    except PricesError as error:
        raise refused(f"--prices: {error}") from error
    try:
        figures = read_figures(bench)
    except FiguresError as error:
        raise refused(f"--bench: {error}") from error
    load = Load(
        peak_tps=peak_tps,
        users=users,
        merchants=merchants or max(1.0, users / 100),
        features=features,
        daily=daily or REFERENCE_DAILY_PER_TPS * peak_tps,
        retention_days=retention_days,
    )
    if load.daily > load.peak_tps * 86_400:
        raise refused(f"--daily: {load.daily:,.0f} a day need a --peak-tps above {load.peak_tps:g}")
    try:
        ours, theirs = plan(load, figures, table), reference(figures, table)
    except ValueError as error:
        raise refused(f"rules.p99_ms of the prices: {error}") from error
    rules = table.rules
    typical = [wide(rate, figures.width, headroom=rules.headroom, p99_ms=rules.p99_ms) for rate in TYPICAL_RATES]
    widths = sorted({ours.wide, *typical}, key=lambda each: each.rate)
    if as_json:
        used = {"serving": figures.serving, "footprint": figures.footprint, "width": figures.width}
        beside = {
            "reference": theirs,
            "widths": [{**asdict(each), "cores": each.cores} for each in widths],
            "figures": used,
            "sources": figures.sources,
        }
        print_json({**ours.as_json(), **beside, "prices": table.model_dump()})
        return
    _show(ours, theirs, widths, figures, rules)


def _show(ours: "Plan", theirs: "Reference", widths: "list[Wide]", figures: "Figures", rules: "Rules") -> None:
    import msgspec

    load = ours.load
    title = (
        f"{load.peak_tps:,.0f}/s at the peak, {load.daily:,.0f} a day, {load.users:,.0f} users, "
        f"{load.features} features, {load.retention_days} days"
    )
    rows = [[line.what, line.amount, f"{line.usd_per_month:,.2f}", line.why] for line in ours.lines]
    rows.append(["together", "", f"{ours.usd_per_month:,.2f}", f"{ours.usd_per_million:,.2f} USD per million payments"])
    print_table(title, ["what", "bought", "USD/month", "meaning"], rows)
    rows = [
        [row.what, row.amount, f"{row.usd_per_month:,.2f}", "holds" if row.holds else "CANNOT HOLD", row.why]
        for row in theirs.rows
    ]
    rows.append(["together", "", f"{theirs.usd_per_month:,.2f}", "", f"it says about {theirs.says_usd}"])
    title = (
        "The reference design: 100/s at the peak, a million a day, by the same prices "
        f"(for {theirs.larger_tps:,}/s it says {theirs.larger_says_usd[0]:,} to {theirs.larger_says_usd[1]:,})"
    )
    print_table(title, ["what", "bought", "USD/month", "does it?", "meaning"], rows)
    rows = [
        [
            f"{each.rate:,.0f}", str(each.workers), f"{each.busy:.0%}", f"{each.p99_ms:.1f}", str(each.redis_shards),
            "not measured" if each.gateway_cores is None else str(each.gateway_cores), str(each.cores),
        ]
        for each in widths
    ]  # fmt: skip
    title = f"Width: P99 within {rules.p99_ms:g} ms at {rules.headroom:g} times the rate, by the queueing model"
    columns = ["payments/s", "workers, a core each", "busy at the peak", "P99 ms", "Redis shards", "gateway cores"]
    print_table(title, [*columns, "cores in all"], rows)
    parts = (figures.serving, figures.footprint, figures.width)
    used = {name: value for part in parts for name, value in msgspec.to_builtins(part).items() if value is not None}
    print_table("Figures used", ["figure", "value"], [[name, f"{value:,.1f}"] for name, value in used.items()])
    for name, source in figures.sources.items():
        console().print(f"{name}: {source}", highlight=False)
