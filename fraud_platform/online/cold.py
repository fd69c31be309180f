"""The cold store at serving speed: batch features of a payment from Feast's tables in PostgreSQL.

What belongs here: one query for all payments that wait, its deadline, reconnecting. What does not: loading
(`cold_writer`), when it is asked (`ladder`). While one query is under way, the payments that come wait for the next:
one connection then serves many payments at about the price of one. Velocity is not here: it is Redis' alone.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any

import numpy as np
import psycopg
from psycopg.rows import tuple_row

from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.online import layout
from fraud_platform.online.cold_writer import RECORDS, cold_table
from fraud_platform.online.packed import PROJECT, PackedView, views_of
from fraud_platform.online.rows import Refusal, Row, RowReader, refused_of, troubles
from fraud_platform.online.store import OnlineFeatures
from fraud_platform.online.wire import StoreError
from fraud_platform.schema import Transaction

POSTGRES = "postgres"

_FIRST_PAUSE, _LAST_PAUSE = 0.05, 1.0
_DEAD_SECONDS = 1.0
_CONNECT_SECONDS = 3
_USER, _MERCHANT, _RECORD = range(3)
"""What a row of the answer is of."""
_UNKNOWN_VELOCITY = np.full(len(CATALOGUE.of("velocity")), np.nan)


def _query(views: Sequence[PackedView]) -> str:
    rows = (
        f"SELECT {number}, entity_key, feature_name, value, (extract(epoch FROM event_ts) * 1000000)::bigint "
        f'FROM "{cold_table(PROJECT, view)}" WHERE entity_key = ANY(%s)'
        for number, view in enumerate(views)
    )
    return " UNION ALL ".join([*rows, f"SELECT {_RECORD}, ''::bytea, view, record, 0 FROM {RECORDS}"])


_Rows = dict[tuple[int, bytes], dict[str, bytes]]
_STAMP = "event_ts"


class _Answer:
    """What one query brought: features by view and entity, and the records of the views."""

    def __init__(self, found: list[tuple[Any, ...]]) -> None:
        self.rows: _Rows = {}
        self.records: dict[str, bytes] = {}
        for number, key, name, value, at in found:
            if number == _RECORD:
                self.records[name] = value
                continue
            # a row without a time, which nothing of ours writes, is no row that may be read
            row = self.rows.setdefault((number, key), {} if at is None else {_STAMP: layout.encode_timestamp(at)})
            row[name] = value

    def values(self, number: int, view: PackedView, key: bytes) -> list[bytes | None]:
        """Event timestamp, vector and extras of an entity, as a store's row. number: _USER or _MERCHANT."""
        row = self.rows.get((number, key), {})
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
        users, merchants = views = views_of(catalogue)
        self._query = _query(views)
        self._users = RowReader(POSTGRES, users, ttl_days, refused)
        self._merchants = RowReader(POSTGRES, merchants, ttl_days, refused)
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._waiting: list[tuple[bytes, bytes, asyncio.Future[_Answer]]] = []
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.medians = default_medians

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
        # the project is part of the table's name here, and not of the key
        users, merchants = self._users.view, self._merchants.view
        user = layout.entity_key("", users.join_key, payment.user_id)
        merchant = layout.entity_key("", merchants.join_key, payment.merchant_id)
        answer = await self._ask(user, merchant)
        now = self._clock()
        of_user = self._users.read(
            answer.values(_USER, users, user), answer.records.get(users.name), self.medians["user"], now
        )
        of_merchant = self._merchants.read(
            answer.values(_MERCHANT, merchants, merchant),
            answer.records.get(merchants.name),
            self.medians["merchant"],
            now,
        )
        _, countries, devices = of_user.extras or (None, None, None)
        return OnlineFeatures(
            user_row=of_user.vector,
            merchant_row=of_merchant.vector,
            user_medians=of_user.medians,
            merchant_medians=of_merchant.medians,
            known_countries=countries,
            known_devices=devices,
            last_effective_time=None,
            velocity=_UNKNOWN_VELOCITY,
            user_effective_time=payment.event_time,
            merchant_effective_time=payment.event_time,
            user_snapshot=of_user.snapshot,
            merchant_snapshot=of_merchant.snapshot,
            epoch=None,
            complete_since=None,
            duplicate=False,
            standing=None,
            served_by={"user_features": of_user.served_by, "merchant_features": of_merchant.served_by},
            refused=refused_of(of_user, of_merchant),
        )

    async def snapshots(self) -> dict[str, date | None]:
        """The snapshot in force per packed view; None where none is that may be read. Raises StoreError."""
        answer, now = await self._ask(b"", b""), self._clock()
        return {
            reader.view.name: reader.snapshot(answer.records.get(reader.view.name), now)
            for reader in (self._users, self._merchants)
        }

    def refused(self) -> dict[str, str]:
        """What was not read in the last minute, and why, by packed view."""
        return troubles((self._users, self._merchants), self._clock())

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
            users, merchants = ({one[side] for one in batch} for side in (0, 1))
            try:
                async with asyncio.timeout(_DEAD_SECONDS):
                    cursor = await connection.execute(self._query, (list(users), list(merchants)), binary=True)
                    answer = _Answer(await cursor.fetchall())
            except BaseException:
                self._waiting = [*batch, *self._waiting]
                raise
            for _, _, future in batch:
                if not future.done():
                    future.set_result(answer)

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
