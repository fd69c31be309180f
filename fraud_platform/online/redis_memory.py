"""Whether Redis keeps what it is given: its bound, its policy, and what it has forgotten by itself.

What belongs here: looking, saying so, and the new epoch of velocity that a loss asks for. What does not: what happens
when Redis takes no more (`standalone`, `cluster`: it counts as away). A server that evicts keys would make velocity 0
where it is unknown, which no payment shows; `evicted_keys` does.
"""

import uuid
from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from fraud_platform.online import velocity
from fraud_platform.online.epochs import renew_epoch
from fraud_platform.online.shards import RedisClient, connect_redis, masters, place_of

SAFE_POLICY = "noeviction"
_SECONDS = 2.0


class MemoryWatch:
    """Looks at each server that holds keys. Not for the decision path: it waits for answers. `close` when done."""

    def __init__(self, url: str, *, clock: Callable[[], int]) -> None:
        """clock: UTC microseconds."""
        self._url = url
        self._clock = clock
        self._client: RedisClient | None = None

    def look(self) -> list[str]:
        """Begin a new epoch where a server has evicted keys since anybody looked; what should be set otherwise, a
        sentence each. Raises one of `shards.REDIS_ERRORS`."""
        client = self._connected()
        warnings = []
        for master in masters(client):
            told: dict[str, Any] = master.info()  # type: ignore[assignment]
            warnings += unsafe(told, place_of(master))
            if told["evicted_keys"]:
                self._own_up(client, master, told)
        return warnings

    def _own_up(self, client: RedisClient, master: Redis, told: dict[str, Any]) -> None:
        """The count that was seen last is kept in Redis, where all workers see it; if it was evicted too, it moved."""
        seen, evicted = b"fraud:velocity:evicted:" + told["run_id"].encode(), b"%d" % told["evicted_keys"]
        if client.get(seen) == evicted:
            return
        since = velocity.complete_after(self._clock())
        renew_epoch(client, master, velocity.Epoch(epoch=uuid.uuid4().hex, complete_since=since))
        client.set(seen, evicted)

    def _connected(self) -> RedisClient:
        if self._client is None:
            options: dict[str, Any] = {"socket_timeout": _SECONDS, "socket_connect_timeout": _SECONDS}
            self._client = connect_redis(self._url, **options, retry=Retry(NoBackoff(), 0))
        return self._client

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()


def unsafe(told: dict[str, Any], place: str) -> list[str]:
    """What a server's INFO says against keeping velocity in it, a sentence each."""
    warnings = []
    if told["maxmemory_policy"] != SAFE_POLICY:
        policy = told["maxmemory_policy"]
        warnings.append(f"Redis at {place} forgets by itself (maxmemory-policy {policy}): set {SAFE_POLICY}")
    if not told["maxmemory"]:
        warnings.append(f"Redis at {place} has no maxmemory: set one below what the machine has")
    return warnings
