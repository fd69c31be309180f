"""Calibration: from a model's margin to a probability that means what it says.

What belongs here: the map and fitting it. What does not: measuring how well it fits (`evaluate`). The map is Platt's
(1999): it is monotone, so ranking is untouched, and two numbers travel with the model.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_NEWTON_STEPS = 100
_LONGEST_STEP = 2.0
_CONVERGED = 1e-10
_tanh = np.frompyfunc(math.tanh, 1, 1)
"""NumPy's own tanh differs from the C library's in the last bit of every fourth number."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """probability = 1 / (1 + exp(−(slope · margin + intercept))); the margin is in log-odds."""

    slope: float
    intercept: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.slope) and np.isfinite(self.intercept) and self.slope > 0):
            raise ValueError(f"a calibration needs a finite positive slope and a finite intercept, got {self}")

    def probabilities(self, margins: NDArray[np.floating]) -> Floats:
        """float64 (n,) of margins (n,): of each the same bits as `probability` gives."""
        halved = 0.5 * (self.slope * np.asarray(margins, np.float64) + self.intercept)
        return np.asarray(0.5 * (1 + np.asarray(_tanh(halved), np.float64)), np.float64)

    def probability(self, margin: float) -> float:
        """Of one margin."""
        # the form by tanh overflows at neither end
        return 0.5 * (1 + math.tanh(0.5 * (self.slope * margin + self.intercept)))


class NoOrderError(ValueError):
    """Margins rank fraud no higher than good, so no map makes probabilities of them."""


UNCALIBRATED = Calibration(slope=1.0, intercept=0.0)
"""The margin as the model means it."""


def fit_calibration(is_fraud: NDArray[np.bool_], margins: Floats, weights: Floats | None = None) -> Calibration:
    """The map that makes margins of unseen examples, (n,), likeliest; needs frauds and good examples. weights: (n,).

    Platt's targets, (n₊ + 1) / (n₊ + 2) and 1 / (n₋ + 2), keep it from being surer than the examples allow. Newton's
    method. Raises NoOrderError for a slope that would turn the order around: the margins say nothing.
    """
    weight = np.ones(len(is_fraud)) if weights is None else weights
    frauds, goods = float(weight[is_fraud].sum()), float(weight[~is_fraud].sum())
    if not frauds or not goods:
        raise ValueError("a calibration needs frauds and good examples")
    targets = np.where(is_fraud, (frauds + 1) / (frauds + 2), 1 / (goods + 2))
    design = np.column_stack([margins, np.ones(len(margins))])
    slope_and_intercept = np.array([1.0, 0.0])
    for _ in range(_NEWTON_STEPS):
        probabilities = 0.5 * (1 + np.tanh(0.5 * (design @ slope_and_intercept)))
        gradient = design.T @ (weight * (probabilities - targets))
        curvature = (design * (weight * probabilities * (1 - probabilities))[:, None]).T @ design
        step = np.linalg.solve(curvature + 1e-9 * np.eye(2), gradient)
        # no step so long that the curvature it came from says nothing any more
        step *= min(1.0, _LONGEST_STEP / max(float(np.abs(step).max()), 1e-12))
        slope_and_intercept -= step
        if np.abs(step).max() < _CONVERGED:
            break
    slope, intercept = slope_and_intercept.tolist()
    if not slope > 0:
        raise NoOrderError(f"margins whose likeliest slope is {slope:g} rank fraud no higher than good")
    return Calibration(slope=slope, intercept=intercept)
