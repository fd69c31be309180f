"""One user in Redis: the packed row, velocity, identities and decisions; counted and deleted.

What belongs here: which keys are a user's. What does not: the keys' layout (`online`). Everything is found by looking
at every key and every decision, so that nothing has to be known of what the user did: minutes on a store of many
millions. Merchants' counts keep the user's attempts, which name nobody.
"""

import time
from collections import Counter
from typing import Any

import redis

from fraud_platform.erasure.mentions import record_names
from fraud_platform.erasure.names import Names
from fraud_platform.online import layout
from fraud_platform.online.embedded_redis import ensure_redis
from fraud_platform.online.packed import PROJECT, USER_VECTOR
from fraud_platform.online.shards import RedisClient, connect_redis, delete, masters, scan
from fraud_platform.settings import Settings

_DECISIONS = b"fraud:decision:"
_REWRITE_SECONDS = 600.0


def find_keys(client: RedisClient, names: Names) -> dict[str, list[tuple[redis.Redis, bytes]]]:
    """A user's keys by what they hold, under any prefix, each with the server that has it.

    A decision on another's payment that names the person is deleted too: the lake has it.
    """
    rows = tuple(layout.entity_key(PROJECT, USER_VECTOR.join_key, user) for user in names.users)
    tags = [b"{user:%s}" % user.encode() for user in names.users]
    found: dict[str, list[tuple[redis.Redis, bytes]]] = {"packed row": [], "velocity, identities": [], "decisions": []}
    for master, keys in scan(client, b""):
        decided = [key for key in keys if _DECISIONS in key]
        found["packed row"] += [(master, key) for key in keys if key.endswith(rows)]
        found["velocity, identities"] += [(master, key) for key in keys if any(tag in key for tag in tags)]
        if decided:
            with master.pipeline(transaction=False) as pipe:
                for key in decided:
                    pipe.get(key)
                values = pipe.execute()
            mine = [key for key, value in zip(decided, values, strict=True) if value and record_names(value, names)]
            found["decisions"] += [(master, key) for key in mine]
    return found


def count_keys(client: RedisClient, names: Names) -> Counter[str]:
    """How many keys are the user's, by what they hold."""
    return Counter({name: len(keys) for name, keys in find_keys(client, names).items()})


def delete_keys(client: RedisClient, names: Names) -> None:
    """Delete the user's keys."""
    for keys in find_keys(client, names).values():
        for master, key in keys:
            delete(master, [key])


def count_stream(client: RedisClient, settings: Settings, names: Names) -> int:
    """Decisions of the user that wait in the embedded broker."""
    entries: list[tuple[bytes, dict[bytes, bytes]]] = client.xrange(settings.redis_stream)  # type: ignore[assignment]
    return sum(record_names(value, names) for _, fields in entries for value in fields.values())


def forget_on_disk(settings: Settings) -> None:
    """Make the embedded server write its append-only file anew: the old one still has what was deleted.

    Raises TimeoutError; redis.RedisError.
    """
    if settings.redis_url is not None:
        return
    with connect_redis(ensure_redis(settings)) as client:
        (server,) = masters(client)
        until = time.monotonic() + _REWRITE_SECONDS
        begun = False
        while True:
            state: Any = server.info("persistence")
            if not state["aof_rewrite_in_progress"]:
                if begun:
                    return
                server.bgrewriteaof()  # type: ignore[no-untyped-call]
                begun = True
            if time.monotonic() > until:
                raise TimeoutError("Redis does not finish rewriting its append-only file")
            time.sleep(0.05)
