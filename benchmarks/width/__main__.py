"""`python -m benchmarks.width`: what more workers and more instances give, and whether the queueing model knows it.

What belongs here: the order of measurements. What does not: measuring (`benchmarks.serving.bench`), what stands around
the service (`surroundings`), what the model makes of it (`model`), showing (`report`). One core for load, Redis and the
log, the others for the service; on two cores that is one, so growth is measured on all cores too, which it then shares.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from tqdm import tqdm

from benchmarks.serving.bench import Bench, free_port, machine
from benchmarks.serving.candidates import OURS
from benchmarks.serving.world import World
from benchmarks.width import model, report
from benchmarks.width.surroundings import GATEWAY, Gateway, has_nginx, memory, neighbour

SECOND = "second instance"
MODERATE = 0.5
"""Share of one worker's saturation at which processor time and a noisy neighbour's harm are measured."""
NEIGHBOURS: dict[str, int | None] = {"nobody": None, "nice 19": 19, "nice 0": 0}

Figures = dict[str, Any]


class Width:
    """The measurements, in their order, on servers that all run at once; only the one that is measured has work."""

    def __init__(self, bench: Bench, options: argparse.Namespace, cores: tuple[set[int], set[int]]) -> None:
        self._bench, self._options = bench, options
        self._own, self._all = cores
        # the first has one worker: what the others are held against
        self._services = {count: bench.start(f"{count} workers", OURS, count) for count in options.workers}
        self._second = bench.start(SECOND, OURS)
        self._bar = tqdm(unit="measurement", disable=None)

    def _measure(self, name: str, rate: float) -> Figures:
        self._bar.set_postfix_str(f"{name} at {rate:,.0f}/s")
        result = self._bench.measure(name, rate, self._options.seconds)
        self._bar.update()
        time.sleep(0.5)
        return result

    def _rounds(self, measure: list[Callable[[], Figures]]) -> list[Figures]:
        """Each measurement some times, by turns; of each figure the median counts."""
        rounds = [[each() for each in measure] for _ in range(self._options.rounds)]
        return [
            {name: _median([each[name] for each in same]) for name in same[0]} for same in zip(*rounds, strict=True)
        ]

    def _saturation(self, name: str, begin: float) -> float:
        options = self._options
        found = self._bench.saturation(name, max(begin, 20.0), options.step_seconds, options.steps, self._bar)
        self._bar.update()
        return found

    def growth(self, cores: set[int], moderate: float) -> list[Figures]:
        """One service with more and more workers on some cores. moderate: rate/s of the measured processor time, 0:
        half of one worker's saturation."""
        found, begin = [], self._options.begin
        for count, service in self._services.items():
            service.pin(cores)
            name = service.name
            saturation = self._saturation(name, begin)
            moderate = moderate or MODERATE * saturation
            begin = 0.8 * saturation
            at = self._measure(name, max(moderate, 20.0))
            found.append({"workers": count, "saturation": saturation, **at})
            service.pin(self._own)
        return found

    def instances(self, rate: float) -> list[Figures]:
        """The first instance alone, then behind the gateway, then two behind it, all on all cores."""
        first, found = self._services[1], []
        for candidate in (first, self._second):
            candidate.pin(self._all)
        gateway = Gateway(self._bench, first, self._second, self._all)
        for where, name, count in (("no gateway", first.name, 1), ("gateway", GATEWAY, 1), ("gateway", GATEWAY, 2)):
            if name == GATEWAY:
                gateway.before(count)
            saturation = self._saturation(name, 0.5 * rate)
            before = sum(first.cpu_seconds() + self._second.cpu_seconds())
            at = self._measure(name, rate)
            used = sum(first.cpu_seconds() + self._second.cpu_seconds()) - before
            service_us = used / max(at["answered"], 1) * 1e6
            found.append({"where": where, "instances": count, "saturation": saturation, **at, "service_us": service_us})
        for candidate in (first, self._second):
            candidate.pin(self._own)
        return found

    def latencies(self, saturation: float) -> list[Figures]:
        """One worker on its own core at shares of its saturation."""
        name, shares = self._services[1].name, self._options.shares
        rates = [max(share * saturation, 10.0) for share in shares]
        found = self._rounds([partial(self._measure, name, rate) for rate in rates])
        return [{"share": share, **each} for share, each in zip(shares, found, strict=True)]

    def noise(self, rate: float) -> list[Figures]:
        """One worker on its own core at a fixed rate, beside a neighbour that wants the same core."""
        found = self._rounds([partial(self._beside, nice, rate) for nice in NEIGHBOURS.values()])
        return [{"neighbour": name, **each} for name, each in zip(NEIGHBOURS, found, strict=True)]

    def _beside(self, nice: int | None, rate: float) -> Figures:
        with nullcontext() if nice is None else neighbour(self._own, nice):
            return self._measure(self._services[1].name, rate)

    def memories(self) -> list[Figures]:
        """Each worker's memory after all that work."""
        return [
            {"workers": count, **each} for count, service in self._services.items() for each in memory(service)
        ]  # fmt: skip


