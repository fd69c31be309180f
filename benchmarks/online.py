"""`python -m benchmarks.online`: bytes per user in Redis, the speed of filling it, and what serving feels of that.

What belongs here: loads of many users into a real Redis, and reads beside them. What does not: reads alone (`reads`),
bytes of everything else (`footprint`). Memory is Redis' resident one, with what one attempt of each user leaves. Reads
are due by a Poisson process, and latency counts from when each was due. Redis has one core, the reader the other; the
load, a process of its own as in a nightly run, takes what it gets of both.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import redis
import uvloop
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.footprint import TTL_SECONDS, attempts, many, resident
from benchmarks.reads import free_port, measured
from benchmarks.serving.world import World, fill, start_redis
from fraud_platform.decision.breaker import CircuitBreaker
from fraud_platform.features.tables import USER_FEATURES
from fraud_platform.lake import open_lake
from fraud_platform.online.decision_key import claim
from fraud_platform.online.ladder import Ladder
from fraud_platform.online.packed import PROJECT, USER_VECTOR
from fraud_platform.online.snapshot_load import packed_snapshot
from fraud_platform.online.store import OnlineFeatures, OnlineStore
from fraud_platform.online.writer import write_packed
from fraud_platform.schema import Transaction

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

READS = 500.0
TARGET_ROWS, TARGET_P99_MS, TARGET_GB = 50_000, 20.0, 40.0
BANK_USERS = 100_000_000


def hold(world: World, rows: pa.Table, counts: list[int]) -> list[dict[str, float]]:
    """Fill an empty Redis with so many users: rows/s, and bytes of resident memory per user."""
    found = []
    for count in counts:
        # a server of its own for each: one keeps the memory of what it held before
        with serving(world), redis.Redis.from_url(world.redis_url) as client:
            users = many(rows, USER_VECTOR, count)
            before, began = resident(client), time.perf_counter()
            write_packed(client, PROJECT, USER_VECTOR, users, ttl_seconds=TTL_SECONDS)
            seconds = time.perf_counter() - began
            of_rows = resident(client) - before
            asyncio.run(attempts(world.redis_url, count))
            of_all = resident(client) - before
        figures = {"users": count, "rows_per_second": count / seconds, "row_bytes": of_rows / count}
        found.append(figures | {"bytes": of_all / count})
    return found


@contextmanager
def serving(world: World) -> Iterator[None]:
    """A Redis on the first core, and this process on the last."""
    cores = sorted(os.sched_getaffinity(0))
    server = start_redis(world)
    try:
        os.sched_setaffinity(server.pid, {cores[0]})
        os.sched_setaffinity(0, {cores[-1]})
        yield
    finally:
        os.sched_setaffinity(0, cores)
        server.send_signal(signal.SIGTERM)
        server.wait(60)


def load(url: str, rows: pa.Table, pace: int | None, cores: list[int], written: "Synchronized[int]") -> None:
    """Write the same users again and again until the process is ended. pace: rows/s, None: as fast as it goes."""
    os.sched_setaffinity(0, cores)
    with redis.Redis.from_url(url) as client:
        while True:
            write_packed(client, PROJECT, USER_VECTOR, rows, ttl_seconds=TTL_SECONDS, rows_per_second=pace)
            written.value += rows.num_rows


async def beside(world: World, rows: pa.Table, pace: int | None, cores: list[int], seconds: float) -> dict[str, Any]:
    """Latency of reads at READS a second beside a load. pace: as `load`, 0 for no load."""
    store = OnlineStore(world.redis_url, ttl_days=3, deadline=world.settings.read_deadline_ms / 1e3)
    ladder = Ladder(store, CircuitBreaker("redis", time.monotonic), lambda *_: None)
    process = multiprocessing.get_context("spawn")
    written = process.Value("q", 0)
    loader = process.Process(target=load, args=(world.redis_url, rows, pace, cores, written), daemon=True)

    async def read(payment: Transaction) -> OnlineFeatures:
        return await ladder.read(payment, caller="bench", write=True, claim=claim("0" * 32))

    await store.open()
    if pace != 0:
        loader.start()
        while not written.value:
            await asyncio.sleep(0.1)
    await measured(read, world, READS, 1.0)
    before, began = written.value, time.perf_counter()
    found = await measured(read, world, READS, seconds)
    speed = (written.value - before) / (time.perf_counter() - began)
    if pace != 0:
        loader.terminate()
        loader.join()
    await store.close()
    return {**found, "pace": pace, "rows_per_second": speed}


def _show(figures: dict[str, Any], console: Console) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title="Users in Redis, one attempt each", title_justify="left")
    for name in ("users", "rows/s written", "bytes of a row", "with velocity and identity", "100 million, GB"):
        table.add_column(name, justify="right")
    for each in figures["held"]:
        table.add_row(
            f"{each['users']:,}", f"{each['rows_per_second']:,.0f}", f"{each['row_bytes']:.0f}", f"{each['bytes']:.0f}",
            f"{each['row_bytes'] * BANK_USERS / 1e9:.1f}",
        )  # fmt: skip
    console.print(table)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title="Reads at 500/s beside a load, ms", title_justify="left")
    for name in ("pace of the load", "rows/s written", "median", "P99", "longest", "served by Redis"):
        table.add_column(name, justify="right")
    for each in figures["beside"]:
        pace = {0: "no load", None: "as fast as it goes"}.get(each["pace"], f"{each['pace'] or 0:,}")
        share = each["served"].get("redis", 0) / sum(each["served"].values())
        table.add_row(
            pace, f"{each['rows_per_second']:,.0f}", f"{each['p50_ms']:.2f}", f"{each['p99_ms']:.2f}",
            f"{each['max_ms']:.1f}", f"{share:.2%}",
        )  # fmt: skip
    console.print(table)
    last, paced = figures["held"][-1], next(each for each in figures["beside"] if each["pace"] == TARGET_ROWS)
    for met, text in (
        (last["rows_per_second"] >= TARGET_ROWS, f"{last['rows_per_second']:,.0f} rows/s (target {TARGET_ROWS:,})"),
        (paced["p99_ms"] < TARGET_P99_MS, f"P99 {paced['p99_ms']:.1f} ms beside it (target {TARGET_P99_MS:.0f} ms)"),
        (last["row_bytes"] * BANK_USERS / 1e9 < TARGET_GB,
         f"{last['row_bytes'] * BANK_USERS / 1e9:.1f} GB for 100 million users' features (target {TARGET_GB:.0f} GB)"),
        (last["bytes"] * BANK_USERS / 1e9 < TARGET_GB,
         f"{last['bytes'] * BANK_USERS / 1e9:.1f} GB had all of them paid within two days (target {TARGET_GB:.0f} GB)"),
    ):  # fmt: skip
        console.print(f"{'met   ' if met else 'MISSED'} {text}", style="green" if met else "red")


def main() -> None:
    """Measure, show, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.online", description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("var/bench"), help="where results and the home go")
    parser.add_argument("--users", type=int, nargs="+", default=[200_000, 2_000_000], help="users that Redis holds")
    parser.add_argument(
        "--paces", type=int, nargs="+", default=[10_000, 25_000, 50_000], help="rows per second of a load beside reads"
    )
    parser.add_argument("--seconds", type=float, default=8, help="seconds of reads beside each load")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    folder: Path = options.folder.absolute()
    world = World(folder / "online", free_port(), 20_000, 500)
    with serving(world):
        fill(world)
        lake = open_lake(world.settings)
        rows = packed_snapshot(lake, USER_VECTOR, lake.days(USER_FEATURES)[-1])
        paces = [0, *options.paces, None]
        beside_load = [uvloop.run(beside(world, rows, pace, cores, options.seconds)) for pace in paces]
    held = hold(world, rows, options.users)
    figures = {"held": held, "beside": beside_load}
    (folder / "online.json").write_text(json.dumps(figures, indent=2, sort_keys=True))
    _show(figures, Console())


if __name__ == "__main__":
    main()
