"""A logistic regression is a model like any other: its file is checked, it scores one as it scores many."""

import hashlib
import json
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fraud_platform.decision.serving_model import serving_model
from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.lake import Lake
from fraud_platform.model.baseline import fit_baseline
from fraud_platform.model.bundle import Bundle, BundleError, Scorer, current_release, publish
from fraud_platform.model.calibration import UNCALIBRATED, Calibration, NoOrderError, fit_calibration
from fraud_platform.model.data import Examples
from fraud_platform.model.kinds import KINDS, REGRESSION, XGBOOST
from fraud_platform.model.linear import LinearModel, signed_log1p
from fraud_platform.model.linear_file import read_linear, write_linear
from fraud_platform.model.report import report_text
from fraud_platform.model.steps import judge_candidate, train_candidate
from fraud_platform.model.ubjson import ModelFileError
from fraud_platform.settings import Settings
from tests import model_kit as kit
from tests.integration.service_kit import small_model

WIDTH = len(CATALOGUE.names)


def examples(seed: int = 1, rows: int = 4_000) -> Examples:
    """Heavy-tailed values, a tenth of them null; fraud by two of them and by whether a third is there."""
    random = np.random.default_rng(seed)
    vectors = np.exp(random.normal(1, 2, (rows, WIDTH))).astype(np.float32)
    vectors[random.random(vectors.shape) < 0.1] = np.nan
    odds = np.nan_to_num(signed_log1p(vectors[:, 0]) - signed_log1p(vectors[:, 1])) + 2 * np.isnan(vectors[:, 2]) - 3
    return Examples(vectors, random.random(rows) < 1 / (1 + np.exp(-odds)), np.zeros(rows, np.int32), 0)


@pytest.fixture(scope="module")
def data() -> Examples:
    return examples()


@pytest.fixture(scope="module")
def linear(data: Examples) -> LinearModel:
    return fit_baseline(data, seed=1)


@pytest.fixture(scope="module")
def bundle(linear: LinearModel) -> Bundle:
    model = write_linear(linear)
    return Bundle(
        model_name="fraud-detector", version=7, catalogue_hash=CATALOGUE.hash, features=CATALOGUE.names,
        medians=kit.MEDIANS, calibration=Calibration(slope=0.9, intercept=-0.2), kind=REGRESSION, fallback=linear,
        threshold=0.7, review_threshold=0.4, model_sha256=hashlib.sha256(model).hexdigest(), mlflow_run_id=None,
        dagster_run_id=None, data={}, trained_at="2026-11-23T10:00:00+00:00", model=model,
    )  # fmt: skip


def test_its_numbers_are_what_a_pipeline_of_scikit_learn_says(data: Examples, linear: LinearModel) -> None:
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    imputer = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    regression = make_pipeline(imputer, StandardScaler(), LogisticRegression(max_iter=200, random_state=1))
    regression.fit(signed_log1p(data.vectors), data.is_fraud)
    unseen = examples(seed=2, rows=500).vectors
    read = read_linear(write_linear(linear), WIDTH)
    np.testing.assert_allclose(read.score(unseen), regression.predict_proba(signed_log1p(unseen))[:, 1], rtol=1e-9)


def test_its_file_keeps_every_bit_and_equal_models_give_equal_bytes(linear: LinearModel) -> None:
    payload = write_linear(linear)
    assert read_linear(payload, WIDTH) == linear
    assert write_linear(read_linear(payload, WIDTH)) == payload


def test_one_payment_gets_the_bits_that_it_gets_among_many_however_they_lie_in_memory(
    bundle: Bundle, linear: LinearModel
) -> None:
    vectors = examples(seed=3, rows=1_001).vectors
    serving = serving_model(bundle)
    alone = np.array([serving.probability(vector) for vector in vectors])
    for together in (vectors, np.asfortranarray(vectors), np.repeat(vectors, 2, axis=0)[::2]):
        np.testing.assert_array_equal(serving.scorer.score(together), alone)
    fallback = np.array([serving.fallback_probability(vector) for vector in vectors])
    np.testing.assert_array_equal(linear.score(vectors), fallback)
    explained = np.array([serving.rung("champion").explain(vector).score for vector in vectors[:50]])
    np.testing.assert_array_equal(explained, alone[:50])


