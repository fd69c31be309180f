"""What makes a folder a home: the mark in it, or, in a home of an older version, what only a platform that ran leaves.

What belongs here: this one fact. What does not: what lies in a home (`run.home`), and which command needs one (`cli`).
A command in a wrong folder must not change a policy, a key or a user that no service will ever read.
"""

from pathlib import Path

from fraud_platform.private import private_folder

MARK = ".fraud-platform-home"
"""Written by whatever begins a home: `up`, a service's start, `restore`, `init`."""
_TEXT = "This folder is a home of fraud-platform: its commands act on it where FRAUD_HOME names it.\n"
_LEFT_BY_OLDER = ("dagster", "lake", "feedback", "releases/current.json", "releases/followed.json")
"""What older versions left in a home that was built, served or followed. A policy, keys or a ledger alone are no sign:
their commands wrote them wherever they were called."""


def is_home(folder: Path) -> bool:
    """Whether a platform was ever begun in this folder."""
    return any((folder / name).exists() for name in (MARK, *_LEFT_BY_OLDER))


def begin_home(folder: Path) -> None:
    """Make the folder a home, with mode 0700; one of an older version gets its mark."""
    private_folder(folder)
    if not (folder / MARK).exists():
        (folder / MARK).write_text(_TEXT)
