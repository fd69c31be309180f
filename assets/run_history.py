"""What Dagster's own record lets go of: old runs with their events, their checks and what their steps printed.

What belongs here: which runs, and taking them out of Dagster's storage. What does not: the lake (`retention`), and what
each look of a schedule or a sensor found, which Dagster deletes by itself as dagster.yaml says.

`python -m assets.run_history` says what would go; with `--yes` it goes, as it does every night.

Dagster's own deletion of a run takes away what it materialized, by which a build knows what is built and asset pages
live, and leaves its checks and its database's file behind. Here a partition's newest materialization and a check's
newest result stay, though their run may be gone; the run of an asset's newest materialization stays whole.
"""

import argparse
import os
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sql
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.event_log import SqlEventLogStorage, SqliteEventLogStorage
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    SqlEventLogStorageTable,
)

from assets.model import VERSION_TAG
from assets.sensing import CAUSE_TAG, FILES_TAG, RETRAIN_TAG, RULES_TAG
from fraud_platform.model.bundle import MODEL_NAME, releases
from fraud_platform.settings import Settings

_EVENTS, _CHECKS, _TAGS = SqlEventLogStorageTable.c, AssetCheckExecutionsTable.c, AssetEventTagsTable.c
_MATERIALIZED = _EVENTS.dagster_event_type == dg.DagsterEventType.ASSET_MATERIALIZATION.value
_EVALUATED = _CHECKS.execution_status != "PLANNED"

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
        for record in sorted(_finished(instance), key=lambda record: -record.storage_id)
    ]
    needed = _newest_of_its_kind([run for _, run in ended]) | _holders_of_the_newest(instance)
    unfinished = _unfinished_backfills(instance)
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
        _forget(instance, [run.run_id for run in gone[start : start + _AT_ONCE]])
    leftovers = _leftovers(instance)
    for run_id in leftovers:
        _unlink(instance, run_id)
    busy = tuple(filter(None, map(_shrink, _databases(instance))))
    return Forgotten(len(gone), len(kept), len(leftovers), (size, _size(folder)), busy)


def _finished(instance: dg.DagsterInstance) -> Sequence[dg.RunRecord]:
    return instance.get_run_records(dg.RunsFilter(statuses=FINISHED_STATUSES))


def _newest_of_its_kind(runs: Sequence[dg.DagsterRun]) -> set[str]:
    """Each job's newest success and newest failure, by which alerts know how jobs do, and the newest run that each
    sensor asked for, whose outcome it looks up. runs: newest first."""
    found: dict[tuple[Any, ...], str] = {}
    for run in runs:
        found.setdefault((run.job_name, run.is_success), run.run_id)
        for tag in {RETRAIN_TAG, FILES_TAG, RULES_TAG} & run.tags.keys():
            found.setdefault((run.job_name, tag, run.tags.get(CAUSE_TAG)), run.run_id)
    return set(found.values())


def _holders_of_the_newest(instance: dg.DagsterInstance) -> set[str]:
    """Runs to which an asset's newest materialization leads on its page, and a check's newest result."""
    events = sql.select(sql.func.max(_EVENTS.id)).where(_MATERIALIZED).group_by(_EVENTS.asset_key)
    checks = sql.select(sql.func.max(_CHECKS.id)).where(_EVALUATED).group_by(_CHECKS.asset_key, _CHECKS.check_name)
    with _events(instance).index_connection() as connection:
        found = connection.scalars(sql.select(_EVENTS.run_id).where(_EVENTS.id.in_(events))).all()
        return {*found, *connection.scalars(sql.select(_CHECKS.run_id).where(_CHECKS.id.in_(checks)))}


def _unfinished_backfills(instance: dg.DagsterInstance) -> set[str]:
    return {each.backfill_id for each in instance.get_backfills() if each.status not in BULK_ACTION_TERMINAL_STATUSES}


def _events(instance: dg.DagsterInstance) -> SqlEventLogStorage:
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        raise TypeError(f"Dagster's events lie in {type(storage).__name__}; runs are taken out of SQL databases alone")
    return storage


def _forget(instance: dg.DagsterInstance, run_ids: list[str]) -> None:
    with _events(instance).index_connection() as connection:
        # ids are given again once the highest is free, and a sensor's cursor would take new events for known ones
        stays = (
            sql.select(sql.func.max(_EVENTS.id)).where(_MATERIALIZED).group_by(_EVENTS.asset_key, _EVENTS.partition),
            sql.select(sql.func.max(_EVENTS.id)),
        )
        goes = sql.and_(_EVENTS.run_id.in_(run_ids), *(_EVENTS.id.not_in(each) for each in stays))
        connection.execute(AssetEventTagsTable.delete().where(_TAGS.event_id.in_(sql.select(_EVENTS.id).where(goes))))
        connection.execute(SqlEventLogStorageTable.delete().where(goes))
        results = sql.select(sql.func.max(_CHECKS.id)).where(_EVALUATED)
        results = results.group_by(_CHECKS.asset_key, _CHECKS.check_name, _CHECKS.partition)
        goes = sql.and_(_CHECKS.run_id.in_(run_ids), _CHECKS.id.not_in(results))
        connection.execute(AssetCheckExecutionsTable.delete().where(goes))
    for run_id in run_ids:
        _unlink(instance, run_id)
        instance.compute_log_manager.delete_logs(prefix=[run_id])
        instance.run_storage.delete_run(run_id)


def _unlink(instance: dg.DagsterInstance, run_id: str) -> None:
    """Delete the database of a run where each has its own."""
    storage = _events(instance)
    if isinstance(storage, SqliteEventLogStorage):
        for suffix in ("", "-wal", "-shm"):
            Path(storage.path_for_shard(run_id) + suffix).unlink(missing_ok=True)


def _leftovers(instance: dg.DagsterInstance) -> list[str]:
    """Runs whose database is there, and who are not."""
    storage = _events(instance)
    if not isinstance(storage, SqliteEventLogStorage):
        return []
    # in this order: a run is recorded before its first event
    files = storage.get_all_run_ids()
    return [run_id for run_id in files if not instance.has_run(run_id)]


def _databases(instance: dg.DagsterInstance) -> Iterator[Path]:
    """The files of sqlite that all runs share; none elsewhere, where the server takes care of free space."""
    storages: tuple[Any, ...] = (instance.run_storage, instance.schedule_storage)
    for connect in (_events(instance).index_connection, *(each.connect for each in storages if each is not None)):
        with connect() as connection:
            url = connection.engine.url
        if url.get_backend_name() == "sqlite" and url.database and Path(url.database).exists():
            yield Path(url.database)


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
    parser = argparse.ArgumentParser(prog="python -m assets.run_history", description="Let go of Dagster's old runs.")
    parser.add_argument("--yes", action="store_true", help="do it; without, only say what would go")
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
