"""The consumer: from the broker into the lake, each decision once.

What belongs here: reading, telling repeats, when to commit. What does not: brokers, the lake's files (`table`).
Repeats are usual: whoever is not sure that a record arrived sends it again. They are told by decision_id, against what
the lake holds of that day. What was read and not committed is read again after a failure. Of several consumers of one
source one writes; the others stand by, and one of them goes on when it has been silent.
"""

import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from datetime import date

import msgspec

from fraud_platform.inference_log.broker import BrokerError, Offsets, Source
from fraud_platform.inference_log.positions import Position
from fraud_platform.inference_log.record import DecisionRecord, decode_record
from fraud_platform.inference_log.table import LogTable, rows
from fraud_platform.lake import day_of

COMMIT_US = 5_000_000
"""A commit is made this often, or sooner when COMMIT_ROWS wait; the parts are merged when the day is over."""
COMMIT_ROWS = 20_000
CAUGHT_UP_US = 10_000_000
"""How often the lake is told that nothing is behind, while nothing is."""

SILENT_US = 30_000_000
"""How long a writer says nothing before another takes its place: three times CAUGHT_UP_US."""
FOLD_PARTS = 100
"""So many parts of a day become one, so that a day has no more than a few hundred files before it is merged."""

_READ = 2_000
_KEPT_DAYS = 3


class Consumer:
    """Fills one lake from one broker. Call `step` again and again, from one thread; `name` is the broker's."""

    def __init__(
        self,
        name: str,
        source: Source,
        table: LogTable,
        *,
        clock: Callable[[], int],
        failed: Callable[[str, BaseException], None],
        commit_us: int = COMMIT_US,
    ) -> None:
        """clock: UTC microseconds. failed(stage, error): told of a record that is none."""
        self._name = name
        self._source = source
        self._table = table
        self._clock = clock
        self._failed = failed
        self._commit_us = commit_us
        self._known: OrderedDict[date, set[str]] = OrderedDict()
        self._waiting: list[tuple[DecisionRecord, bytes]] = []
        self._rejected: list[bytes] = []
        self._since: int | None = None
        self._offsets: Offsets = {}
        self._placed = False
        self._beat: dict[str, Position] | None = None
        self._heard_at = 0
        self._said_at = 0
        self._parts: defaultdict[date, list[str]] = defaultdict(list)
        self.rows = 0
        """Decisions that this consumer has put into the lake."""
        self.repeats = 0
        self.lag = 0
        """Records behind the broker's end at the last look, those that wait for a commit included."""

    def step(self, seconds: float) -> None:
        """Read what is there, wait at most `seconds` for it, and commit when it is time. Raises BrokerError, OSError.

        After an error the next step begins where the lake ends.
        """
        try:
            if not self._placed and not self._place():
                time.sleep(seconds)
                return
            self._read(seconds)
            now = self._clock()
            due = self._since is not None and now - self._since >= self._commit_us
            if due or len(self._waiting) >= COMMIT_ROWS:
                self.commit()
            elif self._since is None:
                self._say_caught_up(now)
        except (BrokerError, OSError):
            self._placed = False
            raise

    def commit(self) -> None:
        """Put what was read into the lake, with the offsets behind it. Raises OSError, BrokerError."""
        if self._since is None:
            return
        parts = self._table.commit(rows(self._waiting), {self._name: self._offsets}, self._rejected)
        self.rows += len(self._waiting)
        self._waiting, self._rejected, self._since = [], [], None
        self._source.committed(self._offsets)
        self._fold(parts)

    def _fold(self, parts: list[str]) -> None:
        for path in parts:
            day = day_of(path)
            self._parts[day].append(path)
            if len(self._parts[day]) == FOLD_PARTS:
                self._table.fold(day, self._parts.pop(day))

    def _place(self) -> bool:
        """Become the writer, go to where the lake ends, and forget what it does not have; false while another writes.

        Silence is measured by this machine's clock alone: the others' clocks do not matter.
        """
        self._waiting, self._rejected, self._since = [], [], None
        self._known.clear()
        beat = self._table.committed().sources.get(self._name, {})
        if beat != self._beat:
            self._beat, self._heard_at = beat, self._clock()
        others = {at.owner for at in beat.values()} - {"", self._table.positions.writer}
        if others and self._clock() - self._heard_at < SILENT_US:
            return False
        self._source.seek(self._table.positions.claim(self._name, self._source.partitions()))
        self._placed = True
        return True

    def _read(self, seconds: float) -> None:
        batch = self._source.read(_READ, seconds)
        if not batch.payloads:
            return
        self._offsets = batch.offsets
        self._since = self._since or self._clock()
        for payload in batch.payloads:
            try:
                record = decode_record(payload)
            except msgspec.MsgspecError as error:
                # not ours, or of another version: kept beside the log, and somebody has to know
                self._failed("inference_log", error)
                self._rejected.append(payload)
                continue
            known = self._ids(record.day)
            if record.decision_id in known:
                self.repeats += 1
                continue
            known.add(record.decision_id)
            self._waiting.append((record, payload))

    def _ids(self, day: date) -> set[str]:
        """The decisions of a day that the lake has or that wait; a set of the last days that were asked for."""
        known = self._known.get(day)
        if known is None:
            waiting = {record.decision_id for record, _ in self._waiting if record.day == day}
            known = self._known[day] = self._table.decision_ids(day) | waiting
            while len(self._known) > _KEPT_DAYS:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(day)
        return known

    def _say_caught_up(self, now: int) -> None:
        if now - self._said_at >= CAUGHT_UP_US and self.look() == 0:
            every = self._source.partitions()
            self._table.positions.note_caught_up(self._name, every, every, now)
            self._said_at = now

    def look(self) -> int:
        """Ask for the lag. Raises BrokerError."""
        self.lag = self._source.lag()
        return self.lag

    def close(self) -> None:
        """Commit what was read, as far as that still can be done, and end the source."""
        try:
            if self._placed:
                self.commit()
                self._table.positions.release(self._name)
        finally:
            self._source.close()
