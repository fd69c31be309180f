"""One multiplexed connection to Redis: what one turn of the event loop asks is one write; replies come in order.

What belongs here: bytes, futures, deadlines, reconnecting. What does not: which commands (`store`). A pool of
connections that each wait for their own reply costs a server several times the CPU time per request.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast

import hiredis
from redis.connection import SSLConnection, parse_url

Reply = Any
"""bytes, int, None, a list of replies, or hiredis.ReplyError."""

_FIRST_PAUSE, _LAST_PAUSE = 0.02, 0.5
_CONNECT_SECONDS = 2.0


class StoreError(ConnectionError):
    """The store did not answer: no connection, a connection lost, or a deadline passed."""


def command(*arguments: bytes) -> bytes:
    """One command as Redis reads it (RESP2)."""
    parts = [b"*%d\r\n" % len(arguments)]
    parts += [b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in arguments]
    return b"".join(parts)


class _Wave:
    """Commands that went out together; the future gets all their replies."""

    __slots__ = ("future", "patient", "replies", "sent_at", "wanted")

    def __init__(self, future: "asyncio.Future[list[Reply]]", wanted: int, sent_at: float, patient: bool) -> None:
        self.future = future
        self.patient = patient
        self.wanted = wanted
        self.replies: list[Reply] = []
        self.sent_at = sent_at

    def fail(self, why: str) -> None:
        if not self.future.done():
            self.future.set_exception(StoreError(why))
            # whoever gave up waiting never fetches it, and asyncio would complain
            self.future.exception()


class _Link(asyncio.Protocol):
    """One connection from its first byte to its last. A wave that was failed still takes its replies off the stream."""

    def __init__(self) -> None:
        self.down = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._waves: deque[_Wave] = deque()
        self._outgoing: list[bytes] = []
        self._transport: asyncio.Transport | None = None

    @property
    def up(self) -> bool:
        """Whether it can be written to."""
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(str(exc) if exc else "Redis closed the connection")

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            wave = self._waves[0]
            wave.replies.append(reply)
            if len(wave.replies) == wave.wanted:
                self._waves.popleft()
                if not wave.future.done():
                    wave.future.set_result(wave.replies)

    def send(self, payload: bytes, replies: int, *, patient: bool = False) -> "asyncio.Future[list[Reply]]":
        if self._transport is None:
            raise StoreError("no connection to Redis")
        wave = _Wave(self._loop.create_future(), replies, self._loop.time(), patient)
        self._waves.append(wave)
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(payload)
        return wave.future

    def fail_late(self, deadline: float, dead_after: float) -> None:
        """Fail waves older than `deadline` that are not patient, and the connection when its oldest wave is older than
        `dead_after`; seconds."""
        if not self._waves:
            return
        now = self._loop.time()
        if now - self._waves[0].sent_at > dead_after:
            self.abort("no answer from Redis")
            return
        for wave in self._waves:
            if now - wave.sent_at < deadline:
                break
            if not wave.patient:
                wave.fail(f"no answer from Redis within {deadline:g} s")

    def abort(self, why: str) -> None:
        if self._transport is not None:
            self._transport.abort()
        self._end(why)

    def _flush(self) -> None:
        if self._transport is not None:
            self._transport.write(b"".join(self._outgoing))
        self._outgoing.clear()

    def _end(self, why: str) -> None:
        self._transport = None
        while self._waves:
            self._waves.popleft().fail(why)
        self.down.set()


class Wire:
    """A connection that keeps itself up. Use from one event loop; `open` first, `close` last."""

    def __init__(
        self,
        url: str,
        *,
        deadline: float,
        dead_after: float = 1.0,
        prepare: Callable[["Wire"], Awaitable[None]] | None = None,
    ) -> None:
        """deadline: seconds after which a wave fails, found out at most half a deadline later; dead_after: seconds
        after which the connection is given up and made anew; prepare: awaited on every new connection, with `ask`,
        before `send` may use it: if it raises OSError or hiredis.ReplyError, the connection is made anew later."""
        self._address: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
        self._deadline = deadline
        self._dead_after = max(dead_after, deadline)
        self._prepare = prepare
        self._link: _Link | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._prepared = False

    @property
    def ready(self) -> bool:
        """Whether `send` has a connection: one that was lost this instant counts no more."""
        return self._prepared and self._link is not None and self._link.up

    async def open(self) -> None:
        """Connect and stay so in the background; returns after the first attempt, whether or not it succeeded."""
        attempted = asyncio.Event()
        self._tasks = [
            asyncio.create_task(self._keep_connected(attempted)),
            asyncio.create_task(self._keep_punctual()),
        ]
        await attempted.wait()

    def send(self, payload: bytes, replies: int) -> "asyncio.Future[list[Reply]]":
        """Send commands that get so many replies; the future may fail with StoreError. Raises it without connection."""
        if self._link is None or not self._prepared:
            raise StoreError("no connection to Redis")
        return self._link.send(payload, replies)

    async def ask(self, *arguments: bytes) -> Reply:
        """One command's reply. Raises StoreError, hiredis.ReplyError."""
        reply = (await self.deliver(command(*arguments), 1))[0]
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    async def deliver(self, payload: bytes, replies: int) -> list[Reply]:
        """Like `send` for what nobody's payment waits for: also for `prepare`, while `send` is still closed, and with
        `dead_after` for a deadline. Raises StoreError."""
        return await self.begin(payload, replies)

    def begin(self, payload: bytes, replies: int) -> "asyncio.Future[list[Reply]]":
        """`deliver`, under way."""
        if self._link is None:
            raise StoreError("no connection to Redis")
        return self._link.send(payload, replies, patient=True)

    def renew(self, why: str) -> None:
        """Give this connection up: waves under way fail, and the next one is prepared anew."""
        if self._link is not None:
            self._link.abort(why)

    async def close(self) -> None:
        """End the connection; waves under way fail."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._drop("closed")

    def _drop(self, why: str) -> None:
        self._prepared = False
        if self._link is not None:
            self._link.abort(why)
            self._link = None

    async def _keep_punctual(self) -> None:
        while True:
            await asyncio.sleep(self._deadline / 2)
            if self._link is not None:
                self._link.fail_late(self._deadline, self._dead_after)

    async def _keep_connected(self, attempted: asyncio.Event) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                async with asyncio.timeout(_CONNECT_SECONDS):
                    link = await self._connect()
                # as long as it takes: after a long outage there is much to send, and each part has its deadline
                if self._prepare is not None:
                    await self._prepare(self)
                self._prepared = link.up
            except (OSError, hiredis.HiredisError):
                # visible as `ready`: whoever sends meanwhile gets a StoreError and counts it
                self._drop("the connection could not be prepared")
                attempted.set()
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LAST_PAUSE)
                continue
            attempted.set()
            pause = _FIRST_PAUSE
            await link.down.wait()
            self._drop("the connection was lost")

    async def _connect(self) -> _Link:
        loop, address = asyncio.get_running_loop(), self._address
        if "path" in address:
            _, link = await loop.create_unix_connection(_Link, address["path"])
        else:
            secure = ssl.create_default_context() if address.get("connection_class") is SSLConnection else None
            _, link = await loop.create_connection(
                _Link, address.get("host", "localhost"), address.get("port", 6379), ssl=secure
            )
        self._link = link
        if address.get("password"):
            names = [address["username"].encode()] if address.get("username") else []
            await self.ask(b"AUTH", *names, address["password"].encode())
        if address.get("db"):
            await self.ask(b"SELECT", b"%d" % address["db"])
        return link
