"""The dashboards: what each panel asks Prometheus. `python deploy/grafana/boards.py` writes dashboards/*.json from it.

What belongs here: questions, titles, units. What does not: limits and who is told (`deploy/prometheus/rules`).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "dashboards"
DATASOURCE = {"type": "prometheus", "uid": "fraud-prometheus"}
COLUMNS, WIDTH, HEIGHT = 2, 12, 8


@dataclass(frozen=True)
class Panel:
    """One picture. queries: PromQL by legend, in which {{label}} stands for a label's value. unit: Grafana's name."""

    title: str
    unit: str
    queries: dict[str, str]
    meaning: str = ""


def rate(counter: str, *by: str, where: str = "") -> str:
    """Per second, over five minutes, summed over what is not named."""
    return f"sum by ({', '.join(by)}) (rate({counter}{where}[5m]))"


def quantile(share: float, histogram: str, *by: str, where: str = "") -> str:
    """A quantile of the last five minutes."""
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', *by, 'le', where=where)})"


SERVICE = '{process="service"}'
PREDICT = '{route="/v1/predict"}'

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
            ),
            Panel(
                "Decisions by what they stand on",
                "reqps",
                {"features {{features}}, {{model}}": rate("fraud_decision_seconds_count", "features", "model")},
                "Features from redis, postgres or default; the score from champion, challenger, logistic_regression, "
                "or the rules.",
            ),
            Panel(
                "P99 of a decision by what it stands on",
                "s",
                {"features {{features}}, {{model}}": quantile(0.99, "fraud_decision_seconds", "features", "model")},
            ),
            Panel("Answers", "reqps", {"{{route}} {{status}}": rate("fraud_http_answers_total", "route", "status")}),
            Panel(
                "Requests that got no decision",
                "percentunit",
                {"5 minutes": "fraud:predict_errors:ratio5m", "1 hour": "fraud:predict_errors:ratio1h"},
                "The service level allows 0.1% over 30 days.",
            ),
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
                "Decisions on their way to the lake",
                "none",
                {"in the broker": "sum(fraud_log_lag_records)", "spool, bytes": "sum(fraud_log_spool_waiting_bytes)"},
            ),
        ],
    ),
    "model": (
        "Fraud: the model",
        [
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
                "Policy and kill switch",
                "none",
                {"policy version": "min(fraud_policy_version)", "kill switch": "max(fraud_kill_switch)"},
                "Kill switch 0: off, 1: rules only, 2: every payment is allowed.",
            ),
            Panel("Versions served", "none", {"{{model_version}}, {{role}}": "fraud_model_serving > 0"}, "Workers."),
            Panel("Challenger's share of users", "percentunit", {"weight": "max(fraud_challenger_weight)"}),
            Panel(
                "Decisions by model version",
                "reqps",
                {"{{model_version}} {{decision}}": rate("fraud_decisions_total", "model_version", "decision")},
            ),
            Panel("The ten features that drifted most", "none", {"{{feature}}": "topk(10, fraud_feature_psi)"}, "PSI."),
            Panel(
                "Drift of the score",
                "none",
                {"PSI": "fraud_score_psi", "largest without drift": "fraud_score_psi_usual"},
            ),
            Panel("Decisions compared with the reference", "none", {"rows": "fraud_drift_rows"}),
            Panel("Average precision", "percentunit", {"{{model_version}}": "fraud_model_average_precision"}),
            Panel("Catch rate by model", "percentunit", {"{{model_version}}": "fraud_model_catch_rate"}),
            Panel(
                "Since the last training",
                "s",
                {"training": 'time() - (fraud_job_last_success_timestamp_seconds{dagster_job="training"} > 0)'},
            ),
        ],
    ),
    "business": (
        "Fraud: what decisions are worth",
        [
            Panel("Catch rate", "percentunit", {"frauds blocked": "fraud_catch_rate"}, "Of the newest matured day."),
            Panel(
                "Good payments blocked",
                "percentunit",
                {"the day": "fraud_false_positive_rate", "the week before": "fraud_false_positive_rate_baseline"},
            ),
            Panel("Fraud rate", "percentunit", {"frauds": "fraud_fraud_rate"}),
            Panel(
                "Money of the day, base currency in hundredths",
                "none",
                {"{{outcome}}": "fraud_money_minor"},
                "Rightly blocked, wrongly blocked, and frauds that passed.",
            ),
            Panel("Labelled decisions of the day", "none", {"decisions": "fraud_labelled_decisions"}),
            Panel("Good payments blocked, by model", "percentunit",
                  {"{{model_version}}": "fraud_model_false_positive_rate"}),
            Panel(
                "Share of decisions, now",
                "percentunit",
                {"{{decision}}": f"{rate('fraud_decisions_total', 'decision')} / on () group_left () "
                                 "sum(rate(fraud_decisions_total[5m]))"},
            ),
            Panel("Decisions of the newest day in the lake", "none",
                  {"rows": 'fraud_table_rows{table="inference_log"}'}),
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
            Panel(
                "Redis",
                "bytes",
                {"{{node}} used": "fraud_redis_memory_used_bytes", "{{node}} limit": "fraud_redis_memory_limit_bytes"},
            ),
            Panel("A day in the lake", "bytes", {"{{table}}": "fraud_table_bytes"}),
            Panel("Rows of a day", "none", {"{{table}}": "fraud_table_rows"}),
            Panel("Time of the last run", "s", {"{{dagster_job}}": "fraud_job_last_duration_seconds > 0"}),
            Panel("Decisions shipped", "none", {"since the start": "fraud_log_shipped_records"}),
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
        "panels": [_panel(number, panel) for number, panel in enumerate(panels)],
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.meaning,
        "datasource": DATASOURCE,
        "gridPos": {
            "x": number % COLUMNS * WIDTH,
            "y": number // COLUMNS * HEIGHT,
            "w": WIDTH,
            "h": HEIGHT,
        },
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
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
