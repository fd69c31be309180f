"""Whether signals start a training: once per release and window, and again only where the last attempt failed.

What belongs here: that rule and what it remembers. What does not: reading signals (`signals`), starting (`assets`).
"""

from collections.abc import Callable, Sequence
from datetime import date, timedelta

import msgspec

from fraud_platform.monitoring.signals import Signal

MOST_ATTEMPTS = 3

Outcome = Callable[[str], str]
"""Of the training that a request's key started: `running`, `succeeded`, `failed`; `unknown` for one never started."""


class Request(msgspec.Struct, frozen=True):
    """A training that is wanted, and why."""

    window: str
    """Release and first day of the window: what may start one training."""
    attempt: int
    cause: str
    subject: str
    value: float
    sentence: str

    @property
    def key(self) -> str:
        """Unique per attempt."""
        return f"{self.window}-{self.attempt}"


class Memory(msgspec.Struct, frozen=True):
    """What a sensor's cursor keeps."""

    after: int = 0
    """The last event that was looked at, as the event log counts them."""
    last: Request | None = None
    """The last training that was asked for."""
    until: date | None = None
    """Last day on which signals of that release start no other."""
    release: str | None = None


def decide(
    signals: Sequence[Signal], memory: Memory, outcome: Outcome, cooldown_days: int
) -> tuple[Request | None, Memory]:
    """The training to start now, or None, and what to remember. signals: of one day, in any order."""
    wanted = [signal for signal in signals if signal.action == "retrain"]
    if not wanted:
        return _again(memory, outcome)
    strongest = max(wanted, key=lambda signal: (signal.value / signal.limit, signal.subject))
    if memory.release == strongest.release and memory.until is not None and strongest.day <= memory.until:
        return _again(memory, outcome)
    request = Request(
        window=f"{strongest.release}-{strongest.day}",
        attempt=1,
        cause=strongest.cause,
        subject=strongest.subject,
        value=strongest.value,
        sentence=strongest.sentence,
    )
    until = strongest.day + timedelta(days=cooldown_days)
    return request, Memory(memory.after, request, until, strongest.release)


def again(last: Request | None, outcome: Outcome) -> Request | None:
    """The next attempt at a training that failed; None where none is due."""
    if last is None or last.attempt >= MOST_ATTEMPTS or outcome(last.key) != "failed":
        return None
    return msgspec.structs.replace(last, attempt=last.attempt + 1)


def _again(memory: Memory, outcome: Outcome) -> tuple[Request | None, Memory]:
    request = again(memory.last, outcome)
    return request, msgspec.structs.replace(memory, last=request or memory.last)
