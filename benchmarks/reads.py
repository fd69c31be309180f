"""`python -m benchmarks.reads`: how long a payment waits for its features, from Redis and, with Redis away, PostgreSQL.

What belongs here: the reads alone, as a worker makes them (`online.ladder`). What does not: whole decisions
(`serving`). Open loop: reads are due by a Poisson process, and latency counts from when each was due. Reader and load
are one process on one core, the servers on the other.
"""

import argparse
import asyncio
import gc
import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import uvloop
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.serving.world import World, fill, start_redis
from fraud_platform.decision.breaker import CircuitBreaker
from fraud_platform.features.tables import FEATURE_MEDIANS
from fraud_platform.lake import open_lake
from fraud_platform.online.cold import ColdStore
from fraud_platform.online.decision_key import claim
from fraud_platform.online.embedded_postgres import postgres_address, postgres_pid, stop_postgres
from fraud_platform.online.ladder import Ladder
from fraud_platform.online.packed import VIEWS
from fraud_platform.online.snapshot_load import load_cold
from fraud_platform.online.store import OnlineFeatures, OnlineStore
from fraud_platform.schema import Transaction
from fraud_platform.settings import Settings

SEED = 5
SERVED = 0.999
"""Share of reads that the store under test has to serve, or its P99 says nothing."""
TARGETS_MS = {"redis": 5.0, "postgres": 50.0}

Read = Callable[[Transaction], Awaitable[OnlineFeatures]]


def _now() -> int:
    return time.time_ns() // 1_000


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def measured(read: Read, world: World, rate: float, seconds: float) -> dict[str, Any]:
    """Milliseconds from when each read was due, and who served."""
    random = np.random.default_rng(SEED)
    due = np.cumsum(random.exponential(1 / rate, int(rate * seconds)))
    users = random.integers(0, world.users, len(due))
    merchants = random.integers(0, world.merchants, len(due))
    loop, latencies, served = asyncio.get_running_loop(), [], Counter[str]()
    run = f"{rate:.0f}-{_now()}"
    began = loop.time()

    async def one(number: int) -> None:
        at = _now()
        payment = Transaction(
            transaction_id=f"{run}-{number}", user_id=f"user-{users[number]}", merchant_id=f"m-{merchants[number]}",
            amount=4_250, event_time=at, received_at=at, country="DE",
        )  # fmt: skip
        features = await read(payment)
        latencies.append(loop.time() - began - due[number])
        served[features.served_by["user_features"]] += 1

    async with asyncio.TaskGroup() as group:
        for number, moment in enumerate(due):
            wait = moment - (loop.time() - began)
            if wait > 0:
                await asyncio.sleep(wait)
            group.create_task(one(number))
    p50, p99, highest = np.percentile(np.array(latencies) * 1e3, [50, 99, 100]).tolist()
    return {"rate": rate, "p50_ms": p50, "p99_ms": p99, "max_ms": highest, "served": dict(served)}


async def _reads(world: World, settings: Settings, rates: list[float], seconds: float) -> list[dict[str, Any]]:
    figures = []
    nobody = f"redis://127.0.0.1:{free_port()}/0"
    for source, url in (("redis", world.redis_url), ("postgres", nobody)):
        hot = OnlineStore(url, ttl_days=3, deadline=settings.read_deadline_ms / 1e3)
        cold = ColdStore(
            lambda: postgres_address(settings), ttl_days=10, default_medians=hot.sets[0].medians, clock=_now,
            deadline=settings.cold_deadline_ms / 1e3,
        )  # fmt: skip
        breakers = [CircuitBreaker(name, time.monotonic) for name in ("redis", "postgres")]
        ladder = Ladder(hot, breakers[0], lambda *_: None, cold=(cold, breakers[1]))

        async def read(payment: Transaction, ladder: Ladder = ladder) -> OnlineFeatures:
            return await ladder.read(payment, caller="bench", write=True, claim=claim("0" * 32))

        await hot.open()
        await cold.open()
        await asyncio.sleep(1)
        await measured(read, world, rates[0], 1.0)
        gc.collect()
        gc.freeze()
        for rate in rates:
            figures.append({"source": source, **await measured(read, world, rate, seconds)})
        gc.unfreeze()
        await hot.close()
        await cold.close()
    return figures


def _show(figures: list[dict[str, Any]], console: Console) -> None:
    title = "Reading one payment's features, ms from when the read was due"
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for name in ("from", "reads/s", "median", "P99", "longest", "target P99", "served by it"):
        table.add_column(name, justify="left" if name == "from" else "right")
    for each in figures:
        table.add_row(
            each["source"], f"{each['rate']:,.0f}", f"{each['p50_ms']:.2f}", f"{each['p99_ms']:.2f}",
            f"{each['max_ms']:.1f}", f"{TARGETS_MS[each['source']]:.0f}", f"{_share(each):.2%}",
        )  # fmt: skip
    console.print(table)
    for source, target in TARGETS_MS.items():
        at_500 = next(each for each in figures if each["source"] == source)
        met = at_500["p99_ms"] < target and _share(at_500) >= SERVED
        text = f"{source}: P99 {at_500['p99_ms']:.1f} ms at {at_500['rate']:,.0f}/s (target {target:.0f} ms)"
        console.print(f"{'met   ' if met else 'MISSED'} {text}", style="green" if met else "red")


def _share(figures: dict[str, Any]) -> float:
    return float(figures["served"].get(figures["source"], 0) / sum(figures["served"].values()))


def main() -> None:
    """Measure, show, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reads", description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("var/bench"), help="where results and the home go")
    parser.add_argument("--users", type=int, default=200_000, help="users in both stores")
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[500, 1_000], help="reads per second; the first counts"
    )
    parser.add_argument("--seconds", type=float, default=10, help="seconds at each rate")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    folder: Path = options.folder.absolute()
    world = World(folder / "reads", free_port(), options.users, max(options.users // 40, 10))
    settings = world.settings
    redis = start_redis(world)
    try:
        fill(world)
        lake = open_lake(settings)
        for view in VIEWS:
            load_cold(settings, lake, view, lake.days(FEATURE_MEDIANS)[-1], now=_now)
        postgres = psutil.Process(postgres_pid(settings))
        for pid in (redis.pid, postgres.pid, *(child.pid for child in postgres.children(recursive=True))):
            os.sched_setaffinity(pid, {cores[0]})
        os.sched_setaffinity(0, {cores[-1]})
        figures = uvloop.run(_reads(world, settings, options.rates, options.seconds))
    finally:
        stop_postgres(settings)
        redis.send_signal(signal.SIGTERM)
        redis.wait(30)
    (folder / "reads.json").write_text(json.dumps(figures, indent=2, sort_keys=True))
    _show(figures, Console())


if __name__ == "__main__":
    main()
