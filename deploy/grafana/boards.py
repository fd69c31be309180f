"""The dashboards: what each panel asks Prometheus. `python deploy/grafana/boards.py` writes dashboards/*.json from it.

What belongs here: questions, titles, units, where an alert's limit is. What does not: alerts (`prometheus/rules`),
pictures without Grafana (`picture`).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "dashboards"
DATASOURCE = {"type": "prometheus", "uid": "fraud-prometheus"}
COLUMNS = 24
SIZES = {"timeseries": (12, 8), "stat": (6, 5), "bargauge": (12, 8)}
"""Columns and rows of each kind: a course of values; a number or two with its course behind it; a bar for each."""

_LAST = {"calcs": ["lastNotNull"], "fields": "", "values": False}
OF_KIND: dict[str, dict[str, Any]] = {
    "timeseries": {"field": {"custom": {"thresholdsStyle": {"mode": "line"}}}, "options": {}},
    "stat": {"field": {}, "options": {"reduceOptions": _LAST, "graphMode": "area", "textMode": "value_and_name"}},
    "bargauge": {"field": {}, "options": {"reduceOptions": _LAST, "orientation": "horizontal", "displayMode": "basic"}},
}
"""Grafana's own options of each kind."""


@dataclass(frozen=True)
class Panel:
    """One picture. queries: PromQL by legend, in which {{label}} stands for a label's value. unit: Grafana's name.

    limit: the alert that fires above it, and its number.
    """

    title: str
    unit: str
    queries: dict[str, str]
    meaning: str = ""
    kind: str = "timeseries"
    limit: tuple[str, float] | None = None


def rate(counter: str, *by: str, where: str = "") -> str:
    """Per second, over five minutes, summed over what is not named."""
    return f"sum by ({', '.join(by)}) (rate({counter}{where}[5m]))"


def quantile(share: float, histogram: str, *by: str, where: str = "") -> str:
    """A quantile of the last five minutes."""
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', *by, 'le', where=where)})"


SERVICE = '{process="service"}'
PREDICT = '{route="/v1/predict"}'
DEGRADED = '{degraded="true"}'

