"""The record of one decision: everything it can be explained, audited and replayed from.

What belongs here: the fields, their units and their bytes. What does not: where records are kept (`spool`, Redis).
Encoded as a MessagePack array, in field order: a new field is appended with a default, so old records stay readable,
and a version of before passes over what it does not know. It writes no such record anew.
"""

from datetime import UTC, date, datetime

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraud_platform.decision.policy import DecisionName, Kind
from fraud_platform.decision.request import Payment
from fraud_platform.versions import refuse_newer

SCHEMA_VERSION = 4
"""Of version 1 the request's hash differs: `hash_of_request`. Before version 3 there was no `channel` and no `listed`,
and `rules_only` had no reason of its own. Before version 4 both models of a payment saw the same vector."""


MARKED = "!"
"""Behind the decision_id of a superseded decision in `DecisionRecord.log_key`."""


AMOUNT_UNKNOWN = "unknown"


class ServedBy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The source of each part of a decision; `model` is what decided: a rung of the model, the rules, a list of the
    policy or its kill switch."""

    user_features: str
    merchant_features: str
    model: str
    amount: str | None = None
    """AMOUNT_UNKNOWN where the payment's currency had no recorded rate; absent where it had."""


def amount_source(amount: int | None) -> str | None:
    """`ServedBy.amount` of an amount in the base currency, or of None."""
    return AMOUNT_UNKNOWN if amount is None else None


