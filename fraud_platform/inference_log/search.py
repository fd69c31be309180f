"""Looking for a decision in the whole log: what is still in the spool, and what the lake has.

What belongs here: questions that need both. What does not: either's files.
"""

from collections.abc import Collection, Iterator
from datetime import UTC, date, datetime
from pathlib import Path

from fraud_platform.decision.standing import standing_of
from fraud_platform.identifiers import canonical
from fraud_platform.inference_log.record import DecisionRecord, Identity
from fraud_platform.inference_log.spool import find_named, find_spooled, read_spool, spooled_since
from fraud_platform.inference_log.table import LogTable
from fraud_platform.processing import DUPLICATE_WINDOW_US
from fraud_platform.schema import FIRST_REGION


def find_decisions(
    home: Path, table: LogTable, wanted: Collection[Identity], until: date, days: int
) -> dict[Identity, DecisionRecord]:
    """Of each caller and transaction_id that has any, the latest decision in the `days` UTC days that end with `until`;
    of several within 24 hours the one that stands.

    Reads files for up to seconds, whether for one or for many, so not for the event loop.
    """
    spooled, kept = find_spooled(home, wanted, until, days), table.find(wanted, until, days)
    standing = {}
    for identity in wanted:
        found = spooled[identity] + kept[identity]
        last = max((record.received_at for record in found), default=0)
        record = standing_of(record for record in found if last - record.received_at < DUPLICATE_WINDOW_US)
        if record is not None:
            standing[identity] = record
    return standing


class UnknownDecisionError(LookupError):
    """An identifier names no decision, or more than one; the message says which there are."""


def the_decision(home: Path, table: LogTable, identifier: str, caller: str | None = None) -> DecisionRecord:
    """The one decision with this decision_id or transaction_id, of the caller if one is given, in the whole log.

    Raises UnknownDecisionError. Reads all days, so not for the event loop.
    """
    # as it is given first: a record of before the rule of identity bears the id as its caller wrote it
    named = dict.fromkeys((identifier, canonical(identifier)))
    either = [record for name in named for record in (*table.named(name), *find_named(home, name))]
    mine = [record for record in either if caller in (None, record.caller)]
    # what was superseded is found by its decision_id alone
    superseded = {record.decision_id: record for record in mine if record.superseded_by is not None}
    if identifier in superseded:
        return superseded[identifier]
    found = {record.decision_id: record for record in mine if record.decision_id not in superseded}
    if len(found) == 1:
        return next(iter(found.values()))
    if not found:
        whose = "" if caller is None else f" of the caller {caller}"
        raise UnknownDecisionError(f"no decision{whose} in the log has the decision_id or transaction_id {identifier}")
    ordered = sorted(found.values(), key=lambda record: record.received_at)
    several = ", ".join(f"{one.decision_id} (caller {one.caller}, {_moment(one)})" for one in ordered)
    raise UnknownDecisionError(f"{len(found)} decisions have the id {identifier}; name one by decision_id: {several}")


def decisions_of(home: Path, table: LogTable, day: date) -> Iterator[DecisionRecord]:
    """Each decision of a UTC day once: those of the lake by received_at, then those that only the spool has."""
    seen: set[str] = set()
    for records in (table.records(day, told=True), read_spool(home, day)):
        for record in records:
            if record.decision_id not in seen:
                seen.add(record.decision_id)
                yield record


def _moment(record: DecisionRecord) -> str:
    return f"{datetime.fromtimestamp(record.received_at // 1_000_000, UTC):%Y-%m-%d %H:%M:%S}"


def decided_since(home: Path, table: LogTable, day: date, region: str = FIRST_REGION) -> bool:
    """Whether this home, or another of its region, has decided a payment after the UTC day `day`."""
    return spooled_since(home, day) or any(
        region in {each or FIRST_REGION for each in table.read(held, ["region"])["region"].unique().to_pylist()}
        for held in table.days()
        if held > day
    )
