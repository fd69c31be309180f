"""What Dagster's own record lets go of: old runs with their events, their checks and what their steps printed.

What belongs here: which runs, and giving the disk back what they took. What does not: Dagster's tables
(`dagster_seam`), the lake (`retention`), and what each look of a schedule or a sensor found, which Dagster deletes by
itself as dagster.yaml says.

`python -m assets.run_history` says what would go; with `--yes` it goes, as it does every night.

Dagster's own deletion of a run takes away what it materialized, by which a build knows what is built and asset pages
live, and leaves its checks and its database's file behind. Here a partition's newest materialization and a check's
newest result stay, though their run may be gone; the run of an asset's newest materialization stays whole.
"""

import argparse
import os
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from assets.dagster_seam import (
    finished_runs,
    forget_runs,
    holders_of_the_newest,
    runs_left_behind,
    shared_databases,
    unfinished_backfills,
    unlink_database,
)
from assets.model import VERSION_TAG
from assets.sensing import CAUSE_TAG, FILES_TAG, RETRAIN_TAG, RULES_TAG
from fraud_platform.model.bundle import MODEL_NAME, releases
from fraud_platform.settings import Settings

_AT_ONCE = 100
"""Runs taken out in one transaction: the daemon and the webserver write to the same databases meanwhile."""
_FREE_SHARE, _FREE_BYTES = 0.25, 1_000_000
"""A database is written anew where more than this of it is free, of its pages and in bytes."""
_BUSY_SECONDS = 10.0
"""How long that waits for others to let go of it."""


@dataclass(frozen=True)
class Forgotten:
    """What was let go of, and what Dagster's folder weighs."""

    runs: int
    kept: int
    """Runs as old that something needs."""
    leftovers: int
    """Databases whose run was deleted before, as Dagster's own deletion leaves them."""
    bytes: tuple[int, int]
    """Of the folder, before and after."""
    busy: tuple[str, ...]
    """Databases that would have been written anew, and why they were not."""

    def __str__(self) -> str:
        before, after = (size / 1e6 for size in self.bytes)
        said = f"{self.runs:,} run(s) and {self.leftovers:,} file(s) of runs deleted before are gone, "
        said += f"{self.kept:,} run(s) as old are needed; {before:,.1f} MB became {after:,.1f} MB"
        return "; ".join([said, *self.busy])


def old_runs(
    instance: dg.DagsterInstance, settings: Settings, now: datetime
) -> tuple[list[dg.DagsterRun], list[dg.DagsterRun]]:
    """Runs that ended more than `dagster_run_days` ago: those that may go, and those that something needs.

    now: by the machine's clock, whose time runs bear.
    """
    before = (now - timedelta(days=settings.dagster_run_days)).timestamp()
    ended = [
        (record.end_time or record.update_timestamp.timestamp(), record.dagster_run)
        for record in sorted(finished_runs(instance), key=lambda record: -record.storage_id)
    ]
    needed = _newest_of_its_kind([run for _, run in ended]) | holders_of_the_newest(instance)
    unfinished = unfinished_backfills(instance)
    released = {path.name for path in releases(settings.home).glob(f"{MODEL_NAME}-*")}

    def is_needed(run: dg.DagsterRun) -> bool:
        return (
            run.run_id in needed
            or run.tags.get("dagster/backfill") in unfinished
            or f"{MODEL_NAME}-{run.tags.get(VERSION_TAG)}" in released
        )

    old = [run for at, run in ended if at < before]
    return [run for run in old if not is_needed(run)], [run for run in old if is_needed(run)]


def forget_old_runs(instance: dg.DagsterInstance, settings: Settings, now: datetime) -> Forgotten:
    """Take out the runs that may go. Killed in between, it goes on the next time: a run's own line goes last."""
    folder = Path(instance.root_directory)
    size = _size(folder)
    gone, kept = old_runs(instance, settings, now)
    for start in range(0, len(gone), _AT_ONCE):
        forget_runs(instance, [run.run_id for run in gone[start : start + _AT_ONCE]])
    leftovers = runs_left_behind(instance)
    for run_id in leftovers:
        unlink_database(instance, run_id)
    busy = tuple(filter(None, map(_shrink, shared_databases(instance))))
    return Forgotten(len(gone), len(kept), len(leftovers), (size, _size(folder)), busy)


def _newest_of_its_kind(runs: Sequence[dg.DagsterRun]) -> set[str]:
    """Each job's newest success and newest failure, by which alerts know how jobs do, and the newest run that each
    sensor asked for, whose outcome it looks up. runs: newest first."""
    found: dict[tuple[Any, ...], str] = {}
    for run in runs:
        found.setdefault((run.job_name, run.is_success), run.run_id)
        for tag in {RETRAIN_TAG, FILES_TAG, RULES_TAG} & run.tags.keys():
            found.setdefault((run.job_name, tag, run.tags.get(CAUSE_TAG)), run.run_id)
    return set(found.values())


def _shrink(database: Path) -> str | None:
    """Give a database's free pages back to the disk where that pays; says why where it cannot be done now."""
    with closing(sqlite3.connect(database, timeout=_BUSY_SECONDS, isolation_level=None)) as connection:
        asked = ("page_count", "freelist_count", "page_size")
        pages, free, page_size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in asked)
        if free < _FREE_SHARE * pages or free * page_size < _FREE_BYTES:
            return None
        try:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.OperationalError as error:
            return f"{database.name} keeps {free * page_size / 1e6:.1f} MB of free pages until the next time: {error}"
    return None


def _size(folder: Path) -> int:
    """Bytes of a folder's files; one that goes meanwhile counts as gone."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def main(arguments: Sequence[str] | None = None) -> int:
    """Say what would go, or let it go. Exit code 3 where there is no Dagster."""
    parser = argparse.ArgumentParser(prog="python -m assets.run_history", description="Delete Dagster's old runs.")
    parser.add_argument("--yes", action="store_true", help="do it; without it, only show what would be deleted")
    yes = parser.parse_args(arguments).yes
    settings = Settings()
    home = (settings.home / "dagster").absolute()
    if not home.exists():
        print(f"{home} does not exist: FRAUD_HOME names a home that has no Dagster", file=sys.stderr)
        return 3
    os.environ.setdefault("DAGSTER_HOME", str(home))
    with dg.DagsterInstance.get() as instance:
        if yes:
            print(forget_old_runs(instance, settings, datetime.now(UTC)))
            return 0
        gone, kept = old_runs(instance, settings, datetime.now(UTC))
    days = settings.dagster_run_days
    print(f"{len(gone):,} run(s) that ended more than {days} days ago would go, {len(kept):,} as old are needed.")
    if gone:
        print("Do it with: --yes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
