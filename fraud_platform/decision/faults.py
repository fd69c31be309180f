"""Unexpected errors: each is counted, and its traceback is logged once a minute at most, so that a fault under load
cannot flood the log. What belongs here: counting and logging. What does not: deciding what the caller is told.
"""

import logging
from collections import Counter
from collections.abc import Callable

logger = logging.getLogger("fraud_platform.decision")

_QUIET_US = 60_000_000


class FaultLog:
    """Counts errors per stage; `counted(stage)` is called for each, logged or not."""

    def __init__(self, clock: Callable[[], int], counted: Callable[[str], None]) -> None:
        self._clock = clock
        self._counted = counted
        self._logged_at: dict[tuple[str, str], int] = {}
        self._silent: Counter[tuple[str, str]] = Counter()

    def report(self, stage: str, error: BaseException) -> None:
        """Count an error; log its traceback unless the same kind was logged within a minute."""
        self._counted(stage)
        kind = (stage, type(error).__qualname__)
        now = self._clock()
        last = self._logged_at.get(kind)
        if last is not None and now - last < _QUIET_US:
            self._silent[kind] += 1
            return
        self._logged_at[kind] = now
        logger.error("%s failed (%d more since the last report)", stage, self._silent.pop(kind, 0), exc_info=error)
