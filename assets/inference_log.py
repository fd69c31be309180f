"""The decisions of the service in the lake: each day merged and held against its rules once it is over.

What belongs here: names, order, the check that nothing is behind. What does not: shipping and
consuming, which the log's own process does all day (`fraud_platform.inference_log.process`).
"""

from datetime import date

import dagster as dg

from assets.daily_table import daily_table
from assets.resources import Platform
from fraud_platform.inference_log.broker import BrokerError
from fraud_platform.inference_log.process import drain
from fraud_platform.inference_log.standing import log_standing
from fraud_platform.inference_log.table import TABLE, LogTable
from fraud_platform.quality import Finding

DRAIN_SECONDS = 60.0
"""How long a run waits for what is behind; a longer outage of the broker fails the check `delivered`."""


def _merge(platform: Platform, days: list[date]) -> None:
    """Have everything in the lake, then one file per day; what came late for an earlier day is merged as well."""
    # what is still behind then, the check `delivered` says; what the lake has is merged all the same
    drain(platform.settings, DRAIN_SECONDS)
    table = LogTable(platform.lake)
    for day in sorted({*days, *table.unmerged(before=platform.now.date())}):
        table.merge(day)


def _delivered(platform: Platform, _: list[date]) -> Finding:
    """Nothing waits in the spool or in the broker."""
    try:
        standing = log_standing(platform.settings)
    except BrokerError as error:
        return Finding("delivered", False, "warn", {"broker": str(error)})
    behind = (standing.waiting_bytes, standing.lag)
    facts = {"spool_waiting_bytes": standing.waiting_bytes, "broker_lag": standing.lag, "commits": standing.commits}
    return Finding("delivered", not any(behind), "warn", facts)


def inference_log(partitions: dg.PartitionsDefinition) -> dg.AssetsDefinition:
    """The asset of the log's table; its days go on where the history that was imported has ended."""
    return daily_table(
        name=TABLE,
        table=TABLE,
        group="serving",
        kinds={"parquet"},
        description=(
            "Every decision of the service by UTC day of received_at: request, the 50 values that were scored, score, "
            "decision, reason and what served it."
        ),
        partitions=partitions,
        write=_merge,
        extra_warnings={"delivered": _delivered},
    )
