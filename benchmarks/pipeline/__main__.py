"""`python -m benchmarks.pipeline`: one new day of a large bank, stage by stage; its growth; pandas and Feast beside it.

What belongs here: which sizes, the tables, `pipeline.json`. What does not: stages, rivals. The history is built once
(half an hour for 90 million transactions of 5 million users) and kept under `var/bench/pipeline`.
"""

import argparse
import json
import math
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.pipeline.history import NEW_DAY, Size, build, shortened
from benchmarks.pipeline.rivals import Beside, compare
from benchmarks.pipeline.stages import (
    BEFORE,
    DAY_BEFORE,
    NIGHT,
    ONLINE,
    PRUNE,
    YESTERDAY,
    Measured,
    measure,
)
from benchmarks.reads import free_port
from benchmarks.serving.world import World, start_redis
from fraud_platform.features import tables
from fraud_platform.lake import Lake
from fraud_platform.settings import Settings

GB = 1e9
PARTS = ("day", "growth", "beside")
TARGET_DAY_SECONDS, TARGET_SET_SECONDS, TARGET_BYTES = 120, 10, 8 * GB


def new_day(lake: Lake, home: Path, size: Size, redis_url: str | None) -> tuple[list[Measured], Measured]:
    """Every stage of the new day, and the user snapshot of a first night, which reads every tile."""
    settings = Settings(home=home, lake_url=lake.root, redis_url=redis_url, _env_file=None)
    first: Measured | None = None
    for day in (DAY_BEFORE, YESTERDAY):
        for stage in BEFORE:
            found = measure(stage, settings, size, day)
            first = first or found
    measured = [measure(stage, settings, size, NEW_DAY) for stage in NIGHT]
    if redis_url is not None:
        loaded = measure(ONLINE, settings, size, NEW_DAY)
        rows = sum(lake.size(table, NEW_DAY)[0] for table in (tables.USER_FEATURES, tables.MERCHANT_FEATURES))
        measured.append(Measured(**{**asdict(loaded), "rows": rows}))
    if first is None:
        raise RuntimeError("no stage was measured")
    return measured, first


@contextmanager
def redis_server(home: Path) -> Iterator[str]:
    """A Redis of its own."""
    world = World(home, free_port(), 0, 0)
    server = start_redis(world)
    try:
        yield world.redis_url
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
        shutil.rmtree(home / "redis", ignore_errors=True)


