"""Who asks for a decision in the log shares a pass with the others who do, and gets what is theirs."""

import asyncio
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from fraud_platform.inference_log.record import DecisionRecord, Identity
from fraud_platform.inference_log.shared_search import MOST, SharedSearch
from tests.record_kit import record


class Log:
    """A log that notes its passes, each of which takes until it is let go."""

    def __init__(self, *known: str) -> None:
        self.known = {("default", name): record(name) for name in known}
        self.passes: list[set[Identity]] = []
        self.times: list[int] = []
        self.failure: Exception | None = None
        self.free = threading.Event()
        self.free.set()

    def __call__(self, wanted: Collection[Identity], now: int) -> dict[Identity, DecisionRecord]:
        self.passes.append(set(wanted))
        self.times.append(now)
        assert self.free.wait(10)
        if self.failure is not None:
            raise self.failure
        return {identity: self.known[identity] for identity in wanted if identity in self.known}


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


def asked(search: SharedSearch, *names: str, now: int = 1) -> list["asyncio.Task[DecisionRecord | None]"]:
    return [asyncio.ensure_future(search.find(("default", name), now)) for name in names]


async def begun(log: Log, passes: int) -> None:
    while len(log.passes) < passes:
        await asyncio.sleep(0.001)


async def test_all_who_wait_share_a_pass_and_each_gets_its_own(thread: ThreadPoolExecutor) -> None:
    log = Log("a", "b")
    search = SharedSearch(log, thread)
    log.free.clear()
    first = asked(search, "a")
    await begun(log, 1)
    others = asked(search, "b", "b", "nothing", "a", now=7)
    others += asked(search, *(f"unknown-{number}" for number in range(20)), now=5)
    await asyncio.sleep(0.01)
    log.free.set()
    found = await asyncio.gather(*first, *others)
    assert found == [
        log.known["default", name] if name in "ab" else None for name in ["a", "b", "b", "-", "a", *"-" * 20]
    ]
    # who came while a pass was under way may have come after what they ask for: they share the next
    assert [len(each) for each in log.passes] == [1, 23]
    assert log.times == [1, 7]
    assert await search.find(("default", "a"), 9) == log.known["default", "a"]


async def test_a_pass_is_bounded_and_the_queue_goes_on(thread: ThreadPoolExecutor) -> None:
    log = Log()
    found = await asyncio.gather(*asked(SharedSearch(log, thread), *(str(number) for number in range(3 * MOST + 1))))
    assert found == [None] * (3 * MOST + 1)
    assert [len(each) for each in log.passes] == [MOST, MOST, MOST, 1]


async def test_who_gives_up_is_looked_for_no_more_and_takes_nobody_along(thread: ThreadPoolExecutor) -> None:
    log = Log("a", "b")
    search = SharedSearch(log, thread)
    log.free.clear()
    first, *_ = asked(search, "a")
    await begun(log, 1)
    same, gone, other = asked(search, "b", "nothing", "b")
    await asyncio.sleep(0)
    for each in (first, gone, same):
        each.cancel()
    await asyncio.sleep(0)
    log.free.set()
    assert await other == log.known["default", "b"]
    assert log.passes == [{("default", "a")}, {("default", "b")}]


async def test_a_failure_reaches_all_of_its_pass_and_none_after(thread: ThreadPoolExecutor) -> None:
    log = Log("a")
    search = SharedSearch(log, thread)
    log.failure = OSError("the lake is away")
    found = await asyncio.gather(*asked(search, "a", "b"), return_exceptions=True)
    assert [str(each) for each in found] == ["the lake is away"] * 2
    log.failure = None
    assert await search.find(("default", "a"), 1) == log.known["default", "a"]


async def test_who_waits_when_the_thread_ends_is_let_go() -> None:
    log = Log("a")
    log.free.clear()
    thread = ThreadPoolExecutor(1)
    search = SharedSearch(log, thread)
    thread.submit(log.free.wait, 10)
    waiting = asked(search, "a")
    await asyncio.sleep(0.01)
    thread.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(waiting[0], 5)
    log.free.set()
