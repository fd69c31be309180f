"""The cold store at serving speed: batch features of a payment from Feast's tables in PostgreSQL.

What belongs here: one query for all payments that wait, its deadline, reconnecting. What does not: loading
(`cold_writer`), when it is asked (`ladder`). While one query is under way, the payments that come wait for the next:
one connection then serves many payments at about the price of one. Velocity is not here: it is Redis' alone.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from datetime import date
from typing import Any

import psycopg
from msgspec import structs
from psycopg.rows import tuple_row

from fraud_platform.features.catalogue import CATALOGUE, Catalogue, Entity
from fraud_platform.online import layout
from fraud_platform.online.cold_writer import RECORDS, cold_table
from fraud_platform.online.packed import PROJECT, PackedView
from fraud_platform.online.rows import BatchRow, Refusal, Row, RowReader, refused_of, troubles
from fraud_platform.online.sets import ServedSet, SetReaders, shared
from fraud_platform.online.store import OnlineFeatures, beside
from fraud_platform.online.wire import StoreError
from fraud_platform.schema import Transaction

POSTGRES = "postgres"

_FIRST_PAUSE, _LAST_PAUSE = 0.05, 1.0
_DEAD_SECONDS = 1.0
_CONNECT_SECONDS = 3
_RECORD = -1
"""Instead of a view's number: a row of the answer that is a record."""
_LOOK_SECONDS = 5.0
"""How often a table that was missing is looked for."""


class _Query:
    """One query of the views that have a table, of those that are wanted."""

    def __init__(self, wanted: tuple[PackedView, ...], tables: Collection[str]) -> None:
        self.wanted = wanted
        self.views = tuple(view for view in wanted if cold_table(PROJECT, view) in tables)
        rows = (
            f"SELECT {number}, entity_key, feature_name, value, (extract(epoch FROM event_ts) * 1000000)::bigint "
            f'FROM "{cold_table(PROJECT, view)}" WHERE entity_key = ANY(%s)'
            for number, view in enumerate(self.views)
        )
        self.text = " UNION ALL ".join([*rows, f"SELECT {_RECORD}, ''::bytea, view, record, 0 FROM {RECORDS}"])


_Rows = dict[tuple[str, bytes], dict[str, bytes]]
_STAMP = "event_ts"


class _Answer:
    """What one query brought: features by view and entity, and the records of the views that it asked."""

    def __init__(self, views: Sequence[PackedView], found: list[tuple[Any, ...]]) -> None:
        self._rows: _Rows = {}
        self._records: dict[str, bytes] = {}
        self._asked = {view.name for view in views}
        for number, key, name, value, at in found:
            if number == _RECORD:
                self._records[name] = value
                continue
            # a row without a time, which nothing of ours writes, is no row that may be read
            at_key = views[number].name, key
            row = self._rows.setdefault(at_key, {} if at is None else {_STAMP: layout.encode_timestamp(at)})
            row[name] = value

    def record(self, view: PackedView) -> bytes | None:
        """The record of a view's snapshot in force; None where its table was not asked, which may be missing."""
        return self._records.get(view.name) if view.name in self._asked else None

    def values(self, view: PackedView, key: bytes) -> list[bytes | None]:
        """Event timestamp, vector and extras of an entity, as a store's row."""
        row = self._rows.get((view.name, key), {})
        return [row.get(name) for name in (_STAMP, *(name for name, _ in view.features))]


