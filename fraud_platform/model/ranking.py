"""AUC ROC and average precision with bootstrap intervals, for one model or two on the same examples.

What belongs here: rank statistics. What does not: which models are compared (`evaluate`, `gate`).

Both statistics depend only on how examples lie between the scores of the frauds. Examples that lie alike under every
model share a cell, and a bootstrap sample is one multinomial draw over cells: exact, and far fewer numbers than there
are examples.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]

RESAMPLES = 1_000
COVERAGE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate on all examples with its percentile bootstrap interval of COVERAGE."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Ranking:
    """How well scores rank fraud above good."""

    auc: Interval
    average_precision: Interval


@dataclass(frozen=True)
class Comparison:
    """Two models on the same examples; the gain is paired: both are measured on each resample."""

    candidate: Ranking
    reference: Ranking
    average_precision_gain: Interval


def rank(is_fraud: Bools, scores: Floats, seed: int, resamples: int = RESAMPLES) -> Ranking:
    """Both statistics of one model. Raises ValueError unless there are frauds and good examples."""
    return _ranking(*_resample(is_fraud, [scores], seed, resamples)[0])


def compare(is_fraud: Bools, candidate: Floats, reference: Floats, seed: int, resamples: int = RESAMPLES) -> Comparison:
    """Both statistics of two models and the gain in average precision of the first over the second."""
    first, second = _resample(is_fraud, [candidate, reference], seed, resamples)
    return Comparison(_ranking(*first), _ranking(*second), _interval(first[1] - second[1]))


def average_precision(is_fraud: Bools, scores: Floats) -> float:
    """Average precision alone, without an interval. Raises ValueError unless there are frauds and good examples."""
    if not 0 < is_fraud.sum() < len(is_fraud):
        raise ValueError("ranking needs frauds and good examples")
    cells = _cells(is_fraud, scores)
    size = int(cells.max()) + 1
    frauds, goods = (np.bincount(cells[chosen], minlength=size).astype(np.float64) for chosen in (is_fraud, ~is_fraud))
    return statistics(frauds, goods)[1]


def statistics(frauds: Floats, goods: Floats) -> tuple[float, float]:
    """AUC ROC and average precision from counts per cell of `_cells`."""
    goods_above = np.cumsum(goods) - goods
    fraud_total, good_total = frauds.sum(), goods.sum()
    at = frauds > 0
    outranked = frauds[at] * (good_total - goods_above[at] - goods[at] / 2)
    precision = np.cumsum(frauds)[at] / (np.cumsum(frauds)[at] + goods_above[at] + goods[at])
    return float(outranked.sum() / (fraud_total * good_total)), float((frauds[at] * precision).sum() / fraud_total)


def _cells(is_fraud: Bools, scores: Floats) -> Integers:
    """Cell of each example, 0 … 2k by descending score, for k distinct scores of frauds.

    Odd cells hold the examples at such a score, even cells those between two of them.
    """
    thresholds = -np.unique(scores[is_fraud])[::-1]
    left, right = (np.searchsorted(thresholds, -scores, side) for side in ("left", "right"))
    return np.asarray(left + right, np.int64)


def _resample(is_fraud: Bools, models: list[Floats], seed: int, resamples: int) -> list[tuple[Floats, Floats]]:
    """AUC and average precision per model, arrays of shape (1 + resamples,); the first entry is the sample itself."""
    if not 0 < is_fraud.sum() < len(is_fraud):
        raise ValueError("ranking needs frauds and good examples")
    keys = np.column_stack([is_fraud.astype(np.int64), *(_cells(is_fraud, scores) for scores in models)])
    shared, counts = np.unique(keys, axis=0, return_counts=True)
    fraud = shared[:, 0] == 1
    sizes = shared[:, 1:].max(axis=0) + 1
    results = [(np.empty(1 + resamples), np.empty(1 + resamples)) for _ in models]
    random = np.random.default_rng(seed)
    share = counts / counts.sum()
    for row in range(1 + resamples):
        drawn = counts.astype(np.float64)
        while row:
            drawn = random.multinomial(len(is_fraud), share).astype(np.float64)
            if 0 < drawn[fraud].sum() < len(is_fraud):
                break
        for model, (auc, precision) in enumerate(results):
            cells, size = shared[:, 1 + model], sizes[model]
            frauds = np.asarray(np.bincount(cells[fraud], drawn[fraud], size), np.float64)
            goods = np.asarray(np.bincount(cells[~fraud], drawn[~fraud], size), np.float64)
            auc[row], precision[row] = statistics(frauds, goods)
    return results


def _interval(values: Floats) -> Interval:
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(values[1:], [tail, 1 - tail])
    return Interval(float(values[0]), float(low), float(high))


def _ranking(auc: Floats, average_precision: Floats) -> Ranking:
    return Ranking(_interval(auc), _interval(average_precision))
