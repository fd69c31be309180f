"""Letting a small share of would-be blocks through, so that it can be measured what blocking is worth.

What belongs here: which of them. What does not: what a score means (`policy`), what is learned from them
(`model.served`, `monitoring.performance`). A payment that is blocked did not happen, and nobody ever learns whether it
would have been fraud: without these, a model is measured on, and learns from, what it lets through itself.
"""

import hashlib

from fraud_platform.decision.policy import DecisionName

ABOVE_THRESHOLD = "score_above_threshold"
RELEASED = "released_for_measurement"


def released(
    decision: DecisionName, reason: str, share: float, seed: int, caller: str, transaction_id: str
) -> tuple[DecisionName, str, float | None]:
    """Decision, reason and propensity once a share of what the threshold blocks has been let through.

    Only what the score alone blocked is drawn from: neither a list's nor a person's word is overruled. The draw is a
    hash of caller and transaction_id, so that a repeated payment is drawn alike by every worker. Propensity is None
    where nothing was drawn.
    """
    if not share or decision != "block" or reason != ABOVE_THRESHOLD:
        return decision, reason, None
    digest = hashlib.blake2b(f"{seed}\0{caller}\0{transaction_id}".encode(), digest_size=8).digest()
    if int.from_bytes(digest, "big") < share * 2**64:
        return "allow", RELEASED, share
    return decision, reason, share
