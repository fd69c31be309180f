"""One person in the home's other files that are known: the spool, and comments on payments.

What belongs here: looking into them, and what little can be changed in place. What does not: rows (`files`), stores,
and what nobody expects to name a person (`witness`).
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from fraud_platform.erasure.files import Payment
from fraud_platform.erasure.mentions import record_names
from fraud_platform.erasure.names import Names
from fraud_platform.inference_log.spool import Frames, segments
from fraud_platform.ingest.feedback import FeedbackLabel

_COMMENT = re.compile(rb'"comment":"((?:[^"\\]|\\.)*)"')
_GONE = b"-"


def count_spooled(home: Path, names: Names) -> int:
    """Decisions in the spool's segments that name the person, shipped or not."""
    count = 0
    for path in segments(home):
        try:
            count += sum(record_names(payload, names) for payload in Frames(path))
        except FileNotFoundError:
            # cut meanwhile: the lake has it
            continue
    return count


def comments(home: Path, payments: set[Payment], names: Names) -> Iterator[tuple[Path, int, int]]:
    """Comments that callers wrote on these payments of theirs, and where any other comment names the person:
    file, first byte, bytes.

    Those that are gone are left out. A line that a killed writer has cut off may name them anywhere in it.
    """
    for path in sorted((home / "feedback").glob("**/arrived=*/*.jsonl")):
        position = 0
        for line in path.read_bytes().splitlines(keepends=True):
            for start, length in _spans(line, payments, names):
                yield path, position + start, length
            position += len(line)


def _spans(line: bytes, payments: set[Payment], names: Names) -> Iterator[tuple[int, int]]:
    begin, end = 0, len(line)
    if line.endswith(b"\n"):
        found = _COMMENT.search(line)
        if found is None:
            return
        begin, end = found.span(1)
        label = msgspec.json.decode(line, type=FeedbackLabel)
        if (label.caller, label.transaction_id) in payments:
            if line[begin:end].strip(_GONE):
                yield begin, end - begin
            return
    text = line[begin:end].decode(errors="surrogateescape")
    for first, behind in names.spans(text):
        before = len(text[:first].encode(errors="surrogateescape"))
        yield begin + before, len(text[first:behind].encode(errors="surrogateescape"))


def blank_comments(home: Path, payments: set[Payment], names: Names) -> None:
    """Write over the comments on these payments, and over the person in all others; in place and at their length,
    since a writer may be appending."""
    for path, position, length in list(comments(home, payments, names)):
        descriptor = os.open(path, os.O_WRONLY)
        try:
            os.pwrite(descriptor, _GONE * length, position)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
