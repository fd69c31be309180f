"""A circuit breaker: after failures in a row a dependency is left alone for a while, then tried by single probes.

What belongs here: the three states and their transitions. What does not: calling anything, what counts as a failure.
Not a library's: those wrap the call they guard, and the decision path asks and reports in different places.
"""

from collections.abc import Callable
from typing import Literal, Protocol

State = Literal["closed", "open", "half_open"]


class Breaker(Protocol):
    """What those who call a dependency need of a breaker."""

    def allow(self) -> bool: ...
    def succeeded(self) -> None: ...
    def failed(self) -> None: ...


class CircuitBreaker:
    """Opens after `failures` failures in a row; each `pause` seconds later it lets one probe through.

    clock: seconds, monotonic. Ask `allow` before each call, and report how it went; for one event loop or thread.
    """

    def __init__(self, name: str, clock: Callable[[], float], *, failures: int = 5, pause: float = 1.0) -> None:
        if failures < 1 or pause <= 0:
            raise ValueError(f"a breaker needs failures >= 1 and pause > 0, got {failures} and {pause}")
        self.name = name
        self._clock = clock
        self._limit = failures
        self._pause = pause
        self._failures = 0
        self._next_probe: float | None = None
        self._probing = False

    @property
    def state(self) -> State:
        """closed: calls go through; open: none does; half_open: a probe is under way."""
        if self._next_probe is None:
            return "closed"
        return "half_open" if self._probing else "open"

    def allow(self) -> bool:
        """Whether to call now; while open, one probe per pause, whatever became of the probe before."""
        if self._next_probe is None:
            return True
        now = self._clock()
        if now < self._next_probe:
            return False
        self._next_probe = now + self._pause
        self._probing = True
        return True

    def succeeded(self) -> None:
        """A call went well: calls go through from now on."""
        self._failures = 0
        self._next_probe = None
        self._probing = False

    def failed(self) -> None:
        """A call went wrong."""
        self._probing = False
        self._failures += 1
        if self._failures >= self._limit:
            self._next_probe = self._clock() + self._pause
