"""Where trees are no better than logistic regression it is trained, judged, registered, released and served like any
model; where nothing beats chance, or nothing can be trained, rules decide and the screen says why."""

import math
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import numpy as np
import pandas as pd
import pytest
import redis
from service_kit import FEATURE_VALUE, USERS, fill_online_store, free_port
from test_service import ROOT, payment, serve, wait_until_ready

from assets import bootstrap
from fraud_platform.audit.again import DecidingModels, score_again
from fraud_platform.clock import move_clock
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.inference_log.record import DecisionRecord
from fraud_platform.inference_log.spool import read_spool
from fraud_platform.lake import Lake
from fraud_platform.model import steps
from fraud_platform.model.bundle import Bundle, Scorer, current_release
from fraud_platform.model.kinds import REGRESSION
from fraud_platform.model.registry import note_verdict, read_card, tracking_uri
from fraud_platform.model.steps import judge_candidate, register_candidate, release_if_better, train_candidate
from fraud_platform.monitoring.reference import make_reference
from fraud_platform.run.deciding import who_decides
from fraud_platform.settings import Settings
from tests import model_kit as kit

PAYMENTS = 40


@dataclass
class World:
    """A home whose champion is a logistic regression, and its running service."""

    settings: Settings
    bundle: Bundle
    http: httpx.Client

    def records(self) -> list[DecisionRecord]:
        days = (datetime.now(UTC).date() - timedelta(days=back) for back in (1, 0))
        return [record for day in days for record in read_spool(self.settings.home, day)]


def settings_of(home: Path, **changes: Any) -> Settings:
    return Settings(home=home, **(kit.TRAINING | changes))


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = settings_of(tmp_path_factory.mktemp("linear"))
    lake = Lake(settings.lake)
    kit.write_history(lake, additive=True, seed=2)
    candidate = train_candidate(lake, settings, kit.NOW)
    registered = register_candidate(settings, candidate)
    note_verdict(settings, candidate, registered, judge_candidate(lake, settings, candidate))
    promotion = release_if_better(lake, settings, candidate, registered, who="a test", now=kit.NOW)
    assert promotion.release is not None, promotion.verdict.reasons
    return settings


@pytest.fixture(scope="module")
def world(released: Settings, redis_server: str) -> Iterator[World]:
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
        fill_online_store(client)
    port = free_port()
    command, environment = serve(released.home, redis_server, port)
    log = released.home / "service.log"
    with log.open("wb") as output:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
            wait_until_ready(http, server, log)
            yield World(released, Bundle.load(current_release(released.home)), http)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def test_mlflow_keeps_it_without_a_pickle_and_loads_it_as_it_is(released: Settings) -> None:
    import mlflow

    bundle = Bundle.load(current_release(released.home))
    assert bundle.kind == REGRESSION
    mlflow.set_tracking_uri(tracking_uri(released))
    loaded = mlflow.pyfunc.load_model("models:/fraud-detector@champion")
    vectors = np.random.default_rng(1).normal(size=(20, len(CATALOGUE.names))).astype(np.float32)
    vectors[0] = np.nan
    table = pd.DataFrame(vectors, columns=list(CATALOGUE.names))
    np.testing.assert_array_equal(loaded.predict(table), bundle.fallback.score(vectors))
    assert not {path.suffix for path in released.home.rglob("*")} & {".pkl", ".pickle", ".joblib", ".cloudpickle"}
    client = mlflow.MlflowClient(tracking_uri(released))
    assert client.get_model_version("fraud-detector", "1").tags["kind"] == "logistic_regression"
    card = read_card(released, 1)
    assert "It is logistic regression" in card
    assert "It passed, against chance" in card
    assert "| feature | source | mean absolute SHAP | unit | meaning |" in card


def test_drift_is_held_against_its_scores(released: Settings) -> None:
    bundle = Bundle.load(current_release(released.home))
    reference = make_reference(Lake(released.lake), bundle, seed=1)
    assert reference.release == "fraud-detector-1"
    assert reference.usual_score > 0


