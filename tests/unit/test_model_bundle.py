"""A bundle is verified before it scores, and releases change in one step."""

import hashlib
import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost

from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.model import bundle as room
from fraud_platform.model.bundle import Bundle, BundleError, NoReleaseError, Scorer, current_release, publish
from fraud_platform.model.calibration import UNCALIBRATED
from fraud_platform.model.linear import LinearModel
from tests.model_kit import FALLBACK

WIDTH = len(CATALOGUE.names)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    random = np.random.default_rng(1)
    values = random.normal(size=(400, WIDTH)).astype(np.float32)
    values[random.random(values.shape) < 0.1] = np.nan
    return values


@pytest.fixture(scope="module")
def booster(vectors: np.ndarray) -> xgboost.Booster:
    noise = np.random.default_rng(2).normal(scale=0.5, size=len(vectors))
    labels = np.nan_to_num(vectors[:, 38]) + noise > 0.5
    matrix = xgboost.DMatrix(vectors, labels, feature_names=list(CATALOGUE.names), nthread=1)
    return xgboost.train({"objective": "binary:logistic", "max_depth": 3, "nthread": 1}, matrix, 12)


@pytest.fixture
def bundle(booster: xgboost.Booster) -> Bundle:
    model = bytes(booster.save_raw("ubj"))
    return Bundle(
        model_name="fraud-detector",
        version=7,
        catalogue_hash=CATALOGUE.hash,
        features=CATALOGUE.names,
        medians={source: [None, *[1.5] * (len(CATALOGUE.of(source)) - 1)] for source in ("user", "merchant")},
        calibration=UNCALIBRATED,
        fallback=FALLBACK,
        threshold=0.7,
        review_threshold=0.4,
        model_sha256=hashlib.sha256(model).hexdigest(),
        mlflow_run_id="run",
        dagster_run_id=None,
        data={"training_set": {"sha256": "abc"}},
        trained_at="2026-11-23T10:00:00+00:00",
        model=model,
    )


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:
    bundle.write(tmp_path / "candidate")
    return tmp_path / "candidate"


def change(folder: Path, **fields: Any) -> None:
    document = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(document | fields))


def test_a_bundle_comes_back_as_it_was_written(bundle: Bundle, folder: Path) -> None:
    assert Bundle.load(folder) == bundle


