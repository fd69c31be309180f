"""What the modes of a home's files let other users of the machine do.

What belongs here: looking. What does not: being another user (`integration.test_other_users`).
"""

import os
import stat
from pathlib import Path


def shut(folder: Path) -> bool:
    """Whether nobody else gets in; a root's PostgreSQL, which is another user's of root's group, passes through."""
    return stat.S_IMODE(folder.stat().st_mode) in ((0o700, 0o710) if os.geteuid() == 0 else (0o700,))


def open_to_others(home: Path) -> list[str]:
    """Everything in a home, itself included, that group or others may read, write or enter."""
    found = [
        f"{path} {stat.S_IMODE(path.lstat().st_mode):o}"
        for path in home.rglob("*")
        if not path.is_symlink() and stat.S_IMODE(path.lstat().st_mode) & 0o077
    ]
    return found if shut(home) else [str(home), *found]
