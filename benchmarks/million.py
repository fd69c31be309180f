"""`python -m benchmarks.million`: one day of a million transactions, from the simulated bank to the training set.

What belongs here: timing each stage once, in one process, on a lake of its own. What does not: comparing with others.
"""

import argparse
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

from fraud_platform.features import tables
from fraud_platform.features.in_force import spans
from fraud_platform.features.snapshots import write_medians, write_merchant_features, write_user_features
from fraud_platform.features.tiles import write_label_tiles, write_merchant_tiles, write_user_tiles
from fraud_platform.features.training_set import write_training_set
from fraud_platform.ingest.steps import ingest_labels, ingest_rates, ingest_transactions
from fraud_platform.lake import Lake, days_between
from fraud_platform.settings import Settings
from fraud_platform.simulator.bank import SimulatedBank

LAST_DAY = date(2026, 6, 30)


def main() -> None:
    """Build a few days, then time each stage for the last one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="transactions a day (default 1,000,000)")
    parser.add_argument("--users", type=int, default=400_000)
    parser.add_argument("--days", type=int, default=3, help="days of history, the timed one included")
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="million-"))
    try:
        _run(Settings(home=home), options.rows, options.users, options.days)
    finally:
        shutil.rmtree(home)


def _run(settings: Settings, rows: int, users: int, days: int) -> None:
    lake = Lake(settings.lake)
    history = days_between(LAST_DAY - timedelta(days=days - 1), LAST_DAY)
    before, today = history[:-1], [LAST_DAY]
    bank = SimulatedBank(
        seed=1, first_day=history[0], users=users, merchants=users // 20, transactions_per_day=rows, base_currency="EUR"
    )
    in_force = spans(history, [], settings.online_ttl_days)
    stages: list[tuple[str, Callable[[list[date]], object]]] = [
        ("generate", lambda wanted: [list(bank.transactions([day])) for day in wanted]),
        ("ingest", lambda wanted: (
            ingest_rates(lake, bank, wanted),
            ingest_transactions(lake, bank, wanted, "EUR"),
            ingest_labels(lake, bank, wanted),
        )),
        ("tiles", lambda wanted: (
            write_user_tiles(settings, lake, wanted),
            write_merchant_tiles(settings, lake, wanted),
            write_label_tiles(settings, lake, wanted),
        )),
        ("snapshots", lambda wanted: (
            write_user_features(settings, lake, wanted),
            write_merchant_features(settings, lake, wanted),
            write_medians(lake, wanted),
        )),
        ("training set", lambda wanted: write_training_set(settings, lake, wanted, in_force, in_force)),
    ]  # fmt: skip
    for _, work in stages[1:-1]:
        work(before)
    print(f"{'stage':14}{'seconds':>9}{'cpu s':>8}{'rows/s':>12}")
    for name, work in stages:
        wall, cpu = time.perf_counter(), time.process_time()
        work(today)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(f"{name:14}{wall:9.1f}{cpu:8.1f}{rows / wall:12,.0f}", flush=True)
    counted = lake.size(tables.TRAINING_SET, LAST_DAY)[0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{counted:,} transactions x 50 features; peak memory {peak:.1f} GB (ingest generates the day again)")


if __name__ == "__main__":
    main()
