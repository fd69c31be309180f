"""The stages of a new day, each timed and weighed in a process of its own.

What belongs here: what a stage does and writes. What does not: the history before it (`history`), printing.
"""

import contextlib
import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa

from benchmarks.pipeline.history import NEW_DAY, Size
from fraud_platform.features import tables
from fraud_platform.features.in_force import nightly_visible_from, spans
from fraud_platform.features.pruning import prune
from fraud_platform.features.snapshots import write_medians, write_merchant_features, write_user_features
from fraud_platform.features.tiles import write_label_tiles, write_merchant_tiles, write_user_tiles
from fraud_platform.features.training_set import write_training_set
from fraud_platform.ingest.source import Source
from fraud_platform.ingest.steps import ingest_labels, ingest_rates, ingest_transactions
from fraud_platform.lake import Lake
from fraud_platform.settings import Settings
from fraud_platform.simulator.bank import SimulatedBank

YESTERDAY, DAY_BEFORE = NEW_DAY - timedelta(days=1), NEW_DAY - timedelta(days=2)


@dataclass(frozen=True)
class Measured:
    """One stage of one day."""

    stage: str
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    """Of the process, resident."""
    rows: int
    """Written to the first of its tables."""
    bytes: int
    """Written to all of them."""


class Exported:
    """One day of a bank as its exports would lie there: made beforehand, so that making it is not ingesting it."""

    name = "exported"

    def __init__(self, bank: SimulatedBank, day: date) -> None:
        self._first_day = bank.first_day()
        self._transactions, self._labels = list(bank.transactions([day])), list(bank.labels([day]))
        self._rates = bank.rates(day)

    def first_day(self) -> date:
        """The bank's."""
        return self._first_day

    def last_day(self) -> date | None:
        """None, as of the bank."""
        return None

    def transactions(self, days: Sequence[date]) -> Iterator[tuple[date, pa.Table]]:
        """The day's."""
        return iter(self._transactions)

    def labels(self, days: Sequence[date]) -> Iterator[tuple[date, pa.Table]]:
        """The day's."""
        return iter(self._labels)

    def rates(self, day: date) -> pa.Table:
        """The day's."""
        return self._rates


@dataclass(frozen=True)
class Stage:
    """What is done for a day, and which tables it writes."""

    name: str
    work: Callable[[Settings, Lake, date, Source | None], None]
    writes: Sequence[str]


def _ingest(settings: Settings, lake: Lake, day: date, source: Source | None) -> None:
    if source is None:
        raise ValueError("there is nothing to ingest")
    ingest_rates(lake, source, [day])
    ingest_transactions(lake, source, [day], settings.base_currency)
    ingest_labels(lake, source, [day])


def _tiles(settings: Settings, lake: Lake, day: date, source: Source | None) -> None:
    for write in (write_user_tiles, write_merchant_tiles, write_label_tiles):
        write(settings, lake, [day])


def _users(settings: Settings, lake: Lake, day: date, source: Source | None) -> None:
    write_user_features(settings, lake, [day])


def _merchants(settings: Settings, lake: Lake, day: date, source: Source | None) -> None:
    write_merchant_features(settings, lake, [day])


def _medians(settings: Settings, lake: Lake, day: date, source: Source | None) -> None:
    write_medians(lake, [day])


def _training_set(settings: Settings, lake: Lake, day: date, source: Source | None) -> None:
    in_force = spans([DAY_BEFORE, YESTERDAY], [], settings.online_ttl_days)
    write_training_set(settings, lake, [day], in_force, in_force)


def _prune(settings: Settings, lake: Lake, day: date, source: Source | None) -> None:
    in_force = spans([DAY_BEFORE, YESTERDAY], [], settings.online_ttl_days)
    for table, key in ((tables.USER_FEATURES, "user_id"), (tables.MERCHANT_FEATURES, "merchant_id")):
        # in force until the night of the new day, whose transactions are there
        prune(lake, table, key, DAY_BEFORE, in_force)


def _online(settings: Settings, lake: Lake, day: date, source: Source | None) -> None:
    from fraud_platform.online.packed import VIEWS
    from fraud_platform.online.snapshot_load import load_snapshot_feast

    instant = nightly_visible_from(day)
    for view in VIEWS:
        load_snapshot_feast(settings, lake, view, day, now=lambda: instant)


INGEST = Stage("ingest", _ingest, (tables.RAW_TRANSACTIONS, tables.FRAUD_LABELS))
TILES = Stage("tiles", _tiles, (tables.USER_TILES, tables.MERCHANT_TILES, tables.LABEL_TILES))
USERS = Stage("user snapshot", _users, (tables.USER_FEATURES, tables.USER_WINDOWS))
MERCHANTS = Stage("merchant snapshot", _merchants, (tables.MERCHANT_FEATURES,))
MEDIANS = Stage("medians", _medians, (tables.FEATURE_MEDIANS,))
TRAINING_SET = Stage("training set", _training_set, (tables.TRAINING_SET,))
ONLINE = Stage("Redis, by Feast", _online, ())
PRUNE = Stage("prune a snapshot", _prune, ())

BEFORE = (USERS, MERCHANTS, MEDIANS)
"""What the two days before need, since their snapshots are in force on the new day."""
NIGHT = (INGEST, TILES, USERS, MERCHANTS, MEDIANS, TRAINING_SET)


def measure(stage: Stage, settings: Settings, size: Size, day: date) -> Measured:
    """Do a stage for a day in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        seconds, cpu, peak = pool.apply(_inside, (stage, settings, size, day))
    lake = Lake(settings.lake)
    # a small bank leaves no windows for the next night
    written = [lake.size(table, day) for table in stage.writes if lake.exists(table, day)]
    rows = written[0][0] if written else 0
    return Measured(stage.name, seconds, cpu, peak, rows, sum(size for _, size in written))


def _inside(stage: Stage, settings: Settings, size: Size, day: date) -> tuple[float, float, int]:
    source = Exported(size.bank(), day) if stage == INGEST else None
    with quiet():
        wall, cpu = time.perf_counter(), time.process_time()
        stage.work(settings, Lake(settings.lake), day, source)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return wall, cpu, peak()


def peak() -> int:
    """The most bytes that this process has held, resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the progress of single days, and what Feast says of it, which say nothing here."""
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stderr(nowhere),
        contextlib.redirect_stdout(nowhere),
    ):
        yield
