"""Two models side by side: which of them decides a payment, and what the other would have said.

What belongs here: the choice and both scores. What does not: the record that says so (`model.routing`), when it changes
(`model.rollout`).
"""

from collections.abc import Callable
from dataclasses import dataclass

from fraud_platform.decision.breaker import Breaker
from fraud_platform.decision.serving_model import ServingModel
from fraud_platform.features.vector import Matrix
from fraud_platform.model.routing import is_challengers

CHALLENGER = "challenger"
"""What an answer of the challenger says it was served by."""

_MAIN = "champion"

Failed = Callable[[str, BaseException], None]


@dataclass(frozen=True)
class Challenger:
    """A loaded challenger with its share of users; 0 in shadow."""

    model: ServingModel
    weight: float


@dataclass(frozen=True)
class Scored:
    """A score, whose it is, and the other model's of the same payment."""

    model: ServingModel
    score: float
    served_by: str
    arm: str
    """Whose turn the payment was: also where the challenger failed and the champion decided."""
    other_version: str | None
    other_score: float | None
    """None where there is no other model, or it failed."""


def score_by_arm(
    champion: ServingModel,
    challenger: Challenger | None,
    user_id: str,
    vector: Matrix,
    breaker: Breaker,
    failed: Failed,
    rival_vector: Matrix | None = None,
) -> Scored:
    """Both scores of a payment. A challenger that fails lets the champion decide. Raises NoScoreError.

    vector: float32, of the champion's set. rival_vector: of the challenger's set, where it is another. failed(stage,
    error): told of each failure.
    """
    if challenger is None:
        score, served_by = champion.score(vector, breaker, failed)
        return Scored(champion, score, served_by, _MAIN, None, None)
    rival = challenger.model
    arm = CHALLENGER if is_challengers(user_id, rival.release, challenger.weight) else _MAIN
    theirs = _tried(rival, vector if rival_vector is None else rival_vector, failed)
    if arm == CHALLENGER and theirs is not None:
        return Scored(rival, theirs, CHALLENGER, arm, champion.version, _tried(champion, vector, failed))
    score, served_by = champion.score(vector, breaker, failed)
    return Scored(champion, score, served_by, arm, rival.version, theirs)


def _tried(model: ServingModel, vector: Matrix, failed: Failed) -> float | None:
    try:
        return model.probability(vector)
    except Exception as error:  # noqa: BLE001 - counted and told; the payment is decided without it
        failed(CHALLENGER, error)
        return None
