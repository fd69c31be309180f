"""The history that a new day comes after: built once per size, kept under `var/bench`, shown in any length.

What belongs here: days of the simulated bank from raw rows to tiles, resumable. What does not: what is measured.
"""

import os
import shutil
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from tqdm import tqdm

from fraud_platform.features import tables
from fraud_platform.features.tiles import write_label_tiles, write_merchant_tiles, write_user_tiles
from fraud_platform.ingest.steps import ingest_labels, ingest_rates, ingest_transactions
from fraud_platform.lake import Lake, days_between
from fraud_platform.settings import Settings
from fraud_platform.simulator.bank import SimulatedBank

NEW_DAY = date(2026, 6, 30)
"""The day that is measured; history ends with the day before."""

RAW = (tables.FX_RATES, tables.QUARANTINE, tables.RAW_TRANSACTIONS, tables.FRAUD_LABELS)
TILES = (tables.USER_TILES, tables.MERCHANT_TILES, tables.LABEL_TILES)


@dataclass(frozen=True)
class Size:
    """A bank and its history."""

    users: int
    rows: int
    """Transactions a day."""
    days: int
    """Of history, before the new one."""

    @property
    def first_day(self) -> date:
        """Of history."""
        return NEW_DAY - timedelta(days=self.days)

    @property
    def history(self) -> list[date]:
        """Every day before the new one."""
        return days_between(self.first_day, NEW_DAY - timedelta(days=1))

    def bank(self) -> SimulatedBank:
        """The bank of this size."""
        return SimulatedBank(
            seed=1,
            first_day=self.first_day,
            users=self.users,
            merchants=self.users // 20,
            transactions_per_day=self.rows,
            base_currency="EUR",
        )


def build(folder: Path, size: Size) -> Lake:
    """The lake of a size with every day of its history as tiles; days that are there are left alone."""
    settings = Settings(home=folder / f"{size.users}-{size.rows}-{size.days}", _env_file=None)
    lake = Lake(settings.lake)
    done = set(lake.days(tables.LABEL_TILES))
    missing = [day for day in size.history if day not in done]
    bank = size.bank() if missing else None
    for day in tqdm(missing, f"history of {size.users:,} users", unit="day", disable=None):
        if bank is not None:
            ingest_rates(lake, bank, [day])
            ingest_transactions(lake, bank, [day], "EUR")
            ingest_labels(lake, bank, [day])
        for write in (write_user_tiles, write_merchant_tiles, write_label_tiles):
            write(settings, lake, [day])
    return lake


def shortened(lake: Lake, folder: Path, days: int) -> Lake:
    """A lake of its own with the last so many days of another's history: links, where nothing is written twice."""
    shutil.rmtree(folder, ignore_errors=True)
    short = Lake(str(folder / "lake"))
    for table in (*RAW, *TILES):
        for day in days_between(NEW_DAY - timedelta(days=days), NEW_DAY - timedelta(days=1)):
            target = Path(short.path(table, day))
            target.parent.mkdir(parents=True)
            # a partition is replaced, never changed in place, so the other lake keeps its own
            os.link(lake.path(table, day), target)
    return short
