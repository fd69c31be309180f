"""On which day a payment was decided, for the label that speaks of it.

What belongs here: the order in which one looks, and for how long. What does not: the places (`identity`,
`inference_log.search`). A thread of its own: whoever asks for an explanation does not wait behind labels.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from fraud_platform.decision.identity import Decisions
from fraud_platform.inference_log.record import DecisionRecord
from fraud_platform.inference_log.search import find_decisions
from fraud_platform.inference_log.table import LogTable
from fraud_platform.online.wire import StoreError

SEARCH_SECONDS = 1.0
"""How long the log is searched for a label that names its payment's day: then it is as if nothing was found, and
the label waits for the nightly run, which looks again."""


class DecidedDays:
    """Finds the caller's decision on a payment. clock: UTC microseconds."""

    def __init__(
        self, decisions: Decisions, home: Path, log: LogTable, search_days: int, clock: Callable[[], int]
    ) -> None:
        self._decisions = decisions
        self._home = home
        self._log = log
        self._search_days = search_days
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decided-day")

    async def find(self, caller: str, transaction_id: str, about: date | None) -> date | None:
        """The UTC day on which the payment was received; None where no decision of the caller is known.

        about: where to look first, once the store of the last 24 hours does not know it.
        """
        try:
            record = await self._decisions.find(caller, transaction_id)
        except StoreError:
            record = None
        if record is None:
            try:
                async with asyncio.timeout(None if about is None else SEARCH_SECONDS):
                    record = await self._search(transaction_id, caller, about)
            except TimeoutError:
                return None
        return None if record is None else record.day

    async def _search(self, transaction_id: str, caller: str, about: date | None) -> DecisionRecord | None:
        if about is not None:
            near = await self._searched(transaction_id, caller, about + timedelta(days=1), 3)
            if near is not None:
                return near
        today = datetime.fromtimestamp(self._clock() // 1_000_000, UTC).date()
        return await self._searched(transaction_id, caller, today, self._search_days)

    async def _searched(self, transaction_id: str, caller: str, until: date, days: int) -> DecisionRecord | None:
        def search() -> DecisionRecord | None:
            identity = caller, transaction_id
            return find_decisions(self._home, self._log, [identity], until=until, days=days).get(identity)

        return await asyncio.get_running_loop().run_in_executor(self._thread, search)

    def close(self) -> None:
        """Let a running search finish and end the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)
