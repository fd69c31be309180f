"""What Redis may not have counted: attempts of the last seconds and all of an outage, delivered when it is back.

What belongs here: keeping and delivering them. What does not: what an attempt is (`velocity`). Counting twice is
harmless, since the script knows an attempt by its identity, so whatever may be lost is simply asked again: a server
that restarts may have lost its last second, and one that was cut off has seen nothing.
"""

import asyncio
import fcntl
import os
import uuid
from collections import deque
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import IO

from fraud_platform.online import velocity
from fraud_platform.online.attempt import Attempt
from fraud_platform.online.standalone import Server

AT_RISK_US = 5_000_000
"""Redis writes its append-only file through once a second."""

MOST = 200_000
"""Attempts kept in an outage, about 150 MB; beyond, velocity starts a new epoch."""

_CHUNK = 200


class Recount:
    """One worker's attempts. folder: where workers of this home leave a mark while attempts of theirs wait.

    A worker holds its mark's lock as long as it lives, so that others can tell what a dead one left behind.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / f"uncounted-{os.getpid()}-{uuid.uuid4().hex}"
        self._mark: IO[bytes] | None = None
        self._waiting: deque[Attempt] = deque()
        self._sent: deque[tuple[int, Attempt]] = deque()
        self._overflowed = False
        self._delivering = asyncio.Lock()

    def keep(self, kept: Attempt, at: int, *, connected: bool) -> None:
        """Keep what is being sent, or cannot be; forget what is safe by now. at: UTC microseconds."""
        if connected:
            self._sent.append((at, kept))
            self._forget(at)
            return
        self._waiting.append(kept)
        if self._mark is None:
            self._mark = self._marked()
        if len(self._waiting) > MOST:
            self._waiting.popleft()
            self._overflowed = True

    async def deliver(self, server: Server, clock: Callable[[], int]) -> bool:
        """Send everything kept; a new epoch where that cannot make velocity whole again. clock: UTC microseconds.

        False, or StoreError or hiredis.ReplyError raised, when it has to be tried again. What was delivered by then is
        kept for AT_RISK_US only, so that the next try goes on where this one ended.
        """
        # the nodes of a Cluster come back one by one, and each wants what it missed
        async with self._delivering:
            return await self._deliver(server, clock)

    async def _deliver(self, server: Server, clock: Callable[[], int]) -> bool:
        dead = [mark for mark in self._folder.glob("uncounted-*") if mark != self._path and not _held(mark)]
        self._waiting.extendleft(kept for _, kept in reversed(self._sent))
        self._sent.clear()
        complete = True
        # it grows at its end meanwhile: whoever decides without Redis keeps adding
        while self._waiting:
            chunk = list(islice(self._waiting, _CHUNK))
            now = clock()
            complete &= await server.deliver([attempt.late(now) for attempt in chunk])
            for kept in chunk:
                # unless it was given up meanwhile, there being too many
                if self._waiting and self._waiting[0] is kept:
                    self._sent.append((clock(), self._waiting.popleft()))
            if complete:
                self._forget(clock())
        if not complete:
            return False
        if self._overflowed or dead:
            since = velocity.complete_after(clock())
            await server.renew_epochs(velocity.Epoch(epoch=uuid.uuid4().hex, complete_since=since))
        for mark in (*dead, self._path):
            mark.unlink(missing_ok=True)
        if self._mark is not None:
            self._mark.close()
            self._mark = None
        self._overflowed = False
        return True

    def _forget(self, now: int) -> None:
        while self._sent and self._sent[0][0] < now - AT_RISK_US:
            self._sent.popleft()

    def _marked(self) -> IO[bytes]:
        self._folder.mkdir(parents=True, exist_ok=True)
        # locked before it has its name: nobody sees it without
        hidden = self._folder / f".{self._path.name}"
        mark = hidden.open("wb")
        fcntl.flock(mark, fcntl.LOCK_EX)
        hidden.rename(self._path)
        return mark


def _held(path: Path) -> bool:
    """Whether the worker that left a mark still runs: it delivers its attempts itself."""
    try:
        with path.open("rb") as mark:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        # its worker, or another, has seen to it meanwhile
        return True
    return False
