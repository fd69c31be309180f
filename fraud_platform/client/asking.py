"""Asking the service for a decision, in time, whatever is broken: deadline, retries, breaker, fallback to the rules.

What belongs here: the client for code with an event loop. What does not: the rules (`decision.rules`), the files of
what they decided (`outbox`).
"""

import asyncio
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack

import httpx
import msgspec

from fraud_platform.client.answer import (
    NOT_READ,
    Decision,
    PaymentRefused,
    amount_of,
    decode_decision,
    encode,
    identity_of,
    optional_text_of,
    problem_of,
    text_of,
)
from fraud_platform.decision.breaker import Breaker, CircuitBreaker
from fraud_platform.decision.problem import is_kept
from fraud_platform.decision.rules import FallbackRules
from fraud_platform.identifiers import canonical
from fraud_platform.outbox import Delivered, Outbox, line

logger = logging.getLogger("fraud_platform.client")

DEADLINE = 0.25
"""Seconds: the service's own budget is 0.1, the rest is for the network and one retry."""

_PAUSES = (0.0, 0.01, 0.02, 0.04, 0.08)
"""Seconds before each retry, the last one also before all further ones; the first is for a connection gone stale."""

_REFUSED = frozenset((400, 409, 413, 415, 422))
"""The payment itself is wrong: nobody can decide it, and asking again does not help."""

_PASSING = frozenset((408, 429, 502, 503, 504))
"""Worth asking again: the service or what stands before it is overloaded or restarting."""

REMEMBERED = 10_000
"""Decisions that a client knows by itself, about 10 MB: what it answers by while no service does."""

_REPORT_SECONDS = 2.0
_REPORT_EVERY = 1.0


class Options(TypedDict, total=False):
    """What both clients take beside the service's address."""

    outbox: Path | None
    """Folder where decisions by the rules wait to be reported; None: they are not reported."""
    api_key: str | None
    deadline: float
    """Seconds until a decision is there, retries included."""
    rules: FallbackRules
    rates: Mapping[str, Decimal]
    """Base-currency units per unit of a currency, for the rules' limits; one that is not here counts as it is."""
    fsync: bool
    """Whether a decision by the rules outlives this machine before it is returned, or this process alone."""
    breaker: Breaker


