"""Consumers between which a broker shares its partitions out, turn by turn, on a broker of lists."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fraud_platform.inference_log import consumer as consumer_module
from fraud_platform.inference_log.broker import Batch, BrokerError, Gained, Lost, Offsets
from fraud_platform.inference_log.consumer import CAUGHT_UP_US, Consumer
from fraud_platform.inference_log.positions import OtherWriterError
from fraud_platform.inference_log.record import encode_record
from fraud_platform.inference_log.table import LogTable
from fraud_platform.lake import Lake
from tests.record_kit import DAY, records

Partitions = dict[str, list[bytes]]


class ListSource:
    """What one consumer has of a broker whose partitions are lists; `shared_out` says what it has from then on."""

    shares = True

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions
        self._told: list[Callable[[], None]] = []
        self._next: dict[str, int] = {}
        self.shown: dict[str, int] = {}
        self.joined = 0

    def join(self, gained: Gained, lost: Lost) -> None:
        self._gained, self._lost = gained, lost
        self.joined += 1

    def leave(self) -> None:
        if self._next:
            self._lost(set(self._next))
        self._next = {}

    def shared_out(self, *partitions: str) -> None:
        self._told.append(lambda: self._share(set(partitions)))

    def _share(self, partitions: set[str]) -> None:
        taken, given = set(self._next) - partitions, partitions - set(self._next)
        self._next = {p: at for p, at in self._next.items() if p in partitions}
        if taken:
            self._lost(taken)
        if given:
            self._next |= dict.fromkeys(given, 0) | dict(self._gained(given))

    def read(self, limit: int, seconds: float) -> Batch:
        for tell in self._told:
            tell()
        self._told = []
        found: list[tuple[str, bytes]] = []
        for partition, at in self._next.items():
            payloads = self._partitions[partition][at : at + limit]
            found += [(partition, payload) for payload in payloads]
            self._next[partition] += len(payloads)
        return Batch(found, {p: self._next[p] for p, _ in found})

    def lag(self, offsets: Offsets) -> dict[str, int]:
        return {p: len(held) - offsets.get(p, 0) for p, held in self._partitions.items()}

    def committed(self, offsets: Offsets) -> None:
        self.shown |= offsets

    def close(self) -> None:
        self.leave()


class Group:
    """A lake, a broker of three partitions and consumers of both, which step when they are told."""

    def __init__(self, folder: Path) -> None:
        self.lake = Lake(str(folder))
        self.table = LogTable(self.lake)
        self.partitions: Partitions = {"0": [], "1": [], "2": []}
        self.now = CAUGHT_UP_US
        self.sent = 0

    def send(self, partition: str, count: int = 1) -> None:
        self.partitions[partition] += [encode_record(each) for each in records(count, first=self.sent)]
        self.sent += count

    def member(self, name: str, *partitions: str) -> tuple[Consumer, ListSource]:
        source = ListSource(self.partitions)
        source.shared_out(*partitions)
        made = Consumer(
            "kafka", source, LogTable(self.lake, name), clock=lambda: self.now, failed=lambda *_: None, commit_us=1
        )
        return made, source

    def step(self, *consumers: Consumer) -> None:
        """Read, then commit what was read."""
        for consumer in consumers:
            consumer.step(0)
            self.now += 2
            consumer.step(0)

    def held(self) -> list[str]:
        """Ids in the lake's files as they are, twice where they lie twice."""
        paths = self.lake.files("inference_log", "*.parquet")
        return sorted(
            i for path in paths for i in self.lake.read_file(path, ["decision_id"])["decision_id"].to_pylist()
        )

    def all_once(self) -> bool:
        return self.held() == [each.decision_id for each in records(self.sent)]

    def offsets(self) -> Offsets:
        return self.table.committed().offsets("kafka")


@pytest.fixture
def group(tmp_path: Path) -> Group:
    return Group(tmp_path)


def test_each_reads_what_it_is_given_and_all_is_in_the_lake_once(group: Group) -> None:
    (one, _), (two, _) = group.member("one", "0", "1"), group.member("two", "2")
    for partition in "012012":
        group.send(partition, 5)
        group.step(one, two)
    assert group.all_once()
    assert group.offsets() == {"0": 10, "1": 10, "2": 10}
    assert {p: at.owner for p, at in group.table.committed().sources["kafka"].items()} == {
        "0": "one", "1": "one", "2": "two",
    }  # fmt: skip


def test_what_waits_of_a_partition_that_is_taken_away_is_anothers_to_write(group: Group) -> None:
    (one, source), (two, its) = group.member("one", "0", "1"), group.member("two")
    group.send("0", 3)
    group.send("1", 4)
    one.step(0)
    source.shared_out("0")
    one.step(0)
    its.shared_out("1")
    group.step(two)
    assert (two.rows, group.offsets()) == (4, {"1": 4})
    group.step(one)
    assert (one.rows, group.offsets()) == (3, {"0": 3, "1": 4})
    assert source.shown == {"0": 3}
    assert one.look() == 0
    assert one.lag == {"0": 0}
    assert group.all_once()


def test_a_partition_that_goes_and_comes_back_is_read_again_and_not_taken_for_known(group: Group) -> None:
    one, source = group.member("one", "0")
    group.send("0", 3)
    one.step(0)
    source.shared_out()
    one.step(0)
    source.shared_out("0")
    group.step(one)
    assert group.all_once()
    assert (one.repeats, group.offsets()) == (0, {"0": 3})


