"""The policy: from a score to a decision and its reason.

What belongs here: thresholds and bands. What does not: where the score came from. Comparisons take the unrounded score;
what an answer shows may be rounded.
"""

from dataclasses import dataclass
from typing import Literal

DecisionName = Literal["allow", "block", "flag_for_review"]
Reason = Literal["score_above_threshold", "score_in_review_band", "score_below_threshold"]


@dataclass(frozen=True)
class Policy:
    """Bands over the calibrated probability of fraud; `version` names these numbers in answers and records."""

    threshold: float
    review_threshold: float
    version: int

    def __post_init__(self) -> None:
        if not 0 < self.review_threshold <= self.threshold < 1:
            raise ValueError(
                "a policy needs 0 < review_threshold <= threshold < 1, "
                f"got {self.review_threshold} and {self.threshold}"
            )

    def decide(self, score: float) -> tuple[DecisionName, Reason]:
        """Block strictly above the threshold, flag strictly above the review threshold, else allow.

        Raises ValueError for a score that is not a probability, which no comparison would notice.
        """
        if not 0 <= score <= 1:
            raise ValueError(f"a score is a probability, got {score}")
        if score > self.threshold:
            return "block", "score_above_threshold"
        if score > self.review_threshold:
            return "flag_for_review", "score_in_review_band"
        return "allow", "score_below_threshold"
