"""The last server behind the gateway: decides payments by the rules where no decision service answers.

What belongs here: `/v1/predict` and `/v1/predict/batch` by the rules alone, as a process of its own. What does not: the
policy (`decision.policy`), reporting what they decided (`reporting`). It must be there when everything else is not: no
model, no Redis, no NumPy, no settings to read; it takes a third of a second to start and holds some 40 MB.
"""

import argparse
import asyncio
import hashlib
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import msgspec
import uvicorn

from fraud_platform.decision.access import Access, open_access
from fraud_platform.decision.policy import DECIDED_BY, Policy, decide
from fraud_platform.decision.problem import (
    CONTENT_TYPE,
    EarlierDecision,
    Problem,
    conflict,
    foreign_page,
    invalid,
    malformed,
    not_found,
    too_large,
    unavailable,
)
from fraud_platform.decision.rules import FallbackRules
from fraud_platform.decision.wire import (
    InvalidRequest,
    MalformedBody,
    PaymentRequest,
    decode_json,
    number,
    read_payment,
)
from fraud_platform.gateway.policy_file import NOT_KEPT, PolicyFile
from fraud_platform.gateway.reporting import CAUSE, report_for_ever
from fraud_platform.hosts import Hosts
from fraud_platform.outbox import Outbox, line

logger = logging.getLogger("fraud_platform.gateway")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

REMEMBERED = 20_000
"""Payments whose answers are known for when they come again, about 20 MB."""

HOST = "127.0.0.1"
MAX_BODY = 512 * 1024
MODEL_VERSION = "none/0"
NOT_READ = {"user_features": "default", "merchant_features": "default"}
JSON = b"application/json"

READY = b'{"ready":true,"degraded":["service"],"checks":{"service":{"ok":false,"detail":"the rules alone decide"}}}'


class _Batch(msgspec.Struct):
    payments: Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1, max_length=100)]


_decode_batch = msgspec.json.Decoder(_Batch).decode


_IDENTITY = ("user_id", "merchant_id", "amount", "currency")


def _identity(payment: PaymentRequest, amount: Decimal) -> tuple[str, str, Decimal, str]:
    """What makes two bodies the same payment, as for the service; an absent currency is one of its own."""
    return payment.user_id, payment.merchant_id, amount.normalize(), payment.currency or ""


@dataclass(frozen=True)
class _Told:
    """A payment that was decided here."""

    identity: tuple[str, str, Decimal, str]
    answer: bytes
    earlier: EarlierDecision

    def again(self, payment: PaymentRequest, amount: Decimal) -> bytes:
        """The same answer. Raises Problem for another payment under the id."""
        both = zip(_IDENTITY, self.identity, _identity(payment, amount), strict=True)
        field = next((name for name, ours, theirs in both if ours != theirs), None)
        if field is not None:
            raise conflict("it was decided for a payment that differs in this field", field, self.earlier)
        return self.answer


