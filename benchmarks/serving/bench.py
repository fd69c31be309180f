"""One run of a benchmark of servers: Redis, the load and the log's process, and measuring one server at a time.

What belongs here: what every such run stands on. What does not: which servers (`candidates`), in which order they are
measured (`__main__`, `benchmarks.width`).
"""

import json
import os
import platform
import signal
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from benchmarks.serving.candidates import Candidate, cpu_seconds, start
from benchmarks.serving.load import Order
from benchmarks.serving.world import World, fill, release, start_redis

CONNECTIONS = 64
DEADLINE_MS = 100.0
UNDEGRADED = 0.999
SEED = 7


class Generator:
    """The load's process, on cores of its own; it carries out one order at a time."""

    def __init__(self, cores: set[int]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )  # fmt: skip

    def run(self, order: Order) -> dict[str, Any]:
        """Fields of `load.Result`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(order)) + "\n")
        self._process.stdin.flush()
        result: dict[str, Any] = json.loads(self._process.stdout.readline())
        return result

    def close(self) -> None:
        """Without orders it ends."""
        self._process.communicate(timeout=30)


def lower(cores: set[int], nice: int) -> None:
    """Keep the calling process to these cores, at a niceness."""
    os.sched_setaffinity(0, cores)
    os.nice(nice)


class Bench:
    """One run of the benchmark. `benchmarks.compare` uses that of older checkouts too: how it is made and entered, and
    `start`, stay as they are."""

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
        self._generator = Generator(self._load_cores)
        log = [sys.executable, "-m", "fraud_platform.cli", "inference-log", "run"]
        environment = self.world.environment() | {"FRAUD_LOG_PORT": str(free_port())}
        # decisions go on into the lake while they are made, as they do in life
        self._children.append(
            subprocess.Popen(
                log, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                preexec_fn=lambda: lower(self._load_cores, 5),
            )
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        for candidate in self.candidates.values():
            candidate.stop()
        self._generator.close()
        for child in reversed(self._children):
            child.send_signal(signal.SIGTERM)
            child.wait(30)

    def start(self, name: str, kind: str | None = None, workers: int = 1) -> Candidate:
        """Start a candidate, as `candidates.start`, on the servers' cores."""
        made = start(name, self.world, free_port(), self._server_cores, kind=kind, workers=workers)
        self.candidates[name] = made
        return made

    def measure(self, name: str, rate: float, seconds: float) -> dict[str, Any]:
        """One candidate at one rate.

        `cpu_us` and `redis_us`: processor time per answer of the candidate and of Redis; `busiest`: the share of the
        candidate's that its busiest process took.
        """
        candidate, world = self.candidates[name], self.world
        order = Order(
            port=candidate.port, rate=rate, seconds=seconds, connections=CONNECTIONS, seed=SEED + self._first,
            users=world.users, merchants=world.merchants, key=candidate.key, first=self._first, tls=candidate.tls,
        )  # fmt: skip
        self._first += int(rate * seconds)
        redis = psutil.Process(self._children[0].pid)
        before, redis_before = candidate.cpu_seconds(), cpu_seconds(redis)
        result = self._generator.run(order)
        used = [now - then for now, then in zip(candidate.cpu_seconds(), before, strict=True)]
        redis_used = cpu_seconds(redis) - redis_before
        quantiles = {f"{quantile}_ms": value * 1e3 for quantile, value in result.pop("quantiles").items()}
        good = result["answered"] - result["degraded"]
        sustained = quantiles["p99_ms"] < DEADLINE_MS and good >= UNDEGRADED * result["sent"]
        answers = max(result["answered"], 1)
        times = {"mean_ms": result.pop("mean") * 1e3, "deviation_ms": result.pop("deviation") * 1e3}
        cpu = {"cpu_us": sum(used) / answers * 1e6, "redis_us": redis_used / answers * 1e6}
        busiest = max(used) / max(sum(used), 1e-9)
        return {**result, **quantiles, **times, **cpu, "rate": rate, "busiest": busiest, "sustained": sustained}

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


def free_port() -> int:
    """A port that nobody has for now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def machine() -> dict[str, Any]:
    """Where figures are from."""
    return {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version(), "system": platform.platform()}
