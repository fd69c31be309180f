"""The rows that rooms hand to each other: names, Arrow types, units. No behaviour beyond conversion between them.

Times are UTC microseconds, money is integer minor units, countries are ISO 3166 alpha-2. Feature tables are not here:
their columns come from the catalogue (`fraud_platform.features.catalogue`).
"""

import msgspec
import pyarrow as pa

from fraud_platform.callers import DEFAULT_CALLER as DEFAULT_CALLER

TIME = pa.timestamp("us", tz="UTC")

FIRST_REGION = ""
"""The region that has no name: the only one where there are no others."""


def _field(name: str, dtype: pa.DataType, meaning: str, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, dtype, nullable=nullable, metadata={"description": meaning})


_OPTIONAL = [
    _field("country", pa.string(), "country of the purchase, alpha-2 as `currency.country_codes`", nullable=True),
    _field("user_country", pa.string(), "home country of the user, ISO 3166 alpha-2", nullable=True),
    _field("merchant_category", pa.string(), "merchant category code or name", nullable=True),
    _field("channel", pa.string(), "in an export as the source names it; else a word of `channels`", nullable=True),
    _field("device_id", pa.string(), "identifier of the device or terminal session", nullable=True),
    _field("latitude", pa.float64(), "latitude of the purchase, degrees north", nullable=True),
    _field("longitude", pa.float64(), "longitude of the purchase, degrees east", nullable=True),
]

EXPORT = pa.schema(
    [
        _field("transaction_id", pa.string(), "identifier given by the caller", nullable=True),
        _field("user_id", pa.string(), "who pays", nullable=True),
        _field("merchant_id", pa.string(), "who is paid", nullable=True),
        _field("amount_minor", pa.int64(), "amount in minor units of `currency`", nullable=True),
        _field("currency", pa.string(), "ISO 4217 code", nullable=True),
        _field("timestamp", TIME, "when the payment happened, by the caller's clock", nullable=True),
        _field("received_at", TIME, "when it reached the bank; null: equal to timestamp", nullable=True),
        *_OPTIONAL,
    ]
)
"""A source's rows before anything was checked: every column may be null, nothing is unique."""

RAW_TRANSACTIONS = pa.schema(
    [
        _field("transaction_id", pa.string(), "identifier given by the caller"),
        _field("caller", pa.string(), "whose payment it is: the decision's caller, or the one that the mapping names"),
        _field("user_id", pa.string(), "who pays"),
        _field("merchant_id", pa.string(), "who is paid"),
        _field("amount_minor", pa.int64(), "amount in minor units of `currency`"),
        _field("currency", pa.string(), "ISO 4217 code"),
        _field(
            "amount",
            pa.int64(),
            "amount in minor units of the base currency, at the day's recorded rate; null: there was none",
            nullable=True,
        ),
        _field("timestamp", TIME, "when the payment happened, by the caller's clock"),
        _field("received_at", TIME, "when it reached the bank; its UTC day is the partition"),
        _field("event_time", TIME, "timestamp, or received_at where the caller's clock was off"),
        _field("clock_skew", pa.bool_(), "timestamp was over 5 minutes ahead of or over 24 hours behind received_at"),
        *_OPTIONAL,
        _field("device_key", pa.int64(), "64-bit fingerprint of device_id", nullable=True),
        _field(
            "is_duplicate",
            pa.bool_(),
            "another row is this payment: the same caller and transaction_id, within 24 hours",
        ),
        _field(
            "decision_id", pa.string(), "the service's decision on it; null: the source alone knows it", nullable=True
        ),
        _field("user_effective_time", pa.int64(), "as velocity assigned it online, UTC microseconds", nullable=True),
        _field(
            "merchant_effective_time", pa.int64(), "the same at the merchant; null: by processing order", nullable=True
        ),
        _field("region", pa.string(), "region whose velocity counted it; null: the first", nullable=True),
        _field(
            "user_counted_since",
            pa.int64(),
            "start of the user's own epoch of velocity that it was counted in, or 0; null: not by this rule",
            nullable=True,
        ),
        _field("merchant_counted_since", pa.int64(), "the same of the merchant's", nullable=True),
    ]
)
"""One checked transaction, by PROCESSING_ORDER within its day. A payment is known by (caller, transaction_id)."""

PROCESSING_ORDER = ("received_at", "transaction_id", "caller")
"""The order in which duplicates are found, and in which velocity counts what nobody decided. The caller only breaks
ties, so that two runs give the same bytes."""

LABELS = pa.schema(
    [
        _field("transaction_id", pa.string(), "the transaction that the label speaks of"),
        _field("caller", pa.string(), "whose transaction it is, and who says so: nobody labels another's"),
        _field("transaction_date", pa.date32(), "UTC day of its received_at"),
        _field("arrived_at", TIME, "when the label became known; its UTC day is the partition"),
        _field("source", pa.string(), "on what ground: chargeback, investigator, customer, import"),
        _field("revision", pa.int32(), "1, 2, …; within a source the highest that has arrived counts"),
        _field("state", pa.string(), "suspected, confirmed, disputed, cleared, or unlabelled"),
    ]
)
"""One statement about one transaction. Which of several counts: `features.labels`. Files older than `caller` are read
as the default caller's."""

LABEL_STATES = ("suspected", "confirmed", "disputed", "cleared")
FRAUD_STATES = ("confirmed", "disputed")
"""States that count as fraud. `suspected` is an open case: neither fraud nor good until it is revised."""
UNLABELLED = "unlabelled"
"""A source says that its silence about the payment means nothing: however old, it is neither fraud nor good until
somebody says what it is. Any label, of whatever source, stands above it."""

RATES = pa.schema(
    [
        _field("currency", pa.string(), "ISO 4217 code"),
        _field("rate_e9", pa.int64(), "base-currency units per unit of `currency`, times 10^9"),
    ]
)
"""A day's recorded exchange rates."""

QUARANTINE = pa.schema(
    [
        _field("reason", pa.string(), "the rule that the row breaks, naming the field"),
        _field("row", pa.string(), "the row as the source gave it, JSON"),
    ]
)
"""Rows that did not fit, kept with the reason."""


class Transaction(msgspec.Struct, frozen=True, kw_only=True):
    """One payment on the online path, in the platform's units: the fields of RAW_TRANSACTIONS that features read."""

    transaction_id: str
    user_id: str
    merchant_id: str
    amount: int | None
    """Minor units of the base currency; None where its currency had no recorded rate."""
    event_time: int
    """UTC microseconds since 1970, after the clock-skew rule."""
    received_at: int
    """UTC microseconds since 1970."""
    country: str | None = None
    user_country: str | None = None
    merchant_category: str | None = None
    channel: str | None = None
    device_key: int | None = None
    latitude: float | None = None
    longitude: float | None = None
    clock_skew: bool = False
