"""What the lake's newest tables say, as metrics: sizes and ages, drift, and what decisions were worth.

What belongs here: names, labels and which row they show. What does not: any figure's arithmetic (`drift`, `signals`,
`performance`), limits, which are Prometheus' rules. Names are stable; a label has as many values as the catalogue has
features, the lake tables, or the service models.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prometheus_client.core import GaugeMetricFamily

from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.features.gaps import daily_tables
from fraud_platform.inference_log.table import TABLE as INFERENCE_LOG
from fraud_platform.ingest.waiting import waiting_standing
from fraud_platform.lake import Lake
from fraud_platform.monitoring.drift import FEATURE_DRIFT, SCORE, SCORE_DRIFT
from fraud_platform.monitoring.freshness import FRESHNESS
from fraud_platform.monitoring.job_runs import read_job_runs
from fraud_platform.monitoring.performance import PERFORMANCE, PERFORMANCE_SCHEMA
from fraud_platform.monitoring.signals import baseline, outcomes, usual_false_positive_rate
from fraud_platform.monitoring.skew import SKEW
from fraud_platform.online.snapshot_record import end_of_day

_WATCHING = (INFERENCE_LOG, FEATURE_DRIFT, SCORE_DRIFT, SKEW, FRESHNESS, PERFORMANCE)


def gauge(name: str, meaning: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    """One family with one label. values: by the label's."""
    family = GaugeMetricFamily(f"fraud_{name}", meaning, labels=[label])
    for of, value in values.items():
        family.add_metric([of], value)
    return family


def single(name: str, meaning: str, value: float | None) -> GaugeMetricFamily:
    """One family without labels; nothing in it for None."""
    family = GaugeMetricFamily(f"fraud_{name}", meaning)
    if value is not None:
        family.add_metric([], value)
    return family


def table_sizes(lake: Lake, catalogue: Catalogue = CATALOGUE) -> Iterator[GaugeMetricFamily]:
    """Rows, bytes and age of each table's newest day."""
    shown = [*(table for table in daily_tables(catalogue) if table != tables.FX_RATES), *_WATCHING]
    newest = {table: days[-1] for table in shown if (days := lake.days(table))}
    sizes = {table.split("/")[0]: lake.size(table, day) for table, day in newest.items()}
    ends = {table.split("/")[0]: end_of_day(day) / 1e6 for table, day in newest.items()}
    yield gauge("table_rows", "Rows of a table's newest day.", "table", {of: size[0] for of, size in sizes.items()})
    yield gauge("table_bytes", "Bytes of its file.", "table", {of: size[1] for of, size in sizes.items()})
    yield gauge("table_newest_day_end_seconds", "End of a table's newest day, Unix time.", "table", ends)


def drift(lake: Lake) -> Iterator[GaugeMetricFamily]:
    """Population stability of the newest day that was held against its release's reference."""
    days = lake.days(FEATURE_DRIFT)
    rows: list[dict[str, Any]] = lake.read(FEATURE_DRIFT, days[-1]).to_pylist() if days else []
    known = {row["name"]: row for row in rows if row["psi"] is not None}
    score = known.pop(SCORE, {})
    for column, name, meaning in (
        ("psi", "psi", "PSI of the newest day"),
        ("usual_psi", "psi_usual", "The largest PSI that a day has without drift"),
    ):
        values = {feature: row[column] for feature, row in known.items()}
        yield gauge(f"feature_{name}", f"{meaning}, by feature.", "feature", values)
        yield single(f"score_{name}", f"{meaning}, of the score.", score.get(column))
    yield single("drift_rows", "Decisions of the newest day that were compared.", rows[0]["rows"] if rows else None)


def performance(lake: Lake) -> Iterator[GaugeMetricFamily]:
    """What the decisions of the newest matured day were worth."""
    days = lake.days(PERFORMANCE)
    rows = lake.read(PERFORMANCE, days[-1]) if days else PERFORMANCE_SCHEMA.empty_table()
    today, before = outcomes(rows), baseline(lake, days[-1]) if days else []
    if today is not None:
        yield single("labelled_decisions", "Decisions of the newest matured day.", today.labelled)
        yield single("fraud_rate", "Share of frauds among them.", today.fraud_rate)
        yield single("catch_rate", "Share of frauds that were blocked.", today.catch_rate)
        yield single("false_positive_rate", "Share of good payments that were blocked.", today.false_positive_rate)
    if before:
        usual = usual_false_positive_rate(before)
        yield single("false_positive_rate_baseline", "The same over the seven days before.", usual)
    plain = rows.to_pylist()
    money = {name: sum(row[f"{name}_minor"] for row in plain) for name in _MONEY if plain}
    yield gauge("money_minor", "Money of that day, minor units of the base currency.", "outcome", money)
    for name, meaning in _BY_MODEL.items():
        values = {row["model_version"]: row[name] for row in plain if row[name] is not None}
        yield gauge(f"model_{name}", meaning, "model_version", values)


_MONEY = ("blocked_fraud", "blocked_good", "missed_fraud")
_BY_MODEL = {
    "catch_rate": "Share of frauds that were blocked, by the model that decided.",
    "false_positive_rate": "Share of good payments that were blocked, by the model that decided.",
    "average_precision": "Average precision of the score, by model; nothing for a day of few frauds.",
}


def labels(lake: Lake, home: Path) -> Iterator[GaugeMetricFamily]:
    """Labels whose payment nobody knows."""
    standing = waiting_standing(home, lake)
    yield single("labels_waiting", "Labels that wait for a payment that nobody knows.", sum(standing.waiting.values()))
    yield single("labels_given_up", "Labels given up, ever: nobody ever knew their payment.", standing.given_up)


def job_runs(lake: Lake) -> Iterator[GaugeMetricFamily]:
    """How Dagster's jobs ended."""
    jobs = read_job_runs(lake)
    for name, field, meaning in (
        ("last_success_timestamp", "last_success", "When a job last went well, Unix time; 0: never."),
        ("last_failure_timestamp", "last_failure", "When it last failed or was canceled, Unix time; 0: never."),
        ("last_duration", "last_duration", "Time that its last success took."),
    ):
        values = {job: getattr(runs, field) for job, runs in jobs.items()}
        yield gauge(f"job_{name}_seconds", meaning, "dagster_job", values)
