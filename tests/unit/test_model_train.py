"""A trained candidate: learned, reproducible, and measured as what was planted allows."""

import hashlib
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from scipy.special import expit

from fraud_platform.decision.policy_change import PolicyChange, change_policy
from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.features.label_rules import LabelRules
from fraud_platform.lake import Lake
from fraud_platform.model import steps
from fraud_platform.model.baseline import fit_baseline
from fraud_platform.model.bundle import Bundle, Scorer
from fraud_platform.model.candidate import Candidate
from fraud_platform.model.data import Examples, load_holdout
from fraud_platform.model.linear import signed_log1p
from fraud_platform.model.plots import reliability
from fraud_platform.model.report import report_markdown
from fraud_platform.model.search import WEIGHT_EXPONENTS
from fraud_platform.model.steps import train_candidate
from fraud_platform.model.train import DEFAULTS, MAX_ROUNDS, grow, margins
from fraud_platform.settings import Settings
from tests import model_kit as kit

WIDTH = len(CATALOGUE.names)
SEARCHED = kit.TRAINING | {"search_trials": len(WEIGHT_EXPONENTS) + 1}
"""The last set of parameters is one that Optuna drew."""


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    kit.write_history(lake)
    return lake


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def trained_settings(home: Path) -> Settings:
    return Settings(home=home, **SEARCHED)


@pytest.fixture(scope="module")
def candidate(lake: Lake, trained_settings: Settings) -> Candidate:
    return train_candidate(lake, trained_settings, kit.NOW)


def examples(rows: int, seed: int, rate: float = 0.1) -> Examples:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(rows, WIDTH)).astype(np.float32)
    fraud = vectors[:, 0] * vectors[:, 1] + random.normal(scale=0.5, size=rows) > np.quantile(vectors[:, 0], 1 - rate)
    return Examples(vectors, fraud, np.zeros(rows, np.int32), 0)


def test_the_candidate_beats_logistic_regression_where_only_trees_can(candidate: Candidate) -> None:
    comparison = candidate.record.evaluation.comparison
    assert comparison.candidate.auc.value > 0.75
    assert comparison.average_precision_gain.low > 0
    assert 0.4 < comparison.reference.auc.value < 0.65


def test_the_measured_model_is_the_one_in_the_folder(candidate: Candidate, lake: Lake) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    holdout = load_holdout(lake, candidate.record.split, LabelRules())
    scores = Scorer(Bundle.load(candidate.folder)).score(holdout.vectors)
    ranking = candidate.record.evaluation.comparison.candidate
    assert ranking.auc.value == pytest.approx(roc_auc_score(holdout.is_fraud, scores))
    assert ranking.average_precision.value == pytest.approx(average_precision_score(holdout.is_fraud, scores))
    assert candidate.record.evaluation.rows == len(holdout) == 5 * kit.ROWS_PER_DAY


