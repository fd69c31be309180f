"""Logistic regression as it travels: plain numbers, no pickle, no scikit-learn. The baseline, and the model of last
resort in serving.

What belongs here: scoring by it. What does not: fitting it (`baseline`).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fraud_platform.model.explanation import Explanation

Matrix = NDArray[np.float32]
Floats = NDArray[np.float64]


def signed_log1p(values: NDArray[np.floating]) -> Floats:
    """sign(x) · log(1 + |x|), float64: amounts and counts become comparable; NaN stays NaN."""
    wide = np.asarray(values, np.float64)
    return np.asarray(np.sign(wide) * np.log1p(np.abs(wide)), np.float64)


@dataclass(frozen=True, kw_only=True)
class LinearModel:
    """Signed log, the given value for null with an indicator beside it, then a weighted sum in log-odds.

    Each list has one entry per feature, in the catalogue's order. Standardisation is folded into the weights.
    """

    fill: tuple[float, ...]
    """What a null counts as, after the signed log."""
    weights: tuple[float, ...]
    null_weights: tuple[float, ...]
    """What is added for a null; 0 where training saw none."""
    intercept: float

    def __post_init__(self) -> None:
        lengths = {len(self.fill), len(self.weights), len(self.null_weights)}
        numbers = (*self.fill, *self.weights, *self.null_weights, self.intercept)
        if len(lengths) != 1 or not np.isfinite(numbers).all():
            raise ValueError("a linear model needs one finite fill, weight and null weight per feature")

    @cached_property
    def _arrays(self) -> tuple[Floats, Floats, Floats]:
        return np.array(self.fill), np.array(self.weights), np.array(self.null_weights)

    def explain(self, vector: Matrix) -> Explanation:
        """What each value of one vector, float32 (50,), adds to that of a payment that is ordinary throughout.

        Ordinary is the value that a null counts as: the median of training. Exact, as the model is a sum.
        """
        fill, weights, null_weights = self._arrays
        missing = np.isnan(vector)
        contributions = np.where(missing, null_weights, (signed_log1p(vector) - fill) * weights)
        base_value = float(fill @ weights + self.intercept)
        margin = base_value + float(contributions.sum())
        return Explanation(base_value, margin, float(self.score(vector[None, :])[0]), contributions)

    def score(self, vectors: Matrix) -> Floats:
        """Fraud probabilities, float64 (n,), of vectors float32 (n, 50), NaN for null."""
        fill, weights, null_weights = self._arrays
        missing = np.isnan(vectors)
        filled = np.where(missing, fill, signed_log1p(vectors))
        margins = filled @ weights + missing @ null_weights + self.intercept
        return np.asarray(0.5 * (1 + np.tanh(0.5 * margins)), np.float64)
