"""What the client hands back, and what it can read of a payment without the service.

What belongs here: shapes, encoding, the error of a payment that is wrong. What does not: asking for a decision
(`asking`).
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec

from fraud_platform.decision.policy import DecisionName
from fraud_platform.identifiers import canonical

NOT_READ = {"user_features": "default", "merchant_features": "default", "model": "rules"}
"""`served_by` of a decision that no service made."""


class PaymentRefused(ValueError):  # noqa: N818 - named as the answer it is
    """The service will not decide this payment, whoever asks and how often: a field is wrong, or the id is taken.

    problem: the problem document (RFC 9457) as the service sent it.
    """

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        field = problem.get("field", "the payment")
        super().__init__(f"{status}: {field}: {problem.get('detail', 'refused')}")
        self.status = status
        self.problem = problem


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What to do with a payment; fields as `/v1/predict` answers them."""

    transaction_id: str
    decision: DecisionName
    reason: str
    score: float | None
    """None where the rules decided."""
    served_by: Mapping[str, str]
    degraded: bool
    model_version: str | None = None
    threshold: float | None = None
    policy_version: int | None = None
    listed: str | None = None
    """What of the payment is on the list that decided: user, merchant, device or country."""
    by_client: str | None = None
    """Why the service did not decide, None where it did: timeout, unreachable, breaker_open, bad_answer, http_503, …"""


encode = msgspec.json.Encoder(decimal_format="number").encode
decode_decision = msgspec.json.Decoder(Decision).decode


def problem_of(content: bytes) -> dict[str, Any]:
    """A problem document, as far as it is one."""
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except msgspec.MsgspecError:
        return {}


def text_of(payment: Mapping[str, Any], field: str) -> str:
    """A payment's required text. Raises ValueError."""
    value = payment.get(field)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{field}: must be a text, got {value!r}")
    return value


def optional_text_of(payment: Mapping[str, Any], field: str) -> str | None:
    """A payment's optional text; empty or blank is absent, as for the service."""
    value = payment.get(field)
    return value if isinstance(value, str) and value.strip() else None


def identity_of(payment: Mapping[str, Any]) -> tuple[object, ...]:
    """What makes two payments under one transaction_id the same, as for the service. Raises ValueError."""
    return (
        *(canonical(str(payment.get(field, ""))) for field in ("user_id", "merchant_id")),
        amount_of(payment).normalize(),
        optional_text_of(payment, "currency"),
    )


def amount_of(payment: Mapping[str, Any]) -> Decimal:
    """A payment's amount in units of its currency. Raises ValueError."""
    value = payment.get("amount")
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError(f"amount: must be a number, got {type(value).__name__}")
    amount = value if isinstance(value, Decimal) else Decimal(str(value))
    if not amount.is_finite() or amount < 0:
        raise ValueError("amount: must be a finite number, 0 or more")
    return amount
