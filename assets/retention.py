"""What the lake lets go of every night: decisions past their retention, rows of old snapshots that nobody asked for.

What belongs here: the job and its steps. What does not: which files and rows (`fraud_platform`).
"""

import dagster as dg

from assets.resources import Platform
from fraud_platform.inference_log.table import LogTable
from fraud_platform.online.retention import left_behind, prune_all


@dg.op(description="Delete decisions that are older than the retention.")
def forget_old_decisions(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    """Whole days of the inference log."""
    table = LogTable(platform.lake)
    days = table.expired(platform.now.date(), platform.settings.log_retention_days)
    table.delete(days)
    context.log.info(f"deleted {len(days)} day(s) of decisions: {', '.join(map(str, days)) or 'none'}")


@dg.op(description="Reduce snapshots that are long out of force to the rows that payments asked for.")
def prune_old_snapshots(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    """Both views' snapshots."""
    now_us = int(platform.now.timestamp() * 1_000_000)
    for one in prune_all(platform.settings, platform.lake, left_behind(platform.settings, platform.lake, now_us)):
        context.log.info(f"{one.table} of {one.day}: {one.rows[0]:,} rows became {one.rows[1]:,}")


@dg.job(description="Delete decisions after FRAUD_LOG_RETENTION_DAYS, prune snapshots after FRAUD_WHOLE_SNAPSHOT_DAYS.")
def retention() -> None:
    """Both steps, in any order."""
    forget_old_decisions()
    prune_old_snapshots()