class ColdStore:
    """Reads batch features; safe to share between tasks of one event loop. `open` first, `close` last."""

    def __init__(
        self,
        address: Callable[[], str | None],
        *,
        ttl_days: int,
        default_medians: dict[str, Row],
        clock: Callable[[], int],
        deadline: float,
        refused: Callable[[Refusal], None] = lambda _: None,
        catalogue: Catalogue = CATALOGUE,
    ) -> None:
        """address: the server's URL as it is now, None while there is none; deadline: seconds after which a read
        fails; clock: UTC microseconds, for ages; medians: as for `store.OnlineStore`; refused: as of
        `rows.RowReader`; catalogue: whose batch features are read."""
        self._address = address
        self._clock = clock
        self._deadline = deadline
        served = ServedSet(catalogue, default_medians)
        self._sets = SetReaders(lambda view: RowReader(POSTGRES, view, ttl_days, refused), [served])
        self._views = self._viewed()
        self._query = _Query((), ())
        """Of the views that had a table when it was last looked."""
        self._looked = 0.0
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._waiting: list[tuple[bytes, bytes, asyncio.Future[_Answer]]] = []
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def serve(self, sets: Sequence[ServedSet]) -> None:
        """Read these sets from now on, the champion's first."""
        self._sets.serve(sets)
        self._views = self._viewed()

    def _viewed(self) -> tuple[PackedView, ...]:
        return tuple(reader.view for reader in self._sets.readers)

    @property
    def connected(self) -> bool:
        """Whether PostgreSQL can be asked now."""
        return self._connection is not None

    async def open(self) -> None:
        """Connect and stay so in the background; returns after the first attempt, whether or not it succeeded."""
        attempted = asyncio.Event()
        self._task = asyncio.create_task(self._serve(attempted))
        await attempted.wait()

    async def close(self) -> None:
        """End the connection; reads under way fail."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._fail("closed")

    async def read(self, payment: Transaction) -> OnlineFeatures:
        """The batch features of a payment; velocity is unknown, and so is when the user paid last.

        Raises StoreError when the store does not answer in time.
        """
        first, second = self._sets.first, self._sets.second
        # the project is part of the table's name here, and not of the key
        user_key = layout.entity_key("", first.users.view.join_key, payment.user_id)
        merchant_key = layout.entity_key("", first.merchants.view.join_key, payment.merchant_id)
        answer = await self._ask(user_key, merchant_key)
        now = self._clock()

        def row(reader: RowReader, key: bytes, medians: Row) -> BatchRow:
            return reader.read(answer.values(reader.view, key), answer.record(reader.view), medians, now)

        user = row(first.users, user_key, first.medians["user"])
        merchant = row(first.merchants, merchant_key, first.medians["merchant"])
        _, countries, devices = user.extras or (None, None, None)
        found = OnlineFeatures(
            user_row=user.vector,
            merchant_row=merchant.vector,
            user_medians=user.medians,
            merchant_medians=merchant.medians,
            known_countries=countries,
            known_devices=devices,
            last_effective_time=None,
            velocity=self._sets.sets[0].unknown_velocity,
            user_effective_time=payment.event_time,
            merchant_effective_time=payment.event_time,
            user_snapshot=user.snapshot,
            merchant_snapshot=merchant.snapshot,
            epoch=None,
            complete_since=None,
            duplicate=False,
            standing=None,
            served_by={"user_features": user.served_by, "merchant_features": merchant.served_by},
            refused=refused_of(user, merchant),
            set_hash=first.set_hash,
        )
        if second is None:
            return found
        if second.users is first.users:
            user = shared(user, second.medians["user"])
        else:
            user = row(second.users, user_key, second.medians["user"])
        if second.merchants is first.merchants:
            merchant = shared(merchant, second.medians["merchant"])
        else:
            merchant = row(second.merchants, merchant_key, second.medians["merchant"])
        return structs.replace(found, beside=beside(found, second.set_hash, user, merchant, None))

    async def snapshots(self) -> dict[PackedView, date | None]:
        """The snapshot in force per packed view; None where none is that may be read. Raises StoreError."""
        answer, now = await self._ask(b"", b""), self._clock()
        return {reader.view: reader.snapshot(answer.record(reader.view), now) for reader in self._sets.readers}

    def refused(self) -> dict[str, str]:
        """What was not read in the last minute, and why, by packed view."""
        return troubles(self._sets.readers, self._clock())

    async def _ask(self, user: bytes, merchant: bytes) -> _Answer:
        if self._connection is None:
            raise StoreError("no connection to PostgreSQL")
        future: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((user, merchant, future))
        self._asked.set()
        try:
            async with asyncio.timeout(self._deadline):
                return await future
        except TimeoutError:
            raise StoreError(f"no answer from PostgreSQL within {self._deadline:g} s") from None

    async def _serve(self, attempted: asyncio.Event) -> None:
        """Connect and answer, and again after every failure."""
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._connect()
                attempted.set()
                pause = _FIRST_PAUSE
                await self._answer_until_lost()
            except (psycopg.Error, OSError, TimeoutError) as error:
                # visible as `connected`: whoever reads meanwhile gets a StoreError and counts it
                self._fail(str(error) or "PostgreSQL does not answer")
                attempted.set()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LAST_PAUSE)

    async def _connect(self) -> None:
        address = self._address()
        if address is None:
            raise ConnectionError("PostgreSQL has not been started")
        self._connection = await psycopg.AsyncConnection.connect(
            address, autocommit=True, row_factory=tuple_row, connect_timeout=_CONNECT_SECONDS, prepare_threshold=1
        )

    async def _answer_until_lost(self) -> None:
        connection = self._connection
        while connection is not None:
            await self._asked.wait()
            self._asked.clear()
            batch = [one for one in self._waiting if not one[2].done()]
            self._waiting = []
            if not batch:
                continue
            users, merchants = {one[0] for one in batch}, {one[1] for one in batch}
            try:
                async with asyncio.timeout(_DEAD_SECONDS):
                    answer = await self._answered(connection, {"user": list(users), "merchant": list(merchants)})
            except BaseException:
                self._waiting = [*batch, *self._waiting]
                raise
            for _, _, future in batch:
                if not future.done():
                    future.set_result(answer)

    async def _answered(self, connection: psycopg.AsyncConnection[Any], keys: dict[Entity, list[bytes]]) -> _Answer:
        query = self._query
        lacks = len(query.views) < len(query.wanted) and time.monotonic() - self._looked > _LOOK_SECONDS
        if query.wanted is not self._views or lacks:
            query = await self._look(connection)
        try:
            cursor = await connection.execute(query.text, [keys[view.entity] for view in query.views], binary=True)
        except psycopg.errors.UndefinedTable:
            # a set that nobody loads any more may lose its table at any time, which must not harm the other's
            query = await self._look(connection)
            cursor = await connection.execute(query.text, [keys[view.entity] for view in query.views], binary=True)
        return _Answer(query.views, await cursor.fetchall())

    async def _look(self, connection: psycopg.AsyncConnection[Any]) -> _Query:
        """The query of the views that have a table now, from now on."""
        wanted, self._looked = self._views, time.monotonic()
        names = [cold_table(PROJECT, view) for view in wanted]
        cursor = await connection.execute(
            "SELECT name FROM unnest(%s::text[]) AS name WHERE to_regclass(quote_ident(name)) IS NOT NULL", (names,)
        )
        self._query = _Query(wanted, {name for (name,) in await cursor.fetchall()})
        return self._query

    def _fail(self, why: str) -> None:
        """Drop the connection and fail whoever waits."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.pgconn.finish()
        waiting, self._waiting = self._waiting, []
        for _, _, future in waiting:
            if not future.done():
                future.set_exception(StoreError(why))
                # whoever gave up waiting never fetches it, and asyncio would complain
                future.exception()
