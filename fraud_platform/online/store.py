"""The online store at serving speed: one pipelined wave to Redis gives all that a payment's vector needs.

What belongs here: what is asked for, ages, what counts as missing. What does not: byte layout (`layout`), the velocity
script (`velocity`), cold start (`features.vector`).
"""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from redis import asyncio as redis_asyncio
from redis.exceptions import NoScriptError

from fraud_platform.features.catalogue import CATALOGUE, DAY
from fraud_platform.online import layout, velocity
from fraud_platform.online.packed import MERCHANT_VECTOR, PROJECT, USER_VECTOR, VECTOR, PackedView
from fraud_platform.online.snapshot_record import SnapshotRecord, decode_record, record_key
from fraud_platform.schema import Transaction

ServedBy = Literal["redis", "default"]
Row = NDArray[np.float32]


@dataclass(frozen=True)
class OnlineFeatures:
    """One read. Rows and medians are float32 in the catalogue's order; a missing entity's row is None."""

    user_row: Row | None
    merchant_row: Row | None
    user_medians: Row
    merchant_medians: Row
    known_countries: frozenset[str] | None
    known_devices: frozenset[int] | None
    last_effective_time: int | None
    velocity: NDArray[np.float64]
    user_effective_time: int
    merchant_effective_time: int
    user_snapshot: str | None
    merchant_snapshot: str | None
    epoch: str | None
    complete_since: int | None
    duplicate: bool
    served_by: dict[str, ServedBy]


@dataclass(frozen=True)
class _ReadPlan:
    """The fields of one packed view, in the order they are asked for."""

    view: PackedView
    fields: tuple[bytes, ...]

    @staticmethod
    def of(view: PackedView) -> "_ReadPlan":
        names = [VECTOR, *(name for name, _ in view.extras)]
        return _ReadPlan(view, (layout.timestamp_field(view.name), *(layout.field(view.name, name) for name in names)))

    def key(self, identifier: str, prefix: bytes) -> bytes:
        return prefix + layout.entity_key(PROJECT, self.view.join_key, identifier)


_USER, _MERCHANT = _ReadPlan.of(USER_VECTOR), _ReadPlan.of(MERCHANT_VECTOR)
_epochs = msgspec.json.Decoder(velocity.Epoch)


@dataclass(frozen=True)
class _BatchRow:
    """A packed row after the checks of age and snapshot; `values` are the raw extras."""

    vector: Row | None
    extras: tuple[bytes, ...]
    snapshot: str | None
    medians: Row
    served_by: ServedBy


