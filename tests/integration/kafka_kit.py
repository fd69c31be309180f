"""A Kafka for tests: a real broker where one can be had, else the mock cluster of librdkafka.

FRAUD_KAFKA_BOOTSTRAP names a broker of yours; FRAUD_TEST_KAFKA=real has one fetched with Maven and started with Java
17. The mock cluster speaks the protocol in this process: it proves the client's code, not a broker's durability.
"""

import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient

from tests.conftest import free_port

POM = Path(__file__).parent / "kafka" / "pom.xml"
ROOT = Path(__file__).parents[2]
START_SECONDS = 60.0

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={folder}/data
num.partitions=3
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
"""


class Kafka(Protocol):
    """What a test needs to know of its broker."""

    bootstrap: str
    kind: str


class GivenKafka:
    """A broker that somebody else runs."""

    kind = "a given broker"

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap


class MockKafka:
    """librdkafka's mock cluster, which lives as long as its producer."""

    kind = "librdkafka's mock cluster"

    def __init__(self) -> None:
        self._owner = Producer({"test.mock.num.brokers": 1, "log_level": 0})
        (broker,) = self._owner.list_topics(timeout=10).brokers.values()
        self.bootstrap = f"{broker.host}:{broker.port}"


class RealKafka:
    """Apache Kafka with one node that is broker and controller; it may be killed, paused and started again."""

    kind = "a real broker"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port, self._controller = free_port(), free_port()
        self.bootstrap = f"127.0.0.1:{self._port}"
        self._properties = folder / "server.properties"
        self._properties.write_text(PROPERTIES.format(port=self._port, controller=self._controller, folder=folder))
        self._java = ["java", "-Xmx512m", "-cp", f"{fetched()}/*"]
        format_ = ["kafka.tools.StorageTool", "format", "-c", str(self._properties), "-t", uuid.uuid4().hex[:22]]
        subprocess.run([*self._java, *format_], check=True, capture_output=True, timeout=60)
        self.start()

    def start(self) -> None:
        """Start it, and return when it answers."""
        with (self._folder / "kafka.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self._java, "kafka.Kafka", str(self._properties)], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        deadline = time.monotonic() + START_SECONDS
        client = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        while True:
            try:
                client.list_topics(timeout=1)
                return
            except KafkaException:
                assert self.process.poll() is None, (self._folder / "kafka.log").read_text()[-2_000:]
                assert time.monotonic() < deadline, "Kafka does not answer"

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        """Stop it without ending it: connections stay and nothing answers."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End a pause."""
        self.process.send_signal(signal.SIGCONT)


def wanted() -> str:
    """given, real or mock, by the environment."""
    if os.environ.get("FRAUD_TEST_KAFKA_BOOTSTRAP"):
        return "given"
    return "real" if os.environ.get("FRAUD_TEST_KAFKA") == "real" else "mock"


def fetched() -> Path:
    """Kafka's jars, fetched once per checkout."""
    libraries = ROOT / "build" / "kafka"
    if not (libraries / ".complete").exists():
        for program in ("java", "mvn"):
            assert shutil.which(program), f"a real Kafka needs {program} (Java 17 and Maven); `make test` does without"
        command = ["mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", f"-DoutputDirectory={libraries}"]
        subprocess.run(command, check=True, timeout=300)
        (libraries / ".complete").touch()
    return libraries


@contextmanager
def kafka(folder: Path) -> Iterator[Kafka]:
    """The broker that the environment asks for."""
    if wanted() == "given":
        yield GivenKafka(os.environ["FRAUD_TEST_KAFKA_BOOTSTRAP"])
    elif wanted() == "real":
        server = RealKafka(folder)
        try:
            yield server
        finally:
            server.kill()
    else:
        yield MockKafka()
