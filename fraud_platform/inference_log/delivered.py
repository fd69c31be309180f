"""Whether the lake has every decision of some days, as far as this home's own spool can tell.

What belongs here: that question, and waiting for the answer yes. What does not: carrying decisions (`process`).
"""

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from fraud_platform.inference_log.process import drain
from fraud_platform.inference_log.spool import read_spool, segments
from fraud_platform.inference_log.table import LogTable
from fraud_platform.lake import open_lake
from fraud_platform.settings import Settings


class UndeliveredError(RuntimeError):
    """Decisions of a day are not in the lake yet, so the day's transactions would lack them."""


def undelivered(home: Path, table: LogTable, days: Sequence[date]) -> dict[date, int]:
    """Per day of `days` how many of its decisions wait in the spool and are not in the lake; days without any are left
    out. A segment is cut when the lake has all of it, so nothing else is behind."""
    spooled = {date.fromisoformat(path.parent.name.removeprefix("date=")) for path in segments(home)}
    found = {}
    for day in sorted(spooled & set(days)):
        waiting = {record.log_key for record in read_spool(home, day)} - table.log_keys(day)
        if waiting:
            found[day] = len(waiting)
    return found


def deliver(settings: Settings, days: Sequence[date], seconds: float) -> None:
    """See to it that the lake has every decision of `days`, waiting at most `seconds`.

    Raises UndeliveredError. Without a spool nothing is asked of the broker.
    """
    table = LogTable(open_lake(settings))
    if not undelivered(settings.home, table, days):
        return
    drain(settings, seconds)
    left = undelivered(settings.home, table, days)
    if left:
        told = ", ".join(f"{count:,} of {day}" for day, count in left.items())
        raise UndeliveredError(
            f"decisions wait in {settings.home} and are not in the lake: {told}; `fraud-platform inference-log status` "
            "says where they are. Build the day again once they have arrived"
        )