def _median(values: list[Any]) -> Any:
    """Of numbers; anything else is the last one's."""
    return median(values) if all(type(value) in (int, float) for value in values) else values[-1]


def measure(bench: Bench, options: argparse.Namespace, cores: tuple[set[int], set[int]]) -> Figures:
    """Everything that is measured."""
    width = Width(bench, options, cores)
    own = width.growth(cores[0], 0)
    saturation, moderate = own[0]["saturation"], max(MODERATE * own[0]["saturation"], 20.0)
    return {
        "one_core": own,
        "all_cores": width.growth(cores[1], moderate),
        "latencies": width.latencies(saturation),
        "noise": width.noise(moderate),
        "memory": width.memories(),
        "instances": width.instances(moderate) if has_nginx() else [],
        "server_cores": len(cores[0]),
        "machine": machine(),
    }


def main() -> None:
    """Measure, hold the model against it, show, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.width", description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("var/bench"), help="where results and the home go")
    parser.add_argument("--users", type=int, default=50_000, help="users in Redis")
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 3], help="workers of a service beside one of one")
    parser.add_argument("--seconds", type=float, default=5, help="seconds at each fixed rate")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of latencies and neighbours; the median counts")
    parser.add_argument("--begin", type=float, default=1_000, help="payments per second that a search begins at")
    parser.add_argument("--step-seconds", type=float, default=2, help="seconds at each rate of a search")
    parser.add_argument("--steps", type=int, default=3, help="halvings of a search's last interval")
    shares = [0.05, *model.CALIBRATED_AT, 0.7, 0.85]
    parser.add_argument(
        "--shares", type=float, nargs="+", default=shares, help="of saturation; two calibrate the model"
    )
    parser.add_argument("--quick", action="store_true", help="small figures, to see that it works: they mean little")
    options = parser.parse_args()
    options.workers = sorted({1, *options.workers})
    if options.quick:
        options.users, options.seconds, options.begin, options.workers = 2_000, 1.5, 200, [1, 2]
        options.step_seconds, options.steps, options.shares, options.rounds = 1, 0, [0.3, 0.5], 1
    everything = sorted(os.sched_getaffinity(0))
    load_cores, all_cores = {everything[0]}, set(everything)
    own = all_cores - load_cores or load_cores
    folder: Path = options.folder.absolute()
    world = World(folder / "home", free_port(), options.users, max(options.users // 40, 10))
    with Bench(world, folder, own, load_cores) as bench:
        found = measure(bench, options, (own, all_cores))
    figures = found | model.summary(found)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "width.json"
    path.write_text(json.dumps(figures, indent=2, sort_keys=True))
    report.show(figures, Console(width=140 if not sys.stdout.isatty() else None))
    print(path)


if __name__ == "__main__":
    main()