class RulesServer:
    """The ASGI application. policy: the one in force; a payment here meets all of it but the thresholds. now: UTC."""

    def __init__(
        self, policy: Callable[[], Policy], access: Access, outbox: Outbox, now: Callable[[], datetime], hosts: Hosts
    ) -> None:
        self._policy = policy
        self._access = access
        self._outbox = outbox
        self._now = now
        self._told: OrderedDict[tuple[str, str], _Told] = OrderedDict()
        self._hosts = hosts

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope["path"]
        try:
            if path == "/livez":
                status, body = 200, b'{"live":true}'
            elif path == "/readyz":
                status, body = 200, READY
            elif path in ("/v1/predict", "/v1/predict/batch") and scope["method"] == "POST":
                headers = dict(scope["headers"])
                self._check_page(headers.get(b"host", b""), headers.get(b"origin", b""))
                caller = self._access.check(headers.get(b"authorization"), "decide")
                content = await _read(receive)
                answer = self.decide if path == "/v1/predict" else self.decide_batch
                status, body = 200, answer(content, caller)
            else:
                raise not_found("the service is down: payments are decided by the rules, and nothing else is answered")
        except Problem as problem:
            status, body = problem.status, problem.body()
        kind = JSON if status == HTTPStatus.OK else CONTENT_TYPE
        fixed = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": fixed})
        await send({"type": "http.response.body", "body": body})

    def _check_page(self, host: bytes, origin: bytes) -> None:
        """As the service does: once keys exist, any name will do. Raises Problem."""
        known = self._access.required or self._hosts.knows(host)
        if not (known and self._hosts.welcomes(origin, host)):
            raise foreign_page("the Host or Origin header does not name this server: see FRAUD_ALLOWED_HOSTS")

    def decide(self, body: bytes, caller: str) -> bytes:
        """The answer to a payment, kept for the report before it is returned. Raises Problem.

        A payment that comes again gets the answer that it got, as long as it is among the last REMEMBERED, and is one
        decision. What a service has decided is not known here: its decision stands once it takes the report.
        """
        try:
            payment = read_payment(body)
            amount = number("amount", bytes(payment.amount))
            if amount < 0:
                raise InvalidRequest("amount", "is negative")
        except MalformedBody as error:
            raise malformed(error.detail) from None
        except InvalidRequest as error:
            raise invalid(error.field, error.detail) from None
        told = self._told.get((caller, payment.transaction_id))
        if told is not None:
            return told.again(payment, amount)
        policy, now = self._policy(), self._now()
        decimals = max(0, -int(amount.as_tuple().exponent))
        moment = int(now.timestamp() * 1_000_000)
        decision, reason = decide(policy, None, payment, int(amount.scaleb(decimals)), decimals, moment)
        listed = policy.listed(reason, payment, moment)
        of_payment = (caller, payment.transaction_id, *_identity(payment, amount), decision, reason)
        decision_id = hashlib.blake2b("\0".join(map(str, of_payment)).encode(), digest_size=16).hexdigest()
        kept = line(
            msgspec.Raw(msgspec.json.format(body, indent=-1)),
            decision,
            reason,
            CAUSE,
            decision_id=decision_id,
            decided_at=now,
            caller=caller,
        )
        try:
            self._outbox.append(kept)
        except OSError as error:
            # the payment is decided all the same; the platform will not learn of it
            logger.error("a decision by the rules could not be kept for the report: %s", error)
        answer = msgspec.json.encode(
            {
                "transaction_id": payment.transaction_id,
                "score": None,
                "decision": decision,
                "reason": reason,
                "threshold": policy.threshold,
                "model_version": MODEL_VERSION,
                "policy_version": policy.version,
                "served_by": {**NOT_READ, "model": DECIDED_BY[reason]},
                "degraded": True,
                **({} if listed is None else {"listed": listed}),
            }
        )
        earlier = EarlierDecision(
            decision_id=decision_id,
            decided_at=now,
            decision=decision,
            reason=reason,
            score=None,
            model_version=MODEL_VERSION,
            policy_version=policy.version,
        )
        self._told[caller, payment.transaction_id] = _Told(_identity(payment, amount), answer, earlier)
        if len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        return answer

    def decide_batch(self, body: bytes, caller: str) -> bytes:
        """`decide` for each payment of a batch; what is wrong with one is its own answer. Raises Problem."""
        try:
            payments = decode_json(_decode_batch, body, inside=False).payments
        except MalformedBody as error:
            raise malformed(error.detail) from None
        except InvalidRequest as error:
            raise invalid(error.field, error.detail) from None
        return msgspec.json.encode({"answers": [self._item(bytes(payment), caller) for payment in payments]})

    def _item(self, body: bytes, caller: str) -> dict[str, Any]:
        try:
            return {"status": 200, "answer": msgspec.Raw(self.decide(body, caller))}
        except Problem as problem:
            return {"status": problem.status, "problem": problem.document}


async def _read(receive: Receive) -> bytes:
    body: bytes = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise unavailable()
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise too_large(MAX_BODY)
        if not message.get("more_body", False):
            return body


def options(words: list[str] | None = None) -> argparse.Namespace:
    """The command's options; `gateway.run` fills them in from the settings."""
    parser = argparse.ArgumentParser(prog="fraud_platform.gateway.rules_server", description=(__doc__ or "")[:93])
    parser.add_argument("--home", type=Path, required=True, help="Folder of all local state.")
    parser.add_argument("--port", type=int, required=True, help="Port on loopback.")
    for name in ("high-amount", "cross-country-amount"):
        parser.add_argument(f"--{name}", type=int, required=True, help="Of the rules, where no policy is kept.")
    for name in ("threshold", "review-threshold"):
        parser.add_argument(f"--{name}", type=float, required=True, help="Likewise; named in answers.")
    parser.add_argument("--service", action="append", default=[], help="host:port that takes reports; repeatable.")
    parser.add_argument("--allowed-host", action="append", default=[], help="Name it is called by; repeatable.")
    parser.add_argument("--keys-needed", action="store_true", help="Let nobody in while there are no keys.")
    parser.add_argument("--tokens", nargs=3, metavar=("JWKS", "ISSUER", "AUDIENCE"), help="Take such tokens too.")
    return parser.parse_args(words)


async def serve(given: argparse.Namespace) -> None:
    """Decide until SIGINT or SIGTERM; what was decided is reported beside, and waits on disk where it cannot be."""
    outbox = Outbox(given.home / "gateway" / "outbox", fsync=False)
    access = open_access(
        given.home,
        loopback=not given.keys_needed,
        tokens=(Path(given.tokens[0]), given.tokens[1], given.tokens[2]) if given.tokens else None,
        failed=lambda error: logger.error("the keys in force stay so: %s", error),
    )
    rules = FallbackRules(given.high_amount, given.cross_country_amount)
    first = Policy(given.threshold, given.review_threshold, NOT_KEPT, rules)
    policy = PolicyFile(given.home, first, time.monotonic)
    hosts = Hosts(given.allowed_host)
    app = RulesServer(policy, access, outbox, lambda: datetime.now(UTC), hosts)
    config = uvicorn.Config(
        app, host=HOST, port=given.port, lifespan="off", access_log=False, log_level="warning", timeout_keep_alive=75
    )
    reporting = asyncio.create_task(report_for_ever(outbox, given.service, os.environ.get("FRAUD_API_KEY")))
    try:
        await uvicorn.Server(config).serve()
    finally:
        reporting.cancel()
        with suppress(asyncio.CancelledError):
            await reporting
        outbox.seal()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(options()))
