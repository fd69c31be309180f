"""The benchmark's load counts latency from when a request was due, and every way of not getting an answer."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from benchmarks.serving.load import Order, run

Answer = Callable[[int], bytes | None]
"""The answer to the n-th request; None: the connection is reset."""

OK = b'HTTP/1.1 200 OK\r\ncontent-length: 18\r\n\r\n{"degraded":false}'


@contextmanager
def server(answer: Answer) -> Iterator[int]:
    """A server on loopback with one thread, as a stalled event loop has it."""
    loop = asyncio.new_event_loop()
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            count += 1
            said = answer(count)
            if said is None:
                writer.transport.abort()
                return
            writer.write(said)

    def failed(_: asyncio.AbstractEventLoop, __: dict[str, object]) -> None:
        """Connections end in the middle here, on purpose."""

    loop.set_exception_handler(failed)
    listening = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        listening.close()


def order(port: int, seconds: float = 1.0, rate: float = 100) -> Order:
    return Order(port=port, rate=rate, seconds=seconds, connections=4, seed=1, users=10, merchants=2)


def test_a_stall_makes_all_late_that_were_due_meanwhile() -> None:
    def stall(number: int) -> bytes:
        if number == 100:
            time.sleep(1.0)
        return OK

    with server(stall) as port:
        result = run(order(port, seconds=3))
    assert (result.sent, result.answered, result.causes) == (300, 300, {})
    # a third of the requests were due while nothing was answered; a loop that waits would have sent four of them
    assert result.quantiles["p50"] < 0.5
    assert 0.5 < result.quantiles["p90"] < 1.2
    assert 0.9 < result.quantiles["max"] < 1.4


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (b"HTTP/1.1 503 Unavailable\r\ncontent-length: 2\r\n\r\n{}", "status 503"),
        (None, "reset"),
        (b"", "timeout"),
    ],
)
def test_whatever_is_no_answer_is_an_error(answer: bytes | None, cause: str) -> None:
    with server(lambda number: answer if number == 50 else OK) as port:
        result = run(order(port))
    assert result.causes == {cause: 1}
    assert (result.sent, result.answered, result.errors) == (100, 99, 1)


def test_refusals_and_degraded_answers_are_counted_apart() -> None:
    refused = b"HTTP/1.1 409 Conflict\r\ncontent-length: 2\r\n\r\n{}"
    degraded = b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{"degraded":true}'

    with server(lambda number: {1: refused, 2: degraded}.get(number, OK)) as port:
        result = run(order(port))
    assert (result.refused, result.degraded, result.answered, result.errors) == (1, 1, 99, 0)


def test_a_closed_loop_sends_when_it_is_answered_and_each_payment_once() -> None:
    with server(lambda number: OK) as port:
        result = run(replace(order(port, seconds=0.5), rate=0, latencies=True))
        again = run(replace(order(port, seconds=0.5), rate=0, first=result.sent))
    assert (result.sent, result.errors) == (result.answered, 0)
    # far more than any rate of this file, by four connections that wait for their answers
    assert min(result.sent, again.sent) > 200
    assert len(result.latencies) == result.answered
    assert max(result.latencies) < 0.5
