"""The wire format of one payment: parsing, limits, and the step into the platform's own units.

What belongs here: what a caller may send and which field is wrong. What does not: features, HTTP. Fields that the
contract does not name are ignored, so that a caller may send more than this version reads.
"""

import hashlib
import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Final, Protocol, TypeVar

import msgspec
from msgspec import Meta

from fraud_platform.currency import MAX_MINOR, AmountError, UnknownCurrency, UnknownRate, is_country, to_minor
from fraud_platform.processing import device_key, event_time
from fraud_platform.schema import Transaction

T = TypeVar("T")

_MAX_NUMBER = 32
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d{1,3})?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_FIELD = re.compile(r" - at `\$\.?([^`]*)`$")
_MISSING = re.compile(r"^Object missing required field `([^`]+)`")

Identifier = Annotated[str, Meta(min_length=1, max_length=128, description="1 to 128 characters, none of control.")]
Country = Annotated[str, Meta(pattern="^[A-Z]{2}$", description="ISO 3166 alpha-2.")]
Word = Annotated[str, Meta(min_length=1, max_length=64)]


class InvalidRequest(ValueError):  # noqa: N818 - named as the answer it becomes
    """A body that cannot be decided. `field` names what is wrong (dotted path), None when it is the body itself."""

    def __init__(self, field: str | None, detail: str) -> None:
        super().__init__(f"{field}: {detail}" if field else detail)
        self.field = field
        self.detail = detail


class MalformedBody(InvalidRequest):
    """The body is not JSON at all."""

    def __init__(self, detail: str) -> None:
        super().__init__(None, detail)


class Location(msgspec.Struct, frozen=True):
    """Where the payment happened."""

    lat: Annotated[float, Meta(ge=-90, le=90, description="Degrees north.")]
    lon: Annotated[float, Meta(ge=-180, le=180, description="Degrees east.")]


class PaymentRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A payment to decide."""

    transaction_id: Annotated[Identifier, Meta(description="The caller's identifier; repeats get the same answer.")]
    user_id: Annotated[Identifier, Meta(description="Who pays.")]
    merchant_id: Annotated[Identifier, Meta(description="Who is paid.")]
    amount: Annotated[
        msgspec.Raw,
        Meta(
            description="JSON number in units of `currency`, no more decimals than the currency has.",
            extra_json_schema={"type": "number", "minimum": 0, "maximum": MAX_MINOR},
        ),
    ]
    country: Annotated[Country, Meta(description="Country of the purchase.")]
    timestamp: Annotated[datetime, Meta(tz=True, description="RFC 3339 with an offset: when the payment happened.")]
    currency: (
        Annotated[str, Meta(pattern="^[A-Z]{3}$", description="ISO 4217; the base currency if absent.")] | None
    ) = None
    merchant_category: Annotated[Word, Meta(description="Merchant category code or name.")] | None = None
    channel: Annotated[Word, Meta(description="online, pos, atm, …")] | None = None
    device_id: Identifier | None = None
    user_country: Annotated[Country, Meta(description="Home country of the user.")] | None = None
    location: Location | None = None


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
    device_id: str | None = None
    user_country: str | None = None
    latitude: float | None = None
    longitude: float | None = None

    def content_hash(self) -> str:
        """32 hex digits; equal for two bodies that say the same, whatever their spacing, order or number format."""
        content = msgspec.msgpack.encode(self)
        return hashlib.blake2b(content, digest_size=16).hexdigest()


class Rates(Protocol):
    """What a payment needs of a day's exchange rates; `fraud_platform.currency.Rates` has it."""

    def to_base(self, amount_minor: int, currency: str, /) -> int: ...


_decode = msgspec.json.Decoder(PaymentRequest).decode


def decode_json(decode: Callable[[bytes], T], body: bytes) -> T:
    """Run a msgspec decoder; raises MalformedBody, or InvalidRequest naming the field."""
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise _named(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedBody(f"not valid JSON: {error}") from None
    except RecursionError:
        raise MalformedBody("not valid JSON: nested too deeply") from None


def _named(message: str) -> InvalidRequest:
    path = _FIELD.search(message)
    text = _FIELD.sub("", message)
    parent = path.group(1) if path else ""
    missing = _MISSING.match(text)
    if missing:
        return InvalidRequest(".".join(filter(None, [parent, missing.group(1)])), "required, and missing")
    return InvalidRequest(parent or None, text)


def parse_payment(body: bytes, base_currency: str) -> Payment:
    """The payment in a JSON body. Raises MalformedBody, InvalidRequest."""
    request = decode_json(_decode, body)
    for name in ("transaction_id", "user_id", "merchant_id", "device_id", "merchant_category", "channel"):
        value = getattr(request, name)
        if value is not None and _CONTROL.search(value):
            raise InvalidRequest(name, "holds control characters")
    for name in ("country", "user_country"):
        value = getattr(request, name)
        if value is not None and not is_country(value):
            raise InvalidRequest(name, f"{value} is not an ISO 3166 alpha-2 code")
    currency = request.currency or base_currency
    try:
        amount_minor = to_minor(_number("amount", bytes(request.amount)), currency)
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


def _number(field: str, text: bytes) -> Decimal:
    """A JSON number by its text, since a double could not hold every amount. Raises InvalidRequest."""
    number = text.decode()
    if len(number) > _MAX_NUMBER or not _NUMBER.fullmatch(number):
        raise InvalidRequest(field, f"Expected a number of at most {_MAX_NUMBER} characters")
    return Decimal(number)


def _named_amount(error: AmountError) -> InvalidRequest:
    return InvalidRequest(error.field, str(error).removeprefix(f"{error.field} "))


def to_transaction(payment: Payment, received_at: int, rates: Rates) -> Transaction:
    """The payment in the platform's units. received_at: UTC microseconds. Raises InvalidRequest."""
    try:
        amount = rates.to_base(payment.amount_minor, payment.currency)
    except AmountError as error:
        raise _named_amount(error) from None
    except UnknownRate as error:
        raise InvalidRequest("currency", str(error)) from None
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
        channel=payment.channel,
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
