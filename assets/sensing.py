"""What sensors share: new days in Dagster's event log, what came of a run that was asked for, asking for a training.

What belongs here: reading Dagster's instance for a sensor. What does not: a sensor (`sensors`, `data_sensors`).
"""

from collections.abc import Callable, Iterable
from datetime import date

import dagster as dg

from fraud_platform.monitoring.retrain import Request

RETRAIN_TAG = "fraud/retrain"
"""On a training that a sensor started: its request's key."""
CAUSE_TAG = "fraud/cause"
"""On the same: why, which no two sensors give alike."""
FILES_TAG = "fraud/files"
"""On a run that the sensor `new_files` started: its request's key."""
RULES_TAG = "fraud/label_rules"
"""On a run that the sensor `label_rules` started: its request's key."""
_AT_ONCE = 100


def new_days(instance: dg.DagsterInstance, asset: str, after: int) -> Iterable[tuple[int, date]]:
    """Materialized partitions behind a place in the event log, in its order."""
    found = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), after_storage_id=after), limit=_AT_ONCE, ascending=True
    )
    for record in found.records:
        if record.partition_key is not None:
            yield record.storage_id, date.fromisoformat(record.partition_key)


def outcomes(instance: dg.DagsterInstance, tag: str) -> Callable[[str], str]:
    """What came of the run whose `tag` holds a key: `running`, `succeeded`, `failed`; `unknown`: never started."""

    def outcome(key: str) -> str:
        runs = instance.get_runs(dg.RunsFilter(tags={tag: key}), limit=1)
        if not runs:
            return "unknown"
        if not runs[0].is_finished:
            return "running"
        return "succeeded" if runs[0].is_success else "failed"

    return outcome


def training_request(request: Request) -> dg.RunRequest:
    """A training as Dagster is asked for it; the same key never launches twice."""
    return dg.RunRequest(
        run_key=request.key,
        tags={
            RETRAIN_TAG: request.key,
            CAUSE_TAG: request.cause,
            "fraud/subject": request.subject,
            "fraud/value": f"{request.value:.4f}",
        },
    )
