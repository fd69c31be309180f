"""The decision engine: from the bytes of a request to the bytes of an answer, whatever the transport.

What belongs here: the order of the steps of a decision, and identity. What does not: HTTP, Redis commands, the model.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable

from fraud_platform.decision.answer import Answer, predict_body
from fraud_platform.decision.explain import Explainer
from fraud_platform.decision.faults import FaultLog
from fraud_platform.decision.identity import Decisions
from fraud_platform.decision.parts import Meter, OnlineRead, OnlineReader, Recorder
from fraud_platform.decision.problem import Problem, conflict, invalid, malformed, unavailable
from fraud_platform.decision.request import InvalidRequest, MalformedBody, Payment, Rates, parse_payment, to_transaction
from fraud_platform.decision.serving_model import ServingModel
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.features.vector import build_vector
from fraud_platform.inference_log.record import (
    SCHEMA_VERSION,
    DecisionRecord,
    ServedBy,
    encode_record,
    vector_bytes,
)
from fraud_platform.schema import Transaction

_WINNER_POLLS = 10
_WINNER_POLL_SECONDS = 0.005


class DecisionEngine:
    """Decides payments and explains decisions. One per worker, used from one event loop.

    model may be replaced at any time by assignment: each request takes it once.
    clock gives the present as UTC microseconds.
    """

    def __init__(
        self,
        *,
        store: OnlineReader,
        decisions: Decisions,
        model: ServingModel,
        rates: Callable[[], Rates],
        recorder: Recorder,
        explainer: Explainer,
        meter: Meter,
        clock: Callable[[], int],
        base_currency: str,
    ) -> None:
        self.model = model
        self._store = store
        self._decisions = decisions
        self._rates = rates
        self._recorder = recorder
        self._explainer = explainer
        self._meter = meter
        self._clock = clock
        self._base_currency = base_currency
        self._faults = FaultLog(clock, meter.failed)

    async def decide(self, body: bytes, caller: str) -> Answer:
        """The decision on a payment (JSON), recorded before it is returned; never raises for what a caller sends."""
        return await self._answered("predict", self._decide(body, caller))

    async def explain(self, body: bytes, caller: str) -> Answer:
        """Why a decision is what it is: `{"transaction_id"}` of one decided before, or a whole payment (what-if)."""
        return await self._answered("explain", self._explain(body, caller))

    async def _answered(self, stage: str, work: Awaitable[Answer]) -> Answer:
        try:
            return await work
        except MalformedBody as error:
            return Answer.of(malformed(error.detail))
        except InvalidRequest as error:
            return Answer.of(invalid(error.field, error.detail))
        except Problem as problem:
            return Answer.of(problem)
        except Exception as error:  # noqa: BLE001 - counted and logged; the caller gets a problem, never a traceback
            self._faults.report(stage, error)
            return Answer.of(unavailable())

    async def _decide(self, body: bytes, caller: str) -> Answer:
        received_at = self._clock()
        payment = parse_payment(body, self._base_currency)
        content = payment.content_hash()
        record = await self._decisions.find(caller, payment.transaction_id)
        repeated = record is not None
        if record is None:
            record, repeated = await self._decide_now(payment, content, caller, received_at)
        if record.request_hash != content:
            raise conflict("it was decided within the last 24 hours, for another payment")
        # a repeat is appended too: the process that settled the decision may have died before it wrote the record
        self._record(record)
        self._meter.decided(record, repeated)
        return Answer(200, predict_body(record))

    async def _decide_now(
        self, payment: Payment, content: str, caller: str, received_at: int
    ) -> tuple[DecisionRecord, bool]:
        """The decision that stands, and whether it is somebody else's: the same payment may come twice at once."""
        transaction = to_transaction(payment, received_at, self._rates())
        online = await self._store.read(transaction, caller=caller, write=True)
        if online.duplicate:
            standing = await self._awaited(caller, payment.transaction_id)
            if standing is not None:
                return standing, True
        record = self._judged(payment, content, caller, transaction, online)
        standing = await self._decisions.settle(record)
        return standing, standing is not record

    def _judged(
        self, payment: Payment, content: str, caller: str, transaction: Transaction, online: OnlineRead
    ) -> DecisionRecord:
        model = self.model
        vector = build_vector(transaction, online)
        score = float(model.scorer.score(vector[None, :])[0])
        decision, reason = model.policy.decide(score)
        return DecisionRecord(
            schema_version=SCHEMA_VERSION,
            decision_id=uuid.uuid4().hex,
            caller=caller,
            request_hash=content,
            request=payment,
            received_at=transaction.received_at,
            amount=transaction.amount,
            event_time=transaction.event_time,
            clock_skew=transaction.clock_skew,
            user_effective_time=online.user_effective_time,
            merchant_effective_time=online.merchant_effective_time,
            catalogue_hash=CATALOGUE.hash,
            vector=vector_bytes(vector),
            user_snapshot=online.user_snapshot,
            merchant_snapshot=online.merchant_snapshot,
            epoch=online.epoch,
            complete_since=online.complete_since,
            served_by=ServedBy(
                user_features=online.served_by["user_features"],
                merchant_features=online.served_by["merchant_features"],
                model="champion",
            ),
            model_version=model.version,
            scorer_hash=model.scorer_hash,
            policy_version=model.policy.version,
            threshold=model.policy.threshold,
            review_threshold=model.policy.review_threshold,
            score=score,
            decision=decision,
            reason=reason,
            latency_us=self._clock() - transaction.received_at,
        )

    async def _awaited(self, caller: str, transaction_id: str) -> DecisionRecord | None:
        """The decision of whoever was first to count the payment; None when it does not come, its maker having died."""
        for _ in range(_WINNER_POLLS):
            standing = await self._decisions.find(caller, transaction_id)
            if standing is not None:
                return standing
            await asyncio.sleep(_WINNER_POLL_SECONDS)
        return None

    def _record(self, record: DecisionRecord) -> None:
        try:
            self._recorder.append(record.day, encode_record(record))
        except OSError as error:
            # a full disk must not stop payments: the decision is in Redis for 24 hours, and the count raises an alert
            self._faults.report("record", error)

    async def _explain(self, body: bytes, caller: str) -> Answer:
        return Answer(200, await self._explainer.explain(body, caller, self.model, self._clock()))
