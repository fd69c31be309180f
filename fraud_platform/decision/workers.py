"""The workers of a service and what each goes by: asking all of them to look at the registry, and waiting until a
change is in force in every one.

What belongs here: the notes that workers leave under `<home>/workers`, and the request to look. What does not: loading
a model. A request over HTTP reaches one worker, a file reaches all; and a signal would end workers and what they do.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple

import msgspec

from fraud_platform.control.store import ControlStore, control_url, place_of
from fraud_platform.settings import Settings

_POLL_SECONDS = 0.05


class WorkerNote(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says of itself."""

    pid: int
    model_version: str | None
    """`name/version` that it serves; None while it has no model."""
    asked: int
    """The latest request that it has answered, as `asked` counts them."""
    error: str | None = None
    """Why the newest release was not taken; None where it was."""
    challenger: str | None = None
    """The release that scores beside it."""
    policy: int | None = None
    """The version that it decides by; None where it is of an older program, which does not say."""
    keys: tuple[int, int, int] | None = None
    """State of the file of API keys that it goes by, as `KeyFile.state` has it; None while there is none."""
    started: str | None = None
    """`process_start` of the worker."""
    home: str | None = None
    """How its home is called in the control store (`control.store.place_of`); None: it is this home."""


class Confirmed(NamedTuple):
    """How far a change is in force in a home's workers on this machine, and in those of homes that share it."""

    following: list[WorkerNote]
    late: list[WorkerNote]
    """Workers that live and have not said so: also those that are stopped."""
    seconds: float
    """How long was waited."""


class WorkerAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A worker after a request to look at the registry."""

    pid: int
    model_version: str | None
    looked: bool
    """Whether it has looked since the request."""
    error: str | None


class ReloadAnswer(msgspec.Struct, frozen=True):
    """What `POST /v1/admin/reload` answers."""

    workers: list[WorkerAnswer]


note_of = msgspec.json.Decoder(WorkerNote).decode
"""A note of its JSON."""


def _request(home: Path) -> Path:
    return home / "workers" / "reload"


def asked(home: Path) -> int:
    """A number that grows with each request to look at the registry; 0 before the first."""
    try:
        return _request(home).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def ask(home: Path) -> int:
    """Request every worker to look at the registry; returns the request's number."""
    path = _request(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    before = asked(home)
    path.touch()
    if asked(home) <= before:
        # two requests within one tick of the filesystem's clock
        os.utime(path, ns=(before + 1, before + 1))
    return asked(home)


def announce(home: Path, note: WorkerNote) -> None:
    """Leave a worker's note: at its start, after each change of model, and after each request."""
    path = home / "workers" / f"{note.pid}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(msgspec.json.encode(note))
    temporary.replace(path)


def leave(home: Path, pid: int) -> None:
    """Take a worker's note away, at its end."""
    (home / "workers" / f"{pid}.json").unlink(missing_ok=True)


def present(home: Path) -> list[WorkerNote]:
    """The notes of the workers that live, by pid; those of the dead are deleted."""
    notes = []
    for path in (home / "workers").glob("*.json"):
        try:
            note = note_of(path.read_bytes())
        except FileNotFoundError:
            continue
        if _lives(note):
            notes.append(note)
        else:
            path.unlink(missing_ok=True)
    return sorted(notes, key=lambda note: note.pid)


def process_start(pid: int) -> str | None:
    """Something that no other process which had this id says: when it began, in ticks since the machine's start. None
    where nobody tells, as on macOS. Raises ProcessLookupError for a process that has ended and is not missed yet."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    if state == "Z":
        raise ProcessLookupError(pid)
    return fields[18]


def _lives(note: WorkerNote) -> bool:
    """Whether the note's worker lives. After a restart of machine or container another process may have its id."""
    try:
        os.kill(note.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return note.started is None or note.started == process_start(note.pid)
    except ProcessLookupError:
        return False


def confirm(
    home: Path,
    follows: Callable[[WorkerNote], bool],
    seconds: float,
    elsewhere: Callable[[], list[WorkerNote]] = list,
) -> Confirmed:
    """Wait at most `seconds` until every worker has said in its note that it follows a change. elsewhere: notes of
    workers of other homes."""
    began = monotonic()
    while True:
        notes = present(home) + elsewhere()
        late = [note for note in notes if not follows(note)]
        waited = monotonic() - began
        if not late or waited >= seconds:
            return Confirmed([note for note in notes if note not in late], late, waited)
        sleep(_POLL_SECONDS)


def of_other_homes(settings: Settings) -> list[WorkerNote]:
    """Notes of workers of homes that share the control store; none where none is named. Raises ControlError."""
    url = control_url(settings)
    if url is None:
        return []
    with ControlStore.opened(url) as store, store.answering():
        notes = [note_of(payload) for payload in store.workers()]
    return [note for note in notes if note.home != place_of(settings)]


async def reload_all(home: Path, seconds: float) -> ReloadAnswer:
    """Ask every worker to look at the registry, and wait at most `seconds` until all of them have."""
    number = ask(home)
    until = monotonic() + seconds
    while True:
        notes = present(home)
        if all(note.asked >= number for note in notes) or monotonic() >= until:
            break
        await asyncio.sleep(_POLL_SECONDS)
    return ReloadAnswer(
        [
            WorkerAnswer(pid=note.pid, model_version=note.model_version, looked=note.asked >= number, error=note.error)
            for note in notes
        ]
    )
