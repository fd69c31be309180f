"""The control store on PostgreSQL: changes in one order that nobody alters, and the workers that follow them.

What belongs here: reading, changing, who follows. What does not: the tables (`migrations`), waiting for changes
(`listen`), what a change means to a home (`decision.policy_control`).

Whoever changes anything holds the store's lock meanwhile, so that changes of two homes come one after the other and
each is made of what the one before has left.
"""

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self

import psycopg
from psycopg.types.json import Jsonb

from fraud_platform.control import words
from fraud_platform.control.words import Words
from fraud_platform.settings import Settings

CHANNEL = "fraud_control"
"""What each change notifies."""
ANSWER_SECONDS = 5.0
"""How long the store may take for one change, or one look at it."""
FOLLOW_SECONDS = 60.0
"""How long a home may take to follow: at first it gets every version that ever was."""
GONE = timedelta(seconds=30)
"""How long after its last word a worker is taken for ended."""

_CONNECT_SECONDS = 2
_LOCK = 4_051_727_311
"""Any number that nothing else locks by."""
_LIMITS = "SET LOCAL lock_timeout = '4s'; SET LOCAL idle_in_transaction_session_timeout = '10s'"
"""Of a change: others wait for whoever holds the lock, and whoever is gone holds it no longer."""
_LOST_MS = 5_000
"""After which a connection that answers nothing counts as lost, where it goes over a network."""


class ControlError(RuntimeError):
    """The control store cannot be asked, or not with this home; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class StoredChange:
    """One change of one kind of control state."""

    seq: int
    """1, 2, … over all kinds."""
    kind: str
    document: Any
    """JSON: what is in force from then on."""
    line: dict[str, Any]
    """The ledger's line of the change, as JSON."""


