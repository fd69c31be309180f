"""What the engine is put together from: the interfaces that its collaborators have.

What belongs here: protocols alone. What does not: any behaviour.
"""

from collections.abc import Mapping
from datetime import date
from typing import Protocol

from fraud_platform.features.vector import OnlineValues
from fraud_platform.inference_log.record import DecisionRecord
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
    def duplicate(self) -> bool:
        """Velocity has counted this transaction before."""
        ...

    @property
    def served_by(self) -> Mapping[str, str]: ...


class OnlineReader(Protocol):
    """The online feature store."""

    async def read(self, payment: Transaction, *, caller: str, write: bool) -> OnlineRead:
        """Features of a payment, which velocity counts; `write` False counts and writes nothing."""
        ...


class Recorder(Protocol):
    """Keeps a record before its answer goes out; `inference_log.spool.SpoolWriter` has it."""

    def append(self, day: date, payload: bytes) -> None: ...


class Meter(Protocol):
    """Counts what happens, for whoever watches."""

    def decided(self, record: DecisionRecord, repeated: bool) -> None:
        """A decision goes out; `repeated`: one that stood already."""
        ...

    def failed(self, stage: str) -> None:
        """Something went wrong on our side."""
        ...
