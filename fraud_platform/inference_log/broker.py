"""What the inference log needs of a broker, whichever it is.

What belongs here: the interfaces, and which broker the settings name. What does not: a broker's client.
"""

from collections.abc import Callable, Mapping, Sequence
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
    """What was read, in order within each partition, and from where to read on in those it is of."""

    records: list[tuple[str, bytes]]
    """Partition and payload."""
    offsets: Offsets


class Producer(Protocol):
    """Takes records."""

    def send(self, messages: Sequence[Message]) -> None:
        """Returns when the broker has all of them. Raises BrokerError; some may have arrived then."""
        ...

    def close(self) -> None: ...


Gained = Callable[[set[str]], Offsets]
"""Told which partitions are the reader's from now on; says from where each is read, the others from their beginning."""
Lost = Callable[[set[str]], None]
"""Told which partitions are the reader's no longer."""


class Source(Protocol):
    """Gives records, from given offsets on. It keeps none itself: the lake does, with the data."""

    shares: bool
    """Whether it gives each partition to one of those that read; else they have to agree among themselves."""

    def join(self, gained: Gained, lost: Lost) -> None:
        """Become a reader. Both are called by this, `read` and `leave` alone. Raises BrokerError, and what they raise.

        A partition is read from the oldest record where it is not named, or no longer has its offset.
        """
        ...

    def leave(self) -> None:
        """Be none; nothing where one is none."""
        ...

    def read(self, limit: int, seconds: float) -> Batch:
        """At most `limit` records of what the reader has; an empty batch after `seconds` without any.

        Raises BrokerError, and what `gained` and `lost` raise; what was read then counts as not read: leave, and join.
        """
        ...

    def lag(self, offsets: Offsets) -> dict[str, int]:
        """Records behind these offsets, for every partition there is, whoever reads it. Raises BrokerError."""
        ...

    def members(self) -> int | None:
        """How many read; None where the broker does not say. Raises BrokerError."""
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