class Seen(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What one model was given of a payment, by its own set of features."""

    catalogue_hash: str
    vector: bytes
    """float32, little endian, in the set's order."""
    user_features: str
    """Which source the user's row came from."""
    merchant_features: str
    user_snapshot: str | None
    merchant_snapshot: str | None

    @property
    def degraded(self) -> bool:
        """Whether a row came from other than the first source."""
        return (self.user_features, self.merchant_features) != FIRST_SOURCES

    @property
    def values(self) -> NDArray[np.float32]:
        """The vector; null is NaN."""
        return np.frombuffer(self.vector, "<f4").astype(np.float32)


FIRST_SOURCES = ("redis", "redis")
"""Of the user's row, and of the merchant's."""

Identity = tuple[str, str]
"""Caller and transaction_id: what a payment is known by, here and to whoever asks."""


class DecisionRecord(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One decision, as it was made. Times are UTC microseconds since 1970."""

    schema_version: int
    decision_id: str
    """Unique per decision; a record may be kept twice, so readers count a decision_id once."""
    caller: str
    request_hash: str
    """`Payment.content_hash` of the body; in version 1 `Payment.former_content_hash`."""
    request: Payment
    received_at: int
    amount: int | None
    """Minor units of the base currency, at the rate in force; None where there was none, for good."""
    event_time: int
    clock_skew: bool
    user_effective_time: int
    merchant_effective_time: int
    catalogue_hash: str
    """The set of features of the model that decided; without one, of the service."""
    vector: bytes
    """float32, little endian, in the set's order: the very bits that were scored; a null is a NaN."""
    user_snapshot: str | None
    merchant_snapshot: str | None
    epoch: str | None
    """Velocity's epoch; `complete_since` is from when on it has counted every attempt."""
    complete_since: int | None
    served_by: ServedBy
    model_version: str
    scorer_hash: str
    """SHA-256 of the model file."""
    policy_version: int
    threshold: float
    review_threshold: float
    score: float | None
    """Calibrated probability, unrounded; None where the rules decided."""
    decision: DecisionName
    reason: str
    latency_us: int
    """From received_at until the decision stood."""
    arm: str = "champion"
    """Whose turn it was, `champion` or `challenger`; `served_by.model` says who decided."""
    other_version: str | None = None
    """The model beside the one that decided: the challenger, or the champion in the challenger's turn."""
    other_score: float | None = None
    """Its calibrated probability on the same vector, or on `other_seen`; it decided nothing."""
    scored_by: str | None = None
    """The rung that gave the score, also where a list decided; None without a score, and before there were lists."""
    propensity: float | None = None
    """Probability by which a payment above the threshold was let through to be measured, whether it was or not; None
    where nothing was drawn."""
    region: str = ""
    """Where it was decided, and whose velocity counted it; empty: in the first region."""
    unsettled: bool = False
    """Told before the store of decisions had taken it, which could not be asked."""
    superseded_by: str | None = None
    """The decision_id of the decision that stands in place of this one, which a caller was told; None: it stands."""
    user_counted_since: int | None = None
    """From which effective time on velocity had counted every attempt of the user: 0, or the beginning of an epoch of
    the user's own after a clock had jumped. None: not counted by velocity, or by an earlier rule of effective time."""
    merchant_counted_since: int | None = None
    """The same at the merchant."""
    channel: str | None = None
    """The word of `fraud_platform.channels` that the request's text meant when it was decided; None where it meant
    none, and before schema version 3."""
    listed: Kind | None = None
    """What of the payment was on the list that decided; None where no list did, in a report, and before schema version
    3. The entry is in the policy's version."""
    other_seen: Seen | None = None
    """What `other_version` saw, where its set of features is another; None where it saw the same vector."""

    @property
    def is_known(self) -> bool:
        """Whether this version of the platform knows all that it says. Of a record of a later version it knows what was
        decided, which never changes its place or its meaning."""
        return self.schema_version <= SCHEMA_VERSION

    @property
    def read_channel(self) -> str | None:
        """What features read of the channel; before schema version 3 the text as it was sent."""
        return self.request.channel if self.schema_version < 3 else self.channel

    @property
    def log_key(self) -> str:
        """What the log knows this record by: a decision that was marked as superseded is kept a second time, with the
        mark, and counts as one that is read."""
        return self.decision_id if self.superseded_by is None else f"{self.decision_id}{MARKED}"

    @property
    def identity(self) -> Identity:
        """What it is known by."""
        return self.caller, self.request.transaction_id

    @property
    def day(self) -> date:
        """UTC day of received_at: the partition that the record belongs to."""
        return datetime.fromtimestamp(self.received_at // 1_000_000, UTC).date()

    @property
    def rung(self) -> str:
        """Where the score came from; what decided, where there is none."""
        return self.scored_by or self.served_by.model

    @property
    def degraded(self) -> bool:
        """Whether anything was served by other than the first source: Redis, Redis, a whole model, a recorded rate."""
        stores = (self.served_by.user_features, self.served_by.merchant_features)
        whole_model = self.rung in ("champion", "challenger")
        return stores != FIRST_SOURCES or not whole_model or self.amount is None

    @property
    def other_catalogue_hash(self) -> str | None:
        """The set of features of the model beside the one that decided, where it is another."""
        return None if self.other_seen is None else self.other_seen.catalogue_hash

    @property
    def other_degraded(self) -> bool | None:
        """Whether that model's own rows came from other than the first source; None where its set is the same."""
        return None if self.other_seen is None else self.other_seen.degraded

    @property
    def values(self) -> NDArray[np.float32]:
        """The vector, float32 of shape (features of the set,); null is NaN."""
        return np.frombuffer(self.vector, "<f4").astype(np.float32)


def hash_of_request(request: Payment, schema_version: int) -> str:
    """`DecisionRecord.request_hash` of a request, in a record of a schema version."""
    return request.former_content_hash() if schema_version == 1 else request.content_hash()


def vector_bytes(vector: NDArray[np.float32]) -> bytes:
    """A vector as a record keeps it."""
    return vector.astype("<f4", copy=False).tobytes()


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(DecisionRecord)


def encode_record(record: DecisionRecord) -> bytes:
    """MessagePack; the vector's and the score's bits are kept. Raises NewerVersionError for a record of a later
    version, which may have more fields than are known here: they would be lost."""
    if not record.is_known:
        refuse_newer(f"the record of decision {record.decision_id}", record.schema_version, SCHEMA_VERSION)
    return _encoder.encode(record)


def decode_record(payload: bytes) -> DecisionRecord:
    """Inverse of `encode_record`. Raises msgspec.MsgspecError for bytes that are no record."""
    return _decoder.decode(payload)
