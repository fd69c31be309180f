"""Who runs the platform of a home: a lock that lives and dies with its `up`.

What belongs here: taking and asking for that lock. What does not: pid files (`child`), which outlive a killed `up`.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from fraud_platform.run.home import Home


class AlreadyRunningError(RuntimeError):
    """Another `up` runs the platform of this home."""


@contextmanager
def running(home: Home) -> Iterator[None]:
    """Hold the home for this process. Raises AlreadyRunningError at once when another has it."""
    home.run.mkdir(parents=True, exist_ok=True)
    with (home.run / "up.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunningError(f"the platform of {home.root} is already running") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def runner(home: Home) -> int | None:
    """Process id of the `up` that runs this home, None when none does."""
    path = home.run / "up.lock"
    if not path.exists():
        return None
    with path.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(file.read() or 0)
    return None
