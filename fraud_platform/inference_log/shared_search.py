"""One pass over the log for all who wait for one.

What belongs here: who waits, and for which pass. What does not: looking (`search`). A pass takes a good part of a
second, for one decision as for many, and there is one thread for it: one after the other, twenty who ask for what does
not exist would wait for longer than anybody does.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor
from itertools import islice

from fraud_platform.inference_log.record import DecisionRecord, Identity

MOST = 32
"""Decisions looked for in a pass; who comes after them waits for the next."""

Search = Callable[[Collection[Identity], int], Mapping[Identity, DecisionRecord]]
"""Which decisions, and what time it is, UTC microseconds; blocks."""


class SharedSearch:
    """For one event loop. search runs on `thread`, one pass at a time."""

    def __init__(self, search: Search, thread: Executor) -> None:
        self._search = search
        self._thread = thread
        self._waiting: list[tuple[Identity, int, asyncio.Future[DecisionRecord | None]]] = []
        self._passes: asyncio.Task[None] | None = None

    async def find(self, identity: Identity, now: int) -> DecisionRecord | None:
        """The decision by a pass that begins after this is called, or None. Raises what the search raises."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[DecisionRecord | None] = loop.create_future()
        self._waiting.append((identity, now, found))
        if self._passes is None:
            self._passes = loop.create_task(self._run())
        return await found

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._pass()
        finally:
            self._passes = None

    async def _pass(self) -> None:
        # who gave up meanwhile is looked for no more
        waiting = [each for each in self._waiting if not each[2].done()]
        wanted = set(islice(dict.fromkeys(identity for identity, *_ in waiting), MOST))
        taken = [each for each in waiting if each[0] in wanted]
        self._waiting = [each for each in waiting if each[0] not in wanted]
        if not taken:
            return
        try:
            newest = max(now for _, now, _ in taken)
            found = await asyncio.get_running_loop().run_in_executor(self._thread, self._search, wanted, newest)
        except Exception as error:  # noqa: BLE001 - raised where the search was asked for
            for _, _, future in taken:
                if not future.done():
                    future.set_exception(error)
        else:
            for identity, _, future in taken:
                if not future.done():
                    future.set_result(found.get(identity))
        finally:
            # where the pass itself was given up: nobody waits for what does not come
            for _, _, future in taken:
                future.cancel()
