"""What a row of paired ratios says: an estimate, and what the true ratio is at least and at most.

What belongs here: statistics. What does not: what was measured. The estimate is Hodges and Lehmann's, the median of the
means of all pairs of logarithms, a lone one among them; the bounds are those that Wilcoxon's signed-rank test leaves
standing. Both hold for any distribution that is symmetric, without a seed, also for seven pairs, where a bootstrap's
interval is too narrow; and one wild pair moves them little, so that none has to be left out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SURE = 0.95
"""Chance with which each bound holds, alone."""


@dataclass(frozen=True)
class Ratio:
    """Of a figure, new to base. With too few pairs for such a bound it is 0 or infinite."""

    estimate: float
    at_least: float
    at_most: float


def ratio(new: Sequence[float], base: Sequence[float]) -> Ratio:
    """Of figures that were measured in pairs; all above 0. Raises ValueError for others, or none."""
    if not new or min(*new, *base) <= 0:
        raise ValueError(f"a ratio needs figures above 0, in pairs: {list(new)} and {list(base)}")
    logs = [math.log(mine / its) for mine, its in zip(new, base, strict=True)]
    means = sorted((one + other) / 2 for number, one in enumerate(logs) for other in logs[number:])
    rank = _bound_rank(len(logs))
    least, most = (-math.inf, math.inf) if rank == 0 else (means[rank - 1], means[-rank])
    return Ratio(math.exp(float(np.median(means))), math.exp(least), math.exp(most))


def _bound_rank(pairs: int) -> int:
    """Which mean from either end is the bound, from 1; 0: none is. The true one lies below the k-th smallest with the
    chance that a signed-rank sum is below k."""
    ways = np.array([1.0])
    for rank in range(1, pairs + 1):
        with_it = np.concatenate([np.zeros(rank), ways])
        ways = np.concatenate([ways, np.zeros(rank)]) + with_it
    below = np.cumsum(ways) / 2.0**pairs
    return int(np.searchsorted(below, 1 - SURE, side="right"))
