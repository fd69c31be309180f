"""The broker of the embedded setup: one Redis stream beside the online store.

What belongs here: its commands. What does not: what a record is, offsets' keeping (`table`). The stream is trimmed
behind what the lake has, and takes no more than `most` records beyond it: the rest waits in the spool, on disk.
"""

from collections.abc import Sequence
from typing import Any

from fraud_platform.inference_log.broker import Batch, BrokerError, Message, Offsets
from fraud_platform.online.embedded_redis import redis_address
from fraud_platform.online.shards import REDIS_ERRORS, connect_redis
from fraud_platform.settings import Settings

MOST = 100_000
"""Records in the stream, about 100 MB."""

_SECONDS = 5.0
_BEGINNING = "0-0"
_FIELD = b"record"


class RedisStream:
    """Producer and source of one stream; its only partition is called "0"."""

    def __init__(self, url: str, stream: str, most: int = MOST) -> None:
        self._redis = connect_redis(url, socket_timeout=_SECONDS, socket_connect_timeout=_SECONDS)
        self._stream = stream
        self._most = most
        self._next = _BEGINNING

    @staticmethod
    def of(settings: Settings) -> "RedisStream":
        """The stream that the settings name."""
        return RedisStream(redis_address(settings), settings.redis_stream)

    def send(self, messages: Sequence[Message]) -> None:
        """Returns when the stream has all of them. Raises BrokerError."""
        try:
            if self.lag() + len(messages) > self._most:
                raise BrokerError(f"the stream {self._stream} holds {self._most} records that the lake does not have")
            with self._redis.pipeline(transaction=False) as pipe:
                for message in messages:
                    pipe.xadd(self._stream, {_FIELD: message.payload})
                pipe.execute()
        except REDIS_ERRORS as error:
            raise BrokerError(str(error)) from error

    def seek(self, offsets: Offsets) -> None:
        """Read on behind this identifier."""
        self._next = offsets.get("0", _BEGINNING)

    def partitions(self) -> set[str]:
        """The one."""
        return {"0"}

    def read(self, limit: int, seconds: float) -> Batch:
        """The records behind the last that was read. Raises BrokerError."""
        try:
            found: Any = self._redis.xread({self._stream: self._next}, count=limit, block=int(seconds * 1_000))
        except REDIS_ERRORS as error:
            raise BrokerError(str(error)) from error
        entries = found[0][1] if found else []
        if entries:
            self._next = entries[-1][0].decode()
        return Batch([fields[_FIELD] for _, fields in entries], {"0": self._next})

    def lag(self) -> int:
        """What the stream holds: everything that the lake has is trimmed."""
        try:
            held: Any = self._redis.xlen(self._stream)
        except REDIS_ERRORS as error:
            raise BrokerError(str(error)) from error
        return int(held)

    def committed(self, offsets: Offsets) -> None:
        """Trim the stream up to and with this identifier."""
        if offsets["0"] == _BEGINNING:
            return
        milliseconds, number = map(int, offsets["0"].split("-"))
        try:
            self._redis.xtrim(self._stream, minid=f"{milliseconds}-{number + 1}", approximate=False)
        except REDIS_ERRORS as error:
            raise BrokerError(str(error)) from error

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()
