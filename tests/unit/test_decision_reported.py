"""A decision that the client made and reported: what is taken, and the record that it becomes."""

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest

from fraud_platform.currency import Rates
from fraud_platform.decision.policy import Policy
from fraud_platform.decision.reported import CLIENT_MODEL, parse_report, report_body, reported_record
from fraud_platform.decision.request import InvalidRequest, MalformedBody, parse_payment, to_transaction
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.inference_log.record import decode_record, encode_record

RECEIVED = 1_795_435_200_000_000
PAYMENT = {
    "transaction_id": "t-1", "user_id": "u-1", "merchant_id": "m-1", "amount": 12000.5, "currency": "EUR",
    "country": "DE", "timestamp": "2026-11-23T11:30:00Z",
}  # fmt: skip
REPORT = {
    "decision_id": "0123456789abcdef" * 2, "decided_at": "2026-11-23T11:30:01Z", "decision": "flag_for_review",
    "reason": "high_amount_fallback", "cause": "breaker_open", "payment": PAYMENT,
}  # fmt: skip


@dataclass(frozen=True)
class Counted:
    """What velocity said when it counted the attempt."""

    user_effective_time: int = 11
    merchant_effective_time: int = 12


def body(**changes: Any) -> bytes:
    return msgspec.json.encode(REPORT | changes)


def test_the_record_says_what_the_client_did() -> None:
    report = parse_report(body(), "EUR")
    transaction = to_transaction(report.payment, RECEIVED, Rates("EUR", {}))
    record = reported_record(report, "shop", transaction, Counted(), Policy(0.7, 0.4, 3), "", CATALOGUE)  # type: ignore[arg-type]
    assert decode_record(encode_record(record)) == record
    assert (record.decision_id, record.caller) == (REPORT["decision_id"], "shop")
    assert (record.decision, record.reason, record.score) == ("flag_for_review", "high_amount_fallback", None)
    assert (record.served_by.model, record.degraded) == ("rules", True)
    assert (record.model_version, record.policy_version) == (CLIENT_MODEL, 3)
    assert (record.user_effective_time, record.merchant_effective_time) == (11, 12)
    assert (record.received_at, record.amount) == (RECEIVED, 1_200_050)
    assert record.epoch is None
    assert np.isnan(record.values).all()
    # the service, asked again for the same payment, finds this decision standing
    assert record.request_hash == parse_payment(msgspec.json.encode(PAYMENT), "EUR").content_hash()
    assert msgspec.json.decode(report_body(record)) == {"decision_id": REPORT["decision_id"], "transaction_id": "t-1"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"decision_id": "1"}, "decision_id"),
        ({"decision": "block"}, "decision"),
        ({"reason": "score_above_threshold"}, "reason"),
        ({"cause": "Because!"}, "cause"),
        ({"decided_at": "2026-11-23T11:30:01"}, "decided_at"),
        ({"payment": PAYMENT | {"amount": -1}}, "payment.amount"),
        ({"payment": PAYMENT | {"country": "XX"}}, "payment.country"),
        ({"payment": 7}, "payment"),
        ({"payment": {}}, "payment.transaction_id"),
    ],
)
def test_what_breaks_the_contract_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_report(body(**changes), "EUR")
    assert refusal.value.field == field


def test_what_is_no_json_is_told_so() -> None:
    with pytest.raises(MalformedBody):
        parse_report(b"{", "EUR")