class ControlStore:
    """One connection to the store. Not for two threads at once. Everything raises ControlError."""

    def __init__(self, connection: "psycopg.Connection[Any]") -> None:
        """connection: in autocommit."""
        self.connection = connection

    @classmethod
    @contextmanager
    def opened(cls, url: str) -> Iterator[Self]:
        """Connect; whatever PostgreSQL refuses or lets wait within becomes a ControlError."""
        with (
            errors_told(),
            psycopg.connect(
                url,
                autocommit=True,
                connect_timeout=_CONNECT_SECONDS,
                application_name="fraud",
                # a pool in between may hand each transaction another connection
                prepare_threshold=None,
                keepalives_idle=5,
                tcp_user_timeout=_LOST_MS,
            ) as connection,
        ):
            yield cls(connection)

    @contextmanager
    def answering(self, seconds: float = ANSWER_SECONDS) -> Iterator[None]:
        """Cut the connection where the store does not answer in time: one that is paused would be waited for without
        end, and no setting of PostgreSQL's ends that."""

        def cut() -> None:
            with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self.connection.fileno())) as end:
                end.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(seconds, cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    @property
    def id(self) -> str:
        """By which a home knows its store."""
        return str(self._one("SELECT id FROM fraud_control.store")[0])

    def newest(self, kind: str) -> int:
        """Number of the last change of a kind; 0 before the first."""
        found = self._one("SELECT coalesce(max(seq), 0) FROM fraud_control.change WHERE kind = %s", kind)
        return int(found[0])

    def last(self, kind: str) -> StoredChange | None:
        """The change that is in force; None before the first."""
        return next(self.since(kind, self.newest(kind) - 1), None)

    def since(self, kind: str, seq: int) -> Iterator[StoredChange]:
        """Changes of a kind after one, in order."""
        while True:
            rows = self.connection.execute(
                "SELECT seq, document, line FROM fraud_control.change WHERE kind = %s AND seq > %s ORDER BY seq "
                "LIMIT 100",
                (kind, seq),
            ).fetchall()
            texts = self._texts({number for row in rows for part in row[1:] for number in words.numbers_in(part)})
            for seq, document, line in rows:
                yield StoredChange(
                    seq=seq, kind=kind, document=words.shown(document, texts), line=words.shown(line, texts)
                )
            if len(rows) < 100:
                return

    @contextmanager
    def changing(self, seconds: float = ANSWER_SECONDS) -> Iterator[None]:
        """Hold the store's lock: nothing changes but by `add`, and what was added is in force at the end of this, all
        of it or, where anything is raised, nothing."""
        with self.answering(seconds), self.connection.transaction():
            self.connection.execute(_LIMITS)
            self.connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            yield

    def add(self, kind: str, document: Any, line: dict[str, Any], at: datetime) -> StoredChange:
        """Add a change, the lock being held. document, line: JSON. at: with a time zone."""
        numbers = self._numbers(words.found(document) | words.found(line))
        (seq,) = self._one(
            "INSERT INTO fraud_control.change (seq, kind, at, document, line) "
            "SELECT coalesce(max(seq), 0) + 1, %s, %s, %s, %s FROM fraud_control.change RETURNING seq",
            kind,
            at,
            Jsonb(words.hidden(document, numbers)),
            Jsonb(words.hidden(line, numbers)),
        )
        self.connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, kind))
        return StoredChange(seq=seq, kind=kind, document=document, line=line)

    def every_word(self) -> Iterator[tuple[int, Words]]:
        """What may name people, by its number."""
        for number, place, text in self.connection.execute("SELECT id, place, text FROM fraud_control.words"):
            yield number, Words(place, text)

    def rename(self, texts: dict[int, str]) -> None:
        """Put others in the place of words, for an erasure; the history stays as it is."""
        with self.answering(), self.connection.transaction():
            for number, text in texts.items():
                self.connection.execute("UPDATE fraud_control.words SET text = %s WHERE id = %s", (text, number))

    def tell(self, worker: str, note: bytes) -> None:
        """Say what a worker goes by now, and that it lives. worker: a name that no other has. note: JSON."""
        self.connection.execute(
            "INSERT INTO fraud_control.worker (name, note, seen_at) VALUES (%s, %s, now()) "
            "ON CONFLICT (name) DO UPDATE SET note = excluded.note, seen_at = excluded.seen_at",
            (worker, Jsonb(json.loads(note))),
        )

    def leave(self, worker: str) -> None:
        """Take a worker's note away, at its end; and those of workers that ended without a word."""
        self.connection.execute(
            "DELETE FROM fraud_control.worker WHERE name = %s OR seen_at < now() - %s", (worker, GONE)
        )

    def workers(self) -> list[bytes]:
        """The note of each worker that was heard of lately."""
        rows = self.connection.execute(
            "SELECT note FROM fraud_control.worker WHERE seen_at >= now() - %s ORDER BY name", (GONE,)
        )
        return [json.dumps(note).encode() for (note,) in rows]

    def _one(self, query: str, *values: Any) -> tuple[Any, ...]:
        row = self.connection.execute(query, values).fetchone()
        if row is None:
            raise ControlError("the control store is empty: `fraud-platform control join` prepares it")
        return tuple(row)

    def _texts(self, numbers: set[int]) -> dict[int, str]:
        rows = self.connection.execute("SELECT id, text FROM fraud_control.words WHERE id = ANY(%s)", (list(numbers),))
        return dict(rows.fetchall())

    def _numbers(self, wanted: set[Words]) -> dict[Words, int]:
        """A number for all words; the same as before for those that are kept already."""
        known = self._known(wanted)
        new = sorted(wanted - known.keys())
        if new:
            with self.connection.cursor() as cursor:
                cursor.executemany("INSERT INTO fraud_control.words (place, text) VALUES (%s, %s)", new)
            known = self._known(wanted)
        return known

    def _known(self, wanted: set[Words]) -> dict[Words, int]:
        rows = self.connection.execute(
            "SELECT place, text, max(id) FROM fraud_control.words WHERE text = ANY(%s) GROUP BY place, text",
            (sorted({text for _, text in wanted}),),
        )
        found = {Words(place, text): number for place, text, number in rows}
        return {one: found[one] for one in wanted if one in found}


@contextmanager
def errors_told() -> Iterator[None]:
    """PostgreSQL's errors as ControlError."""
    try:
        yield
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
        raise ControlError(
            "FRAUD_CONTROL_URL names a database without a control store: `fraud-platform control join` makes one"
        ) from error
    except psycopg.Error as error:
        raise ControlError(f"the control store that FRAUD_CONTROL_URL names cannot be used: {error}") from error


def control_url(settings: Settings) -> str | None:
    """Address of the store; None where a home is alone."""
    return settings.control_url.get_secret_value() or None if settings.control_url else None


def place_of(settings: Settings) -> str:
    """How a home is called in the store: in another container or on another machine the same path is another home."""
    return f"{socket.gethostname()}:{settings.home.absolute()}"
