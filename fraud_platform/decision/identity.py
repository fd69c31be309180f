"""Identity: one decision per (caller, transaction_id) for a day.

What belongs here: claiming, finding and settling a decision, also while the store is away. What does not: keys and
commands (`online.store`), what makes two bodies equal (`request`).
"""

from collections import OrderedDict

from fraud_platform.decision.parts import DecisionStore
from fraud_platform.inference_log.record import DecisionRecord, decode_record
from fraud_platform.online.wire import StoreError

REMEMBERED = 20_000
"""Decisions that a worker remembers itself, for repeats of what was decided while the store was away."""


class Decisions:
    """The decisions of the last day: the store's, and this worker's own where the store could not keep them."""

    def __init__(self, store: DecisionStore) -> None:
        self._store = store
        self._own: OrderedDict[tuple[str, str], DecisionRecord] = OrderedDict()

    def remembered(self, caller: str, transaction_id: str) -> DecisionRecord | None:
        """This worker's own decision that the store does not have yet, or None."""
        return self._own.get((caller, transaction_id)) if self._own else None

    def post(self, record: DecisionRecord, payload: bytes) -> None:
        """Make this the decision without waiting for the store. payload: the record encoded."""
        self._remember(record)
        self._store.post(record.caller, record.request.transaction_id, payload)

    def _remember(self, record: DecisionRecord) -> None:
        self._own[record.caller, record.request.transaction_id] = record
        while len(self._own) > REMEMBERED:
            self._own.popitem(last=False)

    async def find(self, caller: str, transaction_id: str) -> DecisionRecord | None:
        """The decision that stands, or None. Raises StoreError when the store does not answer and nothing is known."""
        own = self.remembered(caller, transaction_id)
        if own is not None:
            return own
        payload = await self._store.find(caller, transaction_id)
        return None if payload is None else decode_record(payload)

    async def settle(self, record: DecisionRecord, payload: bytes) -> DecisionRecord:
        """Make this the decision unless another came first; returns the one that stands.

        payload: the record encoded.
        """
        try:
            standing = await self._store.settle(record.caller, record.request.transaction_id, payload)
        except StoreError:
            # the store is told when it is back; until then this worker knows it
            self._remember(record)
            return record
        return record if standing is payload else decode_record(standing)
