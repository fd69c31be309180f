"""The online store at serving speed: one pipelined wave to Redis gives all that a payment's vector needs.

What belongs here: what is asked for, ages, what counts as missing. What does not: byte layout (`layout`), the velocity
script (`velocity`), one server or many (`standalone`, `cluster`), what serves when Redis does not (`ladder`), cold
start (`features.vector`).
"""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

import msgspec
import numpy as np

from fraud_platform.features.catalogue import CATALOGUE, Catalogue, Entity
from fraud_platform.online import layout, velocity
from fraud_platform.online.attempt import Attempt, Keyed, get, settlement
from fraud_platform.online.cluster import Cluster
from fraud_platform.online.decision_key import CLAIM, decision_key
from fraud_platform.online.packed import PROJECT, PackedView, views_of
from fraud_platform.online.recount import Recount
from fraud_platform.online.rows import Refusal, Row, RowReader, refused_of, troubles
from fraud_platform.online.shards import is_cluster
from fraud_platform.online.snapshot_record import record_key
from fraud_platform.online.standalone import Asked, Server, Standalone
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
    user_counted_since: int | None = None
    """From which effective time on every attempt of the user is counted, 0 unless a clock jumped; None: no Redis."""
    merchant_counted_since: int | None = None
    duplicate: bool
    """Velocity has counted this payment before."""
    standing: bytes | None
    """What was found as the payment's decision: nothing, a claim, or a record; None where nobody could be asked."""
    served_by: dict[str, str]
    refused: tuple[Entity, ...] = ()
    """Whose rows were of other features or damaged: they were not read."""


class Counted(NamedTuple):
    """An attempt that was counted while no features were read."""

    user_effective_time: int
    merchant_effective_time: int
    user_counted_since: int
    merchant_counted_since: int
    epoch: velocity.Epoch | None
    standing: bytes
    """What was found as the payment's decision: nothing, a claim, or a record."""