def exponent(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The k of y ~ x^k, by least squares on logarithms."""
    a, b = [math.log(x) for x in xs], [math.log(y) for y in ys]
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    return sum((p - mean_a) * (q - mean_b) for p, q in zip(a, b, strict=True)) / sum((p - mean_a) ** 2 for p in a)


def _table(title: str, names: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for position, name in enumerate(names):
        table.add_column(name, justify="left" if position == 0 else "right")
    return table


def _show_day(console: Console, size: Size, measured: list[Measured], first: Measured) -> None:
    title = f"A new day of {size.rows:,} transactions, {size.users:,} users, {size.days} days of history"
    table = _table(title, ("stage", "seconds", "CPU s", "rows written", "rows/s", "peak, GB", "written, MB"))
    for one in [*measured, Measured(**{**asdict(first), "stage": "user snapshot, first night"})]:
        table.add_row(
            one.stage, f"{one.seconds:.1f}", f"{one.cpu_seconds:.1f}", f"{one.rows:,}",
            f"{one.rows / one.seconds:,.0f}", f"{one.peak_bytes / GB:.1f}", f"{one.bytes / 1e6:,.1f}",
        )  # fmt: skip
    console.print(table)


def _show_growth(console: Console, by: str, unit: str, grown: dict[int, tuple[list[Measured], Measured]]) -> None:
    points = sorted(grown)
    table = _table(f"Seconds as {by} grow", ("stage", *(f"{point:,} {unit}" for point in points), "exponent"))
    stages = [
        one.stage for one in grown[points[0]][0] if all(one.stage in {m.stage for m in g[0]} for g in grown.values())
    ]
    for stage in [*stages, "user snapshot, first night"]:
        seconds = [
            next((one.seconds for one in measured if one.stage == stage), first.seconds)
            for measured, first in (grown[point] for point in points)
        ]
        table.add_row(stage, *(f"{one:.1f}" for one in seconds), f"{exponent(points, seconds):.2f}")
    console.print(table)


def _show_beside(console: Console, beside: list[Beside]) -> None:
    table = _table("The same rows, every tenth user", ("work", "by", "rows", "seconds", "rows/s", "peak, GB"))
    for one in beside:
        table.add_row(
            one.work, one.by, f"{one.rows:,}", f"{one.seconds:.1f}", f"{one.rows / one.seconds:,.0f}",
            f"{one.peak_bytes / GB:.1f}",
        )  # fmt: skip
    console.print(table)


def _show_targets(console: Console, measured: list[Measured], pruned: dict[str, Any]) -> None:
    total, peak = sum(one.seconds for one in measured), max(one.peak_bytes for one in measured)
    seconds = next(one.seconds for one in measured if one.stage == "training set")
    console.print(
        f"90 user snapshots take {pruned['kept_gb']:.1f} GB; whole they would take {pruned['whole_gb']:.1f} GB"
    )
    for met, text in (
        (total < TARGET_DAY_SECONDS, f"{total:.0f} s for the day (target {TARGET_DAY_SECONDS} s)"),
        (seconds < TARGET_SET_SECONDS, f"{seconds:.1f} s for its training set (target {TARGET_SET_SECONDS} s)"),
        (peak < TARGET_BYTES, f"{peak / GB:.1f} GB at most (target {TARGET_BYTES / GB:.0f} GB)"),
    ):
        console.print(f"{'met   ' if met else 'MISSED'} {text}", style="green" if met else "red")


def snapshots_of_a_quarter(lake: Lake, settings: Settings, size: Size) -> dict[str, Any]:
    """What 90 user snapshots take, of which a week's are whole. Prunes the older of the two before the new day."""
    whole = lake.size(tables.USER_FEATURES, YESTERDAY)[1]
    measured = measure(PRUNE, settings, size, DAY_BEFORE)
    kept_rows, kept = lake.size(tables.USER_FEATURES, DAY_BEFORE)
    weeks = settings.whole_snapshot_days + 2
    return {
        "whole_bytes": whole, "kept_bytes": kept, "kept_rows": kept_rows, "seconds": measured.seconds,
        "whole_gb": 90 * whole / GB, "kept_gb": (weeks * whole + (90 - weeks) * kept) / GB,
    }  # fmt: skip


def main() -> None:
    """Build, measure, show, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("var/bench"), help="where the history and the results go")
    parser.add_argument("--rows", type=int, default=1_000_000, help="transactions a day")
    parser.add_argument("--users", type=int, nargs="+", default=[200_000, 1_000_000, 5_000_000], help="ascending")
    parser.add_argument("--days", type=int, nargs="+", default=[10, 30, 90], help="lengths of history, ascending")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is measured (all)")
    options = parser.parse_args()
    # as wide as its tables, whatever the terminal says
    console, folder = Console(width=112), options.folder.absolute() / "pipeline"
    # the largest bank has the longest history; the others need its shortest
    largest, longest, shortest = options.users[-1], options.days[-1], options.days[0]
    results, work = options.folder / "pipeline.json", folder / "work"
    full = Size(largest, options.rows, longest)
    home, history = work / f"{longest}-days", build(folder, full)
    if "day" in options.parts:
        lake = shortened(history, home, longest)
        with redis_server(work) as redis_url:
            measured, first = new_day(lake, home, full, redis_url)
        _show_day(console, full, measured, first)
        settings = Settings(home=home, lake_url=lake.root, _env_file=None)
        pruned = snapshots_of_a_quarter(lake, settings, full)
        _show_targets(console, measured, pruned)
        _keep(results, {"day": _plain(measured), "first_night": asdict(first), "snapshots": pruned})
    if "growth" in options.parts:
        by_days = {days: _measured(history, work, Size(largest, options.rows, days)) for days in options.days}
        _show_growth(console, "history", "days", by_days)
        by_users = {
            users: _measured(build(folder, size), work, size)
            for users in options.users[:-1]
            for size in [Size(users, options.rows, shortest)]
        } | {largest: by_days[shortest]}
        _show_growth(console, "users", "users", by_users)
        grown = {"by_days": by_days, "by_users": by_users}
        _keep(results, {by: {n: _plain([*g[0], g[1]]) for n, g in found.items()} for by, found in grown.items()})
    if "beside" in options.parts:
        with redis_server(work) as redis_url:
            beside = compare(history, full.bank(), work / "sample", longest, redis_url)
        _show_beside(console, beside)
        _keep(results, {"beside": _plain(beside)})
    shutil.rmtree(work)


def _measured(history: Lake, work: Path, size: Size) -> tuple[list[Measured], Measured]:
    """The new day after a history cut to this length; what it wrote is removed."""
    home = work / f"{size.users}-users-{size.days}-days"
    found = new_day(shortened(history, home, size.days), home, size, None)
    shutil.rmtree(home)
    return found


def _plain(rows: Sequence[Any]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]


def _keep(results: Path, figures: dict[str, Any]) -> None:
    """Put a part's figures beside those of the other parts."""
    known = json.loads(results.read_text()) if results.exists() else {}
    results.write_text(json.dumps({**known, **figures}, indent=2, sort_keys=True))


if __name__ == "__main__":
    main()
