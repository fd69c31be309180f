"""Where a worker's records go: the spool, and its own memory while the disk takes nothing.

What belongs here: what waits, and what is dropped at last. What does not: files (`spool`), what a payment is told.
"""

from collections import deque
from collections.abc import Callable
from datetime import date
from typing import Protocol

MOST = 20_000
"""Records that wait in memory, about 20 MB; beyond, the oldest are dropped and counted."""


class Writer(Protocol):
    """`spool.SpoolWriter` has it."""

    def append(self, day: date, payload: bytes) -> None: ...


class PatientRecorder:
    """Appends to the spool in order; what it does not take waits. For one event loop or thread."""

    def __init__(self, spool: Writer, dropped: Callable[[], None], most: int = MOST) -> None:
        """dropped: told of each record that is given up."""
        self._spool = spool
        self._dropped = dropped
        self._most = most
        self._waiting: deque[tuple[date, bytes]] = deque()

    @property
    def waiting(self) -> int:
        """Records that are in memory alone."""
        return len(self._waiting)

    def append(self, day: date, payload: bytes) -> None:
        """Keep one encoded record. Raises OSError when it is in memory alone."""
        self._waiting.append((day, payload))
        try:
            # two, so that the memory empties while payments go on, and no payment meets all of it
            self.retry(2)
        except OSError:
            while len(self._waiting) > self._most:
                self._waiting.popleft()
                self._dropped()
            raise
        if self._waiting:
            raise BlockingIOError(f"{len(self._waiting)} records wait in memory for the disk")

    def retry(self, most: int) -> None:
        """Write up to so many of what waits, the oldest first. Raises OSError when the disk takes nothing."""
        while self._waiting and most > 0:
            self._spool.append(*self._waiting[0])
            self._waiting.popleft()
            most -= 1
