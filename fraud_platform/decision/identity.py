"""Identity: one decision per (caller, transaction_id) for a day, whatever a worker can ask.

What belongs here: finding, settling and remembering decisions, and what becomes of those that were told while the store
could not be asked. What does not: keys and commands (`online.store`), which of two decisions stands (`standing`), what
makes two bodies equal (`request`).
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from itertools import islice

import msgspec

from fraud_platform.decision.parts import DecisionStore
from fraud_platform.decision.standing import replaces
from fraud_platform.inference_log.record import DecisionRecord, decode_record, encode_record
from fraud_platform.online.decision_key import CLAIM
from fraud_platform.online.wire import StoreError

REMEMBERED = 50_000
"""Decisions that a worker remembers after it told them, about 60 MB: what it answers by while the store is away."""

UNSETTLED = 100_000
"""Decisions that wait for the store, about 150 MB; beyond, the oldest are left to the lake, which has their records."""

AT_RISK_US = 5_000_000
"""Redis writes its append-only file through once a second; what was settled since may have to be settled again."""

_WINNER_POLLS = 10
_WINNER_POLL_SECONDS = 0.005
_AT_ONCE = 200
_PAUSE_SECONDS = 0.05
_Key = tuple[str, str]


class Decisions:
    """The decisions of the last day: the store's, and what this worker told. For one event loop.

    superseded: told of each decision, marked, that another turned out to stand in place of. given_up: told when one
    that waits for the store is left to the lake. neighbours(caller, transaction_id): what another worker of this home
    told, its record encoded, or None. clock: UTC microseconds.
    """

    def __init__(
        self,
        store: DecisionStore,
        clock: Callable[[], int],
        superseded: Callable[[DecisionRecord], None],
        given_up: Callable[[], None],
        neighbours: Callable[[str, str], bytes | None] = lambda _, __: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._superseded = superseded
        self._given_up = given_up
        self._neighbours = neighbours
        self._unsettled: OrderedDict[_Key, tuple[DecisionRecord, bytes]] = OrderedDict()
        self._told: OrderedDict[_Key, tuple[int, bytes]] = OrderedDict()
        self._waits = asyncio.Event()

    @property
    def unsettled(self) -> int:
        """Decisions that were told and that the store does not have yet."""
        return len(self._unsettled)

    def waiting(self, caller: str, transaction_id: str) -> DecisionRecord | None:
        """A decision that was told here and that the store does not have yet, or None: there is no use in asking it."""
        found = self._unsettled.get((caller, transaction_id)) if self._unsettled else None
        return None if found is None else found[0]

    def recalled(self, caller: str, transaction_id: str) -> DecisionRecord | None:
        """What is known here to stand, by this worker or by another of its home, or None: for when the store cannot be
        asked."""
        waiting = self.waiting(caller, transaction_id)
        if waiting is not None:
            return waiting
        told = self._told.get((caller, transaction_id))
        payload = self._neighbours(caller, transaction_id) if told is None else told[1]
        return None if payload is None else decode_record(payload)

    def remember(self, record: DecisionRecord, payload: bytes) -> None:
        """Know a decision that stands in the store. payload: the record encoded."""
        self._told[record.caller, record.request.transaction_id] = self._clock(), payload
        if len(self._told) > REMEMBERED:
            self._told.popitem(last=False)

    async def find(self, caller: str, transaction_id: str) -> DecisionRecord | None:
        """The decision that stands, or None. Raises StoreError when the store does not answer and nothing is known."""
        waiting = self.waiting(caller, transaction_id)
        if waiting is not None:
            return waiting
        try:
            payload = await self._store.find(caller, transaction_id)
        except StoreError:
            told = self.recalled(caller, transaction_id)
            if told is None:
                raise
            return told
        return None if payload is None else decode_record(payload)

    async def standing(self, found: bytes | None, caller: str, transaction_id: str) -> DecisionRecord | None:
        """The decision that was there before, or that whoever came first is making; None: it is ours to make.

        found: what the store said, None where it could not be asked.
        """
        if not found:
            return self.recalled(caller, transaction_id) if found is None else None
        if not found.startswith(CLAIM):
            standing = decode_record(found)
            self.remember(standing, found)
            return standing
        # None at the end: whoever claimed it has died, or could not settle
        for _ in range(_WINNER_POLLS):
            try:
                winner = await self.find(caller, transaction_id)
            except StoreError:
                return None
            if winner is not None:
                return winner
            await asyncio.sleep(_WINNER_POLL_SECONDS)
        return None

    async def is_of(self, decision_id: str, caller: str, transaction_id: str) -> bool:
        """Whether a decision_id that somebody else made is of this payment, and was reported for no other within a day.
        Raises StoreError."""
        mine = hashlib.blake2b(f"{caller}:{transaction_id}".encode(), digest_size=16).hexdigest().encode()
        # beside the decisions, under the name of no caller
        return await self._store.settle("", decision_id, mine) == mine

    async def settle(self, record: DecisionRecord, payload: bytes) -> tuple[DecisionRecord, bytes]:
        """Make this the decision unless another came first; returns the one that stands, and its bytes.

        payload: the record encoded. Where the store cannot be asked, the record stands here, marked as unsettled, and
        is settled when the store is back.
        """
        try:
            standing = await self._store.settle(record.caller, record.request.transaction_id, payload)
        except StoreError:
            return self.settle_later(record)
        if standing is not payload:
            record, payload = decode_record(standing), standing
        self.remember(record, payload)
        return record, payload

    async def settle_or_fail(self, record: DecisionRecord, payload: bytes) -> DecisionRecord:
        """`settle` for what nobody waits for: raises StoreError where the store cannot be asked."""
        standing = await self._store.settle(record.caller, record.request.transaction_id, payload)
        return record if standing is payload else decode_record(standing)

    def settle_later(self, record: DecisionRecord) -> tuple[DecisionRecord, bytes]:
        """Make this the decision without asking the store; returns it, marked as unsettled, and its bytes."""
        record = msgspec.structs.replace(record, unsettled=True)
        payload = encode_record(record)
        self.take_up(record, payload)
        return record, payload

    def take_up(self, record: DecisionRecord, payload: bytes) -> None:
        """Settle a decision that was told, when the store can be asked. payload: the record encoded."""
        self._unsettled[record.caller, record.request.transaction_id] = record, payload
        if len(self._unsettled) > UNSETTLED:
            self._unsettled.popitem(last=False)
            self._given_up()
        self._waits.set()

    def settle_recent_again(self) -> None:
        """The store was away: it may have lost what was settled in its last seconds."""
        since = self._clock() - AT_RISK_US
        for key, (at, payload) in reversed(self._told.items()):
            if at < since:
                break
            if key not in self._unsettled:
                self._unsettled[key] = decode_record(payload), payload
        self._waits.set()

    async def run(self) -> None:
        """Settle what waits whenever the store can be asked, until cancelled."""
        while True:
            await self._waits.wait()
            if not await self.settle_waiting():
                await asyncio.sleep(_PAUSE_SECONDS)

    async def settle_waiting(self) -> bool:
        """Settle what waits; False where the store could not be asked for all of it."""
        self._waits.clear()
        while self._unsettled:
            some = list(islice(self._unsettled.items(), _AT_ONCE))
            outcomes = await asyncio.gather(*(self._settle_told(*told) for _, told in some), return_exceptions=True)
            for (key, told), outcome in zip(some, outcomes, strict=True):
                if not isinstance(outcome, BaseException) and self._unsettled.get(key) is told:
                    del self._unsettled[key]
            failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
            if failed:
                self._waits.set()
                unexpected = next((each for each in failed if not isinstance(each, StoreError)), None)
                if unexpected is not None:
                    raise unexpected
                return False
        return True

    async def _settle_told(self, told: DecisionRecord, payload: bytes) -> None:
        """Let a decision that a caller was told meet the one that stands. Raises StoreError."""
        caller, transaction_id = told.caller, told.request.transaction_id
        stands = await self._store.settle(caller, transaction_id, payload)
        while stands != payload:
            standing = decode_record(stands)
            if standing.decision_id == told.decision_id:
                break
            if not replaces(told, standing):
                self.remember(standing, stands)
                self._mark(told, standing)
                return
            replaced, stands = stands, await self._store.settle(caller, transaction_id, payload, replacing=stands)
            if stands == payload:
                self._mark(decode_record(replaced), told)
        self.remember(told, stands)

    def _mark(self, record: DecisionRecord, standing: DecisionRecord) -> None:
        if not record.is_known:
            # of a later version, which has to mark it; until then readers go by the order of `standing`
            return
        self._superseded(msgspec.structs.replace(record, superseded_by=standing.decision_id))
