"""Which decision stands where one payment was decided more than once.

What belongs here: the order of decisions, for worker, store, spool and lake alike. What does not: finding and keeping
them (`identity`, `inference_log`). Whoever can ask the store meets the decision that stands and answers with it. So two
decisions on one payment arise only where the store could not be asked, and both were told by the time they meet.
"""

from collections.abc import Iterable

from fraud_platform.decision.policy import RULES, STRICTNESS
from fraud_platform.inference_log.record import DecisionRecord


def replaces(late: DecisionRecord, standing: DecisionRecord) -> bool:
    """Whether a decision that was told without asking takes the place of the one that stands: only a stricter one
    does, and what the rules answered never takes the place of what a model, a list or a person decided."""
    if late.served_by.model == RULES and standing.served_by.model != RULES:
        return False
    return STRICTNESS[late.decision] > STRICTNESS[standing.decision]


def standing_of(records: Iterable[DecisionRecord]) -> DecisionRecord | None:
    """Which of one payment's records stands: of those without a mark the first settled, unless a late one replaces it;
    None where there are none. The order of `records` does not matter."""
    found = list(records)
    marked = {record.decision_id for record in found if record.superseded_by is not None}
    unmarked = [record for record in found if record.decision_id not in marked]
    standing: DecisionRecord | None = None
    for record in sorted(unmarked, key=lambda each: (each.unsettled, each.received_at, each.decision_id)):
        if standing is None or replaces(record, standing):
            standing = record
    return standing
