"""What a server prints, in a file that stays below a size, with a few older ones beside it.

What belongs here: copying and cutting. What does not: whose output it is (`child`). It is a program of its own, run by
the bare interpreter (3 MB), because it has to outlive an `up` that was killed: the service goes on deciding then, and
needs somebody who reads what it prints. It ends by itself when the last process that prints has ended.

`log_keeper.py FILE BYTES` keeps standard input.
"""

import os
import sys

KEPT = 4
"""Older files beside FILE: FILE.1 is the one before, FILE.4 the oldest."""
_READ = 65_536


def roll(path: str) -> None:
    """Give every file its next number; the oldest goes. Raises OSError."""
    for number in range(KEPT, 0, -1):
        before = path if number == 1 else f"{path}.{number - 1}"
        if os.path.exists(before):  # noqa: PTH110 - importing pathlib would double what this program weighs
            os.replace(before, f"{path}.{number}")  # noqa: PTH105


def keep(source: int, path: str, most: int) -> None:
    """Copy until the source ends. A file ends with the line that reaches `most` bytes; a line as long again is cut."""
    log = _Log(path)
    full = False
    while chunk := os.read(source, _READ):
        while chunk:
            if full:
                log.roll()
            end = len(chunk)
            if log.size + end >= most:
                line = chunk.find(b"\n", max(0, most - log.size - 1)) + 1
                end = line or min(end, max(1, 2 * most - log.size))
            log.write(chunk[:end])
            full = log.size >= 2 * most or (log.size >= most and chunk[end - 1 : end] == b"\n")
            chunk = chunk[end:]


class _Log:
    """The file that is written now. What cannot be written is counted: a server must not wait for a full disk."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: int | None = None
        self._lost = 0
        self.size = 0
        self._open()

    def write(self, content: bytes) -> None:
        """Append, and say before it how much before it was lost."""
        if self._file is None:
            self._open()
        lost = b"[%d bytes could not be written here]\n" % self._lost if self._lost else b""
        left = lost + content
        try:
            while left and self._file is not None:
                left = left[os.write(self._file, left) :]
        except OSError:
            pass  # counted below
        self.size += len(content)
        self._lost = self._lost + len(content) if len(left) > len(content) else len(left)

    def roll(self) -> None:
        """Begin another file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        try:  # noqa: SIM105 - as in `roll`, a module less
            roll(self._path)
        except OSError:
            pass  # it goes on in the same file, which is full again after its next line
        self._open()

    def _open(self) -> None:
        """Without its folder there is no file, and what comes is counted until there is one."""
        try:
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            self.size = os.fstat(self._file).st_size
        except OSError:
            self.size = 0


if __name__ == "__main__":
    keep(0, sys.argv[1], int(sys.argv[2]))
