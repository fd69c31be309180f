"""What Redis may not have counted: attempts of the last seconds and all of an outage, delivered when it is back.

What belongs here: keeping and delivering them. What does not: what an attempt is (`velocity`). Counting twice is
harmless, since the script knows an attempt by its identity, so whatever may be lost is simply asked again: a server
that restarts may have lost its last second, and one that was cut off has seen nothing.
"""

import fcntl
import os
import uuid
from collections import deque
from itertools import islice
from pathlib import Path
from typing import IO

import hiredis
import msgspec

from fraud_platform.online import velocity
from fraud_platform.online.wire import Wire

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
        self._kept: deque[tuple[int, int, bytes]] = deque()
        self._overflowed = False

    def keep(self, payload: bytes, replies: int, at: int, *, connected: bool) -> None:
        """Keep a command that is being sent, or cannot be; forget what is safe by now. at: UTC microseconds."""
        self._kept.append((at, replies, payload))
        if connected:
            while self._kept[0][0] < at - AT_RISK_US:
                self._kept.popleft()
        elif self._mark is None:
            self._mark = self._marked()
        if len(self._kept) > MOST:
            self._kept.popleft()
            self._overflowed = True

    async def deliver(self, wire: Wire, epoch_key: bytes, now: int) -> None:
        """Send everything kept on a new connection; a new epoch where that cannot make velocity whole again.

        Raises StoreError or hiredis.ReplyError; nothing is forgotten then.
        """
        dead = [mark for mark in self._folder.glob("uncounted-*") if mark != self._path and not _held(mark)]
        sent = 0
        while sent < len(self._kept):
            # the deque grows at its end meanwhile: whoever decides without Redis keeps adding
            chunk = list(islice(self._kept, sent, sent + _CHUNK))
            replies = await wire.deliver(b"".join(payload for _, _, payload in chunk), sum(n for _, n, _ in chunk))
            refused = next((reply for reply in replies if isinstance(reply, hiredis.ReplyError)), None)
            if refused is not None:
                raise refused
            sent += len(chunk)
        if (self._overflowed or dead) and await wire.ask(b"EXISTS", epoch_key):
            epoch = velocity.Epoch(epoch=uuid.uuid4().hex, complete_since=velocity.complete_after(now))
            await wire.ask(b"SET", epoch_key, msgspec.json.encode(epoch))
        for mark in (*dead, self._path):
            mark.unlink(missing_ok=True)
        if self._mark is not None:
            self._mark.close()
            self._mark = None
        self._overflowed = False

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
