"""What the service answers: the shapes of a decision and of an explanation, and their bytes.

What belongs here: the contract's outgoing side. What does not: errors (`problem`), making a decision (`engine`).
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from fraud_platform.decision.policy import DecisionName, Kind
from fraud_platform.decision.problem import CONTENT_TYPE, EarlierDecision, Problem
from fraud_platform.decision.reasons import Effect, Reasons, effect
from fraud_platform.inference_log.record import DecisionRecord, ServedBy

SHOWN_DECIMALS = 6
TOP = 5
JSON = b"application/json"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Answer:
    """What goes back to the caller, whatever the transport."""

    status: int
    body: bytes
    content_type: bytes = JSON
    retry_after: int | None = None
    """Seconds; None: the answer says nothing of trying again."""

    @staticmethod
    def of(problem: Problem) -> "Answer":
        """An error as an answer."""
        return Answer(problem.status, problem.body(), CONTENT_TYPE, problem.retry_after)


class PredictAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The decision on one payment."""

    transaction_id: str
    score: (
        Annotated[float, Meta(ge=0, le=1, description="Calibrated probability of fraud, shown to 6 decimals.")] | None
    )
    decision: Annotated[DecisionName, Meta(description="block means: unrounded score strictly greater than threshold.")]
    reason: Annotated[
        str,
        Meta(
            description="score_above_threshold, score_in_review_band, score_below_threshold; released_for_measurement: "
            "above the threshold, and let through so that blocking can be measured; of the rules "
            "high_amount_fallback, cross_country_fallback, service_unavailable_fallback, and amount_unknown_fallback: "
            "the currency has no recorded rate; of the policy block_list, allow_list, kill_switch_allow_all, "
            "kill_switch_rules_only."
        ),
    ]
    threshold: float
    model_version: Annotated[str, Meta(description="Registered name and version, `name/version`.")]
    policy_version: int
    served_by: Annotated[ServedBy, Meta(description="The source of each part.")]
    degraded: Annotated[
        bool,
        Meta(
            description="A feature or the score came from other than redis and a whole model, or the amount is unknown."
        ),
    ]
    listed: Annotated[
        Kind | None, Meta(description="What of the payment is on the list that decided; absent where no list did.")
    ] = None


class Contribution(msgspec.Struct, frozen=True, kw_only=True):
    """What one feature added to the margin."""

    feature: str
    value: Annotated[float | None, Meta(description="The feature's value in `unit`; null where it is missing.")]
    unit: str
    contribution: Annotated[float, Meta(description="SHAP value: what the feature added to the margin.")]
    effect: Effect
    reason: Annotated[str, Meta(description="A sentence for people.")]
    meaning: Annotated[str, Meta(description="What the feature is, whatever its value.")]


class ListedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The entry of a list that decided."""

    list: str
    """block_list or allow_list."""
    kind: Kind
    value: Annotated[str, Meta(description="As it stands on the list, which may match more loosely than by the id.")]
    until: Annotated[datetime | None, Meta(description="Payments received before it are concerned; null: all.")]
    why: Annotated[str, Meta(description="The reason that was given with the entry.")]
    policy_version: Annotated[int, Meta(description="The version that decided, of which the entry is one.")]


class ExplainAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a payment has its score: exact TreeSHAP over the vector that was scored; of a decision by logistic regression
    the terms of its sum; of one by the rules the rule."""

    transaction_id: str
    basis: Annotated[
        Literal["recorded", "what_if"],
        Meta(description="recorded: the vector and model that decided; what_if: the payment as it would score now."),
    ]
    model_version: str
    decided_by: Annotated[
        str,
        Meta(description="As `served_by.model`: champion, challenger, logistic_regression, rules, list, kill_switch."),
    ]
    score: Annotated[float, Meta(ge=0, le=1)] | None
    decision: DecisionName
    reason: Annotated[
        str, Meta(description="For people: what raises risk most, or the rule, list or kill switch that decided.")
    ]
    margin: Annotated[float, Meta(description="The model's raw output: base_value plus all 50 contributions.")] | None
    base_value: (
        Annotated[float, Meta(description="The margin before any feature; null where the rules decided.")] | None
    )
    units: Annotated[str, Meta(description="Unit of margin, base_value and contributions.")]
    contributions: Annotated[list[Contribution], Meta(description=f"The {TOP} largest by magnitude.")]
    listed: Annotated[
        ListedEntry | None, Meta(description="The entry that decided; absent where no list did, or it is not kept.")
    ] = None


_encode = msgspec.json.Encoder().encode


def earlier_decision(record: DecisionRecord) -> EarlierDecision:
    """A decision that stands, as a problem shows it."""
    return EarlierDecision(
        decision_id=record.decision_id,
        decided_at=_EPOCH + timedelta(microseconds=record.received_at),
        decision=record.decision,
        reason=record.reason,
        score=None if record.score is None else round(record.score, SHOWN_DECIMALS),
        model_version=record.model_version,
        policy_version=record.policy_version,
    )


def predict_body(record: DecisionRecord) -> bytes:
    """The answer to a decision. The same record gives the same bytes."""
    return _encode(
        PredictAnswer(
            transaction_id=record.request.transaction_id,
            score=None if record.score is None else round(record.score, SHOWN_DECIMALS),
            decision=record.decision,
            reason=record.reason,
            threshold=record.threshold,
            model_version=record.model_version,
            policy_version=record.policy_version,
            served_by=record.served_by,
            degraded=record.degraded,
            listed=record.listed,
        )
    )


def explain_body(answer: ExplainAnswer) -> bytes:
    """The answer to a question why."""
    return _encode(answer)


def top_contributions(
    vector: NDArray[np.float32], contributions: NDArray[np.floating], reasons: Reasons
) -> list[Contribution]:
    """The TOP features by magnitude of contribution, ties in the catalogue's order. Both arrays of shape
    (features,)."""
    values = vector.tolist()
    order = np.argsort(-np.abs(contributions), kind="stable")[:TOP]
    return [
        Contribution(
            feature=feature.name,
            value=None if np.isnan(vector[index]) else float(vector[index]),
            unit=feature.unit,
            contribution=round(float(contributions[index]), SHOWN_DECIMALS),
            effect=effect(float(contributions[index])),
            reason=reasons.of(int(index), values),
            meaning=feature.meaning,
        )
        for index in order
        for feature in [reasons.catalogue.features[index]]
    ]
