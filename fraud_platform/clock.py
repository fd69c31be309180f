"""The present, as the edges of the platform ask for it: the machine's clock, or one that a scenario moves.

What belongs here: where time comes from. What does not: reading it in domain code, which is handed a clock or a moment.
"""

import mmap
import struct
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from fraud_platform.settings import Settings

Clock = Callable[[], int]
"""The present as UTC microseconds since 1970."""

_OFFSET = struct.Struct("<q")


def clock_of(settings: Settings) -> Clock:
    """The machine's clock, moved by what `clock_file` holds where the settings name one. Raises OSError."""
    if settings.clock_file is None:
        return machine_clock
    return MovedClock(settings.clock_file)


def machine_clock() -> int:
    """UTC microseconds since 1970."""
    return time.time_ns() // 1_000


def present(settings: Settings) -> datetime:
    """The present in UTC by the platform's clock."""
    return datetime.fromtimestamp(clock_of(settings)() / 1e6, UTC)


class MovedClock:
    """The machine's clock plus an offset that all processes of a scenario share: eight bytes, mapped into each."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._offset = mmap.mmap(file.fileno(), _OFFSET.size, access=mmap.ACCESS_READ)

    def __call__(self) -> int:
        """UTC microseconds since 1970."""
        return machine_clock() + int(_OFFSET.unpack_from(self._offset)[0])


def move_clock(path: Path, now_us: int) -> None:
    """Let the clock of this file show `now_us`, UTC microseconds, from now on; every process sees it at once."""
    offset = _OFFSET.pack(now_us - machine_clock())
    path.parent.mkdir(parents=True, exist_ok=True)
    # written in place: the file is mapped, and one aligned word changes as a whole
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(offset)
