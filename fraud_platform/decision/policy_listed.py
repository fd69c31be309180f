"""Whether somebody is on a list: which entry means them, whether it counts, and who put it there, when and why.

What belongs here: the answer, from the policy's record and the ledger. What does not: how a list matches
(`policy_record`, `identifiers`), what a list decides (`policy`).
"""

from datetime import datetime
from pathlib import Path

import msgspec

from fraud_platform.decision.policy import Kind
from fraud_platform.decision.policy_record import PolicyRecord, Which
from fraud_platform.model.ledger import read_ledger


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """An entry that means the one who was asked about. Times are UTC; `since`, `who` and `version` are None where the
    ledger does not tell of the entry."""

    list: Which
    kind: Kind
    value: str
    """As it stands on the list."""
    counts: bool
    """False for one that has expired, which leaves the list with the next change."""
    until: datetime | None
    why: str
    since: datetime | None
    who: str | None
    version: int | None
    """Of the policy, that the entry came with as it is."""


def find_listed(home: Path, record: PolicyRecord, kind: Kind, value: str, at: datetime) -> list[Standing]:
    """The entries of both lists that mean a value, the block list's first. at: with a time zone."""
    lists: tuple[Which, ...] = ("block", "allow")
    found = [(which, entry) for which in lists for entry in record.entries_for(which, kind, value)]
    # a later line about the entry says how it came to be what it is
    told = [line for line in reversed(read_ledger(home)) if line["what"] == "policy"] if found else []
    standing = []
    for which, entry in found:
        known = {"kind": entry.kind, "value": entry.value}
        line = next((one for one in told if any(known.items() <= put.items() for put in _put(one, which))), None)
        standing.append(
            Standing(
                list=which,
                kind=entry.kind,
                value=entry.value,
                counts=entry.until is None or entry.until > at,
                until=entry.until,
                why=entry.why,
                since=None if line is None else datetime.fromisoformat(line["at"]),
                who=None if line is None else line["who"],
                version=None if line is None else line["to"]["version"],
            )
        )
    return standing


def _put(line: dict[str, object], which: Which) -> list[dict[str, object]]:
    to = line["to"]
    return to.get(f"{which}_list", []) if isinstance(to, dict) else []
