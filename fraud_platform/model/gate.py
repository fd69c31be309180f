"""Whether a candidate may replace what decides now: the rule, and nothing that acts on it.

What belongs here: the verdict from measured comparisons. What does not: measuring (`ranking`), promoting (`registry`).
"""

from dataclasses import dataclass

from fraud_platform.model.ranking import Comparison

MIN_FRAUDS = 100
"""Frauds in the holdout below which a gain is no reason to replace a champion."""


@dataclass(frozen=True)
class Verdict:
    """The decision with what it rests on, in sentences."""

    promote: bool
    reasons: list[str]


def decide_promotion(frauds: int, against_baseline: Comparison, against_champion: Comparison | None) -> Verdict:
    """The promotion rule. frauds: in the holdout. against_champion: None when no model can decide yet.

    A first model must beat logistic regression, a later one the champion on the same holdout, each in average precision
    with the whole paired interval above 0. With too few frauds to tell, a champion stays; a first model is released
    nevertheless, since a platform needs one to start.
    """
    few = frauds < MIN_FRAUDS
    if against_champion is None:
        gain = _gain("logistic regression", against_baseline)
        if few:
            return Verdict(
                True,
                [
                    f"WARNING: only {frauds} frauds in the holdout, {MIN_FRAUDS} are needed to trust a figure; "
                    "released because there is no model yet",
                    gain,
                ],
            )
        return Verdict(against_baseline.average_precision_gain.low > 0, [gain])
    gain = _gain("the champion", against_champion)
    if few:
        return Verdict(False, [f"only {frauds} frauds in the holdout, at least {MIN_FRAUDS} are needed", gain])
    return Verdict(against_champion.average_precision_gain.low > 0, [gain])


def _gain(rival: str, comparison: Comparison) -> str:
    gain = comparison.average_precision_gain
    outcome = "beats" if gain.low > 0 else "does not reliably beat"
    return (
        f"{outcome} {rival} in average precision: {comparison.candidate.average_precision.value:.4f} against "
        f"{comparison.reference.average_precision.value:.4f}, gain {gain.value:+.4f} "
        f"(95% interval {gain.low:+.4f} to {gain.high:+.4f})"
    )
