"""An open-loop load: payments are due by a Poisson process, and latency counts from when each was due.

What belongs here: arrivals, connections, what came back. What does not: servers, tables. A server that stalls makes
every payment late that was due meanwhile, as it does in life; a loop that waits for answers would hide that. Such a
closed loop there is too, for how much a server answers at most, and for nothing else. As a command it runs in a process
of its own, reads one order (JSON) per line and answers each with one line of results.
"""

import asyncio
import json
import os
import ssl
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

import numpy as np
import uvloop

PATIENCE_SECONDS = 2.0
"""A request that has no answer by then counts as timed out."""

_DRAIN_SECONDS = 3.0
_DRAWN = 4_096
"""Payments that are drawn at a time."""


@dataclass(frozen=True)
class Order:
    """What to send where; requests are of `users` users and `merchants` merchants."""

    port: int
    rate: float
    """Per second; 0: a closed loop, where each connection has a request under way all the time."""
    seconds: float
    connections: int
    seed: int
    users: int
    merchants: int
    key: str = ""
    """API key; empty for servers without."""
    first: int = 0
    """Number of the first transaction: no transaction_id may come twice."""
    keep: bool = False
    """Whether the result names what was served by what."""
    latencies: bool = False
    """Whether the result has each latency."""
    tls: bool = False
    """Whether the port speaks TLS, as the gateway's does; its certificate is not looked at."""


@dataclass
class Result:
    """What came of an order. Latencies in seconds, from when a request was due; of 200s alone."""

    sent: int = 0
    answered: int = 0
    degraded: int = 0
    refused: int = 0
    """Answers with another status than 200, 5xx aside."""
    errors: int = 0
    """5xx, resets and timeouts; `causes` tells them apart."""
    causes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    lateness_p99: float = 0.0
    """How late the generator itself sent; included in the latencies."""
    quantiles: dict[str, float] = field(default_factory=dict)
    mean: float = float("inf")
    deviation: float = float("inf")
    """Standard deviation of the latencies."""
    latencies: list[float] = field(default_factory=list)
    """Of each 200, where the order asks for them."""
    accepted: list[str] = field(default_factory=list)
    """transaction_ids that got a decision, where the order asks for them."""
    served: dict[str, int] = field(default_factory=dict)
    """How often each source of user features served, where the order asks for it."""


