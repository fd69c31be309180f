"""`python -m benchmarks.engines`: the same days through DuckDB and through Spark, each in a process of its own.

What belongs here: seconds per stage as the days grow. What does not: whether the engines agree (tests/integration).
"""

import argparse
import json
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Literal

from fraud_platform.features.in_force import spans
from fraud_platform.features.offline import open_engine
from fraud_platform.features.snapshots import write_medians, write_merchant_features, write_user_features
from fraud_platform.features.tiles import write_label_tiles, write_merchant_tiles, write_user_tiles
from fraud_platform.features.training_set import write_training_set
from fraud_platform.ingest.steps import ingest_labels, ingest_rates, ingest_transactions
from fraud_platform.lake import Lake, days_between
from fraud_platform.settings import Settings
from fraud_platform.simulator.bank import SimulatedBank

LAST_DAY = date(2026, 6, 30)
ENGINES: tuple[Literal["duckdb", "spark"], ...] = ("duckdb", "spark")
STAGES = ("start", "tiles", "snapshots", "training set")
OPTIONS = {"spark.driver.memory": "4g", "spark.sql.shuffle.partitions": "8"}


def main() -> None:
    """Make the days of each size once, time both engines on them, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000], help="transactions a day")
    parser.add_argument("--days", type=int, default=3)
    parser.add_argument("--master", default="local[2]", help="of Spark (default local[2])")
    parser.add_argument("--options", type=json.loads, default=OPTIONS, help="of Spark, JSON")
    given = parser.parse_args()
    print(f"{'rows a day':>12}  {'engine':8}" + "".join(f"{stage:>14}" for stage in (*STAGES, "all")))
    for size in given.sizes:
        home = Path(tempfile.mkdtemp(prefix="engines-"))
        try:
            days = _ingest(Lake(Settings(home=home).lake), size, given.days)
            for engine in ENGINES:
                settings = Settings(
                    home=home, engine=engine, spark_master=given.master, spark_options=given.options, duckdb_threads=2
                )
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    seconds = pool.apply(_time, (settings, days))
                cells = "".join(f"{value:14.1f}" for value in (*seconds, sum(seconds)))
                print(f"{size:12,}  {engine:8}{cells}", flush=True)
        finally:
            shutil.rmtree(home)


def _ingest(lake: Lake, size: int, count: int) -> list[date]:
    days = days_between(LAST_DAY - timedelta(days=count - 1), LAST_DAY)
    users = max(size * 2 // 5, 100)
    bank = SimulatedBank(
        seed=1,
        first_day=days[0],
        users=users,
        merchants=users // 20,
        transactions_per_day=size,
        base_currency="EUR",
    )
    ingest_rates(lake, bank, days)
    ingest_transactions(lake, bank, days, "EUR")
    ingest_labels(lake, bank, days)
    return days


def _time(settings: Settings, days: list[date]) -> list[float]:
    """Seconds of each of STAGES over all `days`."""
    lake = Lake(settings.lake)
    in_force = spans(days, [], settings.online_ttl_days)

    def tiles() -> None:
        for write in (write_user_tiles, write_merchant_tiles, write_label_tiles):
            write(settings, lake, days)

    def snapshots() -> None:
        write_user_features(settings, lake, days)
        write_merchant_features(settings, lake, days)
        write_medians(lake, days)

    stages: tuple[Callable[[], object], ...] = (
        lambda: open_engine(settings, lake),
        tiles,
        snapshots,
        lambda: write_training_set(settings, lake, days, in_force, in_force),
    )
    seconds = []
    for stage in stages:
        start = time.perf_counter()
        stage()
        seconds.append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
