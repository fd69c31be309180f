"""Trees flattened into arrays and compiled: the margin of one vector in microseconds, held against XGBoost at load.

What belongs here: reading a booster's trees and walking them. What does not: calibration, which bundle (`bundle`).
XGBoost's own prediction costs a lone row hundreds of microseconds of set-up, which this walk does not have.
"""

import json
from itertools import count
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Matrix = NDArray[np.float32]

TOLERANCE = 1e-5
"""Largest difference from XGBoost's margin, in log-odds, that is put down to the order of float32 sums."""

_PROBES = 512
_TOGETHER = 16
"""Trees walked side by side: so many chains of dependent reads keep a core busy, and a fixed number is unrolled."""

_NODE = np.dtype(
    [("threshold", np.float32), ("left", np.int32), ("feature", np.uint16), ("null_right", np.bool_)], align=True
)
"""Twelve bytes: a step reads one line of the cache, and a forest of 500 trees stays in a core's own."""


class ForestError(RuntimeError):
    """The trees cannot be walked here, or the walk differs from XGBoost's prediction; the message says which."""


@njit(cache=True)
def _margins(vectors, nodes, value, depths, base, out):  # type: ignore[no-untyped-def]
    """Tree t begins at node t, and right is the node after left. Sums run in float32 and in order, as XGBoost's do.

    A leaf leads to itself, so that a tree can be walked as deep as the deepest beside it: no branch depends on a
    vector, and a processor that guesses branches guesses none wrong. Lanes without a tree walk the last one again.
    """
    at = np.empty(_TOGETHER, np.int32)
    trees = len(depths)
    for row in range(len(vectors)):
        vector = vectors[row]
        total = base
        for first in range(0, trees, _TOGETHER):
            count = min(_TOGETHER, trees - first)
            for k in range(_TOGETHER):
                at[k] = min(first + k, trees - 1)
            for _ in range(depths[first : first + count].max()):
                for k in range(_TOGETHER):
                    node = nodes[at[k]]
                    given = vector[node.feature]
                    right = (given >= node.threshold) | (np.isnan(given) & node.null_right)
                    at[k] = node.left + np.int32(right)
            for k in range(count):
                total += value[at[k]]
        out[row] = total


class Forest:
    """A booster of numerical splits with one output in log-odds. Immutable, so any number of threads may share it."""

    def __init__(self, booster: Any) -> None:
        """booster: xgboost.Booster. Raises ForestError when it has parts that this walk does not know."""
        learner = json.loads(bytes(booster.save_raw("json")))["learner"]
        trees = _trees(learner)
        counts = np.array([len(tree["left_children"]) for tree in trees], np.int32)
        roots = np.cumsum(counts, dtype=np.int32) - counts
        shift = np.repeat(roots, counts)

        def stacked(name: str, dtype: Any) -> NDArray[Any]:
            return np.concatenate([np.asarray(tree[name], dtype) for tree in trees])

        children = stacked("left_children", np.int32)
        splits = np.flatnonzero(children >= 0)
        left, right = children + shift, stacked("right_children", np.int32) + shift
        self._depths = _depths(roots, left, right, splits, np.repeat(np.arange(len(trees)), counts))
        self._width = int(learner["learner_model_param"]["num_feature"])
        seen = stacked("split_indices", np.int64)[splits]
        if ((seen < 0) | (seen >= min(self._width, np.iinfo(np.uint16).max))).any():
            # the walk checks no bounds
            raise ForestError(f"a tree splits on a feature beyond the {self._width} that there are")
        # every node behind its parent: roots first, then the two children of each split
        place = np.full(len(left), -1, np.int32)
        place[roots] = np.arange(len(roots))
        place[left[splits]] = len(roots) + 2 * np.arange(len(splits))
        place[right[splits]] = place[left[splits]] + 1
        used = np.flatnonzero(place >= 0)
        self._value = np.zeros(len(used), np.float32)
        self._value[place[used]] = stacked("split_conditions", np.float32)[used]
        self._nodes = np.zeros(len(used), _NODE)
        self._nodes["left"] = np.arange(len(used))
        # no number is at or above NaN: a leaf is never left
        self._nodes["threshold"] = np.nan
        at = place[splits]
        self._nodes["left"][at] = place[left[splits]]
        self._nodes["feature"][at] = seen
        self._nodes["threshold"][at] = self._value[at]
        self._nodes["null_right"][at] = ~stacked("default_left", np.bool_)[splits]
        self._base = np.float32(_base_margin(learner))

    def margins(self, vectors: Matrix) -> NDArray[np.float32]:
        """Raw output in log-odds, float32 (n,), of vectors float32 (n, features), NaN for null."""
        if vectors.dtype != np.float32 or vectors.ndim != 2 or vectors.shape[1] != self._width:
            raise ValueError(f"vectors must be float32 (n, {self._width}), got {vectors.dtype} {vectors.shape}")
        out = np.empty(len(vectors), np.float32)
        _margins(vectors, self._nodes, self._value, self._depths, self._base, out)
        return out

    def probes(self, seed: int = 0) -> Matrix:
        """Vectors that hit thresholds exactly, fall just beside them, or are null: where two walks would differ."""
        random = np.random.default_rng(seed)
        vectors = random.normal(0, 1_000, (_PROBES, self._width)).astype(np.float32)
        for column in range(self._width):
            threshold = self._nodes["threshold"]
            at = np.unique(threshold[(self._nodes["feature"] == column) & np.isfinite(threshold)])
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


def _depths(
    roots: NDArray[np.int32],
    left: NDArray[np.int32],
    right: NDArray[np.int32],
    splits: NDArray[np.intp],
    tree: NDArray[np.intp],
) -> NDArray[np.int32]:
    """Steps from each root to its deepest leaf. tree: the number of each node's tree."""
    depths = np.zeros(len(roots), np.int32)
    is_split = np.zeros(len(left), np.bool_)
    is_split[splits] = True
    nodes = roots[is_split[roots]]
    for depth in count(1):
        if not len(nodes):
            return depths
        depths[tree[nodes]] = depth
        children = np.concatenate([left[nodes], right[nodes]])
        nodes = children[is_split[children]]
    raise AssertionError("unreachable: trees end")


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