BOARDS: dict[str, tuple[str, list[Panel]]] = {
    "service": (
        "Fraud: the decision service",
        [
            Panel("Decisions", "reqps", {"{{decision}}": rate("fraud_decisions_total", "decision")}),
            Panel(
                "Latency of /v1/predict",
                "s",
                {f"P{share * 100:g}": quantile(share, "fraud_http_seconds", where=PREDICT) for share in (0.5, 0.99)},
                "From a request's headers until its answer was made.",
                limit=("FraudLatencyHigh", 0.2),
            ),
            Panel(
                "Decisions by what they stand on",
                "reqps",
                {"{{features}}, {{model}}": rate("fraud_decision_seconds_count", "features", "model")},
                "Features from redis, postgres or default; the score from a model, logistic_regression, or the rules.",
            ),
            Panel(
                "P99 of a decision by what it stands on",
                "s",
                {"{{features}}, {{model}}": quantile(0.99, "fraud_decision_seconds", "features", "model")},
            ),
            Panel(
                "Decisions on a fallback",
                "percentunit",
                {
                    "share": f"({rate('fraud_decisions_total', where=DEGRADED)} or vector(0)) / "
                    + rate("fraud_decisions_total")
                },
                limit=("FraudDegradedShareHigh", 0.01),
            ),
            Panel(
                "Requests that got no decision",
                "percentunit",
                {"5 minutes": "fraud:predict_errors:ratio5m", "1 hour": "fraud:predict_errors:ratio1h"},
                "The service level allows 0.1% over 30 days.",
                limit=("FraudErrorRateHigh", 0.01),
            ),
            Panel("Answers", "reqps", {"{{route}} {{status}}": rate("fraud_http_answers_total", "route", "status")}),
            Panel("Errors on our side", "ops", {"{{stage}}": rate("fraud_failures_total", "stage")}),
            Panel(
                "Breakers",
                "none",
                {"{{breaker}}": "max by (breaker) (fraud_breaker_open)"},
                "1: left alone after failures, 0.5: being tried, 0: in use.",
            ),
            Panel("P99 of each stage", "s", {"{{stage}}": quantile(0.99, "fraud_stage_seconds", "stage")}),
            Panel(
                "Under way",
                "none",
                {"payments": "sum(fraud_payments_under_way)", "records in memory alone": "sum(fraud_records_waiting)"},
            ),
            Panel(
                "Age of the features in force",
                "s",
                {"{{entity}} in {{store}}": "time() - min by (store, entity) (fraud_snapshot_end_seconds > 0)"},
            ),
            Panel(
                "Decisions that the broker does not have",
                "bytes",
                {"spool": "sum(fraud_log_spool_waiting_bytes)"},
            ),
            Panel(
                "Decisions that the lake does not have",
                "none",
                {"in the broker": "sum(fraud_log_lag_records)"},
                limit=("FraudLogLag", 50_000),
            ),
        ],
    ),
    "model": (
        "Fraud: the model",
        [
            Panel("Versions served", "none", {"{{model_version}}, {{role}}": "fraud_model_serving > 0"}, "By so many "
                  "workers.", "stat"),
            Panel(
                "Policy and kill switch",
                "none",
                {"policy version": "min(fraud_policy_version)", "kill switch": "max(fraud_kill_switch)"},
                "Kill switch 0: off, 1: rules only, 2: all allowed.",
                "stat",
            ),
            Panel("Challenger's share", "percentunit", {"users": "max(fraud_challenger_weight)"}, kind="stat"),
            Panel(
                "Since the last training",
                "s",
                {"training": 'time() - (fraud_job_last_success_timestamp_seconds{dagster_job="training"} > 0)'},
                kind="stat",
            ),
            Panel(
                "Scores by model",
                "percentunit",
                {
                    f"{{{{model}}}}, quantile {share:g}": quantile(share, "fraud_score", "model")
                    for share in (0.5, 0.9, 0.99)
                },
                "Scores beside a decision included: a shadow's, and the champion's in a canary's turn.",
            ),
            Panel(
                "Mean score by model",
                "percentunit",
                {"{{model}}": f"{rate('fraud_score_sum', 'model')} / {rate('fraud_score_count', 'model')}"},
            ),
            Panel(
                "Decisions by model version",
                "reqps",
                {"{{model_version}} {{decision}}": rate("fraud_decisions_total", "model_version", "decision")},
            ),
            Panel(
                "The ten features that drifted most",
                "none",
                # one whose usual days reach half the limit has a limit of its own: a weekday is always far from a week
                {"{{feature}}": "topk(10, fraud_feature_psi unless fraud_feature_psi_usual > 0.1)"},
                "PSI of the newest day; without those that differ as much on days without drift.",
                "bargauge",
                ("FraudFeatureDrift", 0.2),
            ),
            Panel(
                "Drift of the score",
                "none",
                {"PSI": "fraud_score_psi", "without drift": "fraud_score_psi_usual"},
                "Newest day; the most without drift.",
                "stat",
                ("FraudScoreDrift", 0.1),
            ),
            Panel("Decisions compared", "none", {"rows": "fraud_drift_rows"}, "Of the newest day.", "stat"),
            Panel("Average precision", "percentunit", {"{{model_version}}": "fraud_model_average_precision"},
                  "Of the newest matured day.", "stat"),
            Panel("Catch rate by model", "percentunit", {"{{model_version}}": "fraud_model_catch_rate"},
                  "Of the newest matured day.", "stat"),
        ],
    ),
    "business": (
        "Fraud: what decisions are worth",
        [
            Panel("Catch rate", "percentunit", {"frauds blocked": "fraud_catch_rate"}, "Of the newest matured day.",
                  "stat"),
            Panel(
                "Good payments blocked",
                "percentunit",
                {"the day": "fraud_false_positive_rate", "the week before": "fraud_false_positive_rate_baseline"},
                kind="stat",
            ),
            Panel("Fraud rate", "percentunit", {"frauds": "fraud_fraud_rate"}, "Of the newest matured day.", "stat"),
            Panel("Labelled decisions", "none", {"decisions": "fraud_labelled_decisions"}, "Of the newest matured day.",
                  "stat"),
            Panel(
                "Share of decisions, now",
                "percentunit",
                {"{{decision}}": f"{rate('fraud_decisions_total', 'decision')} / on () group_left () "
                                 "sum(rate(fraud_decisions_total[5m]))"},
            ),
            Panel(
                "Money of the day, base currency in hundredths",
                "none",
                {"{{outcome}}": "fraud_money_minor"},
                "Rightly blocked, wrongly blocked, and frauds that passed.",
                "bargauge",
            ),
            Panel("Good payments blocked, by model", "percentunit",
                  {"{{model_version}}": "fraud_model_false_positive_rate"}, "Of the newest matured day.", "stat"),
            Panel(
                "Fraud's money that was blocked",
                "percentunit",
                {
                    "share": 'fraud_money_minor{outcome="blocked_fraud"} / on () '
                    'sum(fraud_money_minor{outcome=~"blocked_fraud|missed_fraud"})'
                },
                "Of the newest matured day.",
                "stat",
            ),
            Panel(
                "Blocked and flagged",
                "none",
                {"{{decision}}": 'sum by (decision) (increase(fraud_decisions_total{decision!="allow"}[1h]))'},
                "In the last hour.",
                "stat",
            ),
            Panel("Decisions in the lake", "none", {"rows": 'fraud_table_rows{table="inference_log"}'},
                  "Of the newest whole day.", "stat"),
        ],
    ),
    "cost": (
        "Fraud: what it takes",
        [
            Panel("Processors in use", "none", {"{{process}}": rate("fraud_process_cpu_seconds_total", "process")}),
            Panel("Memory", "bytes", {"{{process}}": "fraud_process_resident_bytes"}),
            Panel(
                "Processor time per decision",
                "s",
                {
                    "service": rate("fraud_process_cpu_seconds_total", where=SERVICE)
                    + " / "
                    + rate("fraud_decisions_total")
                },
            ),
            Panel("Memory that Redis has used", "bytes", {"{{node}}": "fraud_redis_memory_used_bytes"}),
            Panel("A day in the lake", "bytes", {"{{table}}": "fraud_table_bytes"}, "The newest.", "bargauge"),
            Panel("Rows of a day", "none", {"{{table}}": "fraud_table_rows"}, "The newest.", "bargauge"),
            Panel("Time of the last run", "s", {"{{dagster_job}}": "fraud_job_last_duration_seconds > 0"},
                  kind="bargauge"),
            Panel("Decisions shipped since the start", "none", {"decisions": "fraud_log_shipped_records"}),
        ],
    ),
}  # fmt: skip


