"""How much one caller may send: a token bucket each.

What belongs here: counting. What does not: what is counted, and what is answered beyond it.
"""

from collections.abc import Callable

BURST_SHARE = 6
"""A sixth of a minute's tokens may be spent at once."""
_MOST_CALLERS = 10_000


class Quota:
    """So many a minute for each caller, by one worker. clock: UTC microseconds. For one event loop or thread."""

    def __init__(self, per_minute: int, clock: Callable[[], int]) -> None:
        self._rate = per_minute / 60
        self._burst = max(1.0, per_minute / BURST_SHARE)
        self._clock = clock
        self._buckets: dict[str, tuple[float, int]] = {}

    def take(self, caller: str) -> float:
        """Spend a token. 0: there was one; else how many seconds there will be none, and none is spent."""
        now = self._clock()
        tokens, at = self._buckets.pop(caller, (self._burst, now))
        # a clock that was set back gives nothing, and takes nothing
        tokens = min(self._burst, tokens + max(0, now - at) / 1e6 * self._rate)
        enough = tokens >= 1
        self._buckets[caller] = (tokens - 1 if enough else tokens, now)
        if len(self._buckets) > _MOST_CALLERS:
            # whoever has been silent longest
            del self._buckets[next(iter(self._buckets))]
        return 0.0 if enough else (1 - tokens) / self._rate