class _Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request under way."""

    def __init__(self, load: "_Load") -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self.due: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._load.free.append(self)

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        assert self._transport is not None
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        at = self._buffer.lower().find(b"content-length: ", 0, head)
        if at < 0:
            return
        length = int(self._buffer[at + 16 : self._buffer.find(b"\r\n", at)])
        if len(self._buffer) < head + 4 + length:
            return
        status, body = int(self._buffer[9:12]), self._buffer[head + 4 :]
        self._buffer = b""
        due, self.due = self.due, None
        self._load.answered(status, body, due)
        self._load.give(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.lost(self)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class _Load:
    def __init__(self, order: Order) -> None:
        self._order = order
        self._result = Result()
        self._latencies: list[float] = []
        self._queue: deque[tuple[bytes, float]] = deque()
        self._open: list[_Connection] = []
        self._connecting: set[asyncio.Task[None]] = set()
        self._ended = False
        self._requests = _requests(order)
        self._until: float | None = None
        """Of a closed loop: when the last requests are sent."""
        self._tls = _tls() if order.tls else None
        self.free: list[_Connection] = []

    async def run(self) -> Result:
        order, result = self._order, self._result
        loop = asyncio.get_running_loop()
        for _ in range(order.connections):
            await self._connect()
        began = loop.time()
        lateness = await (self._send_when_due(began) if order.rate else self._send_when_answered(began))
        until = loop.time() + _DRAIN_SECONDS
        while (self._queue or any(one.due is not None for one in self._open)) and loop.time() < until:
            await asyncio.sleep(0.005)
            self._expire(loop.time())
        result.seconds = loop.time() - began
        self._ended = True
        for _ in range(len(self._queue) + sum(one.due is not None for one in self._open)):
            self._failed("no answer at the end")
        for one in self._open:
            one.abort()
        latencies = np.array(self._latencies or [float("inf")])
        names = {"p50": 50, "p90": 90, "p99": 99, "p999": 99.9, "max": 100}
        result.quantiles = {name: float(np.percentile(latencies, q)) for name, q in names.items()}
        if order.latencies:
            result.latencies = self._latencies
        if self._latencies:
            result.mean, result.deviation = float(latencies.mean()), float(latencies.std())
        result.lateness_p99 = float(np.percentile(lateness, 99)) if lateness else 0.0
        return result

    async def _send_when_due(self, began: float) -> list[float]:
        """Returns how late each was sent, in seconds."""
        order, loop = self._order, asyncio.get_running_loop()
        due = np.cumsum(np.random.default_rng(order.seed).exponential(1 / order.rate, int(order.rate * order.seconds)))
        lateness = []
        for number, moment in enumerate(due + began):
            wait = moment - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            lateness.append(loop.time() - moment)
            self._result.sent += 1
            self._send(next(self._requests), moment)
            if number % 64 == 0:
                # a generator that is late must still let answers in
                await asyncio.sleep(0)
                self._expire(loop.time())
        return lateness

    async def _send_when_answered(self, began: float) -> list[float]:
        """The connections send by themselves, from `give`. Nothing is late that nobody waits for."""
        loop = asyncio.get_running_loop()
        self._until = began + self._order.seconds
        for connection in list(self.free):
            self.free.remove(connection)
            self.give(connection)
        while loop.time() < self._until:
            await asyncio.sleep(0.05)
            self._expire(loop.time())
        return []

    def _send(self, request: bytes, due: float) -> None:
        if self.free:
            self.free.pop().send(request, due)
        else:
            self._queue.append((request, due))

    def give(self, connection: _Connection) -> None:
        """A connection has its answer: it takes the next request that waits."""
        now = asyncio.get_running_loop().time()
        if self._until is not None and now < self._until:
            self._result.sent += 1
            connection.send(next(self._requests), now)
        elif self._queue:
            connection.send(*self._queue.popleft())
        else:
            self.free.append(connection)

    def answered(self, status: int, body: bytes, due: float | None) -> None:
        result = self._result
        if due is None:
            return
        if status == 200:
            result.answered += 1
            result.degraded += b'"degraded":true' in body
            self._latencies.append(asyncio.get_running_loop().time() - due)
            if self._order.keep:
                answer = json.loads(body)
                result.accepted.append(answer["transaction_id"])
                source = answer["served_by"]["user_features"]
                result.served[source] = result.served.get(source, 0) + 1
        elif status >= 500:
            self._failed(f"status {status}")
        else:
            result.refused += 1

    def _failed(self, cause: str) -> None:
        self._result.errors += 1
        self._result.causes[cause] = self._result.causes.get(cause, 0) + 1

    def lost(self, connection: _Connection) -> None:
        """A reset while a request is under way is an error; the connection is made anew either way."""
        if self._ended:
            return
        if connection.due is not None:
            self._failed("reset")
            connection.due = None
        self._open.remove(connection)
        if connection in self.free:
            self.free.remove(connection)
        task = asyncio.ensure_future(self._connect())
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def _expire(self, now: float) -> None:
        for one in list(self._open):
            if one.due is not None and now - one.due > PATIENCE_SECONDS:
                one.due = None
                self._failed("timeout")
                one.abort()
        while self._queue and now - self._queue[0][1] > PATIENCE_SECONDS:
            self._queue.popleft()
            self._failed("timeout in the queue")

    async def _connect(self) -> None:
        while not self._ended:
            try:
                loop = asyncio.get_running_loop()
                _, made = await loop.create_connection(
                    lambda: _Connection(self), "127.0.0.1", self._order.port, ssl=self._tls
                )
            except OSError:
                # requests that wait meanwhile time out, and count
                await asyncio.sleep(0.05)
                continue
            self._open.append(made)
            if (self._queue or self._until is not None) and made in self.free:
                self.free.remove(made)
                self.give(made)
            return


def _requests(order: Order) -> Iterator[bytes]:
    """Requests without end, the same for the same seed but for the time, which is that of the first."""
    random = np.random.default_rng([order.seed, 1])
    authorization = f"authorization: Bearer {order.key}\r\n" if order.key else ""
    head = f"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\n{authorization}content-type: application/json\r\n"
    now = datetime.now(UTC).isoformat()
    number = order.first
    while True:
        users, merchants = (random.integers(0, count, _DRAWN).tolist() for count in (order.users, order.merchants))
        for user, merchant, cents in zip(users, merchants, random.integers(100, 50_000, _DRAWN).tolist(), strict=True):
            body = (
                f'{{"transaction_id":"b-{number}","user_id":"user-{user}","merchant_id":"m-{merchant}",'
                f'"amount":{cents / 100},"currency":"EUR","country":"DE","user_country":"DE","channel":"online",'
                f'"device_id":"d-{user}","merchant_category":"5411","timestamp":"{now}"}}'
            )
            yield f"{head}content-length: {len(body)}\r\n\r\n{body}".encode()
            number += 1


def run(order: Order) -> Result:
    """Send what the order says, in this process."""
    return uvloop.run(_Load(order).run())


def main() -> None:
    """Orders on stdin, results on stdout, one per line."""
    for line in sys.stdin:
        result = run(Order(**json.loads(line)))
        line = json.dumps(asdict(result)).encode() + b"\n"
        # a line of latencies is longer than a pipe holds, and a buffered writer may give up its rest
        while line:
            line = line[os.write(sys.stdout.fileno(), line) :]


if __name__ == "__main__":
    main()
