"""Trees flattened into arrays and compiled: the margin of one vector in microseconds, held against XGBoost at load.

What belongs here: reading a booster's trees and walking them. What does not: calibration, which bundle (`bundle`).
XGBoost's own prediction costs a lone row hundreds of microseconds of set-up, which this walk does not have.
"""

import json
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Matrix = NDArray[np.float32]

TOLERANCE = 1e-5
"""Largest difference from XGBoost's margin, in log-odds, that is put down to the order of float32 sums."""

_PROBES = 512


class ForestError(RuntimeError):
    """The trees cannot be walked here, or the walk differs from XGBoost's prediction; the message says which."""


@njit(cache=True)
def _margins(vectors, roots, feature, threshold, left, right, missing, base, out):  # type: ignore[no-untyped-def]
    """Leaf: feature −1, its value in `threshold`. A null goes to `missing`; sums run in float32, as XGBoost's do."""
    for row in range(len(vectors)):
        vector = vectors[row]
        total = base
        for root in roots:
            node = root
            split = feature[node]
            while split >= 0:
                value = vector[split]
                if np.isnan(value):
                    node = missing[node]
                elif value < threshold[node]:
                    node = left[node]
                else:
                    node = right[node]
                split = feature[node]
            total += threshold[node]
        out[row] = total


class Forest:
    """A booster of numerical splits with one output in log-odds. Immutable, so any number of threads may share it."""

    def __init__(self, booster: Any) -> None:
        """booster: xgboost.Booster. Raises ForestError when it has parts that this walk does not know."""
        learner = json.loads(bytes(booster.save_raw("json")))["learner"]
        trees = _trees(learner)
        counts = np.array([len(tree["left_children"]) for tree in trees], np.int32)
        offsets = np.cumsum(counts, dtype=np.int32) - counts

        def stacked(name: str, dtype: Any) -> NDArray[Any]:
            return np.concatenate([np.asarray(tree[name], dtype) for tree in trees])

        shift = np.repeat(offsets, counts)
        left, right = stacked("left_children", np.int32), stacked("right_children", np.int32)
        leaf = left < 0
        self._roots = offsets
        self._feature = np.where(leaf, -1, stacked("split_indices", np.int32)).astype(np.int32)
        self._threshold = stacked("split_conditions", np.float32)
        self._left = np.where(leaf, 0, left + shift).astype(np.int32)
        self._right = np.where(leaf, 0, right + shift).astype(np.int32)
        self._missing = np.where(stacked("default_left", np.bool_), self._left, self._right).astype(np.int32)
        self._base = np.float32(_base_margin(learner))
        self._width = int(learner["learner_model_param"]["num_feature"])

    def margins(self, vectors: Matrix) -> NDArray[np.float32]:
        """Raw output in log-odds, float32 (n,), of vectors float32 (n, features), NaN for null."""
        if vectors.dtype != np.float32 or vectors.ndim != 2 or vectors.shape[1] != self._width:
            raise ValueError(f"vectors must be float32 (n, {self._width}), got {vectors.dtype} {vectors.shape}")
        out = np.empty(len(vectors), np.float32)
        nodes = self._feature, self._threshold, self._left, self._right, self._missing
        _margins(vectors, self._roots, *nodes, self._base, out)
        return out

    def probes(self, seed: int = 0) -> Matrix:
        """Vectors that hit thresholds exactly, fall just beside them, or are null: where two walks would differ."""
        random = np.random.default_rng(seed)
        vectors = random.normal(0, 1_000, (_PROBES, self._width)).astype(np.float32)
        for column in range(self._width):
            at = np.unique(self._threshold[self._feature == column])
            if len(at):
                picked = random.choice(at, _PROBES)
                beside = np.nextafter(picked, np.float32(-np.inf))
                vectors[:, column] = np.where(random.random(_PROBES) < 0.5, picked, beside)
        vectors[random.random(vectors.shape) < 0.15] = np.nan
        return vectors

    def verify(self, booster: Any) -> float:
        """The largest difference in margin from the booster's own prediction over `probes`. Raises ForestError."""
        vectors = self.probes()
        expected = booster.inplace_predict(vectors, predict_type="margin")
        worst = float(np.max(np.abs(self.margins(vectors) - expected)))
        # written so that a NaN is refused too
        if not worst <= TOLERANCE:
            raise ForestError(
                f"the compiled trees differ from XGBoost's prediction by {worst:g}, at most {TOLERANCE:g}"
            )
        return worst


def _trees(learner: dict[str, Any]) -> list[dict[str, Any]]:
    model = learner["gradient_booster"].get("model")
    objective = learner["objective"]["name"]
    if learner["gradient_booster"]["name"] != "gbtree" or model is None or objective != "binary:logistic":
        raise ForestError(
            f"only gbtree with binary:logistic is walked, not {learner['gradient_booster']['name']}, {objective}"
        )
    trees: list[dict[str, Any]] = model["trees"]
    if not trees:
        raise ForestError("the model has no trees")
    if any(tree.get("categories") for tree in trees):
        raise ForestError("categorical splits are not walked")
    return trees


def _base_margin(learner: dict[str, Any]) -> float:
    """base_score is a probability, written as a number or, since XGBoost 3, as a list of one."""
    probability = float(learner["learner_model_param"]["base_score"].strip("[]"))
    return float(np.log(probability / (1 - probability)))
