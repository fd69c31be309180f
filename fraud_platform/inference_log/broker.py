"""What the inference log needs of a broker, whichever it is.

What belongs here: the interfaces, and which broker the settings name. What does not: a broker's client.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fraud_platform.settings import Settings

Offsets = Mapping[str, Any]
"""Per partition, from where on it has not been read; JSON, in the broker's own terms."""


class BrokerError(RuntimeError):
    """The broker does not take or give records now; nothing is lost, and trying again is right."""


@dataclass(frozen=True)
class Message:
    """A record on its way: key is the user, so that a user's decisions stay in order."""

    key: bytes
    payload: bytes


@dataclass(frozen=True)
class Batch:
    """What was read, in order within each partition, and from where to read on."""

    payloads: list[bytes]
    offsets: Offsets


class Producer(Protocol):
    """Takes records."""

    def send(self, messages: Sequence[Message]) -> None:
        """Returns when the broker has all of them. Raises BrokerError; some may have arrived then."""
        ...

    def close(self) -> None: ...


class Source(Protocol):
    """Gives records, from given offsets on. It keeps none itself: the lake does, with the data."""

    def seek(self, offsets: Offsets) -> None:
        """Read on from here; from the oldest record where a partition is not named, or no longer has its offset."""
        ...

    def partitions(self) -> set[str]:
        """All that the source has. Raises BrokerError."""
        ...

    def read(self, limit: int, seconds: float) -> Batch:
        """At most `limit` records; an empty batch after `seconds` without any. Raises BrokerError."""
        ...

    def lag(self) -> int:
        """Records behind those that the lake is known to have. Raises BrokerError."""
        ...

    def committed(self, offsets: Offsets) -> None:
        """Told what the lake has: the broker may forget it, or show it to those who watch. Raises BrokerError."""
        ...

    def close(self) -> None: ...


def broker_name(settings: Settings) -> str:
    """Which broker the settings name, as offsets are kept under: another broker starts from its beginning.

    Two brokers that fill one lake need two names: those of two regions have.
    """
    where = f"@{settings.region}" if settings.region else ""
    if settings.kafka_bootstrap:
        return f"kafka:{settings.kafka_topic}{where}"
    return f"redis:{settings.redis_stream}{where}"


def open_producer(settings: Settings) -> Producer:
    """The producer of Kafka where FRAUD_KAFKA_BOOTSTRAP is set, else of Redis Streams."""
    if settings.kafka_bootstrap:
        from fraud_platform.inference_log.kafka import KafkaProducer

        return KafkaProducer(settings.kafka_bootstrap, settings.kafka_topic, settings.kafka_options)
    from fraud_platform.inference_log.redis_stream import RedisStream

    return RedisStream.of(settings)


def open_source(settings: Settings) -> Source:
    """The source that reads what `open_producer` sends."""
    if settings.kafka_bootstrap:
        from fraud_platform.inference_log.kafka import KafkaSource

        return KafkaSource(settings.kafka_bootstrap, settings.kafka_topic, settings.kafka_options)
    from fraud_platform.inference_log.redis_stream import RedisStream

    return RedisStream.of(settings)
