"""One user in the home's other files: the spool, comments on payments, and whatever nobody expects to name a user.

What belongs here: looking into them, and what little can be changed in place. What does not: rows (`files`), stores.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from fraud_platform.erasure.files import Payment
from fraud_platform.erasure.mentions import says
from fraud_platform.inference_log.spool import Frames, segments
from fraud_platform.ingest.feedback import FeedbackLabel
from fraud_platform.model.ledger import ledger_file

SHORTEST = 5
"""Identifiers below this many characters stand in any file by chance, and are not looked for in others' files."""

_OWN = ("redis", "postgres", "inference_log", "feedback", "imports", "evaluate", "lake", "feast", "erasure", "policy")
"""Folders of the home that are looked at in their own way; so is the ledger."""
_CHUNK = 1 << 22
_COMMENT = re.compile(rb'"comment":"((?:[^"\\]|\\.)*)"')
_GONE = b"-"


def count_spooled(home: Path, user: str) -> int:
    """Decisions of the user in the spool's segments, shipped or not."""
    count = 0
    for path in segments(home):
        try:
            count += sum(says(payload, user) for payload in Frames(path))
        except FileNotFoundError:
            # cut meanwhile: the lake has it
            continue
    return count


def comments(home: Path, payments: set[Payment]) -> Iterator[tuple[Path, int, int]]:
    """Comments that callers wrote on these payments of theirs: file, first byte, bytes; those that are gone are left
    out."""
    for path in sorted((home / "feedback").glob("**/arrived=*/*.jsonl")):
        position = 0
        for line in path.read_bytes().splitlines(keepends=True):
            found = _COMMENT.search(line) if line.endswith(b"\n") else None
            if found is not None and found[1].strip(_GONE):
                label = msgspec.json.decode(line, type=FeedbackLabel)
                if (label.caller, label.transaction_id) in payments:
                    yield path, position + found.start(1), len(found[1])
            position += len(line)


def blank_comments(home: Path, payments: set[Payment]) -> None:
    """Write over the comments on these payments, in place and at their length: a writer may be appending."""
    for path, position, length in list(comments(home, payments)):
        descriptor = os.open(path, os.O_WRONLY)
        try:
            os.pwrite(descriptor, _GONE * length, position)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def word(user: str) -> str:
    """A pattern of the identifier where it is not part of a longer one."""
    return rf"(?<![0-9A-Za-z_-]){re.escape(user)}(?![0-9A-Za-z_-])"


def other_files(home: Path, lake: str, user: str) -> list[Path]:
    """Files of the home, logs and databases among them, that hold the identifier as a word of its own."""
    needle = re.compile(word(user).encode())
    found = []
    for path in sorted(home.rglob("*")):
        own = (
            path.relative_to(home).parts[0] in _OWN
            or path.absolute().is_relative_to(Path(lake))
            or path == ledger_file(home)
        )
        if not own and path.is_file() and not path.is_symlink() and _holds(path, needle, len(user.encode()) + 2):
            found.append(path)
    return found


def _holds(path: Path, needle: re.Pattern[bytes], overlap: int) -> bool:
    try:
        with path.open("rb") as file:
            rest = b""
            while chunk := file.read(_CHUNK):
                if needle.search(rest + chunk):
                    return True
                rest = (rest + chunk)[-overlap:]
    except (FileNotFoundError, PermissionError):
        # gone meanwhile, or another user's
        return False
    return False