def test_its_contributions_are_weights_times_distance_from_the_ordinary_and_add_up(
    bundle: Bundle, linear: LinearModel
) -> None:
    vectors = examples(seed=4, rows=200).vectors
    vectors[0] = np.nan
    found = Scorer(bundle).contributions(vectors)
    for row, vector in zip(found[:20], vectors, strict=False):
        for column, value in enumerate(vector):
            distance = np.sign(value) * np.log1p(abs(float(value))) - linear.fill[column]
            expected = linear.null_weights[column] if np.isnan(value) else linear.weights[column] * distance
            assert row[column] == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), Scorer(bundle).margins(vectors), rtol=0, atol=1e-9)
    assert len(set(found[:, -1])) == 1, "one base value"


def test_a_released_bundle_is_read_back_with_its_kind(bundle: Bundle, tmp_path: Path) -> None:
    bundle.write(tmp_path / "bundle")
    publish(tmp_path, tmp_path / "bundle")
    assert Bundle.load(current_release(tmp_path)) == bundle
    assert json.loads((current_release(tmp_path) / "bundle.json").read_text())["kind"] == "logistic_regression"


def test_a_bundle_from_before_kinds_holds_trees(bundle: Bundle, tmp_path: Path) -> None:
    bundle.write(tmp_path)
    document = json.loads((tmp_path / "bundle.json").read_text())
    del document["kind"]
    (tmp_path / "bundle.json").write_text(json.dumps(document))
    (tmp_path / "SHA256SUMS").unlink()
    with pytest.raises(BundleError, match=r"model\.ubj is no XGBoost model of this platform"):
        Bundle.load(tmp_path)
    (tmp_path / "bundle.json").write_text(json.dumps(document | {"kind": "oracle"}))
    with pytest.raises(BundleError, match="oracle"):
        Bundle.load(tmp_path)


def with_file(bundle: Bundle, model: bytes) -> Bundle:
    return replace(bundle, model=model, model_sha256=hashlib.sha256(model).hexdigest())


def changed(linear: LinearModel, name: str, number: float) -> bytes:
    """The file with one number of a list replaced, which `LinearModel` itself may refuse."""
    first = linear.intercept if name == "intercept" else getattr(linear, name)[0]
    payload = write_linear(linear)
    at = payload.index(struct.pack(">d", first), payload.index(name.encode() + b"[$D#L"))
    return payload[:at] + struct.pack(">d", number) + payload[at + 8 :]


@pytest.mark.parametrize("name", ["fill", "weights", "null_weights", "intercept"])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), 1e39])
def test_a_number_that_is_none_or_too_large_is_refused_by_name(
    bundle: Bundle, linear: LinearModel, name: str, number: float
) -> None:
    with pytest.raises(BundleError, match=rf"logistic_regression\.{name} holds a number"):
        with_file(bundle, changed(linear, name, number)).verify("here")


def test_a_file_of_another_width_or_kind_is_refused(bundle: Bundle, linear: LinearModel) -> None:
    narrow = LinearModel(fill=(0.0,), weights=(1.0,), null_weights=(0.0,), intercept=0.0)
    with pytest.raises(BundleError, match=rf"fill should hold {WIDTH} float64 numbers"):
        with_file(bundle, write_linear(narrow)).verify("here")
    with pytest.raises(BundleError, match="is no XGBoost model of this platform"):
        replace(bundle, kind=XGBOOST).verify("here")
    with pytest.raises(BundleError, match="SHA-256"):
        replace(bundle, model=write_linear(linear)[:-1]).verify("here")


