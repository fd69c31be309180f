"""Why a model scores a vector as it does, whichever model.

What belongs here: the shape. What does not: computing it (`trees`, `linear`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Explanation:
    """margin = base_value + contributions.sum(), the model's raw output in log-odds; the score is that margin as a
    probability."""

    base_value: float
    margin: float
    score: float
    contributions: NDArray[np.float64]
    """In the catalogue's order, shape (50,)."""
