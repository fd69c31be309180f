"""The watching stage in Dagster: assets, checks, Evidently's page, and the sensors that act on them."""

import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import msgspec
import numpy as np
import pytest

from assets.definitions import build_definitions
from assets.partitions import key_range_tags
from assets.schedules import WATCHING_ASSETS
from assets.sensing import RETRAIN_TAG
from assets.sensors import warned_run_alerts
from fraud_platform.lake import Lake, open_lake
from fraud_platform.model.bundle import Bundle, Scorer
from fraud_platform.model.routing import read_routing, write_routing
from fraud_platform.monitoring.alerts import NotifyError
from fraud_platform.monitoring.reference import ensure_reference
from fraud_platform.settings import Settings
from tests.integration.test_dagster import FIRST_DAY, NOW
from tests.monitoring_kit import DRIFTING, decided, log_decisions, release_with_holdout, vectors

COUNT = 600
DAYS = [FIRST_DAY + timedelta(days=n) for n in range(5)]


class Webhook:
    """A real HTTP server that keeps what it is told; refuses while `broken`."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.broken = False
        webhook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if not webhook.broken:
                    webhook.told.append(json.loads(body))
                self.send_response(500 if webhook.broken else 204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Silent."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    made = Webhook()
    yield made
    made.server.shutdown()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, webhook: Webhook) -> Settings:
    values = {"home": tmp_path, "history_start": FIRST_DAY, "drift_min_rows": 500, "notify": json.dumps([webhook.url])}
    for name, value in values.items():
        monkeypatch.setenv(f"FRAUD_{name.upper()}", str(value))
    return Settings()


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a release and its reference; each test takes a copy."""
    settings = Settings(home=tmp_path_factory.mktemp("released"))
    lake = open_lake(settings)
    release = release_with_holdout(settings.home, lake, rows_per_day=1_500)
    ensure_reference(lake, release, settings.seed)
    return settings.home


@pytest.fixture
def lake(settings: Settings, released: Path) -> Lake:
    shutil.copytree(released, settings.home, dirs_exist_ok=True)
    return open_lake(settings)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def serve(settings: Settings, lake: Lake, day: date, shift: float) -> None:
    release = settings.home / "releases" / "fraud-detector-1"
    made = vectors(np.random.default_rng(day.toordinal()), COUNT, shift=shift)
    log_decisions(lake, decided(day, made, Scorer(Bundle.load(release)).score(made)))


def watch(
    settings: Settings, instance: dg.DagsterInstance, *days: date, page: bool = False
) -> dg.ExecuteInProcessResult:
    """A run of the watching job. page: with Evidently's page of each day, which takes seconds and no sensor reads."""
    job = build_definitions(settings, NOW).resolve_job_def("watching")
    wanted = [dg.AssetKey(name) for name in WATCHING_ASSETS if page or name != "drift_report"]
    return job.execute_in_process(
        instance=instance, tags=key_range_tags(days), raise_on_error=False, asset_selection=wanted
    )


def tick(
    settings: Settings, instance: dg.DagsterInstance, cursor: str | None, name: str = "drift_retrains"
) -> tuple[list[dg.RunRequest], str | None]:
    """One tick of a sensor: its requests and its cursor afterwards."""
    repository = build_definitions(settings, NOW).get_repository_def()
    sensor = repository.get_sensor_def(name)
    with dg.build_sensor_context(instance=instance, cursor=cursor, repository_def=repository) as context:
        result = sensor.evaluate_tick(context)
    return list(result.run_requests or []), result.cursor or cursor


def end_run(instance: dg.DagsterInstance, request: dg.RunRequest, status: dg.DagsterRunStatus) -> None:
    instance.add_run(dg.DagsterRun(job_name="training", tags=request.tags, status=status))


def test_a_days_watching_fills_every_table_and_draws_the_page(
    settings: Settings, lake: Lake, instance: dg.DagsterInstance
) -> None:
    serve(settings, lake, DAYS[0], shift=1.5)
    result = watch(settings, instance, DAYS[0], page=True)
    assert result.success
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert not checks["feature_psi"].passed
    assert DRIFTING in str(checks["feature_psi"].metadata)
    assert checks["no_skew"].passed
    (materialized,) = result.asset_materializations_for_node("drift_report")
    page = Path(str(materialized.metadata[f"report {DAYS[0]}"].value)).read_text()
    assert "PSI over the release" in page
    assert DRIFTING in page
    psi = next(row["psi"] for row in lake.read("feature_drift", DAYS[0]).to_pylist() if row["name"] == DRIFTING)
    assert f"{psi:.4f}"[:5] in page or f"{psi:.3f}" in page, "the page shows the platform's own index"


