"""The consumer: from the broker into the lake, each decision once.

What belongs here: reading, telling repeats, when to commit. What does not: brokers, the lake's files (`table`).
Repeats are usual: whoever is not sure that a record arrived sends it again. They are told by decision_id and mark,
against what the lake holds of that day. What was read and not committed is read again after a failure. Of several
consumers each has some partitions, where the broker shares them out; else one reads, another once that one is silent.
"""

import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from datetime import date
from typing import Any

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

KNOWN = 1_000_000
"""So many decisions of a day are known at least, the last ones: what comes again comes soon. An older one that does is
in two parts until the day is merged, and is read once."""

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
        """clock: UTC microseconds. failed(stage, error): called for bytes that are not a record."""
        self._name = name
        self._source = source
        self._table = table
        self._clock = clock
        self._failed = failed
        self._commit_us = commit_us
        self._known: OrderedDict[date, _Recent] = OrderedDict()
        self._joined = False
        self._done: dict[str, Any] = {}
        self._waiting: list[tuple[str, DecisionRecord, bytes]] = []
        self._rejected: list[tuple[str, bytes]] = []
        self._offsets: dict[str, Any] = {}
        self._since: int | None = None
        self._taken = Counter[str]()
        self._owed: dict[str, tuple[int, int]] = {}
        self._beat: dict[str, Position] | None = None
        self._heard_at = 0
        self._said_at = 0
        self._parts: defaultdict[date, list[str]] = defaultdict(list)
        self.rows = 0
        """Decisions that this consumer has put into the lake."""
        self.repeats = 0
        self.lag: dict[str, int] = {}
        """Records behind the broker's end at the last look, those that wait for a commit included, per partition of
        this consumer."""

    def step(self, seconds: float) -> None:
        """Read what is there, wait at most `seconds` for it, and commit when it is time. Raises BrokerError, OSError.

        After an error the next step begins where the lake ends.
        """
        try:
            if not self._joined and not self._join():
                time.sleep(seconds)
                return
            self._read(seconds)
            now = self._clock()
            due = self._since is not None and now - self._since >= self._commit_us
            if due or len(self._waiting) >= COMMIT_ROWS:
                self.commit()
            if now - self._said_at >= CAUGHT_UP_US:
                self._said_at = now
                self._say_caught_up(now)
        except (BrokerError, OSError):
            self._leave()
            raise

    def commit(self) -> None:
        """Put what was read into the lake, with the offsets behind it. Raises OSError, BrokerError."""
        if not self._offsets:
            return
        records = [(record, payload) for _, record, payload in self._waiting]
        rejected = [payload for _, payload in self._rejected]
        parts = self._table.commit(rows(records), {self._name: self._offsets}, rejected)
        self.rows += len(self._waiting)
        moved, self._offsets = self._offsets, {}
        self._done |= moved
        self._waiting, self._rejected, self._since = [], [], None
        self._owed = {p: (at, left - self._taken[p]) for p, (at, left) in self._owed.items()}
        self._taken.clear()
        self._source.committed(moved)
        self._fold(parts)

    def _fold(self, parts: list[str]) -> None:
        for path in parts:
            day = day_of(path)
            self._parts[day].append(path)
            if len(self._parts[day]) == FOLD_PARTS:
                self._table.fold(day, self._parts.pop(day))

    def _join(self) -> bool:
        """Begin to read where the lake ends; false while another does, of a broker that does not say who may."""
        if not self._source.shares and not self._is_ours():
            return False
        self._joined = True
        self._source.join(self._gained, self._lost)
        return True

    def _is_ours(self) -> bool:
        """Whether nobody else reads. Silence is measured by this machine's clock alone: the others' do not matter."""
        beat = self._table.committed().sources.get(self._name, {})
        if beat != self._beat:
            self._beat, self._heard_at = beat, self._clock()
        others = {at.owner for at in beat.values()} - {"", self._table.positions.writer}
        return not others or self._clock() - self._heard_at >= SILENT_US

    def _gained(self, partitions: set[str]) -> Offsets:
        offsets = self._table.positions.claim(self._name, partitions)
        self._done |= dict.fromkeys(partitions) | dict(offsets)
        # who had them may have committed since, and what was dropped when they went is not known after all
        self._known.clear()
        return offsets

    def _lost(self, partitions: set[str]) -> None:
        """Forget what was read of these and not committed: it is another's to read."""
        self._waiting = [each for each in self._waiting if each[0] not in partitions]
        self._rejected = [each for each in self._rejected if each[0] not in partitions]
        self._offsets = {p: offset for p, offset in self._offsets.items() if p not in partitions}
        self._done = {p: offset for p, offset in self._done.items() if p not in partitions}
        self.lag = {p: behind for p, behind in self.lag.items() if p not in partitions}
        self._since = self._since if self._offsets else None
        for partition in partitions:
            self._taken.pop(partition, None)
            self._owed.pop(partition, None)

    def _leave(self) -> None:
        self._joined = False
        try:
            self._source.leave()
        finally:
            self._lost(set(self._done))

    def _read(self, seconds: float) -> None:
        batch = self._source.read(_READ, seconds)
        if not batch.records:
            return
        self._offsets |= batch.offsets
        self._since = self._since or self._clock()
        self._taken.update(partition for partition, _ in batch.records)
        for partition, payload in batch.records:
            try:
                record = decode_record(payload)
            except msgspec.MsgspecError as error:
                # not ours, or of another version: kept beside the log, and somebody has to know
                self._failed("inference_log", error)
                self._rejected.append((partition, payload))
                continue
            if not self._keys(record.day).add(record.log_key):
                self.repeats += 1
                continue
            self._waiting.append((partition, record, payload))

    def _keys(self, day: date) -> "_Recent":
        """The last decisions of a day that the lake has or that wait; of the last days that were asked for."""
        known = self._known.get(day)
        if known is None:
            waiting = {record.log_key for _, record, _ in self._waiting if record.day == day}
            known = self._known[day] = _Recent(self._table.log_keys(day, KNOWN) | waiting)
            while len(self._known) > _KEPT_DAYS:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(day)
        return known

    def _say_caught_up(self, now: int) -> None:
        """Tell of partitions with nothing behind, and of those where as much was committed since an earlier look as was
        behind then: where decisions come without a pause, something always is."""
        every = self._look()
        reached = [partition for partition, behind in self.lag.items() if behind == 0]
        settled = {p: at for p, (at, left) in self._owed.items() if left <= 0 and p not in reached}
        for at in sorted(set(settled.values())):
            these = [p for p in settled if settled[p] == at]
            self._table.positions.note_caught_up(self._name, these, every, at)
        if reached:
            self._table.positions.note_caught_up(self._name, reached, every, now)
        owed = {p: each for p, each in self._owed.items() if p not in settled}
        self._owed = {p: owed.get(p, (now, behind)) for p, behind in self.lag.items() if behind}

    def look(self) -> int:
        """Ask for the lag of what this consumer has; the sum. Raises BrokerError."""
        self._look()
        return sum(self.lag.values())

    def _look(self) -> set[str]:
        """All partitions that the source has."""
        behind = self._source.lag({p: offset for p, offset in self._done.items() if offset is not None})
        self.lag = {partition: behind[partition] for partition in self._done if partition in behind}
        return set(behind)

    def close(self) -> None:
        """Commit what was read, as far as that still can be done, and end the source."""
        try:
            if self._joined:
                self.commit()
                self._table.positions.release(self._name)
        finally:
            self._source.close()


class _Recent:
    """Ids, of which the oldest are forgotten: those since the last half is full, and the half before them."""

    def __init__(self, ids: set[str]) -> None:
        self._before, self._since = ids, set[str]()

    def add(self, identifier: str) -> bool:
        """Whether it was not known."""
        if identifier in self._since or identifier in self._before:
            return False
        if len(self._since) >= KNOWN:
            self._before, self._since = self._since, set()
        self._since.add(identifier)
        return True
