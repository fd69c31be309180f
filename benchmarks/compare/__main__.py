"""`make compare BASE=<commit>`: whether this checkout's service is as fast as an earlier one's, in one run.

What belongs here: the order of measurements. What does not: checkouts and processes (`checkouts`), load
(`benchmarks.serving`), statistics (`ratios`), showing (`report`). One core for both services, the other for their
stores and the load; both sides run all the time, and only one has work. A pair is base, new, new, base, or the other
way round, so that whatever the machine does meanwhile meets both.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.compare import report
from benchmarks.compare.checkouts import CompareError, Side, base_checkout, settle, this_checkout
from benchmarks.serving.bench import CONNECTIONS, SEED, Generator, machine
from benchmarks.serving.load import Order

LEAST_PAIRS = 7
CLOSED = 0.0
"""Rate of a closed loop."""
CLOSED_CONNECTIONS = 32
"""Enough to keep a worker busy, and few enough that none waits for Redis until its deadline because of the others."""

Figures = dict[str, Any]


class Turns:
    """Loads one side at a time; no payment comes twice to a side."""

    def __init__(self, sides: list[Side], generator: Generator) -> None:
        self._sides, self._generator = sides, generator
        self._first = 0

    def pair(self, number: int, rate: float, seconds: float, saturation_seconds: float) -> Figures:
        """Both sides at saturation, then both at the fixed rate: name of the side → its figures."""
        order = self._sides if number % 2 == 0 else self._sides[::-1]
        order = [*order, *order[::-1]]
        closed = [(side, self.turn(side, CLOSED, saturation_seconds / 2)) for side in order]
        fixed = [(side, self.turn(side, rate, seconds / 2)) for side in order]
        return {
            side.checkout.name: {
                "saturated": report.pooled([each for whose, each in closed if whose is side]),
                "fixed": report.pooled([each for whose, each in fixed if whose is side]),
            }
            for side in self._sides
        }

    def turn(self, side: Side, rate: float, seconds: float) -> Figures:
        """One side under load, once both rest."""
        rested = settle(self._sides)
        connections = CONNECTIONS if rate else CLOSED_CONNECTIONS
        order = Order(
            port=side.port, rate=rate, seconds=seconds, connections=connections, seed=SEED + self._first,
            users=side.users, merchants=side.merchants, key=side.key, first=self._first, latencies=True,
        )  # fmt: skip
        before, began = side.cpu_seconds(), time.monotonic()
        result = self._generator.run(order)
        after, took = side.cpu_seconds(), time.monotonic() - began
        self._first += result["sent"]
        return {
            "sent": result["sent"],
            "served": result["answered"] - result["degraded"],
            "latencies": result["latencies"],
            "unanswered": result["sent"] - result["answered"],
            "causes": result["causes"] | {"degraded": result["degraded"], "refused": result["refused"]},
            "seconds": result["seconds"],
            "service_seconds": after[0] - before[0],
            "redis_seconds": after[1] - before[1],
            "took": took,
            "rested": rested,
            "lateness_p99": result["lateness_p99"],
        }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make compare BASE=<commit>",
        description=(
            "Compare this checkout's decision service with a commit's, alternately in one run: throughput, P99 and "
            "processor time. Ends with 1 where a figure is not shown to be at least 0.97 of the commit's."
        ),
        epilog='Example: make compare BASE=main ARGS="--pairs 20". A wide interval narrows with the root of the pairs; '
        "docs/benchmarks.md says what the figures mean.",
    )
    parser.add_argument("base", help="commit, branch or tag to compare with; HEAD: what a change of nothing looks like")
    parser.add_argument(
        "--pairs", type=int, default=12, help=f"pairs of measurements, at least {LEAST_PAIRS} (%(default)s)"
    )
    parser.add_argument(
        "--rate", type=float, default=1_000, help="payments per second at which P99 is taken (%(default)g)"
    )
    parser.add_argument(
        "--seconds", type=float, default=6, help="seconds at that rate, per pair and side (%(default)g)"
    )
    parser.add_argument(
        "--saturation-seconds", type=float, default=3, help="seconds of saturation, per pair and side (%(default)g)"
    )
    parser.add_argument("--users", type=int, default=50_000, help="users in each side's Redis (%(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("var/bench"), help="where compare.json goes (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="small figures, to see that it works: they mean little")
    options = parser.parse_args()
    if options.quick:
        options.pairs, options.rate, options.seconds = LEAST_PAIRS, 200, 1
        options.saturation_seconds, options.users = 0.5, 2_000
    if options.pairs < LEAST_PAIRS:
        parser.error(f"--pairs is at least {LEAST_PAIRS}: fewer say nothing")
    return options


def compare(options: argparse.Namespace) -> Figures:
    """Everything that is measured and what it says. Raises CompareError."""
    cores = sorted(os.sched_getaffinity(0))
    split = ({cores[-1]}, {cores[0]})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fraud-compare-")))
        base = stack.enter_context(base_checkout(options.base, folder / "checkout"))
        checkouts = [base, this_checkout()]
        for each in checkouts:
            print(f"{each.name:5} {each.commit}, packages: {each.environment}", flush=True)
        sides = [
            stack.enter_context(Side(each, folder / each.name, options.users, split)) for each in checkouts
        ]  # fmt: skip
        generator = Generator(split[1])
        stack.callback(generator.close)
        for side in sides:
            side.wait()
        if len({side.model for side in sides}) > 1:
            print("The sides train different models of the same data: what differs may be the model's", flush=True)
        turns = Turns(sides, generator)
        for side in sides:
            # what a worker does for the first time counts for nobody
            turns.turn(side, CLOSED, options.saturation_seconds / 2)
        print(report.heading(options.rate), flush=True)
        pairs = []
        for number in range(options.pairs):
            pairs.append(turns.pair(number, options.rate, options.seconds, options.saturation_seconds))
            print(report.line(number + 1, pairs[-1]), flush=True)
    settings = {name: getattr(options, name) for name in ("rate", "seconds", "saturation_seconds", "users")}
    return {
        **{each.name: {"commit": each.commit, "packages": each.environment} for each in checkouts},
        "settings": settings,
        "pairs": pairs,
        "ratios": report.ratios(pairs),
        "machine": machine(),
    }


def main() -> None:
    """Compare, show, write; ends with 1 where a figure is missed."""
    options = _options()
    # so that a termination cleans up like Ctrl-C
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
    try:
        figures = compare(options)
    except CompareError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("ended; the checkout and both sides' data are removed")
    print(report.verdict(figures))
    print(report.write(figures, options.folder))
    sys.exit(0 if report.met(figures) else 1)


if __name__ == "__main__":
    main()
