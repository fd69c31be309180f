"""Decision records for tests of whatever carries them."""

from datetime import date
from typing import Any

import msgspec
import numpy as np

from fraud_platform.decision.request import Payment
from fraud_platform.inference_log.record import (
    SCHEMA_VERSION,
    DecisionRecord,
    ServedBy,
    encode_record,
    vector_bytes,
)
from fraud_platform.inference_log.spool import SpoolWriter

DAY = date(2026, 11, 23)
MIDNIGHT = 1_795_392_000_000_000


def record(transaction_id: str = "t-1", **changes: Any) -> DecisionRecord:
    """A decision on DAY."""
    payment = Payment(
        transaction_id=transaction_id,
        user_id="u-1",
        merchant_id="m-1",
        amount_minor=4250,
        currency="EUR",
        country="DE",
        timestamp=MIDNIGHT,
    )
    plain = DecisionRecord(
        schema_version=SCHEMA_VERSION,
        decision_id="0" * 32,
        caller="default",
        request_hash=payment.content_hash(),
        request=payment,
        received_at=MIDNIGHT,
        amount=4250,
        event_time=MIDNIGHT,
        clock_skew=False,
        user_effective_time=MIDNIGHT,
        merchant_effective_time=MIDNIGHT + 1,
        catalogue_hash="abc",
        vector=vector_bytes(np.zeros(50, np.float32)),
        user_snapshot="2026-11-22",
        merchant_snapshot=None,
        epoch=None,
        complete_since=None,
        served_by=ServedBy(user_features="redis", merchant_features="redis", model="champion"),
        model_version="fraud-detector/7",
        scorer_hash="f" * 64,
        policy_version=1,
        threshold=0.7,
        review_threshold=0.4,
        score=0.1,
        decision="allow",
        reason="score_below_threshold",
        latency_us=1234,
    )
    return msgspec.structs.replace(plain, **changes)


def append(writer: SpoolWriter, *records: DecisionRecord) -> None:
    for each in records:
        writer.append(each.day, encode_record(each))


def records(count: int, first: int = 0, **changes: Any) -> list[DecisionRecord]:
    """Decisions `first` and on, each of its own user, decision_id and millisecond of DAY."""
    return [
        record(f"t-{n}", decision_id=f"{n:032x}", received_at=MIDNIGHT + n * 1_000, **changes)
        for n in range(first, first + count)
    ]