@dataclass(frozen=True)
class _ReadPlan:
    """The fields of one packed view, in the order they are asked for."""

    view: PackedView
    head: bytes
    tail: bytes

    @staticmethod
    def of(view: PackedView) -> "_ReadPlan":
        fields = (layout.timestamp_field(view.name), *(layout.field(view.name, name) for name, _ in view.features))
        head = b"*%d\r\n$5\r\nHMGET\r\n" % (2 + len(fields))
        return _ReadPlan(view, head, b"".join(map(velocity.bulk, fields)))

    def call(self, identifier: str, prefix: bytes) -> Keyed:
        key = prefix + layout.entity_key(PROJECT, self.view.join_key, identifier)
        return Keyed(key, b"%b$%d\r\n%b\r\n%b" % (self.head, len(key), key, self.tail))


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
        refused: Callable[[Refusal], None] = lambda _: None,
        catalogue: Catalogue = CATALOGUE,
    ) -> None:
        """`default_medians`: float32 arrays under "user" and "merchant" (the model's own copy), used when no snapshot
        can be read; `clock`: UTC microseconds, for ages alone; `prefix`: an own key space, as replay uses; `deadline`:
        seconds after which a read fails; `recount`: keeps what Redis may not have counted; `refused`: as of
        `rows.RowReader`; `catalogue`: whose batch features are read."""
        kind = Cluster if is_cluster(url) else Standalone
        self._server: Server = kind(url, deadline=deadline, prefix=prefix, catch_up=self._catch_up)
        users, merchants = views_of(catalogue)
        self._users = RowReader("redis", users, ttl_days, refused)
        self._merchants = RowReader("redis", merchants, ttl_days, refused)
        self._user_plan, self._merchant_plan = _ReadPlan.of(users), _ReadPlan.of(merchants)
        self._prefix = prefix
        self._clock = clock
        self._recount = recount
        nothing = {s: np.full(len(catalogue.of(s)), np.nan, np.float32) for s in ("user", "merchant")}
        self.medians = default_medians or nothing
        """Used when no snapshot can be read."""
        self.reconnected: Callable[[], None] = lambda: None
        """Called when a server is back that may have lost its last seconds."""
        self._records = tuple(record_key(view, prefix) for view in (users, merchants))

    @property
    def connected(self) -> bool:
        """Whether Redis can be asked now."""
        return self._server.ready

    async def open(self) -> None:
        """Connect and stay so in the background; returns after the first attempt, whether or not it succeeded."""
        await self._server.open()

    async def read(
        self, payment: Transaction, *, caller: str = "", write: bool = True, claim: bytes = b""
    ) -> OnlineFeatures:
        """Everything the vector needs, in one round trip, or two on a Cluster.

        write: False counts nothing (what-if). claim: makes the payment the caller's to decide, and finds the decision
        that stands. Raises StoreError when the store does not answer.
        """
        user_rows = self._user_plan.call(payment.user_id, self._prefix)
        rows = (user_rows, self._merchant_plan.call(payment.merchant_id, self._prefix))
        asked = await self._ask(Attempt(payment, caller, self._prefix, write, claim), rows, self._records)
        epoch = asked.epoch
        (user_hash, merchant_hash), (user_record, merchant_record) = asked.reads, asked.values
        user_velocity = velocity.parse(asked.user)
        merchant_velocity = velocity.parse(asked.merchant)
        now = self._clock()
        user = self._users.read(user_hash, user_record, self.medians["user"], now)
        merchant = self._merchants.read(merchant_hash, merchant_record, self.medians["merchant"], now)
        last_seen, countries, devices = user.extras or (None, None, None)
        return OnlineFeatures(
            user_row=user.vector,
            merchant_row=merchant.vector,
            user_medians=user.medians,
            merchant_medians=merchant.medians,
            known_countries=countries,
            known_devices=devices,
            last_effective_time=velocity.last_attempt(user_velocity, last_seen, epoch),
            velocity=velocity.complete_block(user_velocity, merchant_velocity, epoch),
            user_effective_time=user_velocity.effective_time,
            merchant_effective_time=merchant_velocity.effective_time,
            user_snapshot=user.snapshot,
            merchant_snapshot=merchant.snapshot,
            epoch=epoch.epoch if epoch else None,
            complete_since=epoch.complete_since if epoch else None,
            user_counted_since=user_velocity.since,
            merchant_counted_since=merchant_velocity.since,
            duplicate=user_velocity.duplicate,
            standing=asked.standing,
            served_by={"user_features": user.served_by, "merchant_features": merchant.served_by},
            refused=refused_of(user, merchant) if user.refused or merchant.refused else (),
        )

    async def count(self, payment: Transaction, *, caller: str, claim: bytes) -> Counted:
        """`read` of what stands and of nothing else: for a payment that is decided without its features. Raises
        StoreError."""
        asked = await self._ask(Attempt(payment, caller, self._prefix, True, claim), (), ())
        user, merchant = velocity.parse(asked.user), velocity.parse(asked.merchant)
        return Counted(
            user_effective_time=user.effective_time,
            merchant_effective_time=merchant.effective_time,
            user_counted_since=user.since,
            merchant_counted_since=merchant.since,
            epoch=asked.epoch,
            standing=asked.standing,
        )

    def count_later(self, payment: Transaction, *, caller: str, claim: bytes) -> None:
        """Count an attempt and wait for nothing. Without Redis: when it is back."""
        attempt = Attempt(payment, caller, self._prefix, True, claim)
        self._keep(attempt)
        self._server.post(attempt)

    async def _ask(self, attempt: Attempt, reads: Sequence[Keyed], keys: tuple[bytes, ...]) -> Asked:
        if attempt.write:
            # kept before it is sent: whether a lost answer was counted, only asking again will tell
            self._keep(attempt)
        asked = await self._server.ask(attempt, reads, keys)
        if asked.epoch is None and attempt.write:
            # velocity was lost: from now on it is counted anew, and this answer's windows stay null either way
            since = velocity.complete_after(attempt.payment.received_at)
            new = velocity.Epoch(epoch=uuid.uuid4().hex, complete_since=since)
            await self._server.begin_epoch(attempt, new)
        return asked

    async def find(self, caller: str, transaction_id: str) -> bytes | None:
        """The record that stands as the decision on a payment, or None. Raises StoreError."""
        found: bytes | None = await self._server.command(get(decision_key(caller, transaction_id, self._prefix)))
        return None if found is None or found.startswith(CLAIM) else found

    async def settle(self, caller: str, transaction_id: str, record: bytes, *, replacing: bytes = b"") -> bytes:
        """Make a record the decision where none stands, or where `replacing` stands; returns the one that stands then,
        the very object `record` where it is that. Raises StoreError."""
        reply = await self._server.command(settlement(caller, transaction_id, self._prefix, record, replacing))
        return record if reply is None else bytes(reply)

    async def snapshots(self) -> dict[str, date | None]:
        """The snapshot in force per packed view; None where none is that may be read. Raises StoreError when Redis does
        not answer."""
        readers, now = (self._users, self._merchants), self._clock()
        values = [await self._server.command(get(key)) for key in self._records]
        return {reader.view.name: reader.snapshot(value, now) for reader, value in zip(readers, values, strict=True)}

    def refused(self) -> dict[str, str]:
        """What was not read in the last minute, and why, by packed view."""
        return troubles((self._users, self._merchants), self._clock())

    async def close(self) -> None:
        """Close the connection."""
        await self._server.close()

    def _keep(self, attempt: Attempt) -> None:
        if self._recount is not None:
            self._recount.keep(attempt, attempt.payment.received_at, connected=self._server.ready)

    async def _catch_up(self, server: Server) -> bool:
        """Send whatever the server may have lost or missed."""
        self.reconnected()
        return self._recount is None or await self._recount.deliver(server, self._clock)
