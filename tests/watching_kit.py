"""A lake as a night of watching leaves it, small and written by hand: what the metrics of tables are held against."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa

from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.lake import Lake
from fraud_platform.monitoring.drift import FEATURE_DRIFT, FEATURE_DRIFT_SCHEMA
from fraud_platform.monitoring.job_runs import JobRuns, write_job_runs
from fraud_platform.monitoring.performance import PERFORMANCE, PERFORMANCE_SCHEMA

YESTERDAY = datetime.now(UTC).date() - timedelta(days=1)
DAY_END = datetime(YESTERDAY.year, YESTERDAY.month, YESTERDAY.day, tzinfo=UTC).timestamp() + 86_400


def fill_lake(lake: Lake) -> None:
    """Yesterday's training set and decisions, drift of every feature, eight matured days, and one job's runs."""
    rows = pa.table({"transaction_id": ["a", "b", "c"]})
    for table in (tables.TRAINING_SET, "inference_log"):
        lake.write(table, YESTERDAY, rows)
    drift = [_drift(name) for name in (*CATALOGUE.names, "score")]
    lake.write(FEATURE_DRIFT, YESTERDAY, pa.Table.from_pylist(drift, FEATURE_DRIFT_SCHEMA))
    for back in range(8):
        # half of the good payments that are blocked on the newest day were blocked on those before
        blocked = 4 if back == 0 else 2
        lake.write(PERFORMANCE, YESTERDAY - timedelta(days=back), performance(blocked))
    write_job_runs(lake, {"training": JobRuns(last_success=DAY_END, last_failure=DAY_END - 60, last_duration=55.0)})


def _drift(name: str) -> dict[str, object]:
    return {
        "name": name, "release": "fraud-detector-1", "rows": 2_000, "decisions": 2_000,
        "psi": 0.3 if name == "amount" else 0.01,
        "usual_psi": 0.05, "null_share": 0.0, "reference_null_share": 0.0, "counts": [1_000, 1_000, 0],
        "reference_counts": [500, 500, 0], "edges": [10.0],
    }  # fmt: skip


def performance(blocked_good: int) -> pa.Table:
    """A day of two models: 1,000 good payments and 10 frauds each, of which the one blocked 5 and the other all."""
    rows = [
        {
            "model_version": f"fraud-detector/{version}", "decisions": 1_100, "labelled": 1_010, "frauds": 10,
            "alerts": 20, "blocks": blocked_good + caught,
            "blocks_known": blocked_good + caught, "released": 0, "fraud_rate": 10 / 1_010, "catch_rate": caught / 10,
            "false_positive_rate": blocked_good / 1_000, "average_precision": 0.4,
            "blocked_fraud_minor": caught * 10_000, "blocked_good_minor": blocked_good * 500,
            "missed_fraud_minor": (10 - caught) * 10_000,
        }
        for version, caught in ((1, 5), (2, 10))
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, PERFORMANCE_SCHEMA)
