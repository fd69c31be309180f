"""The record of a decision, made of the payment, of what was read for it and of what a model said.

What belongs here: applying the policy, and filling the record. What does not: reading, scoring (`engine`), writing it
down. The ids of decisions are made here.
"""

import os
from collections.abc import Callable
from itertools import count

import numpy as np

from fraud_platform.currency import exponent
from fraud_platform.decision.arms import Scored
from fraud_platform.decision.measurement import released
from fraud_platform.decision.parts import OnlineRead
from fraud_platform.decision.policy import DECIDED_BY, RULES, DecisionName, Policy, decide
from fraud_platform.decision.request import Payment
from fraud_platform.decision.serving_model import CHAMPION, ServingModel
from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.features.vector import Matrix
from fraud_platform.inference_log.record import (
    SCHEMA_VERSION,
    DecisionRecord,
    Seen,
    ServedBy,
    amount_source,
    vector_bytes,
)
from fraud_platform.schema import FIRST_REGION, Transaction

NO_MODEL = "none/0"
"""Version in answers of a service that has no model."""


class DecisionMaker:
    """Makes decisions of one worker. clock: UTC microseconds. release_share: share of what the threshold blocks that is
    let through to be measured. catalogue: what vectors follow where no model is in force."""

    def __init__(
        self,
        clock: Callable[[], int],
        base_currency: str,
        release_share: float = 0.0,
        release_seed: int = 0,
        region: str = FIRST_REGION,
        catalogue: Catalogue = CATALOGUE,
    ) -> None:
        self.region = region
        self._not_read: Matrix = np.full(len(catalogue.names), np.nan, np.float32)
        self._catalogue_hash = catalogue.hash
        self._clock = clock
        self._exponent = exponent(base_currency)
        self._release_share = release_share
        self._release_seed = release_seed
        # unique as a UUID is, and made by counting on from one
        self._ids = count(int.from_bytes(os.urandom(15)) << 8)

    def decided_by(
        self, policy: Policy, payment: Payment, transaction: Transaction, at: int
    ) -> tuple[DecisionName, str]:
        """Decision and reason of a policy for a payment that no model scores. at: UTC microseconds."""
        return decide(policy, None, payment, transaction.amount, self._exponent, at)

    def record(
        self,
        payment: Payment,
        content: str,
        caller: str,
        transaction: Transaction,
        online: OnlineRead,
        vector: Matrix | None,
        model: ServingModel | None,
        policy: Policy,
        scored: Scored | None,
        other_seen: Seen | None = None,
    ) -> DecisionRecord:
        """vector: None of a payment that was decided without its features; else of the set of `model`, which decided.
        scored: None where no model was asked, or none could say. other_seen: what the model beside it saw, where its
        set is another."""
        score, rung = (None, RULES) if scored is None else (scored.score, scored.served_by)
        received_at = transaction.received_at
        decision, reason = decide(policy, score, payment, transaction.amount, self._exponent, received_at)
        decision, reason, propensity = released(
            decision, reason, self._release_share, self._release_seed, caller, payment.transaction_id
        )
        return DecisionRecord(
            schema_version=SCHEMA_VERSION,
            decision_id=f"{next(self._ids):032x}",
            caller=caller,
            request_hash=content,
            request=payment,
            received_at=received_at,
            amount=transaction.amount,
            event_time=transaction.event_time,
            clock_skew=transaction.clock_skew,
            user_effective_time=online.user_effective_time,
            merchant_effective_time=online.merchant_effective_time,
            catalogue_hash=self._catalogue_hash if model is None or vector is None else model.set_hash,
            vector=vector_bytes(self._not_read if vector is None else vector),
            user_snapshot=online.user_snapshot,
            merchant_snapshot=online.merchant_snapshot,
            epoch=online.epoch,
            complete_since=online.complete_since,
            served_by=ServedBy(
                user_features=online.served_by["user_features"],
                merchant_features=online.served_by["merchant_features"],
                model=DECIDED_BY.get(reason, rung),
                amount=amount_source(transaction.amount),
            ),
            model_version=model.version if model is not None else NO_MODEL,
            scorer_hash=model.scorer_hash if model is not None else "",
            policy_version=policy.version,
            threshold=policy.threshold,
            review_threshold=policy.review_threshold,
            score=score,
            decision=decision,
            reason=reason,
            latency_us=self._clock() - received_at,
            arm=CHAMPION if scored is None else scored.arm,
            other_version=None if scored is None else scored.other_version,
            other_score=None if scored is None else scored.other_score,
            scored_by=None if scored is None else rung,
            propensity=propensity,
            region=self.region,
            user_counted_since=online.user_counted_since,
            merchant_counted_since=online.merchant_counted_since,
            channel=transaction.channel,
            listed=policy.listed(reason, payment, received_at),
            other_seen=other_seen,
        )


def seen(online: OnlineRead, vector: Matrix) -> Seen:
    """What a model was given, for the record."""
    return Seen(
        catalogue_hash=online.set_hash,
        vector=vector_bytes(vector),
        user_features=online.served_by["user_features"],
        merchant_features=online.served_by["merchant_features"],
        user_snapshot=online.user_snapshot,
        merchant_snapshot=online.merchant_snapshot,
    )
