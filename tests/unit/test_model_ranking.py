"""AUC, average precision and their intervals, against scikit-learn and a plain bootstrap."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from fraud_platform.model.ranking import compare, rank


def scored(rows: int, rate: float, seed: int, strength: float = 1.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and weaker scores of a synthetic model."""
    random = np.random.default_rng(seed)
    fraud = random.random(rows) < rate
    evidence = random.normal(size=rows) + strength * fraud
    return fraud, 1 / (1 + np.exp(-evidence)), 1 / (1 + np.exp(-evidence - random.normal(scale=1.5, size=rows)))


# few distinct scores, so that ties between frauds and good transactions are everywhere
@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40))
def test_both_statistics_are_scikit_learns_with_ties_too(examples: list[tuple[bool, int]]) -> None:
    fraud = np.array([label for label, _ in examples])
    scores = np.array([score / 5 for _, score in examples])
    if fraud.all() or not fraud.any():
        with pytest.raises(ValueError, match="frauds and good"):
            rank(fraud, scores, seed=0, resamples=1)
        return
    found = rank(fraud, scores, seed=0, resamples=1)
    assert found.auc.value == pytest.approx(roc_auc_score(fraud, scores))
    assert found.average_precision.value == pytest.approx(average_precision_score(fraud, scores))


def test_intervals_are_those_of_a_plain_bootstrap() -> None:
    fraud, strong, weak = scored(1_000, 0.1, seed=3)
    random = np.random.default_rng(9)
    plain = []
    for _ in range(300):
        rows = random.integers(0, len(fraud), len(fraud))
        first, second = (average_precision_score(fraud[rows], scores[rows]) for scores in (strong, weak))
        plain.append((roc_auc_score(fraud[rows], strong[rows]), first, first - second))
    expected = np.quantile(np.array(plain), [0.025, 0.975], axis=0)
    found = compare(fraud, strong, weak, seed=1)
    intervals = (found.candidate.auc, found.candidate.average_precision, found.average_precision_gain)
    for interval, (low, high) in zip(intervals, expected.T, strict=True):
        assert interval.low == pytest.approx(low, abs=0.2 * (high - low))
        assert interval.high == pytest.approx(high, abs=0.2 * (high - low))
        assert interval.low < interval.value < interval.high


def test_a_model_gains_nothing_on_itself_and_something_on_a_noisier_one() -> None:
    fraud, strong, weak = scored(20_000, 0.01, seed=4)
    assert compare(fraud, strong, strong, seed=1).average_precision_gain.high == 0
    assert compare(fraud, strong, weak, seed=1).average_precision_gain.low > 0
    assert compare(fraud, weak, strong, seed=1).average_precision_gain.high < 0


def test_the_seed_decides_the_interval() -> None:
    fraud, strong, weak = scored(2_000, 0.05, seed=5)
    assert compare(fraud, strong, weak, seed=1) == compare(fraud, strong, weak, seed=1)
    assert compare(fraud, strong, weak, seed=1) != compare(fraud, strong, weak, seed=2)


def test_a_holdout_of_the_default_history_is_resampled_in_seconds() -> None:
    fraud, strong, weak = scored(75_000, 0.005, seed=6)
    started = time.process_time()
    compare(fraud, strong, weak, seed=1)
    assert time.process_time() - started < 8
