"""Ctrl-C and its kin as a question to ask between steps, so that nothing is interrupted half-way.

What belongs here: signal handlers. What does not: what is done when they fire.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):  # noqa: N818 - not an error: the user asked to end
    """The user, or whoever started `up`, asked it to end."""


class StopRequest:
    """Whether and how often the end was asked for. The second time interrupts at once by KeyboardInterrupt."""

    def __init__(self) -> None:
        self._count = 0

    def check(self) -> None:
        """Raise Stopped if the end was asked for."""
        if self._count:
            raise Stopped

    def sleep(self, seconds: float) -> None:
        """Sleep, but for at most a tenth of a second longer than until the end is asked for."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, 0.1))
        self.check()

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        """The signal handler."""
        self._count += 1
        if self._count > 1:
            raise KeyboardInterrupt


@contextmanager
def stop_event() -> Iterator[threading.Event]:
    """The same as an event, for work that is done in threads."""
    event = threading.Event()
    before = {number: signal.signal(number, lambda *_: event.set()) for number in ENDING}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Take SIGINT, SIGTERM and SIGHUP as requests to end, for the length of the block."""
    request = StopRequest()
    before: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {
        number: signal.signal(number, request) for number in ENDING
    }
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