def board(name: str) -> dict[str, Any]:
    """A dashboard as Grafana reads it."""
    title, panels = BOARDS[name]
    return {
        "uid": f"fraud-{name}",
        "title": title,
        "tags": ["fraud-platform"],
        "schemaVersion": 39,
        "timezone": "utc",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "panels": list(_laid_out(panels)),
    }


def _laid_out(panels: list[Panel]) -> Iterator[dict[str, Any]]:
    """From left to right; what does not fit begins a row. Panels of a row are of one height."""
    x = y = below = 0
    for number, panel in enumerate(panels, 1):
        width, height = SIZES[panel.kind]
        if x + width > COLUMNS or y + height != below:
            x, y, below = 0, below, below + height
        yield {"id": number, "gridPos": {"x": x, "y": y, "w": width, "h": height}, **_panel(panel)}
        x += width


def _panel(panel: Panel) -> dict[str, Any]:
    alert, limit = panel.limit or ("", None)
    steps = [{"color": "blue", "value": None}, *([] if limit is None else [{"color": "red", "value": limit}])]
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": " ".join(filter(None, (panel.meaning, alert and f"Red: {alert}."))),
        "datasource": DATASOURCE,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "thresholds": {"mode": "absolute", "steps": steps},
                **OF_KIND[panel.kind]["field"],
            },
            "overrides": [],
        },
        "options": OF_KIND[panel.kind]["options"],
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": DATASOURCE, "expr": expr, "legendFormat": legend}
            for index, (legend, expr) in enumerate(panel.queries.items())
        ],
    }


def text(name: str) -> str:
    """The content of a dashboard's file."""
    return json.dumps(board(name), indent=1) + "\n"


if __name__ == "__main__":
    for each in BOARDS:
        (FOLDER / f"{each}.json").write_text(text(each))