def test_drift_starts_one_training_per_release_and_window(
    settings: Settings, lake: Lake, instance: dg.DagsterInstance
) -> None:
    for day, shift in zip(DAYS, (0.0, 1.5, 0.0, 1.5, 1.5), strict=True):
        serve(settings, lake, day, shift)
    assert tick(settings, instance, None) == ([], None)
    watch(settings, instance, *DAYS[:3])
    # the drifted day is not the newest: a sensor that saw the latest event alone would miss it
    (request,), cursor = tick(settings, instance, None)
    assert request.run_key == f"fraud-detector-1-{DAYS[1]}-1"
    assert request.tags["fraud/subject"] == DRIFTING
    assert float(request.tags["fraud/value"]) > 0.2
    assert tick(settings, instance, cursor)[0] == []
    watch(settings, instance, *DAYS[3:])
    requests, cursor = tick(settings, instance, cursor)
    assert requests == [], "within the cool-down"


def test_a_training_that_failed_is_tried_again_thrice_at_most(
    settings: Settings, lake: Lake, instance: dg.DagsterInstance
) -> None:
    serve(settings, lake, DAYS[0], shift=1.5)
    watch(settings, instance, DAYS[0])
    keys: list[str] = []
    cursor: str | None = None
    for _ in range(5):
        requests, cursor = tick(settings, instance, cursor)
        for request in requests:
            keys.append(str(request.run_key))
            assert request.tags[RETRAIN_TAG] == request.run_key
            end_run(instance, request, dg.DagsterRunStatus.FAILURE)
    assert keys == [f"fraud-detector-1-{DAYS[0]}-{attempt}" for attempt in (1, 2, 3)]


def test_a_training_that_succeeded_is_not_started_again(
    settings: Settings, lake: Lake, instance: dg.DagsterInstance
) -> None:
    serve(settings, lake, DAYS[0], shift=1.5)
    watch(settings, instance, DAYS[0])
    (request,), cursor = tick(settings, instance, None)
    end_run(instance, request, dg.DagsterRunStatus.SUCCESS)
    assert tick(settings, instance, cursor)[0] == []


def test_a_trouble_is_told_once_and_again_only_where_nobody_took_it(
    settings: Settings, lake: Lake, instance: dg.DagsterInstance, webhook: Webhook
) -> None:
    for day in DAYS[:2]:
        serve(settings, lake, day, shift=1.5)
    watch(settings, instance, DAYS[0])
    webhook.broken = True
    with pytest.raises(NotifyError, match=r"127\.0\.0\.1 did not take an alert"):
        tick(settings, instance, None, "drift_alerts")
    webhook.broken = False
    _, cursor = tick(settings, instance, None, "drift_alerts")
    told = [(each["cause"], each["subject"]) for each in webhook.told]
    assert ("feature_psi", f"fraud-detector-1 {DRIFTING}") in told
    watch(settings, instance, DAYS[1])
    tick(settings, instance, cursor, "drift_alerts")
    assert [(each["cause"], each["subject"]) for each in webhook.told] == told


def test_while_a_challenger_is_on_trial_drift_starts_no_other_training(
    settings: Settings, lake: Lake, instance: dg.DagsterInstance
) -> None:
    for day in DAYS[:2]:
        serve(settings, lake, day, shift=1.5)
    routing = read_routing(settings.home)
    write_routing(settings.home, msgspec.structs.replace(routing, challenger="fraud-detector-2", stage="shadow"))
    watch(settings, instance, DAYS[0])
    requests, cursor = tick(settings, instance, None)
    assert requests == []
    write_routing(settings.home, routing)
    watch(settings, instance, DAYS[1])
    (request,), _ = tick(settings, instance, cursor)
    assert request.run_key == f"fraud-detector-1-{DAYS[1]}-1"


def test_a_warning_that_says_what_to_do_is_told_once_and_fails_nothing(
    settings: Settings, instance: dg.DagsterInstance, webhook: Webhook
) -> None:
    checks = {"null_share": {"remedy": "docs/closed-loop.md, Columns that go null"}, "row_count": {}}

    @dg.asset(check_specs=[dg.AssetCheckSpec(name, asset="watched") for name in checks])
    def watched() -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        yield dg.MaterializeResult()
        for name, facts in checks.items():
            yield dg.AssetCheckResult(
                check_name=name, passed=False, severity=dg.AssetCheckSeverity.WARN, metadata=facts
            )

    for _ in range(2):
        result = dg.materialize([watched], instance=instance)
        assert result.success
        context = dg.build_run_status_sensor_context(
            sensor_name="warned_run_alerts",
            dagster_instance=instance,
            dagster_run=result.dagster_run,
            dagster_event=result.get_run_success_event(),
        )
        warned_run_alerts(context)
    (told,) = webhook.told
    assert "check null_share of watched warns" in str(told)
    assert "what to do: docs/closed-loop.md, Columns that go null" in str(told)
