"""Several consumers of one Kafka topic, which come, die, sleep and wake while records are sent.

What must hold: each decision is in the lake once, and at any time none of a user's is there before an earlier one.
"""

import signal
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from msgspec.structs import replace

from fraud_platform.inference_log.broker import Message
from fraud_platform.inference_log.kafka import KafkaProducer, KafkaSource
from fraud_platform.inference_log.record import DecisionRecord, encode_record
from fraud_platform.inference_log.table import LogTable
from fraud_platform.lake import Lake
from tests.integration.kafka_kit import Kafka, kafka, wanted
from tests.integration.kafka_members import SESSION_SECONDS, SOURCE, Members, members
from tests.record_kit import DAY, records

USERS = 40
PARTITIONS = 10
"""Of a real broker; those of the mock cluster are four."""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    with kafka(tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest.fixture
def topic(broker: Kafka) -> str:
    name = f"wide-{uuid.uuid4().hex[:8]}"
    if broker.kind != "librdkafka's mock cluster":
        client = AdminClient({"bootstrap.servers": broker.bootstrap})
        client.create_topics([NewTopic(name, PARTITIONS, 1)])[name].result(30)
    return name


class Traffic:
    """Decisions of some users, sent without end; `sent` are those that the broker took."""

    def __init__(self, broker: Kafka, topic: str) -> None:
        self._producer = KafkaProducer(broker.bootstrap, topic, {})
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self.sent: list[DecisionRecord] = []
        self.send()  # the topic is there, whoever makes it

    def send(self) -> None:
        """A decision of each user, five times."""
        made = []
        for each in records(5 * USERS, first=len(self.sent)):
            number, user = divmod(int(each.decision_id, 16), USERS)
            made.append(of_user(each, f"u-{user}", number))
        self._producer.send([Message(each.request.user_id.encode(), encode_record(each)) for each in made])
        self.sent += made

    def _send(self) -> None:
        while not self._stop.is_set():
            self.send()
            time.sleep(0.05)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
            self._producer.close()


def of_user(record: DecisionRecord, user: str, number: int) -> DecisionRecord:
    """A record of a user, the number-th of theirs."""
    request = replace(record.request, user_id=user, transaction_id=f"{user}/{number}")
    return replace(record, request=request)


class Watcher:
    """Looks at the lake again and again: `faults` is what should never be seen."""

    def __init__(self, lake: Lake) -> None:
        self._table = LogTable(lake)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.faults: list[str] = []
        self.looks = 0
        self._thread.start()

    def _numbers(self) -> dict[str, set[int]]:
        found = defaultdict(set)
        for name in self._table.read(DAY, ["transaction_id"]).column("transaction_id").to_pylist():
            user, number = name.split("/")
            found[user].add(int(number))
        return found

    def _watch(self) -> None:
        before: dict[str, int] = {}
        while not self._stop.wait(0.3):
            earlier, later = self._numbers(), self._numbers()
            for user, numbers in earlier.items():
                missing = set(range(max(numbers))) - later[user]
                if missing:
                    self.faults.append(f"{user} has {max(numbers)} before {sorted(missing)[:5]}")
            offsets = dict(self._table.committed().offsets(SOURCE))
            self.faults += [f"{p}: {offset} to {offsets.get(p)}" for p, offset in before.items() if offsets[p] < offset]
            before, self.looks = offsets, self.looks + 1

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


class Stage:
    """A topic, its lake and what happens on both."""

    def __init__(self, broker: Kafka, topic: str, folder: Path) -> None:
        self.lake = Lake(str(folder / "lake"))
        self.table = LogTable(self.lake)
        self.traffic = Traffic(broker, topic)
        self.source = KafkaSource(broker.bootstrap, topic, {})
        self.partitions = set(self.source.lag({}))
        self.watcher = Watcher(self.lake)

    def owners(self) -> list[str]:
        """Who reads each partition; empty where nobody does."""
        held = self.table.committed().sources.get(SOURCE, {})
        return [held[p].owner if p in held else "" for p in self.partitions]

    def shared_by(self, *names: str) -> None:
        """Wait until these read all partitions, each some."""
        self.wait(lambda: set(self.owners()) == set(names))
        grown, commits = len(self.traffic.sent), self.table.committed().number
        self.wait(lambda: len(self.traffic.sent) > grown and self.table.committed().number > commits + len(names))

    @staticmethod
    def wait(reached: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not reached():
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def behind(self) -> int:
        return sum(self.source.lag(self.table.committed().offsets(SOURCE)).values())

    def end(self) -> None:
        self.traffic.end()
        self.watcher.end()
        self.source.close()


@pytest.fixture
def stage(broker: Kafka, topic: str, tmp_path: Path) -> Iterator[Stage]:
    made = Stage(broker, topic, tmp_path)
    made.traffic.start()
    yield made
    made.end()


@pytest.fixture
def group(broker: Kafka, topic: str, stage: Stage) -> Iterator[Members]:
    with members(stage.lake.root, broker.bootstrap, topic) as made:
        yield made


def all_of_it_is_there_once_and_in_order(stage: Stage, group: Members, *left: str) -> None:
    stage.traffic.end()
    stage.wait(lambda: stage.behind() == 0)
    for name in left:
        group.end(name)
    stage.watcher.end()
    assert stage.watcher.faults == []
    assert stage.watcher.looks > 10
    assert list(stage.table.records(DAY)) == stage.traffic.sent
    assert set(stage.owners()) == {""}


def test_what_a_killed_consumer_read_is_read_by_the_others_and_one_that_comes_gets_its_part(
    stage: Stage, group: Members
) -> None:
    group.start("one", "two")
    stage.shared_by("one", "two")
    group.signal("one", signal.SIGKILL)
    stage.shared_by("two")
    group.start("three")
    stage.shared_by("two", "three")
    all_of_it_is_there_once_and_in_order(stage, group, "two", "three")


@pytest.mark.skipif(wanted() == "mock", reason="ten partitions and a minute and a half of rebalances: make test-kafka")
def test_consumers_that_die_sleep_wake_and_come_lose_nothing_double_nothing_and_keep_each_users_order(
    stage: Stage, group: Members
) -> None:
    assert len(stage.partitions) == PARTITIONS
    group.start("one", "two", "three")
    stage.shared_by("one", "two", "three")
    group.signal("one", signal.SIGKILL)
    stage.shared_by("two", "three")
    group.signal("two", signal.SIGSTOP)
    time.sleep(SESSION_SECONDS)
    stage.shared_by("three")
    group.signal("two", signal.SIGCONT)
    stage.shared_by("two", "three")
    group.start("four")
    stage.shared_by("two", "three", "four")
    all_of_it_is_there_once_and_in_order(stage, group, "two", "three", "four")
