"""`python -m benchmarks.serving`: how fast payments are decided, beside what a team would otherwise assemble.

What belongs here: the order of measurements. What does not: measuring (`bench`), servers (`candidates`), showing
(`report`). Two cores: the servers under test on one, load and Redis on the other; one worker each. All run at once, and
only the one that is measured has work.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from tqdm import tqdm

from benchmarks.serving import report
from benchmarks.serving.bench import Bench, free_port, machine
from benchmarks.serving.candidates import NAMES, OURS
from benchmarks.serving.world import World


def main() -> None:
    """Measure, show, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("var/bench"), help="where results and the home go")
    parser.add_argument("--users", type=int, default=200_000, help="users in Redis")
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[100, 500, 1_000, 2_000], help="fixed rates per second"
    )
    parser.add_argument("--seconds", type=float, default=10, help="seconds at each fixed rate")
    parser.add_argument("--runs", type=int, default=3, help="alternated searches of each server's saturation")
    parser.add_argument("--step-seconds", type=float, default=4, help="seconds at each rate of a search")
    parser.add_argument("--steps", type=int, default=4, help="halvings of a search's last interval")
    parser.add_argument("--quick", action="store_true", help="small figures, to see that it works: they mean little")
    options = parser.parse_args()
    if options.quick:
        options.users, options.rates, options.seconds = 2_000, [100, 300], 1.5
        options.runs, options.step_seconds, options.steps = 1, 1, 1
    cores = sorted(os.sched_getaffinity(0))
    server_cores, load_cores = ({cores[1]}, {cores[0]}) if len(cores) > 1 else ({cores[0]}, {cores[0]})
    folder: Path = options.folder.absolute()
    world = World(folder / "home", free_port(), options.users, max(options.users // 40, 10))
    console = Console(width=140 if not sys.stdout.isatty() else None)
    rates: dict[str, dict[str, Any]] = {name: {} for name in NAMES}
    found: dict[str, list[float]] = {name: [] for name in NAMES}
    with Bench(world, folder, server_cores, load_cores) as bench:
        for name in NAMES:
            bench.start(name)
        total = len(NAMES) * (len(options.rates) + options.runs)
        with tqdm(total=total, unit="measurement", disable=None) as bar:
            for rate in options.rates:
                for name in NAMES:
                    bar.set_postfix_str(f"{name} at {rate:,.0f}/s")
                    rates[name][f"{rate:.0f}"] = bench.measure(name, rate, options.seconds)
                    bar.update()
                    time.sleep(0.5)
            stages = bench.candidates[OURS].stage_p99_ms()
            for _ in range(options.runs):
                for name in NAMES:
                    begin = found[name][-1] * 0.8 if found[name] else 250.0
                    found[name].append(
                        bench.saturation(name, max(begin, 20.0), options.step_seconds, options.steps, bar)
                    )
                    bar.update()
    figures = report.summary(rates, found, stages, machine())
    report.write(figures, folder)
    report.show(figures, console)
    console.print(f"{folder / 'serving.json'}   {folder / 'serving.png'}")


if __name__ == "__main__":
    main()
