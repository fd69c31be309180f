"""The epochs of velocity in Redis: one on one server, one per slot on a Cluster.

What belongs here: reading and writing them for those who may wait. What does not: what an epoch says (`velocity`), the
decision path's own reading (`standalone`, `cluster`).
"""

from collections.abc import Iterator

import msgspec
from redis import Redis

from fraud_platform.online import velocity
from fraud_platform.online.shards import RedisClient, by_master, per_slot, place_of


def velocity_epoch(redis_client: RedisClient, key_prefix: bytes = b"") -> velocity.Epoch | None:
    """The epoch since which velocity is complete; None where it is lost, be it on one master of a Cluster alone."""
    found: set[bytes | None] = set()
    for master, keys in _epoch_keys(redis_client, key_prefix):
        with master.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.get(key)
            found.update(pipe.execute())
    epochs = [msgspec.json.decode(each, type=velocity.Epoch) for each in found if each is not None]
    return None if None in found else max(epochs, key=lambda epoch: epoch.complete_since)


def put_epoch(redis_client: RedisClient, epoch: velocity.Epoch, key_prefix: bytes = b"") -> None:
    """Begin an epoch wherever none stands: a Cluster that lost one master keeps those of the others."""
    for master, keys in _epoch_keys(redis_client, key_prefix):
        with master.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.set(key, msgspec.json.encode(epoch), nx=True)
            pipe.execute()


def renew_epoch(redis_client: RedisClient, lossy: Redis, epoch: velocity.Epoch) -> None:
    """Put an epoch in the place of every one that stands on a server which lost keys."""
    for master, keys in _epoch_keys(redis_client, b""):
        if place_of(master) != place_of(lossy):
            continue
        with master.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.set(key, msgspec.json.encode(epoch), xx=True)
            pipe.execute()


def _epoch_keys(redis_client: RedisClient, key_prefix: bytes) -> Iterator[tuple[Redis, list[bytes]]]:
    keys = per_slot(redis_client, velocity.epoch_key(key_prefix))
    for master, positions in by_master(redis_client, keys):
        yield master, [keys[position] for position in positions]
