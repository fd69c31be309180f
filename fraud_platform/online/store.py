"""The online store at serving speed: one pipelined wave to Redis gives all that a payment's vector needs.

What belongs here: what is asked for, ages, what counts as missing. What does not: byte layout (`layout`), the velocity
script (`velocity`), the connection (`wire`), what serves when Redis does not (`ladder`), cold start
(`features.vector`).
"""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

import hiredis
import msgspec
import numpy as np

from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.online import layout, velocity
from fraud_platform.online.decision_key import CLAIM, LIFE_MS, SETTLE_SCRIPT, SETTLE_SHA, decision_key
from fraud_platform.online.packed import MERCHANT_VECTOR, PROJECT, USER_VECTOR, VECTOR, PackedView
from fraud_platform.online.recount import Recount
from fraud_platform.online.rows import Row, RowReader
from fraud_platform.online.snapshot_record import decode_record, record_key
from fraud_platform.online.wire import Reply, StoreError, Wire, command
from fraud_platform.schema import Transaction

_FOREVER = 3600.0


class OnlineFeatures(msgspec.Struct, frozen=True, kw_only=True):
    """One read. Rows and medians are float32 in the catalogue's order; a missing entity's row is None."""

    user_row: Any
    merchant_row: Any
    user_medians: Any
    merchant_medians: Any
    known_countries: frozenset[str] | None
    known_devices: frozenset[int] | None
    last_effective_time: int | None
    velocity: Any
    """float64 (11,), NaN where unknown."""
    user_effective_time: int
    merchant_effective_time: int
    user_snapshot: str | None
    merchant_snapshot: str | None
    epoch: str | None
    complete_since: int | None
    duplicate: bool
    """Velocity has counted this payment before."""
    standing: bytes
    """What was found as the payment's decision: nothing, a claim, or a record."""
    served_by: dict[str, str]


@dataclass(frozen=True)
class _ReadPlan:
    """The fields of one packed view, in the order they are asked for."""

    view: PackedView
    head: bytes
    tail: bytes

    @staticmethod
    def of(view: PackedView) -> "_ReadPlan":
        names = [VECTOR, *(name for name, _ in view.extras)]
        fields = (layout.timestamp_field(view.name), *(layout.field(view.name, name) for name in names))
        head = b"*%d\r\n$5\r\nHMGET\r\n" % (2 + len(fields))
        return _ReadPlan(view, head, b"".join(map(velocity.bulk, fields)))

    def call(self, identifier: str, prefix: bytes) -> bytes:
        key = prefix + layout.entity_key(PROJECT, self.view.join_key, identifier)
        return self.head + velocity.bulk(key) + self.tail


_USER, _MERCHANT = _ReadPlan.of(USER_VECTOR), _ReadPlan.of(MERCHANT_VECTOR)
_epochs = msgspec.json.Decoder(velocity.Epoch)


