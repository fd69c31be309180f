"""One payment from the wire: checked values, and the step into the platform's own units.

What belongs here: what only code lists, currencies and rates can say of a field. What does not: the shape of the JSON
(`wire`), features, HTTP.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Protocol

import msgspec

from fraud_platform.channels import WORDS, channel_of
from fraud_platform.currency import AmountError, UnknownCurrency, is_country, plain_minor, to_minor
from fraud_platform.decision.wire import (
    Identifier,
    InvalidRequest,
    MalformedBody,
    PaymentRequest,
    decode_json,
    identity,
    number,
    read_payment,
)
from fraud_platform.processing import device_key, event_time
from fraud_platform.schema import Transaction

__all__ = [
    "Identifier",
    "InvalidRequest",
    "MalformedBody",
    "Payment",
    "PaymentRequest",
    "Rates",
    "decode_json",
    "identity",
    "named_fields",
    "parse_payment",
    "to_transaction",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Payment(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A checked request in exact values, independent of how its JSON was written."""

    transaction_id: str
    user_id: str
    merchant_id: str
    amount_minor: int
    """Minor units of `currency`."""
    currency: str
    country: str
    timestamp: int
    """UTC microseconds since 1970."""
    merchant_category: str | None = None
    channel: str | None = None
    """As it was sent; `Transaction.channel` is the word that it means."""
    device_id: str | None = None
    user_country: str | None = None
    latitude: float | None = None
    longitude: float | None = None

    def content_hash(self) -> str:
        """32 hex digits over IDENTITY alone: equal for two bodies that ask for the same payment, whatever else they
        say, so that a retry may bear a later timestamp and a new field never makes a retry another payment."""
        return _digest(self.user_id, self.merchant_id, self.amount_minor, self.currency)

    def former_content_hash(self) -> str:
        """As records of schema version 1 bear it: over every field that a payment had then."""
        return _digest(*(getattr(self, name) for name in _FORMER_FIELDS))

    def differing_field(self, other: "Payment") -> str | None:
        """The field of the request by which another payment under the same transaction_id is not this one; None: it
        is."""
        return next((field for name, field in IDENTITY.items() if getattr(self, name) != getattr(other, name)), None)


IDENTITY: Final = {
    "user_id": "user_id",
    "merchant_id": "merchant_id",
    "amount_minor": "amount",
    "currency": "currency",
}
"""What makes two bodies under one (caller, transaction_id) the same payment: the struct's field and the request's."""

_FORMER_FIELDS: Final = (
    *("transaction_id", "user_id", "merchant_id", "amount_minor", "currency", "country", "timestamp"),
    *("merchant_category", "channel", "device_id", "user_country", "latitude", "longitude"),
)


def _digest(*values: object) -> str:
    return hashlib.blake2b(msgspec.msgpack.encode(values), digest_size=16).hexdigest()


class Rates(Protocol):
    """What a payment needs of a day's exchange rates; `fraud_platform.currency.Rates` has it."""

    def known_in_base(self, amount_minor: int, currency: str, /) -> int | None: ...


def parse_payment(body: bytes, base_currency: str) -> Payment:
    """The payment in a JSON body. Raises MalformedBody, InvalidRequest."""
    request = read_payment(body)
    for name in ("country", "user_country"):
        value = getattr(request, name)
        if value is not None and not is_country(value):
            raise InvalidRequest(name, f"{value} is not an ISO 3166 alpha-2 code")
    currency = request.currency or base_currency
    try:
        text = bytes(request.amount)
        amount_minor = plain_minor(text, currency)
        if amount_minor is None:
            amount_minor = to_minor(number("amount", text), currency)
    except AmountError as error:
        raise _named_amount(error) from None
    except UnknownCurrency as error:
        raise InvalidRequest("currency", str(error)) from None
    place = request.location
    return Payment(
        transaction_id=request.transaction_id,
        user_id=request.user_id,
        merchant_id=request.merchant_id,
        amount_minor=amount_minor,
        currency=currency,
        country=request.country,
        timestamp=_microseconds(request.timestamp),
        merchant_category=request.merchant_category,
        channel=request.channel,
        device_id=request.device_id,
        user_country=request.user_country,
        latitude=place.lat if place else None,
        longitude=place.lon if place else None,
    )


def _microseconds(moment: datetime) -> int:
    # timedelta's integers: a float of seconds would lose the microsecond
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _named_amount(error: AmountError) -> InvalidRequest:
    return InvalidRequest(error.field, str(error).removeprefix(f"{error.field} "))


def to_transaction(
    payment: Payment, received_at: int, rates: Rates, channel_words: Mapping[str, str] = WORDS
) -> Transaction:
    """The payment in the platform's units: its amount is None where its currency has no recorded rate, its channel
    where the text is none of `channel_words`. received_at: UTC microseconds. Raises InvalidRequest."""
    try:
        amount = rates.known_in_base(payment.amount_minor, payment.currency)
    except AmountError as error:
        raise _named_amount(error) from None
    happened, clock_skew = event_time(payment.timestamp, received_at)
    return Transaction(
        transaction_id=payment.transaction_id,
        user_id=payment.user_id,
        merchant_id=payment.merchant_id,
        amount=amount,
        event_time=happened,
        received_at=received_at,
        country=payment.country,
        user_country=payment.user_country,
        merchant_category=payment.merchant_category,
        channel=channel_of(payment.channel, channel_words),
        device_key=None if payment.device_id is None else device_key(payment.device_id),
        latitude=payment.latitude,
        longitude=payment.longitude,
        clock_skew=clock_skew,
    )


_ANY: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_FIELDS: Final = frozenset(PaymentRequest.__struct_fields__)


def named_fields(body: bytes) -> dict[str, bytes]:
    """The contract's fields in a JSON object, each as its JSON text. Raises MalformedBody, InvalidRequest."""
    fields = decode_json(_ANY, body)
    return {name: bytes(value) for name, value in fields.items() if name in _FIELDS}
