"""Metrics, rules, alerts and dashboards together: a real service, log process, Prometheus and Alertmanager."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import psutil
import pytest
import redis
from prometheus_kit import CONFIGURATION, ROOT, Stack, needs_prometheus
from service_kit import USERS, fill_online_store, free_port, publish_small_model

from bento.bentoml_seam import WORKER_MODULE
from deploy.grafana import boards
from fraud_platform.lake import Lake
from fraud_platform.online.embedded_redis import find_redis_server
from fraud_platform.run.child import record_pid
from fraud_platform.run.home import Home
from tests.watching_kit import fill_lake

pytestmark = needs_prometheus
PAGE = ROOT / "docs" / "metrics.md"
RARE = {
    "fraud_stage_overruns_total": "| `fraud_stage_overruns_total` | counter | `stage` | service "
    "| Stages of decisions that took longer than their part. |"
}
"""Rows of metrics that are there only once something was slow."""


@dataclass
class Platform:
    """What runs, and what watches it."""

    stack: Stack
    service: str
    redis: "subprocess.Popen[bytes]"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    root = tmp_path_factory.mktemp("watched")
    home = Home(root / "home")
    home.run.mkdir(parents=True)
    publish_small_model(home.root, version=7, seed=1)
    fill_lake(Lake(str(home.root / "lake")))
    redis_port, service_port, log_port = free_port(), free_port(), free_port()
    environment = {
        **os.environ, "FRAUD_HOME": str(home.root), "FRAUD_REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
        "FRAUD_SERVICE_PORT": str(service_port), "FRAUD_LOG_PORT": str(log_port), "OMP_NUM_THREADS": "1",
        "BENTOML_HOME": str(root / "bentoml"),
    }  # fmt: skip

    def start(name: str, *command: str) -> "subprocess.Popen[bytes]":
        with (root / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        record_pid(home, name, process.pid)
        return process

    server = start("redis", str(find_redis_server()), "--port", str(redis_port), "--save", "", "--dir", str(root))
    started = [server]
    try:
        with redis.Redis(port=redis_port) as client:
            client.ping()
            fill_online_store(client)
        started.append(start("inference-log", sys.executable, "-m", "fraud_platform.cli", "inference-log", "run"))
        serve = ("serve", "bento.service:FraudDetector", "--port", str(service_port))
        started.append(start("service", sys.executable, "-m", "bentoml", *serve))
        stack = Stack(root / "prometheus", service_port, log_port)
        url, ended = f"http://127.0.0.1:{service_port}", threading.Event()
        traffic = threading.Thread(target=pay, args=(url, ended))
        try:
            stack.wait(lambda: httpx.get(f"{url}/readyz").status_code == 200, "the service is ready", 120)
            stack.wait(lambda: stack.values("fraud_log_lag_records"), "the log's process is scraped", 60)
            traffic.start()
            yield Platform(stack, url, server)
        finally:
            ended.set()
            stack.close()
            if traffic.ident:
                traffic.join()
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        for process in reversed(started):
            process.wait(30)


def pay(url: str, ended: threading.Event) -> None:
    """Ten times a second a payment, one that is wrong, and an explanation."""
    with httpx.Client(base_url=url, timeout=10) as http:
        while not ended.wait(0.1):
            # a worker that is killed takes a payment with it: its client sends it again
            with suppress(httpx.TransportError):
                body = {
                    "transaction_id": uuid.uuid4().hex, "user_id": USERS[0], "merchant_id": "m-1", "amount": 42.5,
                    "currency": "EUR", "country": "DE", "timestamp": datetime.now(UTC).isoformat(),
                }  # fmt: skip
                http.post("/v1/predict", json=body)
                http.post("/v1/predict", json={**body, "amount": -1})
                http.post("/v1/explain", json={"transaction_id": body["transaction_id"]})


@pytest.mark.parametrize("command", ["check config prometheus.yml", "test rules tests/healthy.yml tests/alerts.yml"])
def test_promtool_accepts_the_configuration_and_each_alert_fires_in_its_trouble_alone(command: str) -> None:
    done = subprocess.run(
        ["promtool", *command.split()], cwd=CONFIGURATION, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_alertmanager_accepts_its_configuration() -> None:
    command = ["amtool", "check-config", "alertmanager.yml"]
    done = subprocess.run(command, cwd=CONFIGURATION, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_redis_that_dies_is_told_to_whoever_is_on_call(platform: Platform) -> None:
    stack = platform.stack
    # before: everything that a dashboard shows of a Redis that lives
    stack.wait(lambda: stack.values("rate(fraud_decisions_total[5m]) > 0"), "decisions are counted")
    for shown in ("fraud_redis_memory_used_bytes", "fraud_snapshot_end_seconds"):
        stack.wait(lambda name=shown: stack.values(name), f"{shown} is scraped")
    stack.wait(lambda: stack.values("fraud:predict_errors:ratio1h"), "the service level is reckoned")
    firing = {each["labels"]["alertname"] for each in stack.ask("alerts")["alerts"] if each["state"] == "firing"}
    assert firing == {"FraudFeatureDrift", "FraudFalsePositiveRise"}, (
        "what the lake's tables call for, and nothing else"
    )
    platform.redis.kill()

    def delivered() -> list[dict[str, Any]]:
        wanted = {"alertname": "FraudBreakerOpen", "breaker": "redis", "severity": "page"}
        return [alert for alert in stack.receiver.paged if alert["labels"] == wanted]

    stack.wait(delivered, "the alert is delivered")
    (alert, *_) = delivered()
    assert alert["annotations"]["summary"] == "Payments are decided without redis"
    assert (ROOT / alert["annotations"]["runbook_url"]).exists()


def test_every_panel_of_every_dashboard_has_data(platform: Platform) -> None:
    empty = []
    # Redis is away by now, and that is counted
    platform.stack.wait(lambda: platform.stack.values("rate(fraud_failures_total[5m])"), "failures are counted")
    platform.stack.wait(lambda: platform.stack.values("fraud_log_failures_total"), "the log's failures are counted")
    for name in boards.BOARDS:
        board = json.loads((boards.FOLDER / f"{name}.json").read_text())
        for panel in board["panels"]:
            for target in panel["targets"]:
                if not platform.stack.values(target["expr"]):
                    empty.append(f"{name}, {panel['title']}: {target['expr']}")
    assert empty == []


def test_the_page_of_metrics_lists_what_is_exported(platform: Platform) -> None:
    table = "\n".join(exported(platform.stack))
    if os.environ.get("UPDATE_GOLDEN") == "yes":
        PAGE.write_text(re.sub(r"\| metric \|(.|\n)*?\n\n", lambda _: f"{table}\n\n", PAGE.read_text(), count=1))
    assert table in PAGE.read_text(), "UPDATE_GOLDEN=yes accepts the metrics as they are now"


def exported(stack: Stack) -> list[str]:
    """The table of all metrics of the project, with the labels that they were seen with."""
    targets = {"fraud-service": "service", "fraud-inference-log": "log"}
    rows = dict(RARE)
    for told in stack.ask("targets/metadata"):
        name, job = told["metric"], targets[told["target"]["job"]]
        if told["type"] == "counter":
            # one of Prometheus' two formats leaves it out of the family's name
            name = f"{name.removesuffix('_total')}_total"
        if name.startswith("fraud_") and not name.endswith("_created"):
            ends = ["", "_bucket"] if told["type"] == "histogram" else [""]
            series = stack.ask("series", **{"match[]": f'{{__name__=~"{name}({"|".join(ends)})"}}'})
            labels = sorted({label for each in series for label in each} - {"__name__", "job", "instance", "le"})
            shown = ", ".join(f"`{label}`" for label in labels)
            rows[name] = f"| `{name}` | {told['type']} | {shown} | {job} | {told['help']} |"
    return [
        "| metric | type | labels | of | meaning |",
        "|---|---|---|---|---|",
        *(rows[name] for name in sorted(rows)),
    ]


def test_the_gauges_of_a_killed_worker_are_forgotten(platform: Platform) -> None:
    """Its breaker is open, since Redis is away: it must not stay open in the sum for good."""
    stack = platform.stack
    lives = [each for each in psutil.Process().children(recursive=True) if each.status() != psutil.STATUS_ZOMBIE]
    (service,) = (each for each in lives if WORKER_MODULE in each.cmdline())
    stack.wait(lambda: stack.values("sum(fraud_model_serving)"), "the model in force is shown")
    before = stack.values("sum(fraud_model_serving)")[-1]
    service.kill()
    stack.wait(lambda: httpx.get(f"{platform.service}/livez").status_code == 200, "another worker has started", 60)
    stack.wait(lambda: stack.values("sum(fraud_model_serving)", 2)[-1:] == [before], "the killed worker is forgotten")