class OnlineStore:
    """Reads features and counts velocity; safe to share between tasks of one event loop. `open` first, `close` last."""

    def __init__(
        self,
        url: str,
        *,
        ttl_days: int,
        default_medians: dict[str, Row] | None = None,
        prefix: bytes = b"",
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000,
        deadline: float = _FOREVER,
        recount: Recount | None = None,
    ) -> None:
        """`default_medians`: float32 arrays under "user" and "merchant" (the model's own copy), used when no snapshot
        can be read; `clock`: UTC microseconds, for ages alone; `prefix`: an own key space, as replay uses; `deadline`:
        seconds after which a read fails; `recount`: keeps what Redis may not have counted."""
        self._wire = Wire(url, deadline=deadline, prepare=self._prepare)
        self._rows = RowReader("redis", ttl_days)
        self._prefix = prefix
        self._clock = clock
        self._recount = recount
        nothing = {s: np.full(len(CATALOGUE.of(s)), np.nan, np.float32) for s in ("user", "merchant")}
        self.medians = default_medians or nothing
        """Used when no snapshot can be read."""
        gets = (record_key(USER_VECTOR, prefix), record_key(MERCHANT_VECTOR, prefix), velocity.epoch_key(prefix))
        self._gets = b"".join(command(b"GET", key) for key in gets)

    @property
    def connected(self) -> bool:
        """Whether Redis can be asked now."""
        return self._wire.ready

    async def open(self) -> None:
        """Connect, and stay connected in the background; a Redis that is down is no error here."""
        await self._wire.open()

    async def read(
        self, payment: Transaction, *, caller: str = "", write: bool = True, claim: bytes = b""
    ) -> OnlineFeatures:
        """Everything the vector needs, in one round trip; counts the attempt unless `write` is False (what-if).

        claim: makes the payment the caller's to decide, and finds the decision that stands. Raises StoreError when the
        store does not answer.
        """
        attempt = self._attempt(payment, caller, write, claim)
        if write:
            # kept before it is sent: whether a lost answer was counted, only asking again will tell
            self._keep(attempt, len(velocity.ENTITIES), payment.received_at)
        replies = await self._wave(attempt, payment)
        user_reply, merchant_reply, user_hash, merchant_hash, user_record, merchant_record, epoch_bytes = replies
        epoch = _epochs.decode(epoch_bytes) if epoch_bytes else await self._begin_epoch(payment, write)
        user_velocity = velocity.parse(user_reply)
        merchant_velocity = velocity.parse(merchant_reply)
        now = self._clock()
        user = self._rows.read(user_hash, user_record, "user", self.medians, now)
        merchant = self._rows.read(merchant_hash, merchant_record, "merchant", self.medians, now)
        last_seen, countries, devices = user.extras or (b"", b"", b"")
        return OnlineFeatures(
            user_row=user.vector,
            merchant_row=merchant.vector,
            user_medians=user.medians,
            merchant_medians=merchant.medians,
            known_countries=frozenset(layout.strings(countries)) if countries else None,
            known_devices=frozenset(layout.int64s(devices)) if devices else None,
            last_effective_time=velocity.last_attempt(user_velocity, layout.int64(last_seen or b""), epoch),
            velocity=velocity.complete_block(user_velocity, merchant_velocity, epoch),
            user_effective_time=user_velocity.effective_time,
            merchant_effective_time=merchant_velocity.effective_time,
            user_snapshot=user.snapshot,
            merchant_snapshot=merchant.snapshot,
            epoch=epoch.epoch if epoch else None,
            complete_since=epoch.complete_since if epoch else None,
            duplicate=user_velocity.duplicate,
            standing=user_velocity.standing,
            served_by={"user_features": user.served_by, "merchant_features": merchant.served_by},
        )

    def count(self, payment: Transaction, *, caller: str, claim: bytes) -> None:
        """Count an attempt that is decided without its features; waits for nothing. Without Redis: when it is back."""
        attempt = self._attempt(payment, caller, True, claim)
        self._post(attempt, len(velocity.ENTITIES), payment.received_at)

    async def find(self, caller: str, transaction_id: str) -> bytes | None:
        """The record that stands as the decision on a payment, or None. Raises StoreError."""
        found: bytes | None = await self._ask(b"GET", decision_key(caller, transaction_id, self._prefix))
        return None if found is None or found.startswith(CLAIM) else found

    async def settle(self, caller: str, transaction_id: str, record: bytes) -> bytes:
        """Make a record the decision unless another stands; returns the one that stands. Raises StoreError."""
        payload = self._settlement(caller, transaction_id, record)
        self._keep(payload, 1, self._clock())
        (reply,) = await self._wire.send(payload, 1)
        if isinstance(reply, hiredis.ReplyError):
            raise StoreError(str(reply)) from reply
        return record if reply is None else bytes(reply)

    def post(self, caller: str, transaction_id: str, record: bytes) -> None:
        """`settle` without waiting for the outcome. Without Redis: when it is back."""
        self._post(self._settlement(caller, transaction_id, record), 1, self._clock())

    async def snapshots(self) -> dict[str, date | None]:
        """The snapshot in force per packed view; None where none is. Raises StoreError when Redis does not answer."""
        views = (USER_VECTOR, MERCHANT_VECTOR)
        values = [await self._ask(b"GET", record_key(view, self._prefix)) for view in views]
        return {
            view.name: decode_record(value).snapshot if value else None
            for view, value in zip(views, values, strict=True)
        }

    async def close(self) -> None:
        """Close the connection."""
        await self._wire.close()

    def _attempt(self, payment: Transaction, caller: str, write: bool, claim: bytes) -> bytes:
        decision = decision_key(caller, payment.transaction_id, self._prefix) if claim else b""
        return b"".join(
            velocity.call(entity, payment, caller, self._prefix, write=write, decision=decision, claim=claim)
            for entity in velocity.ENTITIES
        )

    def _settlement(self, caller: str, transaction_id: str, record: bytes) -> bytes:
        key = decision_key(caller, transaction_id, self._prefix)
        return command(b"EVALSHA", SETTLE_SHA, b"1", key, record, b"%d" % LIFE_MS, CLAIM)

    def _keep(self, payload: bytes, replies: int, at: int) -> None:
        if self._recount is not None:
            self._recount.keep(payload, replies, at, connected=self._wire.ready)

    def _post(self, payload: bytes, replies: int, at: int) -> None:
        self._keep(payload, replies, at)
        if self._wire.ready:
            self._wire.send(payload, replies)

    async def _ask(self, *arguments: bytes) -> Reply:
        try:
            return await self._wire.ask(*arguments)
        except hiredis.ReplyError as error:
            raise StoreError(str(error)) from error

    async def _wave(self, attempt: bytes, payment: Transaction) -> list[Reply]:
        rows = _USER.call(payment.user_id, self._prefix) + _MERCHANT.call(payment.merchant_id, self._prefix)
        replies = await self._wire.send(attempt + rows + self._gets, 7)
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                if str(reply).startswith("NOSCRIPT"):
                    # flushed by hand; neither call has run, so the recount or a repeat counts nothing twice
                    await self._load_scripts(self._wire)
                raise StoreError(str(reply)) from reply
        return replies

    async def _prepare(self, wire: Wire) -> None:
        """A new connection: scripts, then whatever the server may have lost or missed meanwhile."""
        await self._load_scripts(wire)
        if self._recount is not None:
            await self._recount.deliver(wire, velocity.epoch_key(self._prefix), self._clock())

    @staticmethod
    async def _load_scripts(wire: Wire) -> None:
        for script in (velocity.SCRIPT, SETTLE_SCRIPT):
            await wire.ask(b"SCRIPT", b"LOAD", script.encode())

    async def _begin_epoch(self, payment: Transaction, write: bool) -> velocity.Epoch | None:
        """Velocity was lost: from now on it is counted anew. This answer's windows stay null either way."""
        if write:
            epoch = velocity.Epoch(epoch=uuid.uuid4().hex, complete_since=velocity.complete_after(payment.received_at))
            await self._ask(b"SET", velocity.epoch_key(self._prefix), msgspec.json.encode(epoch), b"NX")
        return None
