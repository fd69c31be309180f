"""Dagster's inside: its tables of events and checks, its storages, and its webserver's application.

What belongs here: every name of Dagster that is of no public interface. What does not: which runs may go
(`run_history`), who is let in (`webserver`). Dagster is pinned: `tests/unit/test_seams.py` notices another version,
`tests/integration/test_run_history.py` other tables, it and `test_foreign_pages.py` other behaviour.
"""

from collections.abc import Callable, Iterator, Sequence
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

_EVENTS, _CHECKS, _TAGS = SqlEventLogStorageTable.c, AssetCheckExecutionsTable.c, AssetEventTagsTable.c
_MATERIALIZED = _EVENTS.dagster_event_type == dg.DagsterEventType.ASSET_MATERIALIZATION.value
_EVALUATED = _CHECKS.execution_status != "PLANNED"


def finished_runs(instance: dg.DagsterInstance) -> Sequence[dg.RunRecord]:
    """Every run that has ended, however it did."""
    return instance.get_run_records(dg.RunsFilter(statuses=FINISHED_STATUSES))


def holders_of_the_newest(instance: dg.DagsterInstance) -> set[str]:
    """Runs to which an asset's newest materialization leads on its page, and a check's newest result."""
    events = sql.select(sql.func.max(_EVENTS.id)).where(_MATERIALIZED).group_by(_EVENTS.asset_key)
    checks = sql.select(sql.func.max(_CHECKS.id)).where(_EVALUATED).group_by(_CHECKS.asset_key, _CHECKS.check_name)
    with _events(instance).index_connection() as connection:
        found = connection.scalars(sql.select(_EVENTS.run_id).where(_EVENTS.id.in_(events))).all()
        return {*found, *connection.scalars(sql.select(_CHECKS.run_id).where(_CHECKS.id.in_(checks)))}


def unfinished_backfills(instance: dg.DagsterInstance) -> set[str]:
    """Ids of the backfills that have not ended."""
    return {each.backfill_id for each in instance.get_backfills() if each.status not in BULK_ACTION_TERMINAL_STATUSES}


def forget_runs(instance: dg.DagsterInstance, run_ids: list[str]) -> None:
    """Take runs out of the storages, with their events, checks and printed lines. A run's own line goes last.

    A partition's newest materialization and a check's newest result stay, and so does the newest event of all.
    """
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
        unlink_database(instance, run_id)
        instance.compute_log_manager.delete_logs(prefix=[run_id])
        instance.run_storage.delete_run(run_id)


def unlink_database(instance: dg.DagsterInstance, run_id: str) -> None:
    """Delete the database of a run where each has its own."""
    storage = _events(instance)
    if isinstance(storage, SqliteEventLogStorage):
        for suffix in ("", "-wal", "-shm"):
            Path(storage.path_for_shard(run_id) + suffix).unlink(missing_ok=True)


def runs_left_behind(instance: dg.DagsterInstance) -> list[str]:
    """Runs whose database is there though they were deleted, as Dagster's own deletion leaves them."""
    storage = _events(instance)
    if not isinstance(storage, SqliteEventLogStorage):
        return []
    # in this order: a run is recorded before its first event
    files = storage.get_all_run_ids()
    return [run_id for run_id in files if not instance.has_run(run_id)]


def shared_databases(instance: dg.DagsterInstance) -> Iterator[Path]:
    """The files of sqlite that all runs share; none elsewhere, where the server takes care of free space."""
    storages: tuple[Any, ...] = (instance.run_storage, instance.schedule_storage)
    for connect in (_events(instance).index_connection, *(each.connect for each in storages if each is not None)):
        with connect() as connection:
            url = connection.engine.url
        if url.get_backend_name() == "sqlite" and url.database and Path(url.database).exists():
            yield Path(url.database)


def run_webserver(behind: Callable[[Any], Any]) -> None:
    """Run the command `dagster-webserver`, its ASGI application replaced by what `behind` makes of it."""
    from dagster_webserver import cli

    inside = vars(cli)
    within = inside["create_app_from_workspace_process_context"]
    inside["create_app_from_workspace_process_context"] = lambda *args, **options: behind(within(*args, **options))
    inside["main"]()


def _events(instance: dg.DagsterInstance) -> SqlEventLogStorage:
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        raise TypeError(f"Dagster's events lie in {type(storage).__name__}; runs are taken out of SQL databases alone")
    return storage
