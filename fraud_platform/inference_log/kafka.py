"""The broker of a bank: a Kafka topic.

What belongs here: the client's configuration and calls. What does not: what a record is, offsets' keeping (`table`).
The lake's offsets rule; those committed to Kafka are for whoever watches the group's lag. Which member of the group
reads a partition is Kafka's to say; that nobody else moves it in the lake, the lake's.
"""

from collections.abc import Iterable, Mapping, Sequence

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Producer as Client
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from fraud_platform.inference_log.broker import Batch, BrokerError, Gained, Lost, Message, Offsets
from fraud_platform.inference_log.record import SCHEMA_VERSION

_SECONDS = 10.0
_SHARING_OUT = {
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError._ASSIGNMENT_LOST,
}
_HEADERS: list[tuple[str, str | bytes | None]] = [("schema_version", str(SCHEMA_VERSION).encode())]


def group_of(topic: str) -> str:
    """The group that fills the lake from a topic."""
    return f"{topic}.lake"


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
    """The partitions of the topic that the group gives this member, read from offsets that the lake keeps."""

    shares = True

    def __init__(self, bootstrap: str, topic: str, options: Mapping[str, str]) -> None:
        """options: further librdkafka properties, as a cluster with SASL or TLS needs."""
        self._topic = topic
        self._group = group_of(topic)
        self._configuration = {
            "bootstrap.servers": bootstrap,
            "group.id": self._group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            # also where the lake's offset is gone: what is read twice is known by its decision_id
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            # a member that comes or goes stops the partitions that move, and the others' owners need not begin anew
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": 15_000,
            # the topic may not exist before the first record, and may get partitions later
            "allow.auto.create.topics": True,
            "topic.metadata.refresh.interval.ms": 10_000,
            **options,
        }
        # of its own, since a question to the broker waits behind a fetch that waits for records
        self._admin = AdminClient({"bootstrap.servers": bootstrap, **options})
        self._client: Consumer | None = None
        self._held: set[int] = set()
        self._taken: set[int] = set()
        self._error: Exception | None = None

    def join(self, gained: Gained, lost: Lost) -> None:
        """Become a member of the group; a membership is a client, so that none inherits anything of another."""

        def assigned(client: Consumer, given: list[TopicPartition]) -> None:
            numbers = [at.partition for at in given]
            if self._taken.intersection(numbers):
                # what this very read has of them may be from before
                self._error = BrokerError("partitions went and came back")
                return
            try:
                offsets = gained(set(map(str, numbers))) if numbers else {}
            except OSError as error:
                # through librdkafka nothing can be raised: `read` does, and nothing is read of these until then
                self._error = error
                return
            self._held.update(numbers)
            client.incremental_assign([self._at(number, int(offsets.get(str(number), 0))) for number in numbers])

        def revoked(client: Consumer, taken: list[TopicPartition]) -> None:
            # dropped and not committed: who has them next reads a commit's worth again, and nobody waits for the lake
            numbers = {at.partition for at in taken}
            self._held -= numbers
            self._taken |= numbers
            lost(set(map(str, numbers)))
            client.incremental_unassign(taken)

        self._held, self._taken, self._error = set(), set(), None
        try:
            self._client = Consumer(self._configuration)
            self._client.subscribe([self._topic], on_assign=assigned, on_revoke=revoked, on_lost=revoked)
        except KafkaException as error:
            raise BrokerError(str(error)) from error

    def leave(self) -> None:
        """Give all partitions back."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def read(self, limit: int, seconds: float) -> Batch:
        """Records of the partitions that this member has. Raises BrokerError."""
        if self._client is None:
            raise BrokerError("not a member of the group")
        self._taken.clear()
        try:
            messages = self._client.consume(limit, seconds)
        except KafkaException as error:
            raise BrokerError(str(error)) from error
        if self._error is not None:
            raise self._error
        records: list[tuple[str, bytes]] = []
        offsets: dict[str, int] = {}
        errors: list[KafkaError] = []
        for message in messages:
            event, partition, offset = message.error(), message.partition(), message.offset()
            if event is not None or partition is None or offset is None:
                # a topic that nobody has written to yet is no fault
                errors += [event] if event is not None and event.code() != KafkaError.UNKNOWN_TOPIC_OR_PART else []
                continue
            if partition in self._held:
                records.append((str(partition), message.value() or b""))
                offsets[str(partition)] = offset + 1
        if errors and not records:
            # an event carries no record; beside records it comes again if it lasts
            raise BrokerError(str(errors[0]))
        return Batch(records, offsets)

    def _at(self, partition: int, offset: int) -> TopicPartition:
        return TopicPartition(self._topic, partition, offset)

    def lag(self, offsets: Offsets) -> dict[str, int]:
        """Records between these offsets and the end. Raises BrokerError."""
        try:
            known = self._admin.list_topics(self._topic, timeout=_SECONDS).topics[self._topic].partitions
            low = self._ends(known, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
            high = self._ends(known, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        except KafkaException as error:
            raise BrokerError(str(error)) from error
        return {str(p): max(0, high[p] - max(low[p], int(offsets.get(str(p), 0)))) for p in sorted(known)}

    def _ends(self, partitions: Iterable[int], which: OffsetSpec) -> dict[int, int]:
        asked = {self._at(partition, 0): which for partition in partitions}
        if not asked:
            return {}
        level = IsolationLevel.READ_COMMITTED
        found = self._admin.list_offsets(asked, isolation_level=level, request_timeout=_SECONDS)
        return {at.partition: future.result().offset for at, future in found.items()}

    def members(self) -> int | None:
        """Members of the group, those without a partition too. Raises BrokerError."""
        (asked,) = self._admin.describe_consumer_groups([self._group], request_timeout=_SECONDS).values()
        try:
            return len(asked.result().members)
        except KafkaException as error:
            # of a broker that cannot tell, the lake's owners are all that is known
            if error.args[0].code() == KafkaError._UNSUPPORTED_FEATURE:
                return None
            raise BrokerError(str(error)) from error

    def committed(self, offsets: Offsets) -> None:
        """Show the group's offsets to those who watch lag in Kafka. Raises BrokerError."""
        if self._client is None:
            return
        try:
            at = [self._at(int(partition), int(offset)) for partition, offset in offsets.items()]
            self._client.commit(offsets=at, asynchronous=False)
        except KafkaException as error:
            # while the group shares its partitions out anew it takes none; the next commit shows these too
            if error.args[0].code() not in _SHARING_OUT:
                raise BrokerError(str(error)) from error

    def close(self) -> None:
        """Leave."""
        self.leave()