def test_candidate_and_baseline_learn_from_the_same_days(
    candidate: Candidate, lake: Lake, trained_settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[int] = []

    def fit(learned_from: Examples, seed: int) -> Any:
        seen.append(len(learned_from))
        raise InterruptedError

    monkeypatch.setattr(steps, "fit_baseline", fit)
    with pytest.raises(InterruptedError):
        train_candidate(lake, trained_settings.model_copy(update={"home": tmp_path, "search_trials": 1}), kit.NOW)
    # 8 days of training and 3 of validation
    assert seen == [candidate.record.train_rows] == [11 * kit.ROWS_PER_DAY]


def test_a_training_measures_at_the_thresholds_of_the_policy_in_force(
    lake: Lake, trained_settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[tuple[float, float]] = []

    def fingerprint(settings: Settings, *_: Any) -> str:
        seen.append((settings.threshold, settings.review_threshold))
        raise InterruptedError

    monkeypatch.setattr(steps, "fingerprint", fingerprint)
    home = trained_settings.model_copy(update={"home": tmp_path})
    change_policy(home, PolicyChange(why="test", threshold=0.65, review_threshold=0.3), "test", kit.NOW)
    with pytest.raises(InterruptedError):
        train_candidate(lake, home, kit.NOW)
    assert seen == [(0.65, 0.3)]


def test_the_bundle_carries_what_serving_needs(candidate: Candidate, trained_settings: Settings) -> None:
    bundle = candidate.bundle
    assert bundle.features == CATALOGUE.names
    assert bundle.medians["user"][0] == 23.0
    assert (bundle.threshold, bundle.review_threshold) == (0.7, 0.4)
    assert bundle.data["split"]["training_cut"] == candidate.record.split.training_cut.isoformat()
    assert bundle.data["tables"] == candidate.record.data
    assert bundle.trained_at == kit.NOW.isoformat()
    booster = xgboost.Booster(model_file=str(candidate.folder / "model.ubj"))
    assert tuple(booster.feature_names) == CATALOGUE.names
    assert booster.num_boosted_rounds() == candidate.record.search.rounds < MAX_ROUNDS


def test_the_same_data_and_seed_give_the_same_bytes_in_every_file(
    candidate: Candidate, lake: Lake, tmp_path: Path
) -> None:
    other = train_candidate(lake, Settings(home=tmp_path, **SEARCHED), kit.NOW)
    assert other.fingerprint == candidate.fingerprint
    files = [path.relative_to(candidate.folder) for path in candidate.folder.rglob("*") if path.is_file()]
    assert len(files) == 10
    for file in files:
        assert (other.folder / file).read_bytes() == (candidate.folder / file).read_bytes(), file


def test_the_seed_decides_the_model_and_the_number_of_threads_does_not(settings: Settings) -> None:
    learned = examples(400, seed=1)

    def model(**fields: int) -> bytes:
        given = settings.model_copy(update=fields)
        return bytes(grow(learned, DEFAULTS, given, kit.MEDIANS, rounds=30).booster.save_raw("ubj"))

    assert model(training_threads=1) == model(training_threads=2)
    assert model(training_threads=1) != model(training_threads=1, seed=7)


def test_a_candidate_that_is_there_is_not_trained_again(
    candidate: Candidate, lake: Lake, trained_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(steps, "grow", fail)
    again = train_candidate(lake, trained_settings, kit.NOW + timedelta(hours=2))
    assert again.fingerprint == candidate.fingerprint
    assert again.bundle == candidate.bundle


def test_changed_labels_windows_thresholds_and_seed_each_make_another_candidate(
    candidate: Candidate, trained_settings: Settings, lake: Lake
) -> None:
    record = candidate.record
    known = {candidate.fingerprint}
    stricter = trained_settings.model_copy(update={"threshold": 0.6})
    labels = {**record.data, "fraud_labels": {**record.data["fraud_labels"], "sha256": "0"}}
    known.add(steps.fingerprint(stricter, record.split, record.data, CATALOGUE))
    known.add(steps.fingerprint(trained_settings.model_copy(update={"seed": 7}), record.split, record.data, CATALOGUE))
    known.add(steps.fingerprint(trained_settings, record.split, labels, CATALOGUE))
    known.add(steps.fingerprint(trained_settings, replace(record.split, holdout_days=4), record.data, CATALOGUE))
    known.add(steps.fingerprint(trained_settings, record.split, record.data, Catalogue(CATALOGUE.features[:-1])))
    assert len(known) == 6
    assert steps.fingerprint(trained_settings, record.split, record.data, CATALOGUE) == candidate.fingerprint


def test_late_labels_leave_the_model_as_it_was(candidate: Candidate, tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    labels = kit.write_history(lake)
    split = candidate.record.split
    late = kit.midnight(split.training_cut)
    known = {row["transaction_id"] for row in labels}
    planted = [
        kit.label(f"t-{n}-{i}", kit.FIRST_DAY + timedelta(days=n), late)
        for n in range(13)
        for i in range(kit.ROWS_PER_DAY)
        if f"t-{n}-{i}" not in known
    ]
    kit.write_labels(lake, labels + planted)
    other = train_candidate(lake, Settings(home=tmp_path, **SEARCHED), kit.NOW)
    assert other.bundle.model_sha256 == candidate.bundle.model_sha256
    assert other.fingerprint != candidate.fingerprint


def test_growing_stops_before_it_learns_noise(settings: Settings) -> None:
    from sklearn.metrics import average_precision_score

    stopped = grow(
        examples(1_500, seed=1), DEFAULTS, one_thread(settings), kit.MEDIANS,
        rounds=MAX_ROUNDS, validation=examples(600, seed=2),
    )  # fmt: skip
    assert 1 < stopped.rounds < stopped.booster.num_boosted_rounds() < MAX_ROUNDS
    unseen = examples(600, seed=3)
    first = stopped.booster.inplace_predict(unseen.vectors, iteration_range=(0, 1))
    best = average_precision_score(unseen.is_fraud, margins(stopped, unseen))
    assert best > average_precision_score(unseen.is_fraud, first)
    assert best > 0.3


def one_thread(settings: Settings) -> Settings:
    """Tiny data is slower on many threads than on one."""
    return settings.model_copy(update={"training_threads": 1})


def test_a_fraud_weighs_by_the_power_of_the_classes_ratio(settings: Settings) -> None:
    data = examples(2_000, seed=1, rate=0.05)
    rare = data.is_fraud.mean()

    def mean_score(exponent: float) -> float:
        given = DEFAULTS | {"positive_weight_exponent": exponent}
        return float(expit(margins(grow(data, given, one_thread(settings), kit.MEDIANS, rounds=60), data)).mean())

    assert mean_score(0.0) == pytest.approx(rare, rel=0.3)
    assert mean_score(0.0) < mean_score(0.5) < mean_score(1.0)


def test_a_column_that_is_never_known_is_no_obstacle(settings: Settings) -> None:
    data = examples(1_000, seed=1)
    data.vectors[:, 5] = np.nan
    assert np.isfinite(margins(grow(data, DEFAULTS, one_thread(settings), kit.MEDIANS, rounds=20), data)).all()
    assert np.isfinite(fit_baseline(data, seed=1).score(data.vectors)).all()


def test_shuffled_labels_teach_nothing(settings: Settings) -> None:
    """A leak in how windows, weights or folds are made would show as an AUC above chance."""
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(5)
    learned, unseen = examples(12_000, seed=1), examples(12_000, seed=2)
    shuffled = replace(learned, is_fraud=random.permutation(learned.is_fraud))
    grown = grow(shuffled, DEFAULTS, one_thread(settings), kit.MEDIANS, rounds=40)
    assert roc_auc_score(random.permutation(unseen.is_fraud), margins(grown, unseen)) == pytest.approx(0.5, abs=0.02)
    honest = grow(learned, DEFAULTS, one_thread(settings), kit.MEDIANS, rounds=40)
    assert roc_auc_score(unseen.is_fraud, margins(honest, unseen)) > 0.7


def test_the_exported_regression_is_the_pipelines(settings: Settings) -> None:
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    data = examples(1_500, seed=4)
    data.vectors[::7, 3] = np.nan
    pipeline = make_pipeline(
        FunctionTransformer(signed_log1p),
        SimpleImputer(strategy="median", add_indicator=True),
        StandardScaler(),
        LogisticRegression(max_iter=200, random_state=1),
    ).fit(data.vectors, data.is_fraud)
    expected = pipeline.predict_proba(data.vectors)[:, 1]
    np.testing.assert_allclose(fit_baseline(data, seed=1).score(data.vectors), expected, atol=1e-9)


def test_the_baselines_transform_keeps_sign_order_and_null() -> None:
    values = np.array([[-100, -1, 0, 1, 100, np.nan]], np.float32)
    transformed = signed_log1p(values)[0]
    np.testing.assert_allclose(transformed[:5], [-np.log(101), -np.log(2), 0, np.log(2), np.log(101)], rtol=1e-6)
    assert np.isnan(transformed[5])


def test_calibration_groups_hold_equally_many_frauds() -> None:
    random = np.random.default_rng(1)
    scores = random.random(20_000) ** 4
    fraud = random.random(20_000) < scores
    mean, share = reliability(fraud, scores)
    assert len(mean) == 10
    assert (np.diff(mean) > 0).all()
    np.testing.assert_allclose(share, mean, rtol=0.15)


def test_the_report_shows_figures_days_and_pictures(candidate: Candidate) -> None:
    report = report_markdown(candidate)
    evaluation = candidate.record.evaluation
    assert f"{evaluation.comparison.candidate.average_precision.value:.4f}" in report
    assert " to ".join(candidate.record.split.describe()["holdout"]) in report
    assert report.count("data:image/png;base64,") == 6
    assert all(picture.startswith(b"\x89PNG") and len(picture) < 60_000 for picture in candidate.plots.values())


def test_metrics_are_flat_finite_and_agree_with_the_record(candidate: Candidate) -> None:
    metrics = candidate.metrics
    evaluation = candidate.record.evaluation
    assert metrics["average_precision"] == evaluation.comparison.candidate.average_precision.value
    assert metrics["holdout_fraud_rate"] == pytest.approx(evaluation.frauds / evaluation.rows)
    assert all(isinstance(value, float) and np.isfinite(value) for value in metrics.values())
    assert json.loads((candidate.folder / "candidate.json").read_text())["fingerprint"] == candidate.fingerprint
    assert hashlib.sha256((candidate.folder / "model.ubj").read_bytes()).hexdigest() == candidate.bundle.model_sha256


def test_a_short_history_trains_with_shrunken_windows_and_says_so(lake: Lake, tmp_path: Path) -> None:
    short = Settings(home=tmp_path, training_threads=1, search_trials=1)
    candidate = train_candidate(lake, short, kit.NOW)
    assert candidate.record.split.shrunk
    assert "shrunk" in report_markdown(candidate)
    assert len(lake.days(tables.TRAINING_SET)) == kit.DAYS
