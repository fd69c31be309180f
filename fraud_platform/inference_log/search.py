"""Looking for a decision in the whole log: what is still in the spool, and what the lake has.

What belongs here: questions that need both. What does not: either's files.
"""

from datetime import date
from pathlib import Path

from fraud_platform.inference_log.record import DecisionRecord
from fraud_platform.inference_log.spool import find_spooled, spooled_since
from fraud_platform.inference_log.table import LogTable


def find_decision(
    home: Path, table: LogTable, transaction_id: str, caller: str, until: date, days: int
) -> DecisionRecord | None:
    """The caller's latest decision on a transaction in the `days` UTC days that end with `until`, or None.

    Reads files for up to seconds, so not for the event loop.
    """
    spooled = find_spooled(home, transaction_id, caller, until, days)
    kept = table.find(transaction_id, caller, until, days)
    found = [record for record in (spooled, kept) if record is not None]
    return max(found, key=lambda record: record.received_at, default=None)


def decided_since(home: Path, table: LogTable, day: date) -> bool:
    """Whether this home has decided a payment after the UTC day `day`."""
    return spooled_since(home, day) or any(held > day for held in table.days())
