"""The decision engine: from the bytes of a request to the bytes of an answer, whatever the transport.

What belongs here: the order of the steps of a decision, and that a valid payment always gets one, which does not
contradict a decision that stands. What does not: HTTP, Redis commands, the rungs of features (`online.ladder`) and of
the model (`serving_model`), which decision stands (`identity`), reports (`report_desk`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter

from fraud_platform.channels import WORDS
from fraud_platform.decision.answer import Answer, earlier_decision, predict_body
from fraud_platform.decision.arms import Challenger, score_by_arm
from fraud_platform.decision.batch import batch_body, parse_batch
from fraud_platform.decision.breaker import Breaker
from fraud_platform.decision.budget import Budget, Stage
from fraud_platform.decision.capacity import Capacity
from fraud_platform.decision.explain import Explainer
from fraud_platform.decision.faults import FaultLog
from fraud_platform.decision.identity import Decisions
from fraud_platform.decision.making import DecisionMaker, seen
from fraud_platform.decision.parts import Meter, OnlineRead, OnlineReader, Recorder
from fraud_platform.decision.policy import RULES, Policy
from fraud_platform.decision.problem import Problem, conflict, invalid, malformed, unavailable
from fraud_platform.decision.request import InvalidRequest, MalformedBody, Payment, Rates, parse_payment, to_transaction
from fraud_platform.decision.serving_model import NoScoreError, ServingModel
from fraud_platform.features.vector import Matrix, VectorBuilder
from fraud_platform.inference_log.record import DecisionRecord, encode_record
from fraud_platform.online.decision_key import claim
from fraud_platform.online.sets import ServedSet, without_medians
from fraud_platform.schema import Transaction


class DecisionEngine:
    """Decides payments and explains decisions. One per worker, used from one event loop.

    model, challenger and policy may be replaced at any time by assignment: each request takes them once. model None:
    the rules decide. What payments are read for follows the models: the set of each, or one where both have the same.
    clock gives the present as UTC microseconds. budget: what each stage may take, and until when the model is asked.
    capacity: payments under way beyond which the rules decide, without features, for whoever has more than its share.
    """

    def __init__(
        self,
        *,
        features: OnlineReader,
        decisions: Decisions,
        maker: DecisionMaker,
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
        builder: VectorBuilder,
        channel_words: Mapping[str, str] = WORDS,
    ) -> None:
        self._features = features
        self._builder = builder
        self._set_hash = builder.catalogue.hash
        self._without_model = without_medians(builder.catalogue)
        self._served: list[ServedSet] = []
        self._challenger: Challenger | None = None
        self.model = model
        self.policy = policy
        self._decisions = decisions
        self._maker = maker
        self._model_breaker = model_breaker
        self._rates = rates
        self._recorder = recorder
        self._explainer = explainer
        self._meter = meter
        self._faults = faults
        self._clock = clock
        self._base_currency = base_currency
        self._channel_words = channel_words
        self._budget = budget
        self._capacity = Capacity(capacity)

    @property
    def model(self) -> ServingModel | None:
        """The champion."""
        return self._model

    @model.setter
    def model(self, model: ServingModel | None) -> None:
        self._model = model
        self._serve()

    @property
    def challenger(self) -> Challenger | None:
        """The model that scores beside the champion."""
        return self._challenger

    @challenger.setter
    def challenger(self, challenger: Challenger | None) -> None:
        self._challenger = challenger
        self._serve()

    def _serve(self) -> None:
        model, challenger = self._model, self._challenger
        sets = [self._without_model if model is None else model.served]
        if model is not None and challenger is not None and challenger.model.set_hash != model.set_hash:
            sets.append(challenger.model.served)
        # a challenger is put in its place every second, with its weight
        if sets != self._served:
            self._served = sets
            self._features.serve(sets)

    @property
    def under_way(self) -> int:
        """Payments that are being decided."""
        return self._capacity.under_way

    async def decide(self, body: bytes, caller: str) -> Answer:
        """The decision on a payment (JSON), recorded before it is returned; never raises for what a caller sends."""
        full = self._capacity.enter(caller)
        try:
            return await self.answered("predict", self._decide(body, caller, full))
        finally:
            self._capacity.leave(caller)

    async def decide_batch(self, body: bytes, caller: str) -> Answer:
        """`decide` for each payment of a batch, at once; what is wrong with one is its own answer."""
        return await self.answered("predict", self._decide_batch(body, caller))

    async def explain(self, body: bytes, caller: str) -> Answer:
        """Why a decision is what it is: `{"transaction_id"}` of one decided before, or a whole payment (what-if)."""
        return await self.answered("explain", self._explain(body, caller))

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

    async def _decide(self, body: bytes, caller: str, full: bool) -> Answer:
        received_at = self._clock()
        payment = parse_payment(body, self._base_currency)
        transaction = to_transaction(payment, received_at, self._rates(), self._channel_words)
        waiting = self._decisions.waiting(caller, payment.transaction_id)
        if waiting is not None:
            return self._answer(waiting, payment, repeated=True)
        try:
            record, repeated = await self._decide_now(payment, caller, transaction, full)
        except Problem:
            raise
        except Exception as error:  # noqa: BLE001 - whatever broke, the payment gets its answer: the rules'
            self._faults.report("predict", error)
            record, repeated = self._without_asking(payment, caller, transaction)
        return self._answer(record, payment, repeated=repeated)

    async def _decide_batch(self, body: bytes, caller: str) -> Answer:
        answers = await asyncio.gather(*(self.decide(payment, caller) for payment in parse_batch(body)))
        return Answer(200, batch_body(answers))

    def _answer(self, record: DecisionRecord, payment: Payment, *, repeated: bool) -> Answer:
        field = payment.differing_field(record.request) if repeated else None
        if field is not None:
            detail = "it was decided within the last 24 hours for a payment that differs in this field"
            raise conflict(detail, field, earlier_decision(record))
        self._meter.decided(record, repeated)
        return Answer(200, predict_body(record))

    async def _decide_now(
        self, payment: Payment, caller: str, transaction: Transaction, full: bool
    ) -> tuple[DecisionRecord, bool]:
        """The decision that stands, written down, and whether it stood already. full: with features and model."""
        content = payment.content_hash()
        claimed = claim(content)
        began = perf_counter()
        # as they are when it is read: that is what it is read for
        model, challenger = self._model, self._challenger
        if full:
            online = await self._features.read(transaction, caller=caller, write=True, claim=claimed)
        else:
            online = await self._features.count(transaction, caller=caller, claim=claimed)
        self._took("read", perf_counter() - began)
        if online.standing != b"":
            standing = await self._decisions.standing(online.standing, caller, payment.transaction_id)
            if standing is not None:
                if payment.differing_field(standing.request) is None and standing.is_known:
                    # appended again: the process that settled the decision may have died before it wrote the record
                    self._write(standing, encode_record(standing))
                return standing, True
            if online.standing not in (None, claimed):
                raise conflict("it is being decided for another payment", "transaction_id", None)
        if full:
            record = self._judged(payment, content, caller, transaction, online, began, model, challenger)
        else:
            record = self._maker.record(payment, content, caller, transaction, online, None, model, self.policy, None)
        settled, payload = await self._decisions.settle(record, encode_record(record))
        self._write(settled, payload)
        return settled, settled.decision_id != record.decision_id

    def _judged(
        self,
        payment: Payment,
        content: str,
        caller: str,
        transaction: Transaction,
        online: OnlineRead,
        received: float,
        model: ServingModel | None,
        challenger: Challenger | None,
    ) -> DecisionRecord:
        """received: seconds of `perf_counter` at which the payment came."""
        began = perf_counter()
        if online.set_hash != (self._set_hash if model is None else model.set_hash):
            # the stores began to read another while this payment was under way: nothing of it is the model's
            return self._maker.record(payment, content, caller, transaction, online, None, model, self.policy, None)
        theirs: OnlineRead | None = None
        their_vector: Matrix | None = None
        if model is not None and challenger is not None and challenger.model.set_hash != model.set_hash:
            theirs = online.beside
            if theirs is None or theirs.set_hash != challenger.model.set_hash:
                theirs = challenger = None
            else:
                their_vector = challenger.model.builder.build(transaction, theirs)
        vector = (self._builder if model is None else model.builder).build(transaction, online)
        built = perf_counter()
        self._took("request_features", built - began)
        policy, scored = self.policy, None
        if built - received > self._budget.model_by:
            # the rules decide at once: the model could answer only when it is too late
            self._meter.overran("budget")
        elif model is not None and policy.asks_model and transaction.amount is not None:
            try:
                scored = score_by_arm(
                    model, challenger, payment.user_id, vector, self._model_breaker, self._faults.report, their_vector
                )
            except NoScoreError as error:
                self._faults.report(RULES, error)
            else:
                if theirs is not None and their_vector is not None and scored.model is not model:
                    online, vector, theirs, their_vector = theirs, their_vector, online, vector
                model = scored.model
            self._took("model", perf_counter() - built)
        other = None if scored is None or theirs is None or their_vector is None else seen(theirs, their_vector)
        return self._maker.record(payment, content, caller, transaction, online, vector, model, policy, scored, other)

    def _took(self, stage: Stage, seconds: float) -> None:
        self._meter.took(stage, seconds)
        if seconds > self._budget.seconds[stage]:
            self._meter.overran(stage)

    def _without_asking(self, payment: Payment, caller: str, transaction: Transaction) -> tuple[DecisionRecord, bool]:
        """A decision that waits for nothing, written down: what this worker knows to stand, else the rules'."""
        known = self._decisions.recalled(caller, payment.transaction_id)
        if known is not None:
            return known, True
        content = payment.content_hash()
        online = self._features.without_stores(transaction, caller=caller, claim=claim(content))
        record, payload = self._decisions.settle_later(
            self._maker.record(payment, content, caller, transaction, online, None, self._model, self.policy, None)
        )
        self._write(record, payload)
        return record, False

    def _write(self, record: DecisionRecord, payload: bytes) -> None:
        began = perf_counter()
        try:
            self._recorder.append(record.day, payload)
        except OSError as error:
            # a full disk must not stop payments: the record waits in memory, and the count raises an alert
            self._faults.report("record", error)
        self._took("log", perf_counter() - began)

    async def _explain(self, body: bytes, caller: str) -> Answer:
        return Answer(200, await self._explainer.explain(body, caller, self._model, self.policy, self._clock()))
