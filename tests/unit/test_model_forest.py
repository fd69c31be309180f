"""The compiled walk of the trees: what XGBoost itself predicts, also at thresholds and for nulls."""

import json
from typing import Any

import numpy as np
import pytest
import xgboost

from fraud_platform.model.forest import TOLERANCE, Forest, ForestError

WIDTH = 7


def booster(rounds: int = 40, depth: int = 5, seed: int = 1, **parameters: Any) -> xgboost.Booster:
    random = np.random.default_rng(seed)
    vectors = random.lognormal(3, 2, (3_000, WIDTH)).astype(np.float32)
    vectors[random.random(vectors.shape) < 0.2] = np.nan
    labels = np.nan_to_num(vectors[:, 0]) * np.nan_to_num(vectors[:, 1]) + random.normal(0, 50, 3_000) > 1_000
    matrix = xgboost.DMatrix(vectors, labels)
    given = {"objective": "binary:logistic", "max_depth": depth, "nthread": 1, "seed": seed} | parameters
    return xgboost.train(given, matrix, rounds)


@pytest.mark.parametrize(("rounds", "depth"), [(1, 1), (40, 5), (200, 6)])
@pytest.mark.parametrize("base_score", [None, 0.004])
def test_margins_are_xgboosts(rounds: int, depth: int, base_score: float | None) -> None:
    given = {} if base_score is None else {"base_score": base_score}
    model = booster(rounds, depth, **given)
    forest = Forest(model)
    vectors = np.random.default_rng(9).lognormal(3, 3, (2_000, WIDTH)).astype(np.float32)
    vectors[::3, 2] = np.nan
    vectors[0] = np.nan
    expected = model.inplace_predict(vectors, predict_type="margin")
    np.testing.assert_allclose(forest.margins(vectors), expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(forest.margins(vectors[5:6]), forest.margins(vectors)[5:6])
    assert forest.verify(model) <= TOLERANCE


def test_probes_lie_on_both_sides_of_thresholds() -> None:
    model = booster()
    trees = json.loads(bytes(model.save_raw("json")))["learner"]["gradient_booster"]["model"]["trees"]
    at = {
        np.float32(condition)
        for tree in trees
        for condition, index, left in zip(
            tree["split_conditions"], tree["split_indices"], tree["left_children"], strict=True
        )
        if left >= 0 and index == 0
    }
    first = Forest(model).probes()[:, 0]
    assert np.isin(first, list(at)).any()
    assert np.isin(first, [np.nextafter(value, np.float32(-np.inf)) for value in at]).any()
    assert np.isnan(first).any()


def test_a_walk_that_is_wrong_is_refused() -> None:
    model = booster()
    forest = Forest(model)
    assert forest._nodes["null_right"].any()
    forest._nodes["null_right"] = False
    with pytest.raises(ForestError, match="differ from XGBoost"):
        forest.verify(model)


def test_a_split_on_a_feature_that_there_is_not_is_refused() -> None:
    document = json.loads(bytes(booster().save_raw("json")))
    tree = next(t for t in document["learner"]["gradient_booster"]["model"]["trees"] if t["left_children"][0] >= 0)
    for beyond in (7_000_000, 70_000, 60_000, -1):
        tree["split_indices"][0] = beyond
        with pytest.raises(ForestError, match="beyond"):
            Forest(_Saved(json.dumps(document).encode()))


class _Saved:
    """What is read of a booster."""

    def __init__(self, payload: bytes) -> None:
        self.save_raw = lambda _: payload


def test_another_models_trees_are_refused() -> None:
    with pytest.raises(ForestError, match="differ"):
        Forest(booster(seed=1)).verify(booster(seed=2))


def test_what_cannot_be_walked_is_said() -> None:
    with pytest.raises(ForestError, match="gblinear"):
        Forest(booster(booster="gblinear"))
    with pytest.raises(ForestError, match="reg:squarederror"):
        Forest(booster(objective="reg:squarederror"))


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, WIDTH)), np.zeros((2, WIDTH + 1), np.float32), np.zeros(WIDTH, np.float32)]
)
def test_another_shape_or_dtype_is_not_scored(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="float32"):
        Forest(booster(2)).margins(wrong)
