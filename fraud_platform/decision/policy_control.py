"""The policy of homes that share a control store: it is in force there, and here lies the copy by which is decided.

What belongs here: holding both for a change, bringing into a home what others have changed, and a home's first time.
What does not: the store (`control.store`), what a change is (`policy_change`). A home that names no store is alone, and
its own files are all there is.

A change is made where the store has it. The files follow: the version, its line in the ledger, how far this home has
come (`policy_copy`), and last what is in force. Whoever is killed in between does it again.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from fraud_platform.control.store import (
    FOLLOW_SECONDS,
    ControlError,
    ControlStore,
    StoredChange,
    control_url,
    place_of,
)
from fraud_platform.decision.policy_copy import check_copy, is_as_said, note_file, note_reached, reached
from fraud_platform.decision.policy_record import (
    PolicyRecord,
    current_file,
    first_policy,
    folder,
    keep,
    kept_versions,
    put_in_force,
    read_policy,
)
from fraud_platform.decision.workers import WorkerNote, note_of
from fraud_platform.model.bundle import exclusive
from fraud_platform.model.ledger import Change, append_lines, line_of, read_ledger
from fraud_platform.settings import Settings

logger = logging.getLogger(__name__)

KIND = "policy"
_GIVE_SECONDS = 600.0
"""How long a home may take to give all versions that it ever had."""


class Turn:
    """The policy held for a change, by nobody else in any home meanwhile."""

    def __init__(self, home: Path, store: ControlStore | None) -> None:
        self._home, self._store = home, store
        self.added: list[StoredChange] = []

    def put(self, record: PolicyRecord, change: Change) -> None:
        """Put a version into force with its line in the ledger; with a store, at the end of the turn."""
        if self._store is None:
            # the ledger before what is in force: no change is ever made unannounced
            keep(self._home, record)
            append_lines(self._home, [line_of(change, change.was)])
            put_in_force(self._home, record)
        else:
            self.added.append(_add(self._store, record, line_of(change, change.was)))


@contextmanager
def holding(settings: Settings) -> Iterator[Turn]:
    """Hold the policy for a change; this home has what is in force by then. Raises ControlError, PolicyError, OSError.

    Where the store goes away at the very end, it alone knows whether the change was made.
    """
    home, url = settings.home, control_url(settings)
    with exclusive(folder(home) / ".lock"):
        if url is None:
            yield Turn(home, None)
            return
        with ControlStore.opened(url) as store:
            turn = Turn(home, store)
            with store.answering(FOLLOW_SECONDS):
                _catch_up(settings, store)
            with store.changing():
                # what came meanwhile; nothing comes any more
                _catch_up(settings, store)
                yield turn
            _bring(home, turn.added, store.id)


def follow(settings: Settings, store: ControlStore) -> None:
    """Bring into this home what others have changed. Raises ControlError, PolicyError, OSError."""
    noted = reached(settings.home)
    if noted is None or (noted.store, noted.seq) != (store.id, store.newest(KIND)) or not is_as_said(settings.home):
        with exclusive(folder(settings.home) / ".lock"):
            _catch_up(settings, store)


def refresh(settings: Settings) -> None:
    """`follow` for whoever looks at the policy once. Raises ControlError, PolicyError, OSError."""
    url = control_url(settings)
    if url is not None:
        with ControlStore.opened(url) as store, store.answering(FOLLOW_SECONDS):
            follow(settings, store)


def policy_in_force(settings: Settings, now: datetime) -> PolicyRecord:
    """The policy in force, or the one that the settings would begin with. Raises PolicyError. While the control store
    is away, this home's copy of what was in force."""
    try:
        refresh(settings)
    except ControlError as error:
        logger.warning("this home's copy of the policy is used: %s", error)
        if current_file(settings.home).exists():
            check_copy(settings.home)
    return read_policy(settings.home) or first_policy(settings, now)


def forget(home: Path) -> None:
    """Have a home followed from the beginning, as after files of an earlier time were put back."""
    note_file(home).unlink(missing_ok=True)


def join(settings: Settings) -> list[str]:
    """Make this home one of those that share the store; returns what was done, in sentences, nothing where it is one.

    A home that has a policy gives the store what it lacks, and gets what this home lacks; its files stay where they
    are. Where the policy in force here is not the store's, the store's is put back. Raises ControlError where both have
    a version and it is not the same: records of past decisions name it.
    """
    url = control_url(settings)
    if url is None:
        raise ControlError("FRAUD_CONTROL_URL names no control store: this home is alone")
    with (
        exclusive(folder(settings.home) / ".lock"),
        ControlStore.opened(url) as store,
        store.answering(_GIVE_SECONDS),
    ):
        return _catch_up(settings, store)


