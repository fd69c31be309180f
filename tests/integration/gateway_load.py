"""An open-loop load over TLS: requests are due at a fixed rate and latency counts from when each was due.

`python -m … PORT RATE SECONDS CERTIFICATE KEY` prints what came back. It does what RFC 9112 (9.3, 9.6) asks of clients:
a connection that says `Connection: close` is not used again, and a request on a connection that was used before and is
closed without a byte of an answer is sent again, since a payment may be. Those are counted; anything else is lost.
"""

import asyncio
import json
import ssl
import sys
import uuid
from dataclasses import asdict, dataclass, field

CONNECTIONS = 24
PATIENCE_SECONDS = 5.0


@dataclass
class Result:
    """Counts by status and by who answered; `lost` had no answer at all. Milliseconds from when a request was due."""

    sent: int = 0
    lost: list[str] = field(default_factory=list)
    again: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    p50_ms: float = 0.0
    p99_ms: float = 0.0


class _StaleError(Exception):
    """A connection that was used before ended without a byte of an answer."""


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.used = False

    async def ask(self, request: bytes) -> tuple[int, bytes, bool]:
        """Status, body, and whether the connection may be used again."""
        try:
            self.writer.write(request)
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            if self.used and not getattr(error, "partial", b""):
                raise _StaleError from error
            raise
        self.used = True
        lower = head.lower()
        length = int(lower.split(b"content-length: ")[1].split(b"\r\n")[0])
        return int(head[9:12]), await self.reader.readexactly(length), b"connection: close" not in lower


class Load:
    """One run."""

    def __init__(self, port: int, certificate: str, key: str) -> None:
        self.port, self.key = port, key
        # no transaction_id comes twice, whatever else was sent
        self.name = uuid.uuid4().hex[:12]
        self.tls = ssl.create_default_context(cafile=certificate)
        self.free: list[_Connection] = []
        self.slots = asyncio.Semaphore(CONNECTIONS)
        self.result = Result()
        self.seconds: list[float] = []

    async def run(self, rate: float, seconds: float) -> Result:
        self.free = list(await asyncio.gather(*(self._connect() for _ in range(CONNECTIONS))))
        loop = asyncio.get_running_loop()
        began, tasks = loop.time(), []
        for number in range(int(rate * seconds)):
            due = began + number / rate
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(self._one(number, due)))
        await asyncio.gather(*tasks)
        ordered = sorted(self.seconds) or [float("inf")]
        self.result.p50_ms = round(1_000 * ordered[len(ordered) // 2], 2)
        self.result.p99_ms = round(1_000 * ordered[int(len(ordered) * 0.99)], 2)
        return self.result

    async def _one(self, number: int, due: float) -> None:
        self.result.sent += 1
        body = json.dumps(
            {
                "transaction_id": f"{self.name}-{number}", "user_id": "u-1", "merchant_id": "m-1", "amount": 42.5,
                "country": "DE", "timestamp": "2026-11-23T10:00:00Z",
            }
        ).encode()  # fmt: skip
        head = (
            f"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {self.key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                status, answer = await self._answered(head.encode() + body)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self.result.lost.append(type(error).__name__)
            return
        self.seconds.append(asyncio.get_running_loop().time() - due)
        self.result.statuses[status] = self.result.statuses.get(status, 0) + 1
        if status == 200:
            said = json.loads(answer)
            name = said.get("name") or said["served_by"]["model"]
            self.result.names[name] = self.result.names.get(name, 0) + 1

    async def _answered(self, request: bytes) -> tuple[int, bytes]:
        async with self.slots:
            while True:
                connection = self.free.pop() if self.free else await self._connect()
                try:
                    status, answer, reusable = await connection.ask(request)
                except _StaleError:
                    connection.writer.close()
                    self.result.again += 1
                    continue
                if reusable:
                    self.free.append(connection)
                else:
                    connection.writer.close()
                return status, answer

    async def _connect(self) -> _Connection:
        return _Connection(
            *await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls, server_hostname="localhost")
        )


if __name__ == "__main__":
    _, _port, _rate, _seconds, _certificate, _key = sys.argv
    _result = asyncio.run(Load(int(_port), _certificate, _key).run(float(_rate), float(_seconds)))
    print(json.dumps(asdict(_result)))
