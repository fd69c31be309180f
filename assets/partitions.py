"""The days of history as Dagster partitions, and how far back a day looks.

What belongs here: partition definitions and mappings. What does not: which days exist in the lake.
"""

from collections.abc import Sequence
from datetime import date, datetime, timedelta

import dagster as dg

from fraud_platform.dataset import Dataset, refuse_unfinished
from fraud_platform.lake import days_between


def daily_partitions(dataset: Dataset) -> dg.DailyPartitionsDefinition:
    """One partition per UTC day of received_at, from the first day of history to yesterday or the source's last day."""
    end = dataset.last_day + timedelta(days=1) if dataset.last_day else None
    return dg.DailyPartitionsDefinition(
        start_date=dataset.first_day.isoformat(), end_date=end.isoformat() if end else None, timezone="UTC"
    )


def decision_partitions(dataset: Dataset) -> dg.DailyPartitionsDefinition:
    """One partition per UTC day on which payments may have been decided: they go on where an imported history ends."""
    return dg.DailyPartitionsDefinition(start_date=dataset.first_day.isoformat(), timezone="UTC")


def looking_back(days: int) -> dg.TimeWindowPartitionMapping:
    """A day depends on itself and the `days` before it, as far as history goes."""
    return dg.TimeWindowPartitionMapping(start_offset=-days, allow_nonexistent_upstream_partitions=True)


def looking_ahead(days: int) -> dg.TimeWindowPartitionMapping:
    """A day depends on itself and the `days` after it, as far as they exist."""
    return dg.TimeWindowPartitionMapping(end_offset=days, allow_nonexistent_upstream_partitions=True)


PREDECESSOR = dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=-1, allow_nonexistent_upstream_partitions=True)
"""A day depends on the day before it, as far as history goes."""


def partition_days(context: dg.AssetExecutionContext, now: datetime) -> list[date]:
    """The days of a run: one partition, or a range that runs in one go. Raises UnfinishedDayError.

    Dagster's pages and commands offer no day that is not over, but a run that is launched by GraphQL may name one.
    """
    keys = context.partition_key_range
    days = days_between(date.fromisoformat(keys.start), date.fromisoformat(keys.end))
    refuse_unfinished(days, now)
    return days


def key_range_tags(days: Sequence[date]) -> dict[str, str]:
    """Run tags that make one run cover consecutive days."""
    return {
        "dagster/asset_partition_range_start": days[0].isoformat(),
        "dagster/asset_partition_range_end": days[-1].isoformat(),
    }
