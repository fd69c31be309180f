"""An outbox: payments that the rules decided while no service could be asked, kept until one takes them.

What belongs here: lines, files, locks, and which lines are still to be sent. What does not: sending (`client.asking`,
`gateway.reporting`), what a line means (`decision.reported`). Each process appends to a file of its own and holds its
lock, so that whoever sends can tell the files of the living from what the dead left behind. A line may be sent twice,
never not at all: its decision_id tells.
"""

import fcntl
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import msgspec

_encode = msgspec.json.Encoder(decimal_format="number").encode

_NOTED_EVERY = 100
_PATTERN = "payments-*.jsonl"
REJECTED = "rejected.jsonl"
"""Lines that the service will never take, for people to look at."""


@dataclass
class Delivered:
    """What became of the lines of one delivery."""

    taken: int = 0
    rejected: int = 0


def line(
    payment: Any, decision: str, reason: str, cause: str, *, decision_id: str, decided_at: datetime, caller: str | None
) -> bytes:
    """A decision by the rules as `/v1/report` takes it; `caller` where somebody else than its reporter asked for it."""
    fields = {
        "decision_id": decision_id,
        "decided_at": decided_at,
        "decision": decision,
        "reason": reason,
        "cause": cause,
        "payment": payment,
    }
    return _encode(fields if caller is None else {**fields, "caller": caller})


class Outbox:
    """A folder of lines. `append` may be called by any thread.

    fsync: whether a line also outlives the machine; without, it outlives the process.
    """

    def __init__(self, folder: Path, *, fsync: bool) -> None:
        self._folder = folder
        self._fsync = fsync
        self._lock = threading.Lock()
        self._own: int | None = None
        self.waiting = any(folder.glob(_PATTERN))
        """Whether there may be something to send."""

    def append(self, line: bytes) -> None:
        """Keep one line, which holds no line break. Raises OSError; the file then ends where it ended before."""
        line += b"\n"
        with self._lock:
            if self._own is None:
                self._own = self._open()
            self.waiting = True
            written = os.write(self._own, line)
            if written != len(line):
                os.ftruncate(self._own, os.fstat(self._own).st_size - written)
                raise OSError(f"only {written} of {len(line)} bytes could be written to {self._folder}")
            if self._fsync:
                os.fsync(self._own)

    def _open(self) -> int:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._folder / f"payments-{time.time_ns()}-{os.getpid()}.jsonl"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor

    def seal(self) -> None:
        """End this process's file, so that it can be sent; a later line begins another."""
        with self._lock:
            if self._own is not None:
                os.close(self._own)
                self._own = None

    async def deliver(self, send: Callable[[bytes], Awaitable[bool]]) -> Delivered:
        """Send every line that no living process is writing, oldest file first.

        send(line) is true where the line was taken, false where it never will be; what it raises ends the delivery,
        and the next one goes on from there.
        """
        self.seal()
        self.waiting = False
        delivered = Delivered()
        try:
            for path in sorted(self._folder.glob(_PATTERN)):
                with _locked(path) as file:
                    if file is not None:
                        await self._deliver(path, file, send, delivered)
        except BaseException:
            self.waiting = True
            raise
        return delivered

    async def _deliver(
        self, path: Path, file: IO[bytes], send: Callable[[bytes], Awaitable[bool]], delivered: Delivered
    ) -> None:
        note = path.with_suffix(".sent")
        position = _noted(note)
        file.seek(position)
        try:
            # a killed process leaves half a line at the end: nobody was told that it was kept
            while (line := file.readline()).endswith(b"\n"):
                if await send(line[:-1]):
                    delivered.taken += 1
                else:
                    self._reject(line)
                    delivered.rejected += 1
                position += len(line)
                if (delivered.taken + delivered.rejected) % _NOTED_EVERY == 0:
                    _note(note, position)
        except BaseException:
            _note(note, position)
            raise
        path.unlink()
        note.unlink(missing_ok=True)

    def _reject(self, line: bytes) -> None:
        descriptor = os.open(self._folder / REJECTED, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab") as file:
            file.write(line)


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes] | None]:
    """A file to send from; None when its writer lives, or somebody else sends it or has sent it."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        yield None
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield file if os.fstat(file.fileno()).st_nlink else None


def _noted(note: Path) -> int:
    """Bytes that were sent; 0 where that is not known, so that lines are sent again rather than not at all."""
    try:
        return int(note.read_text())
    except (FileNotFoundError, ValueError):
        return 0


def _note(note: Path, position: int) -> None:
    temporary = note.with_suffix(".tmp")
    temporary.write_text(str(position))
    temporary.replace(note)
