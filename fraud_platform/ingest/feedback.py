"""Labels that callers send back: kept durably by the service as they arrive, for ingest to fold into fraud_labels.

What belongs here: the files. What does not: what a caller may send (`decision.feedback`), how a day of them joins a
source's labels (`told`), labels whose payment nobody knows yet (`waiting`).

Each worker has one file per UTC day of arrival, `<home>/feedback/arrived=…/<worker>.jsonl`, a label a line. The files
are never changed or deleted: a day's partition can be written again and holds each label once. Other regions send
theirs to `<lake>/regions/<region>/feedback`, without the comments.
"""

import os
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import msgspec
import pyarrow as pa

from fraud_platform.lake import Lake
from fraud_platform.schema import LABELS

_OPEN_FILES = 4
"""Of two days, each with one for labels that wait."""
_REGIONS = "regions"


class FeedbackLabel(msgspec.Struct, frozen=True, kw_only=True):
    """One label as it was sent; the fields of LABELS, who sent it and a comment."""

    feedback_id: str
    caller: str
    transaction_id: str
    transaction_date: date
    arrived_at: int
    """UTC microseconds since 1970."""
    source: str
    revision: int
    state: str
    comment: str | None = None
    sent_at: int | None = None
    """When it was sent, of a label that waited for its payment: it arrived when that was found."""

    @property
    def day(self) -> date:
        """UTC day of arrival."""
        return datetime.fromtimestamp(self.arrived_at // 1_000_000, UTC).date()


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(FeedbackLabel).decode


def feedback_folder(home: Path, day: date) -> Path:
    """Where the labels that arrived on one UTC day lie."""
    return home / "feedback" / f"arrived={day.isoformat()}"


def waiting_folder(home: Path, day: date) -> Path:
    """Where those of that day lie whose payment nobody knew."""
    return home / "feedback" / "waiting" / f"arrived={day.isoformat()}"


class FeedbackWriter:
    """Appends labels for one worker; any thread may. worker: a name that no other process uses, `<pid>-<start>`."""

    def __init__(self, home: Path, worker: str) -> None:
        self._home = home
        self._name = f"{worker}.jsonl"
        self._files: dict[Path, int] = {}
        self._lock = threading.Lock()

    def append(self, label: FeedbackLabel, *, waits: bool = False) -> None:
        """Write one label; it is on the disk when this returns. Blocks for milliseconds. Raises OSError.

        waits: for its payment, which nobody knows.
        """
        line = _encode(label) + b"\n"
        folder = (waiting_folder if waits else feedback_folder)(self._home, label.day)
        with self._lock:
            descriptor = self._files.get(folder)
            if descriptor is None:
                descriptor = self._open(folder)
            written = os.write(descriptor, line)
            if written != len(line):
                # a full disk takes part of a line: what follows it could not be read
                os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
                raise OSError(f"only {written} of {len(line)} bytes of a label could be written")
            os.fsync(descriptor)

    def _open(self, folder: Path) -> int:
        while len(self._files) >= _OPEN_FILES:
            os.close(self._files.pop(min(self._files, key=lambda each: each.name)))
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / self._name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for changed in (folder, *(above for above in folder.parents if above.is_relative_to(self._home))):
            # the file's name has to outlive the machine as well
            entry = os.open(changed, os.O_RDONLY)
            try:
                os.fsync(entry)
            finally:
                os.close(entry)
        self._files[folder] = descriptor
        return descriptor

    def close(self) -> None:
        """Close the open files; a later append opens them again."""
        with self._lock:
            while self._files:
                os.close(self._files.popitem()[1])


class DamagedFeedbackError(ValueError):
    """A feedback file holds a line that no writer leaves behind."""


def read_feedback(home: Path, day: date) -> list[FeedbackLabel]:
    """The labels that arrived on one UTC day, by arrival. Raises DamagedFeedbackError.

    A killed writer may leave half a line at the end of its file; nobody was told that it was kept, and it is left out.
    """
    return read_folder(feedback_folder(home, day))


def read_folder(folder: Path) -> list[FeedbackLabel]:
    """The labels of one folder, by arrival; none where it is not there. Raises DamagedFeedbackError."""
    paths = sorted(folder.glob("*.jsonl"))
    return by_arrival(label for path in paths for label in decode_labels(str(path), path.read_bytes()))


def by_arrival(labels: Iterable[FeedbackLabel]) -> list[FeedbackLabel]:
    return sorted(labels, key=lambda label: label.arrived_at)


def decode_labels(path: str, payload: bytes) -> Iterator[FeedbackLabel]:
    """The labels of a file, without half a line at its end. Raises DamagedFeedbackError."""
    for number, line in enumerate(payload.splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            return
        try:
            yield _decode(line)
        except msgspec.MsgspecError as error:
            raise DamagedFeedbackError(f"{path}, line {number}: {error}; repair or remove the line") from error


class LabelSender:
    """Sends a region's labels to the lake, where the first region takes them up. Call `step` again and again."""

    def __init__(self, home: Path, lake: Lake, region: str) -> None:
        self._folder = home / "feedback"
        self._lake = lake
        self._name = f"{_REGIONS}/{region}/feedback"
        self._sent: dict[Path, int] = {}

    def step(self) -> int:
        """Send each file that has grown, whole; returns how many those were. Raises OSError, DamagedFeedbackError."""
        grown = 0
        for path in sorted(self._folder.glob("**/arrived=*/*.jsonl")):
            payload = path.read_bytes()
            if self._sent.get(path) == len(payload):
                continue
            # a comment is for the people here, and is erased here
            kept = (msgspec.structs.replace(label, comment=None) for label in decode_labels(str(path), payload))
            name = f"{self._name}/{path.relative_to(self._folder).as_posix()}"
            self._lake.write_document(name, b"".join(_encode(label) + b"\n" for label in kept))
            self._sent[path] = len(payload)
            grown += 1
        return grown


def of_other_regions(lake: Lake, *, waiting: bool) -> dict[date, list[str]]:
    """Paths of their files by the day of arrival: of labels that wait, or of those that do not."""
    found: dict[date, list[str]] = defaultdict(list)
    for path in lake.files(_REGIONS, "*.jsonl"):
        if ("/feedback/waiting/" in path) == waiting:
            found[date.fromisoformat(path.rsplit("/arrived=", 1)[1].split("/")[0])].append(path)
    return found


def feedback_table(labels: Sequence[FeedbackLabel]) -> pa.Table:
    """LABELS rows of feedback in order of arrival; a statement that repeats the one before it is left out."""
    said: dict[tuple[str, str, date, str, int], str] = {}
    kept = []
    for label in labels:
        subject = (label.caller, label.transaction_id, label.transaction_date, label.source, label.revision)
        if said.get(subject) != label.state:
            said[subject] = label.state
            kept.append(label)
    columns = [[getattr(label, name) for label in kept] for name in LABELS.names]
    return pa.table([pa.array(values, field.type) for values, field in zip(columns, LABELS, strict=True)], LABELS)
