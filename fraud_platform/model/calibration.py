"""Calibration: from a model's margin to a probability that means what it says.

What belongs here: the map and fitting it. What does not: measuring how well it fits (`evaluate`). The map is Platt's
(1999): it is monotone, so ranking is untouched, and two numbers travel with the model.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """probability = 1 / (1 + exp(−(slope · margin + intercept))); the margin is in log-odds."""

    slope: float
    intercept: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.slope) and np.isfinite(self.intercept) and self.slope > 0):
            raise ValueError(f"a calibration needs a finite positive slope and a finite intercept, got {self}")

    def probabilities(self, margins: NDArray[np.floating]) -> Floats:
        """float64 (n,) of margins (n,)."""
        # the form by tanh overflows at neither end
        return 0.5 * (1 + np.tanh(0.5 * (self.slope * np.asarray(margins, np.float64) + self.intercept)))


UNCALIBRATED = Calibration(slope=1.0, intercept=0.0)
"""The margin as the model means it."""
