"""What is let go of every night: decisions past their retention, rows of old snapshots that nobody asked for, views
that nobody needs, old runs.

What belongs here: the job and its steps. What does not: which files and rows (`fraud_platform`), which views
(`feature_repo.pruning`), which runs (`run_history`).
"""

from datetime import UTC, datetime

import dagster as dg

from assets.resources import Platform
from assets.run_history import forget_old_runs
from feature_repo.pruning import unneeded_views
from feature_repo.store import unregister
from fraud_platform.inference_log.table import LogTable
from fraud_platform.online.retention import left_behind, prune_all


@dg.op(description="Delete decisions that are older than the retention.")
def forget_old_decisions(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    """Whole days of the inference log."""
    table = LogTable(platform.lake)
    days = table.expired(platform.now.date(), platform.settings.log_retention_days)
    table.delete(days)
    context.log.info(f"deleted {len(days)} day(s) of decisions: {', '.join(map(str, days)) or 'none'}")


@dg.op(description="Reduce snapshots that were replaced long ago to the rows that payments asked for.")
def prune_old_snapshots(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    """Both views' snapshots."""
    now_us = int(platform.now.timestamp() * 1_000_000)
    for one in prune_all(platform.settings, platform.lake, left_behind(platform.settings, platform.lake, now_us)):
        context.log.info(f"{one.table} of {one.day}: {one.rows[0]:,} rows became {one.rows[1]:,}")


@dg.op(description="Take views of sets that nobody needs any more out of Feast's registry.")
def forget_old_views(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    """Once their rows are deleted from Redis and PostgreSQL, which the loads there do."""
    old = unneeded_views(platform.settings)
    if old:
        unregister(platform.settings, [view.name for view in old])
    for view in old:
        context.log.info(f"{view.name} of set {view.set_hash}: nobody needs it; Feast's registry has forgotten it")


@dg.op(description="Delete Dagster's old runs, except what is still needed.")
def forget_old_dagster_runs(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    """By the machine's clock, which scenarios do not move: Dagster records runs by it."""
    context.log.info(str(forget_old_runs(context.instance, platform.settings, datetime.now(UTC))))


@dg.job(
    description="Delete decisions after FRAUD_LOG_RETENTION_DAYS and Dagster's runs after FRAUD_DAGSTER_RUN_DAYS, "
    "prune snapshots after FRAUD_WHOLE_SNAPSHOT_DAYS and, in Feast's registry, views that nobody needs."
)
def retention() -> None:
    """All steps, in any order."""
    forget_old_decisions()
    prune_old_snapshots()
    forget_old_views()
    forget_old_dagster_runs()
