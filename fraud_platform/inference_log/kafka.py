"""The broker of a bank: a Kafka topic.

What belongs here: the client's configuration and calls. What does not: what a record is, offsets' keeping (`table`).
The lake's offsets rule; those committed to Kafka are for whoever watches the group's lag. Partitions are read by one
consumer, assigned by hand: two that share a group could write the same commit.
"""

import time
from collections.abc import Mapping, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Producer as Client

from fraud_platform.inference_log.broker import Batch, BrokerError, Message, Offsets
from fraud_platform.inference_log.record import SCHEMA_VERSION

GROUP = "fraud-inference-log"

_SECONDS = 10.0
_DISCOVERY_SECONDS = 60.0
_HEADERS: list[tuple[str, str | bytes | None]] = [("schema_version", str(SCHEMA_VERSION).encode())]


class KafkaProducer:
    """Idempotent, acknowledged by all in-sync replicas, keyed by user."""

    def __init__(self, bootstrap: str, topic: str, options: Mapping[str, str]) -> None:
        """options: further librdkafka properties, as a cluster with SASL or TLS needs."""
        self._topic = topic
        self._configuration = {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "acks": "all",
            "compression.type": "zstd",
            "linger.ms": 5,
            "message.timeout.ms": int(_SECONDS * 1_000),
            **options,
        }
        self._client = Client(self._configuration)

    def send(self, messages: Sequence[Message]) -> None:
        """Returns when every in-sync replica has all of them. Raises BrokerError."""
        failed: list[KafkaError] = []

        def delivered(error: KafkaError | None, _: object) -> None:
            if error is not None:
                failed.append(error)

        try:
            for message in messages:
                self._client.produce(self._topic, message.payload, message.key, headers=_HEADERS, on_delivery=delivered)
            left = self._client.flush(_SECONDS + 1)
        except (BufferError, KafkaException) as error:
            self._renew()
            raise BrokerError(str(error)) from error
        if failed or left:
            # whatever is still on its way would come after the same records sent again
            self._renew()
            raise BrokerError(str(failed[0]) if failed else f"{left} records were not acknowledged")

    def _renew(self) -> None:
        self._client.purge()
        self._client = Client(self._configuration)

    def close(self) -> None:
        """Nothing is under way between two calls of `send`."""
        self._client.purge()


class KafkaSource:
    """All partitions of the topic, read from offsets that the lake keeps."""

    def __init__(self, bootstrap: str, topic: str, options: Mapping[str, str]) -> None:
        """options: further librdkafka properties, as a cluster with SASL or TLS needs."""
        self._topic = topic
        self._client = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": GROUP,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                # also where the lake's offset is gone: what is read twice is known by its decision_id
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                # whoever asks for watermarks waits behind a fetch that waits for records
                "fetch.wait.max.ms": 100,
                **options,
            }
        )
        self._next: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._assigned: set[int] = set()
        self._discovered_at = -_DISCOVERY_SECONDS

    def seek(self, offsets: Offsets) -> None:
        """Read on from these offsets per partition."""
        self._next = _numbers(offsets)
        self._committed = dict(self._next)
        self._assigned = set()
        self._discovered_at = -_DISCOVERY_SECONDS

    def partitions(self) -> set[str]:
        """All of the topic. Raises BrokerError."""
        try:
            self._discover()
        except KafkaException as error:
            raise BrokerError(str(error)) from error
        return set(map(str, self._assigned))

    def read(self, limit: int, seconds: float) -> Batch:
        """Records of any partition; new partitions are found within a minute. Raises BrokerError."""
        try:
            self._discover()
            messages = self._client.consume(limit, seconds)
        except KafkaException as error:
            raise BrokerError(str(error)) from error
        payloads: list[bytes] = []
        errors: list[KafkaError] = []
        for message in messages:
            event, partition, offset = message.error(), message.partition(), message.offset()
            if event is not None or partition is None or offset is None:
                errors += [event] if event is not None else []
                continue
            payloads.append(message.value() or b"")
            self._next[partition] = offset + 1
        if errors and not payloads:
            # an event carries no record; beside records it comes again if it lasts
            raise BrokerError(str(errors[0]))
        return Batch(payloads, {str(partition): offset for partition, offset in self._next.items()})

    def _discover(self) -> None:
        """Assign partitions that are new; the topic may not exist before the first record."""
        if self._assigned and time.monotonic() - self._discovered_at < _DISCOVERY_SECONDS:
            return
        known = self._client.list_topics(self._topic, timeout=_SECONDS).topics[self._topic].partitions
        self._discovered_at = time.monotonic()
        if set(known) != self._assigned:
            self._assigned = set(known)
            self._client.assign([self._at(partition) for partition in sorted(known)])

    def _at(self, partition: int) -> TopicPartition:
        return TopicPartition(self._topic, partition, self._next.get(partition, 0))

    def lag(self) -> int:
        """Records between what is committed and the end, over all partitions. Raises BrokerError."""
        behind = 0
        try:
            self._discover()
            for partition in self._assigned:
                low, high = self._client.get_watermark_offsets(TopicPartition(self._topic, partition), timeout=_SECONDS)
                behind += max(0, high - max(low, self._committed.get(partition, 0)))
        except KafkaException as error:
            raise BrokerError(str(error)) from error
        return behind

    def committed(self, offsets: Offsets) -> None:
        """Show the group's offsets to those who watch lag in Kafka. Raises BrokerError."""
        self._committed = _numbers(offsets)
        at = [TopicPartition(self._topic, partition, offset) for partition, offset in self._committed.items()]
        if not at:
            return
        try:
            self._client.commit(offsets=at, asynchronous=False)
        except KafkaException as error:
            raise BrokerError(str(error)) from error

    def close(self) -> None:
        """Leave."""
        self._client.close()


def _numbers(offsets: Offsets) -> dict[int, int]:
    return {int(partition): int(offset) for partition, offset in offsets.items()}
