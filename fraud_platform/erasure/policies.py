"""One user on the policy's lists: taken off what is in force, the pseudonym in their place in all that was before.

What belongs here: the policy's versions, and the ledger's lines of whatever kind. What does not: what a change of the
policy is (`decision.policy_change`). Under a version that was in force a past decision comes out as it did: its record
bears the same pseudonym as the version's list.
"""

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from fraud_platform.decision.policy_change import Delisting, PolicyChange, change_policy
from fraud_platform.decision.policy_record import Entry, PolicyRecord, folder, read_policy
from fraud_platform.erasure.home import SHORTEST, word
from fraud_platform.model.bundle import exclusive, replace_file
from fraud_platform.model.following import read_followed
from fraud_platform.model.ledger import alter_ledger, read_ledger
from fraud_platform.settings import Settings


def count_lists(home: Path, user: str) -> int:
    """Files of the policy that name the user: what is in force, and every version."""
    return sum(_renamed(each, user, "") != each for each in map(_read, _files(home)))


def count_lines(home: Path, user: str) -> int:
    """Lines of the ledger that do."""
    return sum(_renamed(line, user, "") != line for line in read_ledger(home))


def take_off(settings: Settings, user: str, pseudonym: str, who: str, now: datetime) -> None:
    """Rename the user everywhere, and change the policy to one that lists nobody of that name. now: with a time zone.

    Raises PolicyError, OSError. Renamed first: the line of the change must not name the user either.
    """
    with exclusive(folder(settings.home) / ".lock"):
        for path in _files(settings.home):
            before = _read(path)
            after = _renamed(before, user, pseudonym)
            if after != before:
                replace_file(path, msgspec.json.format(msgspec.json.encode(after), indent=2))
    alter_ledger(settings.home, lambda line: _renamed(line, user, pseudonym))
    if read_followed(settings.home) is not None:
        return  # what is in force comes from the first region, where the user is taken off it
    record = read_policy(settings.home)
    if record is not None and (listed := _listed(record, pseudonym)):
        block, allow = (
            tuple(
                Delisting(kind=entry.kind, value=entry.value)
                for entry in entries
                # one that has expired leaves with any change
                if entry in listed and (entry.until is None or entry.until > now)
            )
            for entries in (record.block_list, record.allow_list)
        )
        change = PolicyChange(why="a user is erased", block_list_remove=block, allow_list_remove=allow)
        change_policy(settings, change, who, now)


def _listed(record: PolicyRecord, user: str) -> list[Entry]:
    return [entry for entry in (*record.block_list, *record.allow_list) if (entry.kind, entry.value) == ("user", user)]


def _files(home: Path) -> list[Path]:
    return sorted(folder(home).glob("*.json"))


def _read(path: Path) -> Any:
    return msgspec.json.decode(path.read_bytes())


def _renamed(value: Any, user: str, pseudonym: str) -> Any:
    """JSON with the pseudonym where the user was: in entries of lists, and as a word of a reason that somebody gave."""
    if isinstance(value, list):
        return [_renamed(item, user, pseudonym) for item in value]
    if not isinstance(value, dict):
        return value
    named = {name: _renamed(item, user, pseudonym) for name, item in value.items()}
    if (value.get("kind"), value.get("value")) == ("user", user):
        named["value"] = pseudonym
    if isinstance(why := value.get("why"), str) and len(user) >= SHORTEST:
        named["why"] = re.sub(word(user), pseudonym, why)
    return named