@dataclass(frozen=True)
class Standing:
    """A home beside its store."""

    there: int | None
    """Version of the policy in force; None before the first."""
    here: int | None
    changes: int
    workers: list[WorkerNote]
    """Of every home."""


def standing(settings: Settings) -> Standing:
    """What is in force in the store and in this home, and who follows. Raises ControlError, PolicyError."""
    url = control_url(settings)
    if url is None:
        raise ControlError("FRAUD_CONTROL_URL names no control store: this home is alone")
    with ControlStore.opened(url) as store, store.answering():
        last = store.last(KIND)
        here = read_policy(settings.home)
        return Standing(
            there=None if last is None else _record(last).version,
            here=None if here is None else here.version,
            changes=store.newest(KIND),
            workers=[note_of(payload) for payload in store.workers()],
        )


def _catch_up(settings: Settings, store: ControlStore) -> list[str]:
    """Bring a home, whose lock is held, to where the store is; returns what was done, in sentences."""
    home, of_store = settings.home, store.id
    said, noted = [], reached(home)
    if noted is not None and noted.store == of_store and noted.seq > store.newest(KIND):
        raise ControlError(
            f"the control store is behind this home, which has followed it to change {noted.seq}: it was restored "
            f"from before. Restore it whole; or remove {note_file(home)}, and what it lacks is given back by "
            "`fraud-platform control join`"
        )
    if noted is None or noted.store != of_store:
        with store.changing(_GIVE_SECONDS):
            given = _give(settings, store)
        if given:
            said.append(f"the control store has {given} change(s) of the policy from this home now")
        noted = None
    known = set(kept_versions(home))
    missing = list(store.since(KIND, noted.seq if noted else 0))
    _bring(home, missing, of_store)
    new = len({_record(change).version for change in missing} - known)
    if new:
        said.append(f"this home has {new} version(s) of the policy from the control store now")
    last = None if missing or is_as_said(home) else store.last(KIND)
    if last is not None:
        put_in_force(home, _record(last))
        note_reached(home, of_store, last.seq, _record(last))
        said.append(f"policy {_record(last).version} of the control store is in force here again")
    return said


def _give(settings: Settings, store: ControlStore) -> int:
    """Give the store what it lacks of this home's policies; how many changes. Raises ControlError where they clash."""
    home = settings.home
    stored = list(store.since(KIND, 0))
    theirs = {record.version: record for record in map(_record, stored)}
    ours = {version: read_policy(home, version) for version in kept_versions(home)}
    clashing = [version for version, record in ours.items() if record != theirs.get(version, record)]
    if clashing:
        raise ControlError(
            f"policy {clashing[0]} of this home is not policy {clashing[0]} of the control store, and records of past "
            "decisions name it: name an empty store with FRAUD_CONTROL_URL, or begin another home with FRAUD_HOME"
        )
    told = {_told(change.line) for change in stored}
    lines = [line for line in read_ledger(home) if line["what"] == KIND]
    # what came after the last that both know
    common = max((number for number, line in enumerate(lines) if _told(line) in told), default=-1)
    last, given = None, 0
    for line in lines[common + 1 :] if common >= 0 or not stored else []:
        record = ours.get(line["to"]["version"])
        if record is not None:
            _add(store, record, line)
            last, given = record, given + 1
    current = read_policy(home)
    if current is not None and current != last and (given or not stored):
        # announced by no line, or put back into force without one
        was = None if last is None else {"version": last.version}
        line = line_of(
            Change(
                at=current.since,
                who="control join",
                why=f"in force in {place_of(settings)}",
                what="policy",
                to={"version": current.version},
            ),
            was,
        )
        _add(store, current, line)
        given += 1
    return given


def _bring(home: Path, changes: Sequence[StoredChange], of_store: str) -> None:
    """Changes of the store into the files of a home, whose lock is held; the last of them is in force."""
    if not changes:
        noted = reached(home)
        if noted is None or noted.store != of_store:
            note_reached(home, of_store, 0, None)
        return
    for change in changes:
        keep(home, _record(change))
    append_lines(home, [change.line for change in changes])
    note_reached(home, of_store, changes[-1].seq, _record(changes[-1]))
    put_in_force(home, _record(changes[-1]))


def _add(store: ControlStore, record: PolicyRecord, line: dict[str, Any]) -> StoredChange:
    return store.add(KIND, msgspec.to_builtins(record), line, datetime.fromisoformat(line["at"]))


def _told(line: dict[str, Any]) -> tuple[Any, Any]:
    return line["to"]["version"], line["at"]


def _record(change: StoredChange) -> PolicyRecord:
    return msgspec.convert(change.document, PolicyRecord)
