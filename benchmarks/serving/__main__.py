"""`python -m benchmarks.serving`: how fast payments are decided, beside what a team would otherwise assemble.

What belongs here: the order of measurements. What does not: servers (`candidates`), load, showing (`report`).
Two cores: the servers under test on one, load and Redis on the other; one worker each. All run at once, and only the
one that is measured has work.
"""

import argparse
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from tqdm import tqdm

from benchmarks.serving import report
from benchmarks.serving.candidates import NAMES, OURS, Candidate, start
from benchmarks.serving.load import Order
from benchmarks.serving.world import World, fill, release, start_redis

CONNECTIONS = 64
DEADLINE_MS = 100.0
UNDEGRADED = 0.999
SEED = 7


class Bench:
    """One run of the benchmark."""

    def __init__(self, world: World, folder: Path, server_cores: set[int], load_cores: set[int]) -> None:
        self.world, self.folder = world, folder
        self._server_cores, self._load_cores = server_cores, load_cores
        self._first = 0
        self._children: list[subprocess.Popen[Any]] = []
        self.candidates: dict[str, Candidate] = {}

    def __enter__(self) -> "Bench":
        self._children.append(start_redis(self.world))
        os.sched_setaffinity(self._children[0].pid, self._load_cores)
        fill(self.world)
        release(self.world)
        for name in NAMES:
            self.candidates[name] = start(name, self.world, _free_port(), self._server_cores)
        self._generator = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, preexec_fn=lambda: os.sched_setaffinity(0, self._load_cores),
        )  # fmt: skip
        log = [sys.executable, "-m", "fraud_platform.cli", "inference-log", "run"]
        environment = self.world.environment() | {"FRAUD_LOG_PORT": str(_free_port())}
        # decisions go on into the lake while they are made, as they do in life
        self._children.append(
            subprocess.Popen(
                log, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                preexec_fn=lambda: (os.sched_setaffinity(0, self._load_cores), os.nice(5)),
            )
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        for candidate in self.candidates.values():
            candidate.stop()
        # without orders it ends
        self._generator.communicate(timeout=30)
        for child in reversed(self._children):
            child.send_signal(signal.SIGTERM)
            child.wait(30)

    def measure(self, name: str, rate: float, seconds: float) -> dict[str, Any]:
        """One candidate at one rate."""
        candidate, world = self.candidates[name], self.world
        order = Order(
            port=candidate.port, rate=rate, seconds=seconds, connections=CONNECTIONS, seed=SEED + self._first,
            users=world.users, merchants=world.merchants, key=candidate.key, first=self._first,
        )  # fmt: skip
        self._first += int(rate * seconds)
        before = candidate.cpu_seconds()
        assert self._generator.stdin is not None
        assert self._generator.stdout is not None
        self._generator.stdin.write(json.dumps(asdict(order)) + "\n")
        self._generator.stdin.flush()
        result = json.loads(self._generator.stdout.readline())
        used = candidate.cpu_seconds() - before
        quantiles = {f"{quantile}_ms": value * 1e3 for quantile, value in result.pop("quantiles").items()}
        good = result["answered"] - result["degraded"]
        sustained = quantiles["p99_ms"] < DEADLINE_MS and good >= UNDEGRADED * result["sent"]
        cpu = used / max(result["answered"], 1) * 1e6
        return {**result, **quantiles, "rate": rate, "cpu_us": cpu, "sustained": sustained}

    def saturation(self, name: str, begin: float, seconds: float, steps: int, bar: "tqdm[Any]") -> float:
        """The highest rate that is sustained: doubling until it is not, then halving the interval."""

        def sustained(rate: float) -> bool:
            bar.set_postfix_str(f"{name} at {rate:,.0f}/s")
            return bool(self.measure(name, rate, seconds)["sustained"])

        low, high = 0.0, begin
        while sustained(high):
            low, high = high, high * 2
        while low == 0.0 and high > 10:
            high /= 2
            if sustained(high):
                low, high = high, high * 2
        for _ in range(steps):
            middle = (low + high) / 2
            low, high = (middle, high) if sustained(middle) else (low, middle)
        return low


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _machine() -> dict[str, Any]:
    return {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version(), "system": platform.platform()}


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
    world = World(folder / "home", _free_port(), options.users, max(options.users // 40, 10))
    console = Console(width=140 if not sys.stdout.isatty() else None)
    rates: dict[str, dict[str, Any]] = {name: {} for name in NAMES}
    found: dict[str, list[float]] = {name: [] for name in NAMES}
    with Bench(world, folder, server_cores, load_cores) as bench:
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
    figures = report.summary(rates, found, stages, _machine())
    report.write(figures, folder)
    report.show(figures, console)
    console.print(f"{folder / 'serving.json'}   {folder / 'serving.png'}")


if __name__ == "__main__":
    main()
