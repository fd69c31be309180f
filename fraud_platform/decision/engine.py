"""The decision engine: from the bytes of a request to the bytes of an answer, whatever the transport.

What belongs here: the order of the steps of a decision, identity, and that a valid payment always gets a decision. What
does not: HTTP, Redis commands, the rungs of features (`online.ladder`) and of the model (`serving_model`).
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from itertools import count
from time import perf_counter

import numpy as np

from fraud_platform.currency import exponent
from fraud_platform.decision.answer import Answer, predict_body
from fraud_platform.decision.arms import Challenger, Scored, score_by_arm
from fraud_platform.decision.batch import batch_body, parse_batch
from fraud_platform.decision.breaker import Breaker
from fraud_platform.decision.budget import Budget, Stage
from fraud_platform.decision.explain import Explainer
from fraud_platform.decision.faults import FaultLog
from fraud_platform.decision.identity import Decisions
from fraud_platform.decision.measurement import released
from fraud_platform.decision.parts import Meter, OnlineRead, OnlineReader, Recorder
from fraud_platform.decision.policy import DECIDED_BY, Policy, decide
from fraud_platform.decision.problem import Problem, conflict, invalid, malformed, unavailable
from fraud_platform.decision.reported import Report, parse_gateway_report, parse_report, report_body, reported_record
from fraud_platform.decision.request import InvalidRequest, MalformedBody, Payment, Rates, parse_payment, to_transaction
from fraud_platform.decision.serving_model import CHAMPION, RULES, NoScoreError, ServingModel
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.features.vector import Matrix, build_vector
from fraud_platform.inference_log.record import (
    SCHEMA_VERSION,
    DecisionRecord,
    ServedBy,
    decode_record,
    encode_record,
    vector_bytes,
)
from fraud_platform.online.decision_key import CLAIM, claim
from fraud_platform.online.wire import StoreError
from fraud_platform.schema import FIRST_REGION, Transaction

_WINNER_POLLS = 10
_WINNER_POLL_SECONDS = 0.005

_NO_MODEL = "none/0"
"""Version in answers of a service that has no model."""

_NOT_READ = np.full(len(CATALOGUE.names), np.nan, np.float32)


class DecisionEngine:
    """Decides payments and explains decisions. One per worker, used from one event loop.

    model, challenger and policy may be replaced at any time by assignment: each request takes them once. model None:
    the rules decide.
    clock gives the present as UTC microseconds. budget: what each stage may take, and until when the model is asked.
    capacity: payments under way beyond which the rules answer at once.
    release_share: share of what the threshold blocks that is let through to be measured.
    """

    def __init__(
        self,
        *,
        features: OnlineReader,
        decisions: Decisions,
        model: ServingModel | None,
        model_breaker: Breaker,
        policy: Policy,
        rates: Callable[[], Rates],
        recorder: Recorder,
        explainer: Explainer,
        meter: Meter,
        faults: FaultLog,
        clock: Callable[[], int],
        base_currency: str,
        budget: Budget,
        capacity: int,
        release_share: float = 0.0,
        release_seed: int = 0,
        region: str = FIRST_REGION,
    ) -> None:
        self.model = model
        self.challenger: Challenger | None = None
        self.policy = policy
        self._features = features
        self._decisions = decisions
        self._model_breaker = model_breaker
        self._rates = rates
        self._recorder = recorder
        self._explainer = explainer
        self._meter = meter
        self._faults = faults
        self._clock = clock
        self._base_currency = base_currency
        self._exponent = exponent(base_currency)
        self._budget = budget
        self._capacity = capacity
        self._release_share = release_share
        self._release_seed = release_seed
        self._region = region
        self._under_way = 0
        # unique as a UUID is, and made by counting on from one
        self._ids = count(int.from_bytes(os.urandom(15)) << 8)

    @property
    def under_way(self) -> int:
        """Payments that are being decided."""
        return self._under_way

    async def decide(self, body: bytes, caller: str) -> Answer:
        """The decision on a payment (JSON), recorded before it is returned; never raises for what a caller sends."""
        self._under_way += 1
        try:
            return await self.answered("predict", self._decide(body, caller))
        finally:
            self._under_way -= 1

    async def decide_batch(self, body: bytes, caller: str) -> Answer:
        """`decide` for each payment of a batch, at once; what is wrong with one is its own answer."""
        return await self.answered("predict", self._decide_batch(body, caller))

    async def explain(self, body: bytes, caller: str) -> Answer:
        """Why a decision is what it is: `{"transaction_id"}` of one decided before, or a whole payment (what-if)."""
        return await self.answered("explain", self._explain(body, caller))

    async def report(self, body: bytes, caller: str) -> Answer:
        """Take a decision that the caller's client made by the rules; velocity counts the attempt, once."""
        return await self.answered("report", self._report(body, caller))

    async def report_for(self, body: bytes) -> Answer:
        """The same of the gateway's rules, which decided in this service's stead for the caller that they name."""
        return await self.answered("report", self._report_for(body))

    async def answered(self, stage: str, work: Awaitable[Answer]) -> Answer:
        """What some work answers, or its error as an answer."""
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
        transaction = to_transaction(payment, received_at, self._rates())
        own = self._decisions.remembered(caller, payment.transaction_id)
        if own is not None:
            return self._answer(own, content, repeated=True)
        try:
            record, repeated = await self._decide_now(payment, content, caller, transaction)
        except Problem:
            raise
        except Exception as error:  # noqa: BLE001 - whatever broke, the payment gets its answer: the rules'
            self._faults.report("predict", error)
            record, repeated = self._by_rules(payment, content, caller, transaction), False
        return self._answer(record, content, repeated=repeated)

    async def _decide_batch(self, body: bytes, caller: str) -> Answer:
        answers = await asyncio.gather(*(self.decide(payment, caller) for payment in parse_batch(body)))
        return Answer(200, batch_body(answers))

    def _answer(self, record: DecisionRecord, content: str, *, repeated: bool) -> Answer:
        if record.request_hash != content:
            raise conflict("it was decided within the last 24 hours, for another payment")
        self._meter.decided(record, repeated)
        return Answer(200, predict_body(record))

    async def _decide_now(
        self, payment: Payment, content: str, caller: str, transaction: Transaction
    ) -> tuple[DecisionRecord, bool]:
        """The decision that stands, written down, and whether it stood already."""
        if self._under_way > self._capacity:
            return self._by_rules(payment, content, caller, transaction), False
        began = perf_counter()
        online = await self._features.read(transaction, caller=caller, write=True, claim=claim(content))
        self._took("read", perf_counter() - began)
        standing = await self._standing(online, content, caller, payment.transaction_id)
        if standing is not None:
            if standing.request_hash == content:
                # appended again: the process that settled the decision may have died before it wrote the record
                self._write(standing, encode_record(standing))
            return standing, True
        record = self._judged(payment, content, caller, transaction, online, began)
        payload = encode_record(record)
        settled = await self._decisions.settle(record, payload)
        if settled is not record:
            payload = encode_record(settled)
        self._write(settled, payload)
        return settled, settled is not record

    async def _standing(
        self, online: OnlineRead, content: str, caller: str, transaction_id: str
    ) -> DecisionRecord | None:
        """The decision that was there before, or is being made by whoever came first; None: it is ours to make."""
        if not online.standing:
            return None
        if not online.standing.startswith(CLAIM):
            return decode_record(online.standing)
        if online.standing != claim(content):
            raise conflict("it is being decided for another payment")
        # None at the end: whoever claimed it has died, or could not settle
        for _ in range(_WINNER_POLLS):
            try:
                standing = await self._decisions.find(caller, transaction_id)
            except StoreError:
                return None
            if standing is not None:
                return standing
            await asyncio.sleep(_WINNER_POLL_SECONDS)
        return None

    def _judged(
        self, payment: Payment, content: str, caller: str, transaction: Transaction, online: OnlineRead, received: float
    ) -> DecisionRecord:
        """received: seconds of `perf_counter` at which the payment came."""
        began = perf_counter()
        vector = build_vector(transaction, online)
        built = perf_counter()
        self._took("request_features", built - began)
        model, policy, scored = self.model, self.policy, None
        if built - received > self._budget.model_by:
            # the rules decide at once: the model could answer only when it is too late
            self._meter.overran("budget")
        elif model is not None and policy.asks_model:
            try:
                scored = score_by_arm(
                    model, self.challenger, payment.user_id, vector, self._model_breaker, self._faults.report
                )
                model = scored.model
            except NoScoreError as error:
                self._faults.report(RULES, error)
            self._took("model", perf_counter() - built)
        return self._record(payment, content, caller, transaction, online, vector, model, policy, scored)

    def _took(self, stage: Stage, seconds: float) -> None:
        self._meter.took(stage, seconds)
        if seconds > self._budget.seconds[stage]:
            self._meter.overran(stage)

    def _by_rules(self, payment: Payment, content: str, caller: str, transaction: Transaction) -> DecisionRecord:
        """A decision that waits for nothing, written down."""
        online = self._features.without_stores(transaction, caller=caller, claim=claim(content))
        record = self._record(payment, content, caller, transaction, online, _NOT_READ, self.model, self.policy, None)
        payload = encode_record(record)
        self._decisions.post(record, payload)
        self._write(record, payload)
        return record

    def _record(
        self,
        payment: Payment,
        content: str,
        caller: str,
        transaction: Transaction,
        online: OnlineRead,
        vector: Matrix,
        model: ServingModel | None,
        policy: Policy,
        scored: Scored | None,
    ) -> DecisionRecord:
        """scored: None where no model was asked, or none could say."""
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
            catalogue_hash=CATALOGUE.hash,
            vector=vector_bytes(vector),
            user_snapshot=online.user_snapshot,
            merchant_snapshot=online.merchant_snapshot,
            epoch=online.epoch,
            complete_since=online.complete_since,
            served_by=ServedBy(
                user_features=online.served_by["user_features"],
                merchant_features=online.served_by["merchant_features"],
                model=DECIDED_BY.get(reason, rung),
            ),
            model_version=model.version if model is not None else _NO_MODEL,
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
            region=self._region,
            user_counted_since=online.user_counted_since,
            merchant_counted_since=online.merchant_counted_since,
        )

    def _write(self, record: DecisionRecord, payload: bytes) -> None:
        began = perf_counter()
        try:
            self._recorder.append(record.day, payload)
        except OSError as error:
            # a full disk must not stop payments: the record waits in memory, and the count raises an alert
            self._faults.report("record", error)
        self._took("log", perf_counter() - began)

    async def _explain(self, body: bytes, caller: str) -> Answer:
        return Answer(200, await self._explainer.explain(body, caller, self.model, self.policy, self._clock()))

    async def _report(self, body: bytes, caller: str) -> Answer:
        return await self._taken(parse_report(body, self._base_currency), caller)

    async def _report_for(self, body: bytes) -> Answer:
        caller, report = parse_gateway_report(body, self._base_currency)
        return await self._taken(report, caller)

    async def _taken(self, report: Report, caller: str) -> Answer:
        transaction = to_transaction(report.payment, self._clock(), self._rates())
        content = report.payment.content_hash()
        online = await self._features.read(transaction, caller=caller, write=True, claim=claim(content))
        record = reported_record(report, caller, transaction, online, self.policy, self._region)
        payload = encode_record(record)
        # unlike a decision, a report can be sent again: it is taken only when it is written down
        self._recorder.append(record.day, payload)
        self._decisions.post(record, payload)
        return Answer(200, report_body(record))
