"""The figures of serving width as tables.

What belongs here: showing. What does not: measuring, the model.
"""

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

LATE_MS = 2.0
"""Later than this the load has no business to be."""

Figures = dict[str, Any]


def show(figures: Figures, console: Console) -> None:
    """Print every table."""
    for title, columns, rows in (
        _growth(figures), _instances(figures), _memory(figures), _latencies(figures), _noise(figures), _needs(figures)
    ):  # fmt: skip
        if not rows:
            console.print(f"{title}\n")
            continue
        table = Table(box=SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
        for index, name in enumerate(columns):
            table.add_column(name, justify="left" if index == 0 else "right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    late = max(at["lateness_p99"] for at in figures["latencies"]) * 1e3
    if late > LATE_MS:
        text = (
            f"The load itself was late, by {late:.0f} ms at P99: the machine had other work, and latencies mean little"
        )
        console.print(text, style="red")


_Shown = tuple[str, Sequence[str], list[list[str]]]


def _growth(figures: Figures) -> _Shown:
    rows = [
        [
            where, str(at["workers"]), f"{at['saturation']:,.0f}",
            f"{at['saturation'] / min(at['workers'], cores):,.0f}", f"{at['cpu_us']:,.0f}",
            f"{at['redis_us']:,.0f}", f"{at['busiest']:.0%}", f"{at['p99_ms']:.1f}",
        ]
        for where, cores, part in (
            ("the service's own", figures["server_cores"], "one_core"),
            ("all, load and Redis on one of them", figures["machine"]["cores"], "all_cores"),
        )
        for at in figures[part]
    ]  # fmt: skip
    rate = figures["one_core"][0]["rate"]
    columns = ("cores", "workers", "saturation/s", "a core", "CPU µs", "Redis µs", "busiest", "P99 ms")
    return f"Workers of one service; processor time and P99 at {rate:,.0f}/s", columns, rows


def _instances(figures: Figures) -> _Shown:
    rows = [
        [
            at["where"], str(at["instances"]), f"{at['saturation']:,.0f}", f"{at['service_us']:,.0f}",
            f"{at['cpu_us']:,.0f}" if at["where"] == "gateway" else "", f"{at['p50_ms']:.2f}", f"{at['p99_ms']:.1f}",
        ]
        for at in figures["instances"]
    ]  # fmt: skip
    columns = ("before them", "instances", "saturation/s", "service µs", "nginx µs", "median ms", "P99 ms")
    return f"Instances of one worker, everything on all cores{'' if rows else ': no nginx was found'}", columns, rows


def _memory(figures: Figures) -> _Shown:
    names = ("rss", "pss", "private", "shared")
    rows = []
    for count in sorted({each["workers"] for each in figures["memory"]}):
        parts = [each for each in figures["memory"] if each["workers"] == count]
        rows.append([str(count), *(f"{sum(each[name] for each in parts) / len(parts):,.0f}" for name in names)])
    return "Memory of a worker, MB, mean", ("workers", "RSS", "PSS", "private", "shared"), rows


def _latencies(figures: Figures) -> _Shown:
    rows = []
    for at, said in zip(figures["latencies"], figures["model"], strict=True):
        loaded = [f"{at['share']:.0%}", f"{at['rate']:,.0f}", f"{said['busy']:.0%}", *_measured(at), _late(at)]
        rows.append([*loaded, f"{said['mean_ms']:.2f}", f"{said['p99_ms']:.2f}", f"{said['p99_of_measured']:.0%}"])
    columns = ("of saturation", "rate/s", "busy", "mean", "median", "P99", "P99.9", "sent late P99",
               "model's mean", "P99", "of measured")  # fmt: skip
    low, high = (f"{share:.0%}" for share in figures["calibrated_at"])
    fitted = f"M/G/1 with c² = {figures['fitted_variation']:.1f} as calibrated at {low} and {high}"
    return f"One worker on a core of its own, ms; {fitted}", columns, rows


def _measured(at: Figures) -> list[str]:
    return [f"{at[name]:,.2f}" for name in ("mean_ms", "p50_ms", "p99_ms", "p999_ms")]


def _late(at: Figures) -> str:
    """How late the load itself was, which is in its latencies: on a quiet machine next to nothing."""
    return f"{at['lateness_p99'] * 1e3:.2f}"


def _noise(figures: Figures) -> _Shown:
    rows = [[at["neighbour"], *_measured(at), f"{at['cpu_us']:,.0f}", str(at["errors"])] for at in figures["noise"]]
    columns = ("neighbour", "mean", "median", "P99", "P99.9", "CPU µs", "errors")
    return f"Beside a neighbour that wants the worker's core, ms at {figures['noise'][0]['rate']:,.0f}/s", columns, rows


def _needs(figures: Figures) -> _Shown:
    rows = [
        [
            f"{need['rate']:,.0f}", str(need["workers"]), f"{need['busy']:.0%}", f"{need['p99_ms']:.1f}",
            "–" if need["gateway_cores"] is None else str(need["gateway_cores"]), str(need["redis_shards"]),
            str(need["cores"]),
        ]
        for need in figures["needs"]
    ]  # fmt: skip
    columns = ("payments/s", "workers", "busy", "P99 ms", "gateway cores", "Redis shards", "cores")
    budget = f"P99 within {figures['budget_ms']:.0f} ms at {figures['headroom']:g} times the rate"
    return f"What a rate needs by the model: {budget}{'' if rows else ': ' + figures['refused']}", columns, rows
