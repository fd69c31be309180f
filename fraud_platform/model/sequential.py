"""Comparisons that may be looked at at any time: intervals that hold at all sample sizes at once.

What belongs here: confidence sequences. What does not: what is compared (`arms`), what follows (`rollout`). An ordinary
interval that is looked at every minute is wrong sooner or later for certain.

Source: I. Waudby-Smith, D. Arbour, R. Sinha, E. Kennedy, A. Ramdas, "Time-uniform central limit theory and asymptotic
confidence sequences", Annals of Statistics 52 (2024), theorem 2.2 and the choice of ρ in its appendix B.2.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.01
"""Probability that a sequence ever misses the truth. One per figure: some eight figures watch a canary."""
TIGHTEST_AT = 10_000
"""Observations at which a sequence is tightest; it is valid at any number of them."""


@dataclass(frozen=True)
class Sequence:
    """A mean and where it lies at all times, with probability 1 − ALPHA."""

    observations: int
    mean: float
    low: float
    high: float


def mean_sequence(
    values: NDArray[np.floating], alpha: float = ALPHA, *, width: float = 1.0, tightest_at: int = TIGHTEST_AT
) -> Sequence:
    """The mean of independent values, (n,).

    width: distance of the two most distant values that occur. One pair of them is added to the variance, so that a
    figure of which nothing was seen yet is not taken for certain.
    """
    count = len(values)
    if not count:
        return Sequence(0, math.nan, -math.inf, math.inf)
    mean = float(values.mean())
    variance = (float(values.var()) * count + width**2 / 2) / (count + 1)
    rho = math.sqrt((-2 * math.log(alpha) + math.log(-2 * math.log(alpha)) + 1) / tightest_at)
    grown = count * rho**2 + 1
    radius = math.sqrt(variance * 2 * grown / (count * rho) ** 2 * math.log(math.sqrt(grown) / alpha))
    return Sequence(count, mean, mean - radius, mean + radius)


def difference_sequence(first: NDArray[np.floating], second: NDArray[np.floating], alpha: float = ALPHA) -> Sequence:
    """The mean of the first sample less that of the second, samples being of different payments."""
    a, b = (mean_sequence(values, alpha / 2) for values in (first, second))
    return Sequence(min(a.observations, b.observations), a.mean - b.mean, a.low - b.high, a.high - b.low)
