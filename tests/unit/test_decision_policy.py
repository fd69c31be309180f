"""The policy's edges, on unrounded scores."""

import math

import pytest

from fraud_platform.decision.policy import Policy

POLICY = Policy(threshold=0.7, review_threshold=0.4, version=3)


@pytest.mark.parametrize(
    ("score", "decision", "reason"),
    [
        (0.0, "allow", "score_below_threshold"),
        (0.4, "allow", "score_below_threshold"),
        (math.nextafter(0.4, 1), "flag_for_review", "score_in_review_band"),
        (0.7, "flag_for_review", "score_in_review_band"),
        (math.nextafter(0.7, 1), "block", "score_above_threshold"),
        (0.7000001, "block", "score_above_threshold"),
        (1.0, "block", "score_above_threshold"),
    ],
)
def test_only_a_score_strictly_greater_than_a_threshold_passes_it(score: float, decision: str, reason: str) -> None:
    assert POLICY.of_score(score) == (decision, reason)


def test_a_policy_without_a_review_band_blocks_or_allows() -> None:
    policy = Policy(threshold=0.5, review_threshold=0.5, version=1)
    assert [policy.of_score(score)[0] for score in (0.5, 0.51)] == ["allow", "block"]


@pytest.mark.parametrize("score", [math.nan, -0.1, 1.1, math.inf])
def test_a_score_that_is_no_probability_is_refused_rather_than_allowed(score: float) -> None:
    with pytest.raises(ValueError, match="probability"):
        POLICY.of_score(score)


@pytest.mark.parametrize(("threshold", "review"), [(0.4, 0.7), (1.0, 0.5), (0.5, 0.0), (math.nan, 0.1)])
def test_a_policy_whose_bands_do_not_nest_is_refused(threshold: float, review: float) -> None:
    with pytest.raises(ValueError, match="review_threshold"):
        Policy(threshold=threshold, review_threshold=review, version=1)