class AsyncFraudClient:
    """Asks the decision service; for one event loop. Use as an async context manager, or `aclose` it."""

    def __init__(self, url: str, **options: Unpack[Options]) -> None:
        self._deadline = options.get("deadline", DEADLINE)
        self._rules = options.get("rules", FallbackRules())
        self._rates = options.get("rates", {})
        self._breaker = options.get("breaker") or CircuitBreaker("service", time.monotonic)
        self._fsync = options.get("fsync", False)
        folder = options.get("outbox")
        self._outbox = None if folder is None else Outbox(Path(folder), fsync=self._fsync)
        key = options.get("api_key")
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {}),
            timeout=None,  # each call has one deadline for all of its steps
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
            trust_env=False,
        )
        self._told: OrderedDict[str, tuple[tuple[object, ...], Decision]] = OrderedDict()
        self._reporting: asyncio.Task[None] | None = None
        self._report_at = 0.0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def decide(self, payment: Mapping[str, Any]) -> Decision:
        """The decision on a payment, with the fields of `POST /v1/predict`, within the deadline.

        Amounts may be int, Decimal or float, times datetime or text. Raises PaymentRefused where the service refuses
        this payment; where no service answers, the rules decide, and ValueError says which field they cannot read.
        """
        body = encode(payment)
        if not self._breaker.allow():
            return await self._by_rules(payment, "breaker_open")
        causes = ["timeout"]
        try:
            async with asyncio.timeout(self._deadline):
                decision = await self._asked(body, causes)
        except PaymentRefused:
            self._breaker.succeeded()
            raise
        except (_NoAnswerError, TimeoutError):
            self._breaker.failed()
            return await self._by_rules(payment, causes[-1])
        except BaseException:
            # a caller that gave up: a breaker that let this through as its probe must not wait for the outcome
            self._breaker.failed()
            raise
        self._breaker.succeeded()
        self._remember(payment, decision)
        self._report_beside()
        return decision

    async def _asked(self, body: bytes, causes: list[str]) -> Decision:
        """The service's answer, asked for until the deadline falls. Appends why an attempt failed.

        Asking again is safe whatever became of the attempt before: within 24 hours a transaction_id has one decision.
        """
        attempt = 0
        while True:
            try:
                response = await self._http.post("/v1/predict", content=body)
            except httpx.HTTPError:
                causes.append("unreachable")
            else:
                if response.status_code == httpx.codes.OK:
                    return _decision(response, causes)
                if response.status_code in _REFUSED:
                    raise PaymentRefused(response.status_code, problem_of(response.content))
                causes.append(f"http_{response.status_code}")
                if response.status_code not in _PASSING:
                    logger.error("the service answers %s: %s", response.status_code, _detail(response))
                    raise _NoAnswerError
            await asyncio.sleep(_PAUSES[min(attempt, len(_PAUSES) - 1)])
            attempt += 1

    async def _by_rules(self, payment: Mapping[str, Any], cause: str) -> Decision:
        transaction_id = canonical(text_of(payment, "transaction_id"))
        told = self._told.get(transaction_id)
        if told is not None and told[0] == identity_of(payment):
            # what it was told, by the service or by the rules: there is one decision, and nothing new to report
            return msgspec.structs.replace(told[1], by_client=cause)
        amount = amount_of(payment) * self._rates.get(optional_text_of(payment, "currency") or "", 1)
        countries = (optional_text_of(payment, field) for field in ("country", "user_country"))
        decision, reason = self._rules.decide_amount(amount, *countries)
        if self._outbox is not None:
            kept = line(
                payment,
                decision,
                reason,
                cause,
                decision_id=uuid.uuid4().hex,
                decided_at=datetime.now(UTC),
                caller=None,
            )
            try:
                if self._fsync:
                    await asyncio.to_thread(self._outbox.append, kept)
                else:
                    self._outbox.append(kept)
            except OSError as error:
                # the payment is decided all the same; the platform will not learn of it
                logger.error("a decision by the rules could not be kept for the report: %s", error)
        decided = Decision(
            transaction_id=transaction_id,
            decision=decision,
            reason=reason,
            score=None,
            served_by=NOT_READ,
            degraded=True,
            by_client=cause,
        )
        self._remember(payment, decided)
        return decided

    def _remember(self, payment: Mapping[str, Any], decision: Decision) -> None:
        self._told[decision.transaction_id] = identity_of(payment), decision
        if len(self._told) > REMEMBERED:
            self._told.popitem(last=False)

    def _report_beside(self) -> None:
        """Begin to report what waits, now that the service answers."""
        if self._outbox is None or not self._outbox.waiting or time.monotonic() < self._report_at:
            return
        if self._reporting is None or self._reporting.done():
            self._reporting = asyncio.get_running_loop().create_task(self._report_quietly())

    async def _report_quietly(self) -> None:
        try:
            await self.report()
        except (_NoAnswerError, httpx.HTTPError, TimeoutError, OSError) as error:
            logger.warning("decisions by the rules wait to be reported: %s", error or type(error).__name__)
        self._report_at = time.monotonic() + _REPORT_EVERY

    async def report(self) -> Delivered:
        """Send what the rules decided to the service, which happens by itself after a decision of the service.

        Raises an error when the service does not take it; it is kept then.
        """
        return Delivered() if self._outbox is None else await self._outbox.deliver(self._report_one)

    async def _report_one(self, kept: bytes) -> bool:
        async with asyncio.timeout(_REPORT_SECONDS):
            response = await self._http.post("/v1/report", content=kept)
        if response.is_success or is_kept(response.content):
            return True
        if response.status_code in _REFUSED:
            logger.error("a decision by the rules was not taken: %s", _detail(response))
            return False
        raise _NoAnswerError(f"the service answers {response.status_code} to a report")

    async def aclose(self) -> None:
        """Give connections and files back; what was not reported waits for the next client of this outbox."""
        if self._reporting is not None:
            self._reporting.cancel()
            await asyncio.gather(self._reporting, return_exceptions=True)
        if self._outbox is not None:
            self._outbox.seal()
        await self._http.aclose()


class _NoAnswerError(Exception):
    """The service answers, and not with a decision."""


def _decision(response: httpx.Response, causes: list[str]) -> Decision:
    try:
        return decode_decision(response.content)
    except msgspec.MsgspecError as error:
        causes.append("bad_answer")
        raise _NoAnswerError from error


def _detail(response: httpx.Response) -> str:
    return str(problem_of(response.content).get("detail", response.reason_phrase))