def test_what_another_has_committed_meanwhile_is_known_when_a_partition_comes(group: Group) -> None:
    (one, source), (two, its) = group.member("one", "0", "1"), group.member("two")
    group.send("0", 3)
    group.send("1", 3)
    group.step(one)
    source.shared_out("0")
    one.step(0)
    its.shared_out("1")
    group.send("1", 2)
    group.step(two)
    # the broker gives the last ones again, as after a producer's retry
    group.partitions["1"] += group.partitions["1"][3:]
    its.shared_out()
    two.step(0)
    source.shared_out("0", "1")
    group.step(one)
    assert one.repeats == 2
    assert group.all_once()


def test_who_slept_through_a_rebalance_moves_no_offset_and_begins_anew(group: Group) -> None:
    (sleeper, source), (other, _) = group.member("sleeper", "0", "1"), group.member("other", "0")
    group.send("0", 3)
    group.send("1", 3)
    sleeper.step(0)
    group.step(other)
    group.send("0", 2)
    group.step(other)
    before = group.table.committed()
    group.now += 2
    with pytest.raises(OtherWriterError, match="other writes kafka, 0, not sleeper"):
        sleeper.step(0)
    assert group.table.committed() == before
    assert source.shown == {}
    source.shared_out("1")
    group.step(sleeper, other)
    assert source.joined == 2
    assert group.offsets() == {"0": 5, "1": 3}
    assert group.all_once()


def test_who_sleeps_between_its_rows_and_its_offsets_doubles_nothing_for_a_reader(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sleeper, _), (other, _) = group.member("sleeper", "0"), group.member("other", "0")
    group.send("0", 3)
    sleeper.step(0)
    add = LogTable._add

    def slow(self: LogTable, *arguments: object) -> str:
        monkeypatch.setattr(LogTable, "_add", add)
        group.send("0", 1)
        group.step(other)
        return add(self, *arguments)  # type: ignore[arg-type]

    group.now += 2
    monkeypatch.setattr(LogTable, "_add", slow)
    with pytest.raises(OtherWriterError):
        sleeper.step(0)
    assert group.offsets() == {"0": 4}
    assert list(group.table.records(DAY)) == records(4)


def test_of_a_day_the_last_decisions_are_known_and_an_older_one_that_comes_again_is_read_once(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "KNOWN", 10)
    one, _ = group.member("one", "0")
    for _ in range(30):
        group.send("0")
        group.step(one)
    sent = group.partitions["0"]
    sent += [sent[25], sent[0]]
    group.step(one)
    assert one.repeats == 1
    assert list(group.table.records(DAY)) == records(30)
    # one that begins reads no more of the day than that
    read: list[str] = []
    read_file = Lake.read_file
    monkeypatch.setattr(Lake, "read_file", lambda self, path, *rest: read.append(path) or read_file(self, path, *rest))
    two, _ = group.member("two", "0")
    group.partitions["0"] += [sent[25]]
    group.step(two)
    assert (two.repeats, len(read)) == (1, 10)


def test_a_source_is_caught_up_when_every_partition_is_whoever_reads_it(group: Group) -> None:
    (one, _), (two, _) = group.member("one", "0", "1"), group.member("two", "2")
    group.send("0")
    group.step(one)
    group.now += CAUGHT_UP_US
    one.step(0)
    assert group.table.committed().caught_up_at("kafka") == 0
    group.send("2")
    two.step(0)
    assert group.table.committed().caught_up_at("kafka") == 0  # one record waits for its commit
    group.step(two)
    group.now += CAUGHT_UP_US
    two.step(0)
    assert 0 < group.table.committed().caught_up_at("kafka") < group.now
    assert (one.lag, two.lag) == ({"0": 0, "1": 0}, {"2": 0})


def test_where_decisions_come_without_a_pause_it_is_caught_up_with_what_was_behind_once_all_of_that_is_committed(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "_READ", 3)
    group.partitions = {"0": []}
    one, _ = group.member("one", "0")

    def caught_up_at() -> int:
        return group.table.committed().caught_up_at("kafka")

    looked_at = group.now
    group.send("0", 5)
    one.step(0)
    one.commit()
    assert one.look() == 2
    group.send("0")
    group.now += CAUGHT_UP_US
    one.step(0)
    assert (one.look(), caught_up_at()) == (3, 0)  # two of the five are read, not committed
    one.commit()
    group.send("0")
    group.now += CAUGHT_UP_US
    one.step(0)
    assert (one.look(), caught_up_at()) == (1, looked_at)


def test_after_a_failure_it_begins_where_the_lake_ends(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    one, source = group.member("one", "0")
    group.send("0", 3)
    with monkeypatch.context() as patch:
        patch.setattr(ListSource, "committed", lambda *_: (_ for _ in ()).throw(BrokerError("away")))
        with pytest.raises(BrokerError):
            group.step(one)
    assert group.offsets() == {"0": 3}
    group.send("0", 2)
    source.shared_out("0")
    group.step(one)
    one.close()
    assert group.all_once()
    assert [at.owner for at in group.table.committed().sources["kafka"].values()] == [""]
