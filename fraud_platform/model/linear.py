"""Logistic regression as it travels: plain numbers, no pickle, no scikit-learn. The baseline, the model of last resort
in serving, and the one that decides where trees are no better.

What belongs here: scoring by it. What does not: fitting it (`baseline`), its file (`linear_file`).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

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

    def margins(self, vectors: Matrix) -> Floats:
        """Raw output in log-odds, float64 (n,), of vectors float32 (n, features), NaN for null.

        Each row is one dot product of its own, so a payment's result does not depend on those beside it.
        """
        fill, weights, null_weights = self._arrays
        vectors = np.ascontiguousarray(vectors)
        missing = np.isnan(vectors)
        filled = np.where(missing, fill, signed_log1p(vectors))
        return _row_by_row(filled, weights) + _row_by_row(missing, null_weights) + self.intercept

    def contributions(self, vectors: Matrix) -> Floats:
        """What each value adds to the margin of a payment that is ordinary throughout, float64 (n, features + 1).

        Ordinary is the value that a null counts as: the median of training; its margin is the last column. Exact, as
        the model is a sum.
        """
        fill, weights, null_weights = self._arrays
        missing = np.isnan(vectors)
        values = np.where(missing, null_weights, (signed_log1p(vectors) - fill) * weights)
        return np.column_stack([values, np.full(len(values), fill @ weights + self.intercept)])

    def compiled(self) -> "LinearModel":
        """Itself: it scores one payment as it scores many."""
        return self

    def gains(self) -> None:
        """It has no splits."""

    def score(self, vectors: Matrix) -> Floats:
        """Fraud probabilities as the regression itself means them, float64 (n,)."""
        return np.asarray(0.5 * (1 + np.tanh(0.5 * self.margins(vectors))), np.float64)

    def explain(self, vector: Matrix) -> Explanation:
        """`contributions` of one vector, float32 (features,), with its own probability."""
        row = vector[None, :]
        values = self.contributions(row)[0]
        return Explanation(float(values[-1]), float(values.sum()), float(self.score(row)[0]), values[:-1])


def _row_by_row(rows: NDArray[Any], weights: Floats) -> Floats:
    """The dot product of each row, (n, k), with the weights, (k,): a product of matrices would sum n rows otherwise
    than one."""
    return np.asarray(np.matmul(rows[:, None, :], weights[:, None])[:, 0, 0], np.float64)