def test_no_change_of_its_bytes_is_more_than_refused(bundle: Bundle) -> None:
    """What still is a model scores finite probabilities, whatever its numbers are."""
    random = np.random.default_rng(5)
    vectors = examples(seed=5, rows=20).vectors
    refused = 0
    for _ in range(1_000):
        payload = bytearray(bundle.model)
        for at in random.integers(0, len(payload), random.integers(1, 4)):
            payload[at] = random.integers(0, 256)
        cut = len(payload) if random.random() < 0.7 else random.integers(0, len(payload))
        try:
            KINDS[REGRESSION].check(bytes(payload[:cut]), WIDTH)
        except ModelFileError:
            refused += 1
        else:
            scores = Scorer(with_file(bundle, bytes(payload[:cut]))).score(vectors)
            assert ((scores >= 0) & (scores <= 1)).all()
    assert 300 < refused < 1_000


@pytest.mark.parametrize("shape", [(0,), (1,), (1_000,)])
def test_probabilities_are_one_by_one_those_of_one_margin(shape: tuple[int]) -> None:
    margins = np.random.default_rng(1).normal(0, 5, shape)
    map_ = Calibration(slope=1.1, intercept=-0.3)
    np.testing.assert_array_equal(map_.probabilities(margins), [map_.probability(one) for one in margins])


def test_margins_that_say_nothing_have_no_map() -> None:
    margins = np.linspace(-1, 1, 100)
    with pytest.raises(NoOrderError, match="rank fraud no higher than good"):
        fit_calibration(margins < 0, margins)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("kinds")
    return Settings(home=home, **kit.TRAINING)


def test_where_the_truth_is_a_sum_logistic_regression_is_the_candidate_and_passes(settings: Settings) -> None:
    lake = Lake(settings.lake)
    kit.write_history(lake, additive=True, seed=2)
    candidate = train_candidate(lake, settings, kit.NOW)
    evaluation = candidate.record.evaluation
    assert (evaluation.kind, evaluation.other_kind) == (candidate.bundle.kind, XGBOOST) == (REGRESSION, XGBOOST)
    assert evaluation.comparison.average_precision_gain.value > 0
    assert read_linear(candidate.bundle.model, WIDTH) == candidate.bundle.fallback
    strongest = {name for name, _ in candidate.record.features[:2]}
    assert strongest == {CATALOGUE.names[kit.FIRST], CATALOGUE.names[kit.SECOND]}
    assert candidate.record.calibration != UNCALIBRATED
    # folds of a few days calibrate roughly
    assert 0.5 < evaluation.calibration.mean_score / (evaluation.frauds / evaluation.rows) < 2
    assert "| on the holdout | logistic regression | XGBoost |" in report_text(candidate.record)
    figures = candidate.metrics
    assert figures["baseline_average_precision"] == figures["average_precision"]
    verdict = judge_candidate(lake, settings, candidate)
    assert verdict.promote, verdict.reasons
    assert verdict.reasons[0].startswith("logistic regression is taken")

    # a champion that decides by features that are not computed here is compared on live payments alone
    later = replace(CATALOGUE.features[CATALOGUE.position["user_merchants_30d"]], name="user_merchants_7d", window="7d")
    wider = Catalogue((*CATALOGUE.of("user"), later, *CATALOGUE.features[len(CATALOGUE.of("user")) :]))
    data = {"split": {"training_cut": "2020-01-01"}}
    _, champion = small_model(version=1, seed=1, deciding=later.name, catalogue=wider, data=data)
    champion.write(settings.home / "wider")
    publish(settings.home, settings.home / "wider")
    verdict = judge_candidate(lake, settings, candidate)
    assert verdict.promote, verdict.reasons
    assert verdict.reasons[0].startswith("WARNING: not compared with fraud-detector-1")
    assert "['user_merchants_7d']" in verdict.reasons[0]
    shutil.rmtree(settings.home / "releases")


def test_where_nothing_predicts_a_candidate_is_made_and_refused(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, **kit.TRAINING)
    lake = Lake(settings.lake)
    kit.write_history(lake, mix=0.0, fraud_offset=-2.5)
    candidate = train_candidate(lake, settings, kit.NOW)
    verdict = judge_candidate(lake, settings, candidate)
    assert not verdict.promote
    assert "does not surely beat chance" in verdict.reasons[1]
