"""Prometheus' rules beside what they must agree with: the settings' limits, the runbooks, ports, their own tests."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from fraud_platform.inference_log.redis_stream import MOST
from fraud_platform.settings import Settings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
RUNBOOKS = ROOT / "docs" / "runbooks"
DEFAULT: dict[str, Any] = {name: field.default for name, field in Settings.model_fields.items()}


RULES = [path.read_text() for path in (FOLDER / "rules").glob("*.yml")]


def alerts() -> dict[str, dict[str, Any]]:
    """Every alert by name."""
    groups = [
        group for path in (FOLDER / "rules").glob("*.yml") for group in yaml.safe_load(path.read_text())["groups"]
    ]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


ALERTS = alerts()

LIMITS = {
    "FraudStaleFeatures": [
        ('{{store="redis"}}) > {} * 86400 / 2', "online_ttl_days"),
        ('{{store="postgres"}}) > {} * 86400 / 2', "cold_ttl_days"),
    ],
    "FraudLogLag": [("sum(fraud_log_lag_records) > {}", "log_lag_alert")],
    "FraudScoreDrift": [
        ("fraud_score_psi > {}", "score_psi_limit"),
        ("fraud_score_psi > {} * fraud_score_psi_usual", "drift_unusual"),
        ("fraud_drift_rows >= {}", "drift_min_rows"),
    ],
    "FraudFeatureDrift": [
        ("fraud_feature_psi > {}", "feature_psi_limit"),
        ("fraud_feature_psi > {} * fraud_feature_psi_usual", "drift_unusual"),
        ("fraud_drift_rows >= {}", "drift_min_rows"),
    ],
    "FraudFalsePositiveRise": [
        ("> (1 + {}) * fraud_false_positive_rate_baseline", "false_positive_rise"),
        ("fraud_labelled_decisions >= {}", "drift_min_rows"),
    ],
}
"""What of an alert's expression is a setting: the words around it, and its name."""


@pytest.mark.parametrize("alert", LIMITS)
def test_a_limit_that_is_a_setting_is_its_default_and_the_file_names_the_setting(alert: str) -> None:
    (file,) = [text for text in RULES if f"alert: {alert}\n" in text]
    for words, setting in LIMITS[alert]:
        assert words.format(DEFAULT[setting]) in ALERTS[alert]["expr"]
        assert f"FRAUD_{setting.upper()}" in file


def test_a_lag_is_told_of_before_a_stream_in_redis_is_full_and_the_lag_grows_no_more() -> None:
    assert DEFAULT["log_lag_alert"] <= MOST / 2


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    pages = {f"docs/runbooks/{path.name}" for path in RUNBOOKS.glob("*.md") if path.stem != "README"}
    assert {rule["annotations"]["runbook_url"] for rule in ALERTS.values()} == pages
    for alert, rule in ALERTS.items():
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{alert}.md"
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_every_runbook_says_what_look_here_do_this_when_it_is_over_and_where_it_was_seen() -> None:
    for alert, rule in ALERTS.items():
        page = (RUNBOOKS / f"{alert}.md").read_text()
        headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
        assert headings == [alert, "What it means", "Look here", "Do this", "It is over when"], alert
        assert "\nSeen" in page.split("## It is over when")[1], f"{alert} does not say how it was walked through"
        assert rule["labels"]["severity"] in page.split("\n##")[0], (
            f"{alert} does not say that it is a {rule['labels']}"
        )


def test_every_alert_is_tested_in_its_trouble_and_in_a_healthy_hour() -> None:
    def tested(name: str) -> dict[str, list[bool]]:
        found: dict[str, list[bool]] = {}
        for scene in yaml.safe_load((FOLDER / "tests" / name).read_text())["tests"]:
            for case in scene["alert_rule_test"]:
                found.setdefault(case["alertname"], []).append(bool(case["exp_alerts"]))
        return found

    healthy, troubled = tested("healthy.yml"), tested("alerts.yml")
    assert set(healthy) == set(troubled) == set(ALERTS)
    assert not any(fires for cases in healthy.values() for fires in cases)
    assert all(any(cases) for cases in troubled.values())


def test_what_is_scraped_is_where_the_settings_have_it() -> None:
    configuration = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in configuration["scrape_configs"]}
    assert targets == {
        "fraud-service": [f"127.0.0.1:{DEFAULT['service_port']}"],
        "fraud-inference-log": [f"127.0.0.1:{DEFAULT['log_port']}"],
    }