def test_an_altered_model_file_is_refused(folder: Path) -> None:
    model = bytearray((folder / "model.ubj").read_bytes())
    model[len(model) // 2] ^= 1
    (folder / "model.ubj").write_bytes(model)
    with pytest.raises(BundleError, match="SHA-256"):
        Bundle.load(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"catalogue_hash": "000000000000"}, "trained on catalogue 000000000000"),
        ({"features": [*CATALOGUE.names[:-1], "shoe_size"]}, "shoe_size"),
        ({"features": list(reversed(CATALOGUE.names))}, "another order"),
        ({"medians": {"user": [1.0], "merchant": [1.0]}}, "one median for each"),
        ({"threshold": "high"}, "threshold"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_bundle_that_does_not_fit_this_code_is_refused(folder: Path, fields: dict[str, Any], message: str) -> None:
    change(folder, **fields)
    with pytest.raises(BundleError, match=message):
        Bundle.load(folder)


@pytest.mark.parametrize("file", ["model.ubj", "bundle.json"])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(BundleError, match=file):
        Bundle.load(folder)


def test_a_file_that_is_no_model_is_refused_even_with_the_right_hash(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="no XGBoost model"):
        Scorer(replace(bundle, model=b"not a model"))


def test_a_model_of_other_features_is_refused(bundle: Bundle, vectors: np.ndarray) -> None:
    names = [*CATALOGUE.names[:-1], "shoe_size"]
    other = xgboost.train({"nthread": 1}, xgboost.DMatrix(vectors, vectors[:, 0] > 0, feature_names=names), 1)
    with pytest.raises(BundleError, match="other features"):
        Scorer(replace(bundle, model=bytes(other.save_raw("ubj"))))


def test_scores_are_those_of_the_trained_booster(bundle: Bundle, booster: xgboost.Booster, vectors: np.ndarray) -> None:
    expected = booster.predict(xgboost.DMatrix(vectors, feature_names=list(CATALOGUE.names)))
    scores = Scorer(bundle).score(vectors)
    assert scores.dtype == np.float64
    # XGBoost takes the sigmoid in float32
    np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(
        Scorer(bundle).margins(vectors), booster.inplace_predict(vectors, predict_type="margin")
    )
    assert np.unique(scores).size > 50


@pytest.mark.parametrize("wrong", [np.zeros((3, WIDTH)), np.zeros((3, 49), np.float32), np.zeros(WIDTH, np.float32)])
def test_another_shape_or_dtype_is_not_scored(bundle: Bundle, wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="float32"):
        Scorer(bundle).score(wrong)


def test_contributions_sum_to_the_margin_and_the_margin_to_the_score(bundle: Bundle, vectors: np.ndarray) -> None:
    scorer = Scorer(bundle)
    largest = []
    for vector in vectors[:20]:
        explanation = scorer.explain(vector)
        assert explanation.contributions.shape == (WIDTH,)
        assert explanation.base_value + explanation.contributions.sum() == pytest.approx(explanation.margin, abs=1e-5)
        assert 1 / (1 + np.exp(-explanation.margin)) == pytest.approx(explanation.score, abs=1e-6)
        assert explanation.score == scorer.score(vector[None, :])[0]
        largest.append(int(np.argmax(np.abs(explanation.contributions))))
    # the labels were made of feature 38
    assert np.bincount(largest).argmax() == 38


def test_logistic_regression_explains_itself_by_the_terms_of_its_sum(vectors: np.ndarray) -> None:
    random = np.random.default_rng(3)
    width = len(CATALOGUE.names)
    fill, weights, null_weights = (tuple(random.normal(size=width).tolist()) for _ in range(3))
    linear = LinearModel(fill=fill, weights=weights, null_weights=null_weights, intercept=-1.5)
    explained = 0
    for vector in vectors[:50]:
        found = linear.explain(vector)
        assert found.score == pytest.approx(float(linear.score(vector[None, :])[0]))
        assert found.base_value + found.contributions.sum() == pytest.approx(found.margin)
        assert 1 / (1 + np.exp(-found.margin)) == pytest.approx(found.score)
        for index in np.flatnonzero(np.isnan(vector)):
            assert found.contributions[index] == null_weights[index]
            explained += 1
    assert explained
    # a value that is the one nulls count as adds nothing
    ordinary = np.array([np.sign(f) * np.expm1(abs(f)) for f in fill], np.float32)
    assert np.abs(linear.explain(ordinary).contributions).max() < 1e-5


def test_without_a_release_the_error_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(NoReleaseError, match="make run"):
        current_release(tmp_path)


def test_publishing_puts_the_bundle_in_force_and_may_be_repeated(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert publish(home, folder) == publish(home, folder) == current_release(home)
    assert Bundle.load(current_release(home)) == bundle
    assert current_release(home).name == "fraud-detector-7"
    assert [path.name for path in (home / "releases").iterdir() if path.is_dir()] == ["fraud-detector-7"]


def test_an_older_release_can_come_back_into_force(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    replace(bundle, version=8).write(tmp_path / "next")
    publish(tmp_path, folder)
    publish(tmp_path, tmp_path / "next")
    assert current_release(tmp_path).name == "fraud-detector-8"
    publish(tmp_path, folder)
    assert current_release(tmp_path).name == "fraud-detector-7"


def test_a_release_is_never_rewritten(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    publish(tmp_path, folder)
    replace(bundle, threshold=0.9).write(tmp_path / "other")
    with pytest.raises(BundleError, match="never rewritten"):
        publish(tmp_path, tmp_path / "other")
    assert Bundle.load(current_release(tmp_path)) == bundle


def test_a_bundle_without_a_version_is_not_released(bundle: Bundle, tmp_path: Path) -> None:
    replace(bundle, version=0).write(tmp_path / "raw")
    with pytest.raises(BundleError, match="register"):
        publish(tmp_path, tmp_path / "raw")


def test_a_pointer_to_nothing_is_an_error_of_its_own(folder: Path, tmp_path: Path) -> None:
    publish(tmp_path, folder).rename(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="fraud-detector-7"):
        current_release(tmp_path)


def _die_at(step: int, home: Path, folder: Path) -> None:
    """Publish, and end the process before the `step`-th change of the file system."""
    import os

    calls = {"left": step}

    def deadly(method: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls["left"] -= 1
            if calls["left"] < 0:
                os._exit(9)
            return method(*args, **kwargs)

        return call

    room._write_durably = deadly(room._write_durably)
    Path.rename = deadly(Path.rename)  # type: ignore[method-assign]
    Path.replace = deadly(Path.replace)  # type: ignore[method-assign]
    publish(home, folder)


def test_killed_at_any_step_the_old_release_or_the_new_one_is_in_force(
    bundle: Bundle, folder: Path, tmp_path: Path
) -> None:
    replace(bundle, version=8).write(tmp_path / "next")
    publish(tmp_path, folder)
    context = multiprocessing.get_context("fork")
    codes, seen = [], []
    for step in range(6):
        process = context.Process(target=_die_at, args=(step, tmp_path, tmp_path / "next"))
        process.start()
        process.join()
        codes.append(process.exitcode)
        seen.append(Bundle.load(current_release(tmp_path)).version)
    assert codes[0] == 9
    assert codes[-1] == 0
    assert seen == sorted(seen)
    assert set(seen) == {7, 8}
    publish(tmp_path, tmp_path / "next")
    assert not list((tmp_path / "releases").glob(".*.tmp"))