def test_it_decides_payments_and_each_is_explained_and_decided_again_without_a_difference(world: World) -> None:
    for number in range(PAYMENTS):
        user = USERS[number % len(USERS)] if number % 4 else f"stranger-{number}"
        changes = {"transaction_id": f"t-{number}", "user_id": user, "amount": round(1.37 ** (number / 2), 2)}
        answer = world.http.post("/v1/predict", json=payment(**changes)).json()
        assert answer["served_by"]["model"] == "champion", answer
        assert answer["model_version"] == "fraud-detector/1"
    scorer, models = Scorer(world.bundle), DecidingModels(world.settings.home)
    records = world.records()
    assert len(records) == PAYMENTS
    batch = scorer.score(np.stack([record.values for record in records]))
    for record, among_many in zip(records, batch, strict=True):
        assert record.scorer_hash == world.bundle.model_sha256
        assert score_again(record, models.of(record)) == (record.score, "champion")
        assert record.score == among_many
    assert len({record.score for record in records}) > PAYMENTS / 2
    assert any(np.isnan(record.values).any() for record in records), "strangers have nulls"

    told = world.http.post("/v1/explain", json={"transaction_id": "t-7"}).json()
    [record] = [record for record in records if record.request.transaction_id == "t-7"]
    assert told["score"] == pytest.approx(record.score, abs=1e-6)
    linear = world.bundle.fallback
    assert len(told["contributions"]) == 5
    for each in told["contributions"]:
        position = CATALOGUE.names.index(each["feature"])
        value = float(record.values[position])
        distance = math.copysign(math.log1p(abs(value)), value) - linear.fill[position]
        expected = linear.null_weights[position] if math.isnan(value) else linear.weights[position] * distance
        assert each["contribution"] == pytest.approx(expected, abs=1e-6)
    assert FEATURE_VALUE in record.values


def test_a_second_candidate_has_to_beat_it(released: Settings) -> None:
    lake = Lake(released.lake)
    other = released.model_copy(update={"seed": released.seed + 1})
    candidate = train_candidate(lake, other, kit.NOW)
    verdict = judge_candidate(lake, other, candidate)
    assert (verdict.promote, verdict.rival) == (False, "fraud-detector-1")
    assert "does not surely beat fraud-detector-1" in verdict.reasons[2]


def test_the_screen_says_who_decides_and_why(released: Settings) -> None:
    told = who_decides(released)
    assert told.startswith("fraud-detector-1 decides, logistic regression: logistic regression is taken, which is")
    assert "surely beats chance: AUC ROC" in told


def trained_by_dagster(home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    settings = settings_of(home)
    fields = {"home": home} | kit.TRAINING
    for name, value in (fields | {"history_start": kit.FIRST_DAY, "clock_file": home / "clock"}).items():
        monkeypatch.setenv(f"FRAUD_{name.upper()}", str(value))
    move_clock(home / "clock", int(kit.NOW.timestamp() * 1_000_000))
    with dg.DagsterInstance.ephemeral() as instance:
        bootstrap._train(settings, instance)
    return settings


def test_where_nothing_beats_chance_the_build_goes_on_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kit.write_history(Lake(settings_of(tmp_path).lake), mix=0.0, fraud_offset=-2.5)
    settings = trained_by_dagster(tmp_path, monkeypatch)
    told = capsys.readouterr().err
    assert "! No model decides yet, so the rules do. The gate passed none: " in told
    assert "does not surely beat chance: AUC ROC" in told
    assert "What helps: more days of history" in told
    assert who_decides(settings) in told


def test_where_nothing_can_be_trained_the_build_goes_on_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = Lake(settings_of(tmp_path).lake)
    kit.write_history(lake)
    kit.write_labels(lake, [])
    trained_by_dagster(tmp_path, monkeypatch)
    told = capsys.readouterr().err
    assert "! train, 2026-01-03 to 2026-01-10, has 0 known frauds among " in told
    assert "! No model decides yet, so the rules do. The platform stays up" in told


def test_what_breaks_otherwise_still_ends_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise MemoryError("no room for trees")

    monkeypatch.setattr(steps, "train_candidate", broken)
    with pytest.raises(bootstrap.BuildFailed, match="candidate_model"):
        trained_by_dagster(tmp_path, monkeypatch)
