"""`POST /v1/report` and `/v1/admin/report`: what was decided in the service's stead meets what it knows itself.

What belongs here: which reports stand, and what becomes of the others. What does not: the shape of a report
(`reported`), which of two decisions stands that a service made (`standing`).

A report says what a caller was told, so the log keeps it in any case. It becomes the decision only on a payment that
nobody has decided, and only where the policy that was in force would not have been stricter and no block list means the
payment now; else it is kept as superseded by the decision that stands.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import msgspec

from fraud_platform.channels import WORDS
from fraud_platform.decision.answer import Answer, earlier_decision
from fraud_platform.decision.identity import Decisions
from fraud_platform.decision.making import DecisionMaker
from fraud_platform.decision.parts import OnlineRead, OnlineReader, Recorder
from fraud_platform.decision.policy import STRICTNESS, Policy
from fraud_platform.decision.policy_then import PolicyBook
from fraud_platform.decision.problem import already_decided, contradicts_policy, unavailable
from fraud_platform.decision.reported import Report, parse_gateway_report, parse_report, report_body, reported_record
from fraud_platform.decision.request import InvalidRequest, Rates, to_transaction
from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.inference_log.record import DecisionRecord, encode_record
from fraud_platform.online.decision_key import claim
from fraud_platform.processing import DUPLICATE_WINDOW_US, MAX_AHEAD_US
from fraud_platform.schema import Transaction

FOLLOWS_WITHIN_US = 5_000_000
"""How long whoever decides may decide by a policy that has been replaced."""


class ReportDesk:
    """Takes reports for one worker.

    policy: the one in force. past: the ones before it. clock: UTC microseconds. catalogue: whose vectors records hold.
    """

    def __init__(
        self,
        *,
        features: OnlineReader,
        decisions: Decisions,
        maker: DecisionMaker,
        policy: Callable[[], Policy],
        past: PolicyBook,
        rates: Callable[[], Rates],
        recorder: Recorder,
        clock: Callable[[], int],
        base_currency: str,
        channel_words: Mapping[str, str] = WORDS,
        catalogue: Catalogue = CATALOGUE,
    ) -> None:
        self._features = features
        self._decisions = decisions
        self._maker = maker
        self._policy = policy
        self._past = past
        self._rates = rates
        self._recorder = recorder
        self._clock = clock
        self._base_currency = base_currency
        self._channel_words = channel_words
        self._catalogue = catalogue
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="policies")

    async def take(self, body: bytes, caller: str) -> Answer:
        """Take a decision that the caller's client made by the rules. Raises Problem 409, InvalidRequest, StoreError,
        OSError; what is raised without a 4xx may be sent again."""
        return await self._taken(parse_report(body, self._base_currency), caller)

    async def take_for(self, body: bytes) -> Answer:
        """The same of the gateway's rules, which decided in this service's stead for the caller that they name."""
        caller, report = parse_gateway_report(body, self._base_currency)
        return await self._taken(report, caller)

    async def _taken(self, report: Report, caller: str) -> Answer:
        now = self._clock()
        if not now - DUPLICATE_WINDOW_US < report.decided_at_us <= now + MAX_AHEAD_US:
            raise InvalidRequest("decided_at", "is over 24 hours ago, or over 5 minutes ahead")
        payment = report.payment
        transaction = to_transaction(payment, now, self._rates(), self._channel_words)
        content = payment.content_hash()
        owed = await self._owed(report, transaction)
        # the log knows a decision by its id: a second one under it would be lost as a repeat
        if not await self._decisions.is_of(report.decision_id, caller, payment.transaction_id):
            raise InvalidRequest(
                "decision_id", "was reported for another payment; each decision needs an id of its own"
            )
        # before it is counted: a store that cannot be asked must not take a report blindly
        standing = await self._decisions.find(caller, payment.transaction_id)
        online = await self._features.count(transaction, caller=caller, claim=claim(content))
        if online.standing is None:
            raise unavailable()
        if standing is None:
            standing = await self._decisions.standing(online.standing, caller, payment.transaction_id)
        policy, region = self._policy(), self._maker.region
        told = reported_record(report, caller, transaction, online, policy, region, self._catalogue)
        refusal = already_decided
        if standing is None:
            stands = told
            if owed is not None:
                stands, refusal = self._of_policy(owed, report, caller, transaction, online), contradicts_policy
            standing = await self._decisions.settle_or_fail(stands, encode_record(stands))
        # unlike a decision, a report can be sent again: it is taken only when it is written down, and what it settled
        # the last time may not have been
        self._write(standing)
        if standing.decision_id == told.decision_id:
            return Answer(200, report_body(told))
        self._write(msgspec.structs.replace(told, superseded_by=standing.decision_id))
        raise refusal(earlier_decision(standing))

    async def _owed(self, report: Report, transaction: Transaction) -> Policy | None:
        """The policy that the report may not stand against, None where it may: the one in force, where its block list
        means the payment now; else the one that whoever decided should have decided by, where every one that it can
        have known then is stricter than the report."""
        # `decided_at` is what the reporter says: with a time before the entry, or after its end, it would lift it
        decision, reason = self._maker.decided_by(self._policy(), report.payment, transaction, transaction.received_at)
        if reason == "block_list" and decision != report.decision:
            return self._policy()
        first, last = report.decided_at_us - FOLLOWS_WITHIN_US, report.decided_at_us + FOLLOWS_WITHIN_US
        loop = asyncio.get_running_loop()
        policies = await loop.run_in_executor(self._thread, self._past.between, first, last)
        for policy in policies or [self._policy()]:
            decision, _ = self._maker.decided_by(policy, report.payment, transaction, report.decided_at_us)
            if STRICTNESS[decision] <= STRICTNESS[report.decision]:
                return None
        return policies[-1] if policies else self._policy()

    def _of_policy(
        self, policy: Policy, report: Report, caller: str, transaction: Transaction, online: OnlineRead
    ) -> DecisionRecord:
        content = report.payment.content_hash()
        return self._maker.record(report.payment, content, caller, transaction, online, None, None, policy, None)

    def _write(self, record: DecisionRecord) -> None:
        self._recorder.append(record.day, encode_record(record))

    def close(self) -> None:
        """End the thread that reads policies."""
        self._thread.shutdown(wait=True)
