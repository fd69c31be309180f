"""What this user alone may read and reach: the umask of the platform's processes, and folders of mode 0700.

What belongs here: modes and owners. What does not: what lies in the folders. Another user of the machine who could read
a file of the home had people's payments; who could reach a socket in it could command the server behind.
"""

import hashlib
import os
import stat
from pathlib import Path

UMASK = 0o077

_LET_THROUGH = 0o710

LONGEST_SOCKET = 100
"""Bytes of a socket's path; Linux takes 107, macOS 103."""


def keep_private() -> None:
    """Let nobody else read what this process, and whatever it starts, creates from now on."""
    os.umask(UMASK)


def private_folder(folder: Path) -> Path:
    """The folder with mode 0700, created where it is missing. An older one is shut, unless it is another user's, such
    as the root of a volume: its owner says who may enter; or has been let through (`let_through`)."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.stat()
    if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) not in (0o700, _LET_THROUGH):
        folder.chmod(0o700)
    return folder


def let_through(folder: Path) -> None:
    """Let this process' group pass through a folder of this user, and see nothing on the way."""
    os.chown(folder, -1, os.getegid())
    folder.chmod(_LET_THROUGH)


def own_folder(folder: Path) -> Path:
    """`private_folder` where others may create what they like: raises PermissionError unless it is this user's."""
    private_folder(folder)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(f"{folder} is not this user's folder; remove it")
    return folder


def socket_path(folder: Path, name: str) -> Path:
    """Where a folder's socket is: in it, or where that path is too long, in `short_folder`. Raises PermissionError."""
    path = folder / name
    return path if len(os.fsencode(path)) <= LONGEST_SOCKET else short_folder(folder) / name


def short_folder(folder: Path) -> Path:
    """A folder under /tmp that is this user's alone, for sockets of one whose path is too long for them. /tmp is
    everybody's: raises PermissionError where another user made it first."""
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return own_folder(Path("/tmp") / f"fraud-platform-{os.geteuid()}-{name}")
