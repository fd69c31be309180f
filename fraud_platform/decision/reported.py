"""`POST /v1/report`: a payment that the client decided by the rules while no service could be asked.

What belongs here: reading a report, and the record that it becomes. What does not: the outbox that it comes from
(`fraud_platform.outbox`), keeping records. A report says what happened: it is never decided anew.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from fraud_platform.decision.parts import OnlineRead
from fraud_platform.decision.policy import DECIDED_BY, DECISION_OF, DecisionName, Policy, PolicyReason
from fraud_platform.decision.request import (
    InvalidRequest,
    MalformedBody,
    Payment,
    decode_json,
    parse_payment,
)
from fraud_platform.decision.rules import RuleReason
from fraud_platform.features.catalogue import Catalogue
from fraud_platform.inference_log.record import SCHEMA_VERSION, DecisionRecord, ServedBy, amount_source, vector_bytes
from fraud_platform.schema import Transaction

CLIENT_MODEL = "client/0"
"""Version in records of decisions that no service made."""

_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


class _Reported(msgspec.Struct, frozen=True, kw_only=True):
    decision_id: Annotated[str, Meta(pattern="^[0-9a-f]{32}$", description="Made by the client; repeats count once.")]
    decided_at: Annotated[datetime, Meta(tz=True, description="RFC 3339 with an offset, by the client's clock.")]
    cause: Annotated[str, Meta(pattern="^[a-z0-9_]{1,64}$", description="Why no service was asked, or none answered.")]
    payment: Annotated[
        msgspec.Raw,
        Meta(description="The payment, as for /v1/predict.", extra_json_schema={"type": "object"}),
    ]


class ReportRequest(_Reported, frozen=True, kw_only=True):
    """A decision that the client made by the rules."""

    decision: Literal["allow", "flag_for_review"]
    reason: RuleReason


class GatewayReportRequest(_Reported, frozen=True, kw_only=True):
    """A decision that the gateway made by the policy, without a model, for one of its callers."""

    decision: DecisionName
    reason: RuleReason | PolicyReason
    caller: Annotated[str, Meta(min_length=1, max_length=64)]


class ReportAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The report was taken."""

    decision_id: str
    transaction_id: str


@dataclass(frozen=True)
class Report:
    """A checked report."""

    decision_id: str
    decided_at: datetime
    decision: DecisionName
    reason: str
    """Of RULE_SENTENCES or POLICY_SENTENCES."""
    cause: str
    payment: Payment

    @property
    def decided_at_us(self) -> int:
        """UTC microseconds."""
        return (self.decided_at - _EPOCH) // _MICROSECOND


_decode = msgspec.json.Decoder(ReportRequest).decode
_decode_gateways = msgspec.json.Decoder(GatewayReportRequest).decode


def parse_report(body: bytes, base_currency: str) -> Report:
    """The report in a JSON body. Raises MalformedBody, InvalidRequest."""
    return _checked(decode_json(_decode, body), base_currency)


def parse_gateway_report(body: bytes, base_currency: str) -> tuple[str, Report]:
    """The caller whom the gateway's rules answered, and the report. Raises MalformedBody, InvalidRequest."""
    request = decode_json(_decode_gateways, body)
    return request.caller, _checked(request, base_currency)


def _checked(request: ReportRequest | GatewayReportRequest, base_currency: str) -> Report:
    try:
        payment = parse_payment(bytes(request.payment), base_currency)
    except MalformedBody:
        raise
    except InvalidRequest as error:
        raise InvalidRequest(f"payment.{error.field}" if error.field else "payment", error.detail) from None
    if request.decision != DECISION_OF[request.reason]:
        raise InvalidRequest("reason", f"is not a reason for {request.decision}")
    return Report(request.decision_id, request.decided_at, request.decision, request.reason, request.cause, payment)


def reported_record(
    report: Report,
    caller: str,
    transaction: Transaction,
    online: OnlineRead,
    policy: Policy,
    region: str,
    catalogue: Catalogue,
) -> DecisionRecord:
    """The record of a reported decision, received when the report was.

    online: the read by which velocity counted the attempt; its effective times are kept. No feature was read when the
    client decided, so the vector, of the set of features in force, is null throughout, and the record takes no part in
    the comparison with history.
    """
    return DecisionRecord(
        schema_version=SCHEMA_VERSION,
        decision_id=report.decision_id,
        caller=caller,
        request_hash=report.payment.content_hash(),
        request=report.payment,
        received_at=transaction.received_at,
        amount=transaction.amount,
        event_time=transaction.event_time,
        clock_skew=transaction.clock_skew,
        user_effective_time=online.user_effective_time,
        merchant_effective_time=online.merchant_effective_time,
        catalogue_hash=catalogue.hash,
        vector=vector_bytes(np.full(len(catalogue.names), np.nan, np.float32)),
        user_snapshot=None,
        merchant_snapshot=None,
        epoch=None,
        complete_since=None,
        served_by=ServedBy(
            user_features="default",
            merchant_features="default",
            model=DECIDED_BY[report.reason],
            amount=amount_source(transaction.amount),
        ),
        model_version=CLIENT_MODEL,
        scorer_hash="",
        policy_version=policy.version,
        threshold=policy.threshold,
        review_threshold=policy.review_threshold,
        score=None,
        decision=report.decision,
        reason=report.reason,
        latency_us=0,
        region=region,
        channel=transaction.channel,
    )


def report_body(record: DecisionRecord) -> bytes:
    """The answer to a report."""
    return msgspec.json.encode(
        ReportAnswer(decision_id=record.decision_id, transaction_id=record.request.transaction_id)
    )
