"""The wire format of one payment: the JSON that a caller may send, and which field of it is wrong.

What belongs here: shapes, lengths, numbers as text. What does not: what needs lists or rates to be told (`request`).
Fields that the contract does not name are ignored, so that a caller may send more than this version reads. The process
of the rules imports this file, and starts in a moment: no NumPy, no Arrow.
"""

import json
import re
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from fraud_platform.identifiers import canonical

T = TypeVar("T")

_MAX_NUMBER = 32
_MAX_MINOR = 10**12
"""`currency.MAX_MINOR`, which lies beside NumPy; a test holds them equal."""
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d{1,3})?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_FIELD = re.compile(r" - at `\$\.?([^`]*)`$")
_MISSING = re.compile(r"^Object missing required field `([^`]+)`")
_IDS = ("transaction_id", "user_id", "merchant_id", "device_id")
_TEXTS = (*_IDS, "merchant_category", "channel")
_MAY_BE_EMPTY = ("currency", "merchant_category", "channel", "device_id", "user_country")
_LONGEST = 128

Identifier = Annotated[
    str, Meta(min_length=1, max_length=_LONGEST, description=f"1 to {_LONGEST} characters, none of control.")
]
Country = Annotated[str, Meta(pattern="^[A-Z]{2}$", description="ISO 3166 alpha-2.")]
Word = Annotated[str, Meta(max_length=64)]


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
            extra_json_schema={"type": "number", "minimum": 0, "maximum": _MAX_MINOR},
        ),
    ]
    country: Annotated[Country, Meta(description="Country of the purchase.")]
    timestamp: Annotated[datetime, Meta(tz=True, description="RFC 3339 with an offset: when the payment happened.")]
    currency: (
        Annotated[str, Meta(pattern=r"^([A-Z]{3}|\s*)$", description="ISO 4217; the base currency if absent.")] | None
    ) = None
    merchant_category: Annotated[Word, Meta(description="Merchant category code or name.")] | None = None
    channel: Annotated[Word, Meta(description="online, pos, atm, moto, other, or a synonym.")] | None = None
    device_id: Annotated[str, Meta(max_length=128, description="At most 128 characters, none of control.")] | None = (
        None
    )
    user_country: (
        Annotated[str, Meta(pattern=r"^([A-Z]{2}|\s*)$", description="Home country of the user, ISO 3166 alpha-2.")]
        | None
    ) = None
    location: Location | None = None


_decode = msgspec.json.Decoder(PaymentRequest).decode
_outermost = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_BLANKS = b" \t\r\n"
_IN_LOCATION = len(Location.__struct_fields__)


def read_payment(body: bytes) -> PaymentRequest:
    """The payment in a JSON body, as far as its shape goes; optional text that is empty or blank is absent. Raises
    MalformedBody, InvalidRequest."""
    try:
        request = _decode(body)
        # nearly every body is plain, and needs no closer look
        plain = body.isascii() and b"\\" not in body and b"\x7f" not in body
        if not plain or not _plainly_once(body, request):
            _keys_once_everywhere(body.decode())
    except _UNREADABLE as error:
        raise _refused(error) from None
    if plain:
        for text in (
            request.transaction_id, request.user_id, request.merchant_id, request.device_id, request.currency,
            request.merchant_category, request.channel, request.user_country,
        ):  # fmt: skip
            if text is not None and (not text or text != text.strip()):
                break
        else:
            return request
    return _with_plain_texts(request)


def _plainly_once(body: bytes, request: PaymentRequest) -> bool:
    """Whether it is plain that no key stands twice in a body in which no character is escaped; a False says nothing.

    Without blanks each key ends in `":`, so there are at most as many keys as that is found: a text that begins with a
    colon has it too. And there are at least as many as differ, those of a location among them.
    """
    differing = len(_outermost(body)) + (_IN_LOCATION if request.location is not None else 0)
    return body.translate(None, _BLANKS).count(b'":') == differing


def _with_plain_texts(request: PaymentRequest) -> PaymentRequest:
    empty = [name for name in _MAY_BE_EMPTY if (text := getattr(request, name)) is not None and not text.strip()]
    changed: dict[str, str | None] = dict.fromkeys(empty)
    for name in _TEXTS:
        value = getattr(request, name)
        if value is None or name in changed:
            continue
        if _CONTROL.search(value):
            raise InvalidRequest(name, "holds control characters")
        if name in _IDS:
            # a device of which nothing can be seen is none
            unseen = name == "device_id" and not canonical(value)
            changed[name] = None if unseen else identity(name, value)
    return msgspec.structs.replace(request, **changed) if changed else request


def identity(field: str, text: str) -> str:
    """An identifier by which everything here knows what the caller names (`identifiers`). Raises InvalidRequest."""
    known = canonical(text)
    if not known:
        raise InvalidRequest(field, "holds nothing but white space and invisible characters")
    if len(known) > _LONGEST:
        raise InvalidRequest(field, f"is longer than {_LONGEST} characters in Unicode's form NFC")
    return known


def decode_json(decode: Callable[[bytes], T], body: bytes, *, inside: bool = True) -> T:
    """Run a msgspec decoder; raises MalformedBody, or InvalidRequest naming the field or the key that stands twice.

    inside: whether the objects within the body are looked at too, which is left out where each is decoded by itself.
    """
    try:
        decoded = decode(body)
        if inside:
            _keys_once_everywhere(body.decode())
        else:
            _keys_once(_outermost_pairs(body.decode()))
    except _UNREADABLE as error:
        raise _refused(error) from None
    return decoded


_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, json.JSONDecodeError, RecursionError)


def _refused(error: Exception) -> InvalidRequest:
    if isinstance(error, msgspec.ValidationError):
        return _named(str(error))
    if isinstance(error, RecursionError):
        return MalformedBody("not valid JSON: nested too deeply")
    return MalformedBody(f"not valid JSON: {error}")


def _keys_once(pairs: list[tuple[str, Any]]) -> None:
    """msgspec takes the last of equal keys and another reader the first: what nobody agrees on is not decided."""
    names = dict(pairs)
    if len(names) == len(pairs):
        return
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise InvalidRequest(name[:_LONGEST], "stands twice in one object")
        seen.add(name)


# nothing is computed of the numbers, and an int refuses one of too many digits
_keys_once_everywhere = json.JSONDecoder(object_pairs_hook=_keys_once, parse_int=float).decode
_outermost_pairs = json.JSONDecoder(object_pairs_hook=list, parse_int=float).decode


def _named(message: str) -> InvalidRequest:
    path = _FIELD.search(message)
    text = _FIELD.sub("", message)
    parent = path.group(1) if path else ""
    missing = _MISSING.match(text)
    if missing:
        return InvalidRequest(".".join(filter(None, [parent, missing.group(1)])), "required, and missing")
    return InvalidRequest(parent or None, text)


def number(field: str, text: bytes) -> Decimal:
    """A JSON number by its text, since a double could not hold every amount. Raises InvalidRequest."""
    number = text.decode()
    if len(number) > _MAX_NUMBER or not _NUMBER.fullmatch(number):
        raise InvalidRequest(field, f"Expected a number of at most {_MAX_NUMBER} characters")
    return Decimal(number)
