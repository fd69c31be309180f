"""What callers have said of a payment, found at once: an index over the files of their labels.

What belongs here: the SQLite file `<home>/labels/feedback.sqlite`. What does not: the labels (`feedback`, `waiting`),
which of them counts (`features.label_rules`). The files are the truth: what is missing here is read from them before
every answer, and a lost index is made anew.
"""

import sqlite3
import threading
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

from fraud_platform.ingest.feedback import FeedbackLabel, decode_labels

_LATE_DAYS = 3
"""A folder this many days older than the newest one read gets no further labels, but by a history built again."""
_WAIT_SECONDS = 1.0

_TABLES = """
create table if not exists files (path text primary key, bytes integer not null) without rowid;
create table if not exists said (
    feedback_id text primary key, caller text not null, transaction_id text not null, transaction_date text not null,
    arrived_at integer not null, source text not null, revision integer not null, state text not null
) without rowid;
create index if not exists of_payment on said (caller, transaction_id);
create table if not exists waiting (
    feedback_id text primary key, caller text not null, day text not null
) without rowid;
create index if not exists of_caller on waiting (caller);
"""
_SAID = """
select feedback_id, arrived_at, source, revision, state from said
where caller = ? and transaction_id = ? and transaction_date = ?
"""
_WAITING = """
select count(*) from waiting where caller = ? and day >= ? and feedback_id not in (select feedback_id from said)
"""


class FeedbackIndex:
    """The index of a home, which its workers share; any thread may ask.

    Raises sqlite3.Error, OSError, DamagedFeedbackError.
    """

    def __init__(self, home: Path) -> None:
        self._root = home / "feedback"
        self._path = home / "labels" / "feedback.sqlite"
        self._lock = threading.Lock()
        self._opened: sqlite3.Connection | None = None

    def said(self, caller: str, transaction_id: str, transaction_date: date) -> list[FeedbackLabel]:
        """Every label on a payment that has arrived, without comments, in no order."""
        with self._lock:
            asked = (caller, transaction_id, transaction_date.isoformat())
            rows = self._caught_up().execute(_SAID, asked).fetchall()
        return [
            FeedbackLabel(
                feedback_id=feedback_id,
                caller=caller,
                transaction_id=transaction_id,
                transaction_date=transaction_date,
                arrived_at=arrived_at,
                source=source,
                revision=revision,
                state=state,
            )
            for feedback_id, arrived_at, source, revision, state in rows
        ]

    def waiting(self, caller: str, since: date) -> int:
        """How many of a caller's labels wait that were sent from the UTC day `since` on."""
        with self._lock:
            return int(self._caught_up().execute(_WAITING, (caller, since.isoformat())).fetchone()[0])

    def close(self) -> None:
        """Close the file; the next question opens it again."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    def _caught_up(self) -> sqlite3.Connection:
        """The file, with everything that has been written so far."""
        if self._opened is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._opened = sqlite3.connect(
                self._path, timeout=_WAIT_SECONDS, check_same_thread=False, isolation_level=None
            )
            self._opened.executescript(_TABLES)
        connection = self._opened
        read: dict[str, int] = dict(connection.execute("select path, bytes from files").fetchall())
        for path in list(self._grown(read)):
            self._read(connection, path)
        return connection

    def _grown(self, read: dict[str, int]) -> Iterator[Path]:
        newest = max((_day(Path(name).parent) for name in read), default=None)
        for folder in (*self._root.glob("arrived=*"), *self._root.glob("waiting/arrived=*")):
            if newest is None or folder.parent != self._root or _day(folder) >= newest - timedelta(days=_LATE_DAYS):
                for path in folder.glob("*.jsonl"):
                    if path.stat().st_size > read.get(self._name(path), 0):
                        yield path

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def _read(self, connection: sqlite3.Connection, path: Path) -> None:
        """Take up what a file has more than when it was last read, by this worker or another."""
        name = self._name(path)
        connection.execute("begin immediate")
        try:
            known = connection.execute("select bytes from files where path = ?", (name,)).fetchone()
            begin = known[0] if known else 0
            with path.open("rb") as file:
                file.seek(begin)
                lines, end, _ = file.read().rpartition(b"\n")
            labels = list(decode_labels(str(path), lines + end))
            if path.is_relative_to(self._root / "waiting"):
                waiting = [(label.feedback_id, label.caller, label.day.isoformat()) for label in labels]
                connection.executemany("insert or ignore into waiting values (?, ?, ?)", waiting)
            else:
                said = [
                    (
                        *(label.feedback_id, label.caller, label.transaction_id, label.transaction_date.isoformat()),
                        *(label.arrived_at, label.source, label.revision, label.state),
                    )
                    for label in labels
                ]
                connection.executemany("insert or ignore into said values (?, ?, ?, ?, ?, ?, ?, ?)", said)
            connection.execute("insert or replace into files values (?, ?)", (name, begin + len(lines + end)))
            connection.execute("commit")
        except BaseException:
            connection.execute("rollback")
            raise


def _day(folder: Path) -> date:
    return date.fromisoformat(folder.name.removeprefix("arrived="))