class OnlineStore:
    """Reads features and counts velocity for one payment at a time; safe to share between tasks of one event loop."""

    def __init__(
        self,
        url: str,
        *,
        ttl_days: int,
        default_medians: dict[str, Row] | None = None,
        prefix: bytes = b"",
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000,
    ) -> None:
        """`default_medians`: float32 arrays under "user" and "merchant" (the model's own copy), used when no snapshot
        can be read; `clock`: UTC microseconds, for ages alone; `prefix`: an own key space, as replay uses."""
        self._redis = redis_asyncio.Redis.from_url(url)
        self._ttl = ttl_days * DAY
        self._prefix = prefix
        self._clock = clock
        self._script = ""
        nothing = {s: np.full(len(CATALOGUE.of(s)), np.nan, np.float32) for s in ("user", "merchant")}
        self._defaults = default_medians or nothing
        self._records: dict[bytes, tuple[SnapshotRecord, Row]] = {}

    async def read(self, payment: Transaction, *, caller: str = "", write: bool = True) -> OnlineFeatures:
        """Everything the vector needs, in one round trip; counts the attempt unless `write` is False (what-if).

        Raises redis.exceptions.RedisError when the store does not answer.
        """
        replies = await self._wave(payment, caller, write)
        user_reply, merchant_reply, user_hash, merchant_hash, user_record, merchant_record, epoch_bytes = replies
        epoch = _epochs.decode(epoch_bytes) if epoch_bytes else await self._begin_epoch(payment, write)
        user_velocity = velocity.parse("user", user_reply)
        merchant_velocity = velocity.parse("merchant", merchant_reply)
        user = self._batch(user_hash, user_record, "user")
        merchant = self._batch(merchant_hash, merchant_record, "merchant")
        last_seen, countries, devices = user.extras or (b"", b"", b"")
        return OnlineFeatures(
            user_row=user.vector,
            merchant_row=merchant.vector,
            user_medians=user.medians,
            merchant_medians=merchant.medians,
            known_countries=frozenset(layout.strings(countries)) if countries else None,
            known_devices=frozenset(layout.int64s(devices)) if devices else None,
            last_effective_time=velocity.last_attempt(user_velocity, layout.int64(last_seen), epoch),
            velocity=velocity.complete_block(user_velocity, merchant_velocity, epoch),
            user_effective_time=user_velocity.effective_time,
            merchant_effective_time=merchant_velocity.effective_time,
            user_snapshot=user.snapshot,
            merchant_snapshot=merchant.snapshot,
            epoch=epoch.epoch if epoch else None,
            complete_since=epoch.complete_since if epoch else None,
            duplicate=user_velocity.duplicate,
            served_by={"user_features": user.served_by, "merchant_features": merchant.served_by},
        )

    async def snapshots(self) -> dict[str, date | None]:
        """The snapshot in force per packed view; None where none is. Raises RedisError when Redis does not answer."""
        views = (USER_VECTOR, MERCHANT_VECTOR)
        values = await self._redis.mget([record_key(view, self._prefix) for view in views])
        return {
            view.name: decode_record(value).snapshot if value else None
            for view, value in zip(views, values, strict=True)
        }

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _wave(self, payment: Transaction, caller: str, write: bool) -> list[Any]:
        if not self._script:
            self._script = await self._redis.script_load(velocity.SCRIPT)
        pipe = self._redis.pipeline(transaction=False)
        for entity in velocity.ENTITIES:
            identifier = payment.user_id if entity == "user" else payment.merchant_id
            counted = velocity.set_key(entity, identifier, self._prefix)
            seen = velocity.identity_key(entity, identifier, caller, payment.transaction_id, self._prefix)
            arguments = velocity.arguments(entity, payment, write=write)
            pipe.execute_command("EVALSHA", self._script, 2, counted, seen, *arguments)
        pipe.execute_command("HMGET", _USER.key(payment.user_id, self._prefix), *_USER.fields)
        pipe.execute_command("HMGET", _MERCHANT.key(payment.merchant_id, self._prefix), *_MERCHANT.fields)
        pipe.get(record_key(USER_VECTOR, self._prefix))
        pipe.get(record_key(MERCHANT_VECTOR, self._prefix))
        pipe.get(velocity.epoch_key(self._prefix))
        try:
            return await pipe.execute()
        except NoScriptError:
            # a restarted Redis forgets scripts; neither call has run, so asking again counts nothing twice
            self._script = ""
            return await self._wave(payment, caller, write)

    async def _begin_epoch(self, payment: Transaction, write: bool) -> velocity.Epoch | None:
        """Velocity was lost: from now on it is counted anew. This answer's windows stay null either way."""
        if write:
            since = payment.received_at + velocity.CLOCK_AHEAD + 1
            epoch = velocity.Epoch(epoch=uuid.uuid4().hex, complete_since=since)
            await self._redis.set(velocity.epoch_key(self._prefix), msgspec.json.encode(epoch), nx=True)
        return None

    def _batch(self, values: list[bytes | None], record_bytes: bytes | None, entity: velocity.Entity) -> _BatchRow:
        known = self._record(record_bytes)
        if known is None:
            return _BatchRow(None, (), None, self._defaults[entity], "default")
        record, medians = known
        if self._clock() - record.visible_from > self._ttl:
            return _BatchRow(None, (), None, self._defaults[entity], "default")
        stamp, vector, *extras = values
        # a row behind the snapshot in force belongs to an entity that has left it
        if not stamp or not vector or (at := layout.timestamp(stamp)) < record.snapshot_at:
            return _BatchRow(None, (), record.snapshot.isoformat(), medians, "redis")
        snapshot = record.snapshot if at == record.snapshot_at else datetime.fromtimestamp(at // 1_000_000, UTC).date()
        return _BatchRow(
            layout.floats(vector), tuple(extra or b"" for extra in extras), snapshot.isoformat(), medians, "redis"
        )

    def _record(self, value: bytes | None) -> tuple[SnapshotRecord, Row] | None:
        """A view's record with its medians as an array; decoded once per distinct value."""
        if value is None:
            return None
        if value not in self._records:
            record = decode_record(value)
            medians = np.array([np.nan if m is None else m for m in record.medians], np.float32)
            if len(self._records) > len((USER_VECTOR, MERCHANT_VECTOR)):
                self._records.clear()
            self._records[value] = (record, medians)
        return self._records[value]
