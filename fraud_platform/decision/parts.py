"""What the engine is put together from: the interfaces that its collaborators have.

What belongs here: protocols alone. What does not: any behaviour.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Protocol

from fraud_platform.features.vector import OnlineValues
from fraud_platform.inference_log.record import DecisionRecord
from fraud_platform.online.sets import ServedSet
from fraud_platform.schema import Transaction


class OnlineRead(OnlineValues, Protocol):
    """One online read; `online.store.OnlineFeatures` has it."""

    @property
    def merchant_effective_time(self) -> int: ...
    @property
    def user_snapshot(self) -> str | None: ...
    @property
    def merchant_snapshot(self) -> str | None: ...
    @property
    def epoch(self) -> str | None: ...
    @property
    def complete_since(self) -> int | None: ...
    @property
    def user_counted_since(self) -> int | None: ...
    @property
    def merchant_counted_since(self) -> int | None: ...
    @property
    def duplicate(self) -> bool:
        """Velocity has counted this transaction before."""
        ...

    @property
    def standing(self) -> bytes | None:
        """What was found as the payment's decision: nothing, a claim, or a record; None where nobody could be asked."""
        ...

    @property
    def served_by(self) -> Mapping[str, str]: ...
    @property
    def set_hash(self) -> str:
        """The set of features that it was read for."""
        ...

    @property
    def beside(self) -> "OnlineRead | None":
        """The same payment read for the challenger's set, where that is another."""
        ...


class OnlineReader(Protocol):
    """The ladder of feature stores; `online.ladder.Ladder` has it."""

    def serve(self, sets: Sequence[ServedSet]) -> None:
        """Read these sets from now on: the champion's, and the challenger's where it is another."""
        ...

    async def read(self, payment: Transaction, *, caller: str, write: bool, claim: bytes) -> OnlineRead:
        """Features of a payment, which velocity counts; `write` False counts and writes nothing."""
        ...

    async def count(self, payment: Transaction, *, caller: str, claim: bytes) -> OnlineRead:
        """Count a payment, claim it and see what stands; no features are read."""
        ...

    def without_stores(self, payment: Transaction, *, caller: str, claim: bytes) -> OnlineRead:
        """What is known of a payment when nobody is waited for; velocity counts it all the same."""
        ...


class DecisionStore(Protocol):
    """Where decisions stand; `online.store.OnlineStore` has it. What is awaited raises StoreError."""

    async def find(self, caller: str, transaction_id: str) -> bytes | None: ...
    async def settle(self, caller: str, transaction_id: str, record: bytes, *, replacing: bytes = b"") -> bytes:
        """Make a record the decision where none stands, or where that one stands which it replaces; returns the one
        that stands then, the very object `record` where it is that."""
        ...


class Recorder(Protocol):
    """Keeps a record before its answer goes out; `inference_log.spool.SpoolWriter` has it."""

    def append(self, day: date, payload: bytes) -> None: ...


class Meter(Protocol):
    """Counts what happens, for whoever watches."""

    def decided(self, record: DecisionRecord, repeated: bool) -> None:
        """A decision goes out; `repeated`: one that stood already."""
        ...

    def took(self, stage: str, seconds: float) -> None:
        """A stage of one decision: read, request_features, model, log."""
        ...

    def overran(self, stage: str) -> None:
        """A stage took longer than its part; `budget`: so much was gone that the model was not asked."""
        ...

    def failed(self, stage: str) -> None:
        """Something went wrong on our side."""
        ...
