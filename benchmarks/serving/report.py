"""The benchmark's figures as a table, a picture and JSON.

What belongs here: showing, and holding figures against targets. What does not: measuring.
"""

import json
from pathlib import Path
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.serving.candidates import EMPTY, FEAST, NAMES, OURS, REFERENCE

TARGET_RATIO, TARGET_P99_MS = 8.0, 20.0
BUDGET_MS = {"read": 20, "request_features": 10, "model": 30, "log": 5}

Figures = dict[str, Any]


def summary(rates: Figures, saturation: dict[str, list[float]], stages: dict[str, float], machine: Figures) -> Figures:
    """Everything that is written down. rates: candidate → rate → result; saturation: candidate → one value per run."""
    best = {name: median(values) for name, values in saturation.items()}
    ours_rates = rates[OURS]
    at_1000 = ours_rates.get("1000", ours_rates[max(ours_rates, key=float)])
    cpu = {name: _cpu(results) for name, results in rates.items()}
    return {
        "ratio_to_reference": _ratio(best, REFERENCE),
        "ratio_to_feast_sdk": _ratio(best, FEAST),
        "ratio_to_empty_bentoml": _ratio(best, EMPTY),
        "cpu_us_per_request": cpu[OURS],
        "reference_cpu_us_per_request": cpu[REFERENCE],
        "cpu_us_per_request_by_candidate": cpu,
        "p99_ms_at_1000": at_1000["p99_ms"],
        "errors": sum(result["errors"] for result in ours_rates.values()),
        "saturation": best,
        "saturation_runs": saturation,
        "stage_p99_ms": stages,
        "stage_budget_ms": BUDGET_MS,
        "rates": rates,
        "machine": machine,
    }


def _ratio(best: dict[str, float], name: str) -> float | None:
    """None: that server did not sustain the lowest rate that was tried."""
    return best[OURS] / best[name] if best[name] else None


def _cpu(results: Figures) -> float:
    """At the highest rate that was answered in time: idle turns of the event loop weigh least there."""
    good = [rate for rate, result in results.items() if result["sustained"]] or list(results)
    return float(results[max(good, key=float)]["cpu_us"])


def show(figures: Figures, console: Console) -> None:
    """Print the tables."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title="P99 in ms by requests per second, from when each was due",
                  title_justify="left")  # fmt: skip
    rates = list(figures["rates"][OURS])
    table.add_column("server")
    for rate in rates:
        table.add_column(rate, justify="right")
    for name in ("saturation/s", "runs", "CPU µs", "ours is"):
        table.add_column(name, justify="right")
    best = figures["saturation"]
    for name in NAMES:
        row = [name]
        for rate in rates:
            result = figures["rates"][name].get(rate)
            row.append("–" if result is None else _cell(result))
        runs = " ".join(f"{value:,.0f}" for value in figures["saturation_runs"][name])
        cpu = figures["cpu_us_per_request_by_candidate"][name]
        times = "" if name == OURS else f"{best[OURS] / best[name]:.1f}×" if best[name] else "–"
        table.add_row(*row, f"{best[name]:,.0f}", runs, f"{cpu:,.0f}", times)
    console.print(table)
    stages = Table(box=SIMPLE_HEAD, pad_edge=False, title="P99 per stage of this service, all rates together",
                   title_justify="left")  # fmt: skip
    for name in ("stage", "P99 ms", "budget ms"):
        stages.add_column(name, justify="left" if name == "stage" else "right")
    for stage, budget in BUDGET_MS.items():
        stages.add_row(stage, f"{figures['stage_p99_ms'].get(stage, float('nan')):.2f}", str(budget))
    console.print(stages)
    ratio, p99, errors = figures["ratio_to_reference"] or 0.0, figures["p99_ms_at_1000"], figures["errors"]
    for met, text in (
        (ratio >= TARGET_RATIO, f"{ratio:.1f}× the reference's saturation (target {TARGET_RATIO:.0f}×)"),
        (p99 < TARGET_P99_MS, f"P99 {p99:.1f} ms at 1,000/s (target {TARGET_P99_MS:.0f} ms)"),
        (errors == 0, f"{errors} errors at the fixed rates (target 0)"),
    ):
        console.print(f"{'met   ' if met else 'MISSED'} {text}", style="green" if met else "red")


def _cell(result: Figures) -> str:
    text = f"{result['p99_ms']:,.1f}" if result["p99_ms"] < 1e5 else "∞"
    return text if result["sustained"] else f"{text}!"


def write(figures: Figures, folder: Path) -> None:
    """serving.json and serving.png in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "serving.json").write_text(json.dumps(figures, indent=2, sort_keys=True))
    _draw(figures, folder / "serving.png")


def _draw(figures: Figures, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    for number, name in enumerate(NAMES):
        results = figures["rates"][name]
        points = sorted((float(rate), r["p50_ms"], r["p99_ms"]) for rate, r in results.items() if r["p99_ms"] < 1e5)
        color = f"C{number}"
        axes.plot([p[0] for p in points], [p[2] for p in points], "o-", color=color, label=f"{name}, P99")
        axes.plot([p[0] for p in points], [p[1] for p in points], ":", color=color, label=f"{name}, median")
        axes.axvline(figures["saturation"][name], color=color, alpha=0.35, linewidth=1)
    axes.axhline(100, color="black", linewidth=0.8)
    axes.text(axes.get_xlim()[0] * 1.02, 104, "100 ms", fontsize=8)
    axes.set(xscale="log", yscale="log", xlabel="requests per second", ylabel="ms from when a request was due")
    axes.set_title("Latency over rate; vertical lines: saturation")
    axes.grid(True, which="both", alpha=0.2)
    axes.legend(fontsize=8, ncols=2)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
