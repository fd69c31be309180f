"""The online store at serving speed: one pipelined wave to Redis gives all that a payment's vector needs.

What belongs here: what is asked for. What does not: byte layout (`layout`), what counts as missing (`rows`), which sets
of features are read (`sets`), the velocity script (`velocity`), one server or many (`standalone`, `cluster`), what
serves when Redis does not (`ladder`), cold start (`features.vector`).
"""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

import msgspec
from msgspec import structs

from fraud_platform.features.catalogue import CATALOGUE, Catalogue, Entity
from fraud_platform.online import layout, velocity
from fraud_platform.online.attempt import Attempt, Keyed, get, settlement
from fraud_platform.online.cluster import Cluster
from fraud_platform.online.decision_key import CLAIM, decision_key
from fraud_platform.online.packed import PROJECT, PackedView
from fraud_platform.online.recount import Recount
from fraud_platform.online.rows import BatchRow, Refusal, Row, RowReader, refused_of, troubles
from fraud_platform.online.sets import ServedSet, SetReader, SetReaders, shared, without_medians
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
    set_hash: str = CATALOGUE.hash
    """The set that rows and medians are of."""
    beside: "OnlineFeatures | None" = None
    """The same payment read for the challenger's set, where that is another."""


def beside(
    found: OnlineFeatures, set_hash: str, user: BatchRow, merchant: BatchRow, last_effective_time: int | None
) -> OnlineFeatures:
    """A payment's read for the second set: its own rows, and what is no set's as it was found for the first."""
    _, countries, devices = user.extras or (None, None, None)
    return structs.replace(
        found,
        user_row=user.vector,
        merchant_row=merchant.vector,
        user_medians=user.medians,
        merchant_medians=merchant.medians,
        known_countries=countries,
        known_devices=devices,
        last_effective_time=last_effective_time,
        user_snapshot=user.snapshot,
        merchant_snapshot=merchant.snapshot,
        served_by={"user_features": user.served_by, "merchant_features": merchant.served_by},
        refused=refused_of(user, merchant),
        set_hash=set_hash,
        beside=None,
    )


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
class _Fields:
    """The fields of an entity's packed views, in the order they are asked for: one row holds them all."""

    join_key: str
    head: bytes
    tail: bytes
    width: int
    """How many are the first view's."""

    @staticmethod
    def of(views: Sequence[PackedView]) -> "_Fields":
        fields = [
            (layout.timestamp_field(view.name), *(layout.field(view.name, name) for name, _ in view.features))
            for view in views
        ]
        every = [field for of_view in fields for field in of_view]
        head = b"*%d\r\n$5\r\nHMGET\r\n" % (2 + len(every))
        return _Fields(views[0].join_key, head, b"".join(map(velocity.bulk, every)), len(fields[0]))

    def call(self, identifier: str, prefix: bytes) -> Keyed:
        key = prefix + layout.entity_key(PROJECT, self.join_key, identifier)
        return Keyed(key, b"%b$%d\r\n%b\r\n%b" % (self.head, len(key), key, self.tail))


class _Wave(NamedTuple):
    """What is asked of Redis for a payment: what all sets need that are read."""

    users: _Fields
    merchants: _Fields
    records: tuple[bytes, ...]
    """Keys of the views' records: users' and merchants' of the first set, then those that the second has alone."""
    first: SetReader
    second: SetReader | None
    counters: velocity.Plan
    """Of the first set; sets that are served together have one velocity block."""


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
        self._prefix = prefix
        self._clock = clock
        self._recount = recount
        self.reconnected: Callable[[], None] = lambda: None
        """Called when a server is back that may have lost its last seconds."""
        served = ServedSet(catalogue, default_medians) if default_medians else without_medians(catalogue)
        self._sets = SetReaders(lambda view: RowReader("redis", view, ttl_days, refused), [served])
        self._wave = self._planned()

    @property
    def sets(self) -> tuple[ServedSet, ...]:
        """What is read."""
        return self._sets.sets

    def serve(self, sets: Sequence[ServedSet]) -> None:
        """Read these sets from now on, the champion's first; of a payment that is being read nothing changes."""
        self._sets.serve(sets)
        self._wave = self._planned()

    def _planned(self) -> _Wave:
        sets = self._sets
        users, merchants = sets.views_of("user"), sets.views_of("merchant")
        own, others = (users[0], merchants[0]), (*users[1:], *merchants[1:])
        records = tuple(record_key(view, self._prefix) for view in (*own, *others))
        plan = velocity.plan_of(sets.sets[0].catalogue)
        return _Wave(_Fields.of(users), _Fields.of(merchants), records, sets.first, sets.second, plan)

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
        wave = self._wave
        rows = (
            wave.users.call(payment.user_id, self._prefix),
            wave.merchants.call(payment.merchant_id, self._prefix),
        )
        asked = await self._ask(Attempt(payment, caller, self._prefix, write, claim, wave.counters), rows, wave.records)
        epoch, first, second = asked.epoch, wave.first, wave.second
        user_values, merchant_values = asked.reads
        user_velocity = velocity.parse(asked.user)
        merchant_velocity = velocity.parse(asked.merchant)
        now = self._clock()
        user_record, merchant_record = asked.values if second is None else asked.values[:2]
        own = user_values if second is None else user_values[: wave.users.width]
        user = first.users.read(own, user_record, first.medians["user"], now)
        own = merchant_values if second is None else merchant_values[: wave.merchants.width]
        merchant = first.merchants.read(own, merchant_record, first.medians["merchant"], now)
        last_seen, countries, devices = user.extras or (None, None, None)
        found = OnlineFeatures(
            user_row=user.vector,
            merchant_row=merchant.vector,
            user_medians=user.medians,
            merchant_medians=merchant.medians,
            known_countries=countries,
            known_devices=devices,
            last_effective_time=velocity.last_attempt(user_velocity, last_seen, epoch),
            velocity=velocity.complete_block(wave.counters, user_velocity, merchant_velocity, epoch),
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
            set_hash=first.set_hash,
        )
        if second is None:
            return found
        records = iter(asked.values[2:])
        if second.users is first.users:
            user = shared(user, second.medians["user"])
        else:
            user = second.users.read(user_values[wave.users.width :], next(records), second.medians["user"], now)
        if second.merchants is first.merchants:
            merchant = shared(merchant, second.medians["merchant"])
        else:
            own = merchant_values[wave.merchants.width :]
            merchant = second.merchants.read(own, next(records), second.medians["merchant"], now)
        last_seen = (user.extras or (None,))[0]
        last = velocity.last_attempt(user_velocity, last_seen, epoch)
        return structs.replace(found, beside=beside(found, second.set_hash, user, merchant, last))

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

    async def snapshots(self) -> dict[PackedView, date | None]:
        """The snapshot in force per packed view; None where none is that may be read. Raises StoreError when Redis does
        not answer."""
        readers, now = self._sets.readers, self._clock()
        values = [await self._server.command(get(record_key(reader.view, self._prefix))) for reader in readers]
        return {reader.view: reader.snapshot(value, now) for reader, value in zip(readers, values, strict=True)}

    def refused(self) -> dict[str, str]:
        """What was not read in the last minute, and why, by packed view."""
        return troubles(self._sets.readers, self._clock())

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
