"""One person in the policy and the ledger: taken off what is in force, the pseudonym in their place in all before.

What belongs here: the policy's versions, what other regions are told of it, and the ledger's lines of whatever kind.
What does not: what a change of the policy is (`decision.policy_change`). Under a version that was in force a past
decision comes out as it did where it was listed by user: its record bears the same pseudonym as the version's list.
A line that is altered says so itself: by whom and when. Only devices that are the user's alone are theirs.
"""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from fraud_platform.control.store import ControlStore, control_url
from fraud_platform.decision.policy_change import Delisting, PolicyChange, change_policy
from fraud_platform.decision.policy_control import refresh
from fraud_platform.decision.policy_record import Entry, PolicyRecord, folder, read_policy
from fraud_platform.erasure.names import Names
from fraud_platform.erasure.rows import Pseudonyms
from fraud_platform.lake import open_lake
from fraud_platform.model.bundle import exclusive, replace_file
from fraud_platform.model.following import read_followed
from fraud_platform.model.ledger import alter_ledger, read_ledger
from fraud_platform.regions.publication import RECORD
from fraud_platform.regions.publish import Publisher
from fraud_platform.settings import Settings


def count_lists(home: Path, names: Names) -> int:
    """Files of the policy that name the person: what is in force, and every version."""
    return sum(_renamed(each, names, {}) != each for each in map(_read, _files(home)))


def count_lines(home: Path, names: Names) -> int:
    """Lines of the ledger that do."""
    return sum(_renamed(line, names, {}) != line for line in read_ledger(home))


def lists_alike(home: Path, names: Names) -> bool:
    """Whether a version lists something else by the user's identifier: a merchant, or a device that is not theirs."""
    versions = [msgspec.convert(each, PolicyRecord) for each in map(_read, _files(home))]
    entries = [entry for record in versions for entry in (*record.block_list, *record.allow_list)]
    return any(
        entry.kind != "user" and names.is_user(entry.value) and entry.value not in names.devices for entry in entries
    )


def count_words(settings: Settings, names: Names) -> int:
    """Words of the control store that do; 0 where none is named. Raises ControlError."""
    return len(_renamed_words(settings, names, {}))


def rename_words(settings: Settings, names: Names, pseudonyms: Pseudonyms) -> None:
    """Put the pseudonyms into the words of the control store, where one is named: all that its history says of people.
    Raises ControlError."""
    texts = _renamed_words(settings, names, pseudonyms)
    url = control_url(settings)
    if texts and url is not None:
        with ControlStore.opened(url) as store:
            store.rename(texts)


def _renamed_words(settings: Settings, names: Names, pseudonyms: Pseudonyms) -> dict[int, str]:
    """By its number, what stands in the place of each of the store's words that name the person."""
    url = control_url(settings)
    if url is None:
        return {}
    texts = {}
    with ControlStore.opened(url) as store:
        for number, words in store.every_word():
            # as entries of lists and reasons are renamed wherever else they stand
            field = {"why": words.text} if words.place == "why" else {"kind": words.place, "value": words.text}
            after = _renamed(field, names, pseudonyms)
            if after != field:
                texts[number] = after["why" if words.place == "why" else "value"]
    return texts


def rename(home: Path, names: Names, pseudonyms: Pseudonyms, who: str, now: datetime) -> None:
    """Put the pseudonyms into every version and line; a line that is altered says who did it, and when."""
    with exclusive(folder(home) / ".lock"):
        for path in _files(home):
            rename_file(path, names, pseudonyms)

    def altered(line: dict[str, Any]) -> dict[str, Any]:
        after: dict[str, Any] = _renamed(line, names, pseudonyms)
        return line if after == line else after | {"redacted": {"at": now.isoformat(), "by": who}}

    alter_ledger(home, altered)


def rename_file(path: Path, names: Names, pseudonyms: Pseudonyms) -> None:
    """Put the pseudonyms into one JSON document, which is replaced whole."""
    before = _read(path)
    after = _renamed(before, names, pseudonyms)
    if after != before:
        replace_file(path, msgspec.json.format(msgspec.json.encode(after), indent=2))


def take_off(settings: Settings, names: Names, pseudonyms: Pseudonyms, who: str, now: datetime) -> None:
    """Rename the person everywhere, and change the policy to one that does not list them. now: with a time zone.

    Raises PolicyError, ControlError, BundleError, OSError. Renamed first: the line of the change must not name the
    person either.
    """
    refresh(settings)
    rename_words(settings, names, pseudonyms)
    rename(settings.home, names, pseudonyms, who, now)
    if read_followed(settings.home) is not None:
        return  # what is in force comes from the first region, where the person is taken off it
    record = read_policy(settings.home)
    if record is not None and (listed := _listed(record, set(pseudonyms.values()))):
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
        # what another home has changed meanwhile
        rename_words(settings, names, pseudonyms)
    lake = open_lake(settings)
    if lake.document(RECORD) is not None:
        Publisher(settings, lake).step(now)


def _listed(record: PolicyRecord, pseudonyms: set[str]) -> list[Entry]:
    entries = (*record.block_list, *record.allow_list)
    return [entry for entry in entries if entry.kind in ("user", "device") and entry.value in pseudonyms]


def _files(home: Path) -> list[Path]:
    return sorted(folder(home).glob("*.json"))


def _read(path: Path) -> Any:
    return msgspec.json.decode(path.read_bytes())


def _renamed(value: Any, names: Names, pseudonyms: Pseudonyms) -> Any:
    """JSON with pseudonyms, `-` where there is none yet: in entries of lists, and in reasons that somebody gave."""
    if isinstance(value, list):
        return [_renamed(item, names, pseudonyms) for item in value]
    if not isinstance(value, dict):
        return value
    named = {name: _renamed(item, names, pseudonyms) for name, item in value.items()}
    is_theirs: dict[Any, Callable[[str], bool]] = {"user": names.is_user, "device": names.devices.__contains__}
    entry = value.get("value")
    if value.get("kind") in is_theirs and isinstance(entry, str) and is_theirs[value["kind"]](entry):
        named["value"] = pseudonyms.get(entry, pseudonyms.get(names.user, "-"))
    if isinstance(why := value.get("why"), str):
        named["why"] = names.redacted(why, pseudonyms.get(names.user, "-"))
    return named
