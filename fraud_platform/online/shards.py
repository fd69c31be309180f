"""Redis for those who may wait: one server, or a Cluster taken as its masters.

What belongs here: addresses, connecting, who holds which keys. What does not: the decision path, which has connections
of its own (`wire`, `cluster`).

A Cluster's address is `redis-cluster://host:port`, over TLS `rediss-cluster://…`; `?node=host:port`, any number of
times, names further nodes to find it by.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from redis import Redis, RedisCluster
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import ConnectionError, RedisClusterException, RedisError

RedisClient = Redis | RedisCluster

REDIS_ERRORS = (RedisError, RedisClusterException)
"""What a client of either kind raises; redis-py's errors of a Cluster as a whole are no RedisError."""

_SCAN_BATCH = 1_000
_CLUSTER_SCHEMES = {"redis-cluster": "redis", "rediss-cluster": "rediss"}


def is_cluster(url: str) -> bool:
    """Whether an address is that of a Redis Cluster."""
    return urlsplit(url).scheme in _CLUSTER_SCHEMES


def seed_urls(url: str) -> list[str]:
    """The addresses by which a Cluster can be found, each as a single server's. Raises ValueError."""
    parts = urlsplit(url)
    if parts.path.strip("/") not in ("", "0"):
        raise ValueError("a Redis Cluster has one database, number 0")
    options = parse_qsl(parts.query)
    unknown = {name for name, _ in options} - {"node"}
    if unknown:
        raise ValueError(f"the address of a Redis Cluster takes node=host:port, not {', '.join(sorted(unknown))}")
    login, at, host = parts.netloc.rpartition("@")
    hosts = [host, *(node for _, node in options)]
    scheme = _CLUSTER_SCHEMES[parts.scheme]
    return [urlunsplit((scheme, f"{login}{at}{each}", "", "", "")) for each in hosts]


def node_url(seed: str, host: str, port: int) -> str:
    """The address of another node of a seed's Cluster: with the same login and transport."""
    parts = urlsplit(seed)
    login, at, _ = parts.netloc.rpartition("@")
    return urlunsplit((parts.scheme, f"{login}{at}{f'[{host}]' if ':' in host else host}:{port}", "", "", ""))


def connect_redis(url: str, **options: Any) -> RedisClient:
    """A client of either kind. A Cluster is looked for at once: raises redis.ConnectionError where no node answers."""
    if not is_cluster(url):
        return Redis.from_url(url, **options)
    seeds = seed_urls(url)
    for seed in seeds:
        try:
            return RedisCluster.from_url(seed, **options)
        except REDIS_ERRORS as error:
            if seed == seeds[-1]:
                raise ConnectionError(str(error)) from error
            # the next seed may answer
    raise AssertionError("unreachable: an address has a host")


def masters(client: RedisClient) -> list[Redis]:
    """A client per server that holds keys."""
    if isinstance(client, Redis):
        return [client]
    return [client.get_redis_connection(node) for node in client.get_primaries()]  # type: ignore[no-untyped-call]


def place_of(server: Redis) -> str:
    """Where a server is: host and port, or its socket."""
    place = server.connection_pool.connection_kwargs
    return str(place["path"]) if "path" in place else f"{place.get('host', 'localhost')}:{place.get('port', 6379)}"


def by_master(client: RedisClient, keys: Sequence[bytes]) -> Iterator[tuple[Redis, list[int]]]:
    """Each server that holds some of the keys, with their positions in ascending order."""
    if isinstance(client, Redis):
        yield client, list(range(len(keys)))
        return
    held: dict[str, list[int]] = defaultdict(list)
    nodes = {}
    for position, key in enumerate(keys):
        node = client.nodes_manager.get_node_from_slot(key_slot(key))
        nodes[node.name] = node
        held[node.name].append(position)
    for name, positions in held.items():
        yield client.get_redis_connection(nodes[name]), positions


def per_slot(client: RedisClient, key: bytes) -> list[bytes]:
    """The key itself on one server; on a Cluster one key for each slot, so that what moves or is lost takes its own."""
    return [key] if isinstance(client, Redis) else [in_slot(key, number) for number in range(REDIS_CLUSTER_HASH_SLOTS)]


def in_slot(key: bytes, number: int) -> bytes:
    """The slot's own key of this name."""
    return b"%s:{%s}" % (key, tags()[number])


@cache
def tags() -> tuple[bytes, ...]:
    """A short text for each slot whose slot it is: in braces it puts a key there. Takes 0.1 s the first time."""
    found: dict[int, bytes] = {}
    number = 0
    while len(found) < REDIS_CLUSTER_HASH_SLOTS:
        text = b"%d" % number
        found.setdefault(key_slot(text), text)
        number += 1
    return tuple(found[each] for each in range(REDIS_CLUSTER_HASH_SLOTS))


def used_memory(client: RedisClient) -> int:
    """Bytes that Redis says its data takes, on all servers."""
    told: list[Any] = [master.info("memory") for master in masters(client)]
    return sum(each["used_memory"] for each in told)


def scan(client: RedisClient, prefix: bytes, *, kind: str | None = None) -> Iterator[tuple[Redis, list[bytes]]]:
    """All keys that begin so, a thousand at a time, with the server that holds them. kind: of value, such as HASH."""
    for master in masters(client):
        found = master.scan_iter(match=_literal(prefix) + b"*", count=_SCAN_BATCH, _type=kind)
        while keys := list(islice(found, _SCAN_BATCH)):
            yield master, keys


def delete(master: Redis, keys: Sequence[bytes]) -> None:
    """Delete keys of one server, whatever their slots; freeing their memory is left to it."""
    with master.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.unlink(key)
        pipe.execute()


def _literal(pattern: bytes) -> bytes:
    """A Redis glob that matches these bytes and nothing else."""
    return b"".join(b"\\" + bytes((byte,)) if byte in b"\\*?[]^-" else bytes((byte,)) for byte in pattern)
