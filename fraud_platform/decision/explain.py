"""Explanations: of a decision by its very vector and model, or of a payment as it would score now.

What belongs here: which vector and which model are explained. What does not: TreeSHAP itself (`model.bundle`). Nothing
here writes: neither velocity, nor identity, nor a record.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraud_platform.channels import WORDS
from fraud_platform.currency import exponent
from fraud_platform.decision.answer import SHOWN_DECIMALS, ExplainAnswer, ListedEntry, explain_body, top_contributions
from fraud_platform.decision.identity import Decisions
from fraud_platform.decision.parts import OnlineReader
from fraud_platform.decision.policy import (
    DECIDED_BY,
    LISTS,
    POLICY_SENTENCES,
    DecisionName,
    ListedFields,
    Policy,
    decide,
)
from fraud_platform.decision.policy_record import PolicyError, read_policy
from fraud_platform.decision.problem import not_scored, unknown_transaction
from fraud_platform.decision.reasons import Reasons
from fraud_platform.decision.request import (
    Identifier,
    Rates,
    decode_json,
    identity,
    named_fields,
    parse_payment,
    to_transaction,
)
from fraud_platform.decision.rules import RULE_SENTENCES
from fraud_platform.decision.serving_model import CHAMPION, Explainable, PastModels, ServingModel, known_values
from fraud_platform.features.catalogue import Catalogue
from fraud_platform.features.vector import VectorBuilder
from fraud_platform.inference_log.record import DecisionRecord, Identity
from fraud_platform.inference_log.search import find_decisions
from fraud_platform.inference_log.shared_search import SharedSearch
from fraud_platform.inference_log.table import LogTable
from fraud_platform.online.wire import StoreError

logger = logging.getLogger("fraud_platform.decision")

UNITS = "log-odds"
_SENTENCES = RULE_SENTENCES | POLICY_SENTENCES
T = TypeVar("T")


class DecisionReference(msgspec.Struct, frozen=True):
    """A decision made before, by its transaction_id."""

    transaction_id: Identifier


_reference = msgspec.json.Decoder(DecisionReference).decode


class Explainer:
    """Answers /v1/explain. SHAP takes milliseconds of CPU, so it runs on one thread beside the event loop.

    search_days: UTC days of the inference log that are searched for a decision older than 24 hours.
    """

    def __init__(
        self,
        *,
        features: OnlineReader,
        decisions: Decisions,
        rates: Callable[[], Rates],
        home: Path,
        log: LogTable,
        base_currency: str,
        search_days: int,
        builder: VectorBuilder,
        channel_words: Mapping[str, str] = WORDS,
    ) -> None:
        self._builder = builder
        self._features = features
        self._decisions = decisions
        self._rates = rates
        self._home = home
        self._log = log
        self._base_currency = base_currency
        self._channel_words = channel_words
        self._exponent = exponent(base_currency)
        self._reasons: dict[str, Reasons] = {}
        self._search_days = search_days
        self._past = PastModels(home, builder.catalogue)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="explain")
        self._searches = SharedSearch(self._search, self._thread)

    async def explain(self, body: bytes, caller: str, model: ServingModel | None, policy: Policy, now: int) -> bytes:
        """The answer's JSON. policy: what a what-if is decided by. now: UTC microseconds. Raises Problem,
        InvalidRequest."""
        if named_fields(body).keys() == {"transaction_id"}:
            transaction_id = identity("transaction_id", decode_json(_reference, body).transaction_id)
            return await self._recorded(transaction_id, caller, model, now)
        if model is None:
            raise not_scored("no model is in force; the rules decide")
        return await self._what_if(body, caller, model, policy, now)

    async def _recorded(self, transaction_id: str, caller: str, model: ServingModel | None, now: int) -> bytes:
        record = await self.find(transaction_id, caller, now)
        if record is None:
            raise unknown_transaction(f"no decision of yours in the last {self._search_days} days has this id")
        found, score = record, record.score
        listed = await self._listed(found.reason, found.request, found.received_at, found.policy_version)
        if score is None:
            return self._without_score(
                transaction_id,
                "recorded",
                found.model_version,
                found.served_by.model,
                found.decision,
                found.reason,
                listed,
            )

        def answer() -> bytes:
            # on the explaining thread: loading a past model takes long, and PastModels is not thread-safe
            current = model if model is not None and model.scorer_hash == found.scorer_hash else None
            if current is None:
                rung, own, vector = self._past.rung(found)
            else:
                rung, own = current.rung(found.rung), current.builder.catalogue
                vector = known_values(found, current.features, own, self._builder.catalogue)
            return self._answer(
                rung,
                own,
                vector,
                transaction_id,
                "recorded",
                found.model_version,
                found.served_by.model,
                found.decision,
                found.reason,
                score,
                listed,
            )

        return await self._beside(answer)

    async def _listed(self, reason: str, payment: ListedFields, at: int, version: int) -> ListedEntry | None:
        """The entry of a list that decided, of the policy's version that did; None where that is not kept."""
        if reason not in LISTS:
            return None

        def look() -> ListedEntry | None:
            try:
                policy = read_policy(self._home, version)
            except PolicyError as error:
                logger.error("an explanation does not name the entry that decided: %s", error)
                return None
            entry = None if policy is None else policy.deciding_entry(reason, payment, at)
            if entry is None:
                return None
            return ListedEntry(
                list=reason,
                kind=entry.kind,
                value=entry.value,
                until=entry.until,
                why=entry.why,
                policy_version=version,
            )

        return await self._beside(look)

    def _without_score(
        self,
        transaction_id: str,
        basis: Literal["recorded", "what_if"],
        model_version: str,
        decided_by: str,
        decision: DecisionName,
        reason: str,
        listed: ListedEntry | None,
    ) -> bytes:
        """No model, so no contributions: the rule that fired, the list or the kill switch is the whole reason."""
        return explain_body(
            ExplainAnswer(
                transaction_id=transaction_id,
                basis=basis,
                model_version=model_version,
                decided_by=decided_by,
                score=None,
                decision=decision,
                reason=_SENTENCES.get(reason, reason),
                margin=None,
                base_value=None,
                units=UNITS,
                contributions=[],
                listed=listed,
            )
        )

    async def find(self, transaction_id: str, caller: str, now: int) -> DecisionRecord | None:
        """A decision of the caller by the store or, where that has forgotten it or is away, by the log."""
        try:
            record = await self._decisions.find(caller, transaction_id)
        except StoreError:
            record = None
        return record or await self._searches.find((caller, transaction_id), now)

    def _search(self, wanted: Collection[Identity], now: int) -> dict[Identity, DecisionRecord]:
        today = datetime.fromtimestamp(now // 1_000_000, UTC).date()
        return find_decisions(self._home, self._log, wanted, until=today, days=self._search_days)

    async def _what_if(self, body: bytes, caller: str, model: ServingModel, policy: Policy, now: int) -> bytes:
        payment = parse_payment(body, self._base_currency)
        transaction = to_transaction(payment, now, self._rates(), self._channel_words)
        if transaction.amount is None:
            decision, reason = decide(policy, None, payment, None, self._exponent, now)
            listed = await self._listed(reason, payment, now, policy.version)
            return self._without_score(
                payment.transaction_id, "what_if", model.version, DECIDED_BY[reason], decision, reason, listed
            )
        online = await self._features.read(transaction, caller=caller, write=False, claim=b"")
        if online.set_hash != model.set_hash:
            raise not_scored("another model came into force meanwhile; ask again")
        vector = model.builder.build(transaction, online)
        score = float(model.scorer.score(vector[None, :])[0])
        decision, reason = decide(policy, score, payment, transaction.amount, self._exponent, now)
        decider = DECIDED_BY.get(reason, CHAMPION)
        listed = await self._listed(reason, payment, now, policy.version)
        return await self._beside(
            lambda: self._answer(
                model.scorer,
                model.builder.catalogue,
                vector,
                payment.transaction_id,
                "what_if",
                model.version,
                decider,
                decision,
                reason,
                score,
                listed,
            )
        )

    async def _beside(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _answer(
        self,
        rung: Explainable,
        own: Catalogue,
        vector: NDArray[np.float32],
        transaction_id: str,
        basis: Literal["recorded", "what_if"],
        model_version: str,
        decided_by: str,
        decision: DecisionName,
        reason: str,
        score: float,
        listed: ListedEntry | None,
    ) -> bytes:
        """own: the set that the vector is of. reason: of the decision; where the score was not what decided, its
        sentence is the explanation's."""
        explanation = rung.explain(vector)
        reasons = self._reasons.get(own.hash)
        if reasons is None:
            reasons = self._reasons[own.hash] = Reasons(self._base_currency, self._exponent, own)
        contributions = top_contributions(vector, np.asarray(explanation.contributions), reasons)
        raising = "; ".join(one.reason for one in contributions if one.contribution > 0) or "nothing raises risk"
        return explain_body(
            ExplainAnswer(
                transaction_id=transaction_id,
                basis=basis,
                model_version=model_version,
                decided_by=decided_by,
                score=round(score, SHOWN_DECIMALS),
                decision=decision,
                reason=_SENTENCES.get(reason, raising),
                margin=round(explanation.margin, SHOWN_DECIMALS),
                base_value=round(explanation.base_value, SHOWN_DECIMALS),
                units=UNITS,
                contributions=contributions,
                listed=listed,
            )
        )

    def close(self) -> None:
        """Let a running explanation finish and end the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)
