"""Boosted trees as XGBoost itself runs them, for many payments at once, for explanations and for MLflow.

What belongs here: a booster on one thread. What does not: growing one (`train`), one payment in microseconds
(`forest`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fraud_platform.model.ubjson import ModelFileError

if TYPE_CHECKING:
    from fraud_platform.model.forest import Forest  # which imports numba

Matrix = NDArray[np.float32]
Floats = NDArray[np.float64]


class Trees:
    """A booster on one thread: OpenMP costs a server more than it gives. May be shared by Python threads."""

    def __init__(self, payload: bytes, features: Sequence[str]) -> None:
        """payload: a model file that was checked. Raises ModelFileError."""
        import xgboost

        self._xgboost = xgboost
        self.booster = xgboost.Booster({"nthread": 1})
        """xgboost.Booster; not to be changed."""
        try:
            self.booster.load_model(bytearray(payload))
        except xgboost.core.XGBoostError as error:
            raise ModelFileError("is no XGBoost model") from error
        # loading replaces the parameters given above
        self.booster.set_param({"nthread": 1})
        if tuple(self.booster.feature_names or ()) != tuple(features):
            raise ModelFileError("names other features than its bundle")

    def margins(self, vectors: Matrix) -> NDArray[np.float32]:
        """Raw output in log-odds, float32 (n,), of vectors float32 (n, features), NaN for null."""
        return np.asarray(self.booster.inplace_predict(vectors, predict_type="margin"), np.float32)

    def contributions(self, vectors: Matrix) -> Floats:
        """TreeSHAP in log-odds, float64 (n, features + 1); the last column is the base value."""
        matrix = self._xgboost.DMatrix(vectors, feature_names=self.booster.feature_names, nthread=1)
        return np.asarray(self.booster.predict(matrix, pred_contribs=True), np.float64)

    def compiled(self) -> "Forest":
        """The same trees for one payment at a time, held against the booster. Raises ModelFileError."""
        from fraud_platform.model.forest import Forest, ForestError

        try:
            forest = Forest(self.booster)
            forest.verify(self.booster)
        except ForestError as error:
            raise ModelFileError(str(error)) from error
        return forest

    def gains(self) -> dict[str, float]:
        """Each feature's share of all that the splits gain; a feature that no tree splits on is missing."""
        gains: dict[str, Any] = self.booster.get_score(importance_type="total_gain")
        whole = sum(gains.values())
        return {name: gain / whole for name, gain in gains.items()} if whole else {}
