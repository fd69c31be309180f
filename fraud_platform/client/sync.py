"""The client for code without an event loop.

What belongs here: a loop in a thread. What does not: anything that the client for an event loop does (`asking`).
"""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar, Unpack

from fraud_platform.client.answer import Decision
from fraud_platform.client.asking import AsyncFraudClient, Options
from fraud_platform.outbox import Delivered

T = TypeVar("T")


class FraudClient:
    """Asks the decision service, from any thread. Use as a context manager, or `close` it.

    Its calls run on a loop of their own in one thread, which is what makes the deadline hold for a connection that
    trickles as well. A forked process gets a loop and connections of its own.
    """

    def __init__(self, url: str, **options: Unpack[Options]) -> None:
        self._make: Callable[[], AsyncFraudClient] = lambda: AsyncFraudClient(url, **options)
        self._lock = threading.Lock()
        self._running: _Running | None = None

    def decide(self, payment: Mapping[str, Any]) -> Decision:
        """`AsyncFraudClient.decide`."""
        running = self._started()
        return running.call(running.client.decide(payment))

    def report(self) -> Delivered:
        """`AsyncFraudClient.report`."""
        running = self._started()
        return running.call(running.client.report())

    def _started(self) -> "_Running":
        running = self._running
        if running is None or running.pid != os.getpid():
            with self._lock:
                if self._running is None or self._running.pid != os.getpid():
                    self._running = _start(self._make)
                running = self._running
        return running

    def close(self) -> None:
        """`AsyncFraudClient.aclose`."""
        with self._lock:
            running, self._running = self._running, None
        if running is not None and running.pid == os.getpid():
            running.call(running.client.aclose())
            running.loop.call_soon_threadsafe(running.loop.stop)
            running.thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class _Running:
    pid: int
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread
    client: AsyncFraudClient

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()


def _start(make: Callable[[], AsyncFraudClient]) -> _Running:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="fraud-client", daemon=True)
    thread.start()

    async def made() -> AsyncFraudClient:
        return make()

    return _Running(os.getpid(), loop, thread, asyncio.run_coroutine_threadsafe(made(), loop).result())
