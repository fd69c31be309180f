"""What the platform takes of the machine, as metrics: Redis' memory, and each process of this home.

What belongs here: asking Redis and the operating system. What does not: what the lake says (`table_metrics`).
"""

from collections.abc import Iterator
from typing import Any

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from redis.backoff import NoBackoff
from redis.retry import Retry

from fraud_platform.model.following import read_followed
from fraud_platform.monitoring.table_metrics import gauge, single
from fraud_platform.online.embedded_postgres import postgres_pid
from fraud_platform.online.embedded_redis import redis_address, redis_pid
from fraud_platform.online.redis_memory import unsafe as redis_memory_warnings
from fraud_platform.online.shards import connect_redis, masters, place_of
from fraud_platform.run.child import recorded_process
from fraud_platform.run.home import open_home
from fraud_platform.settings import Settings

_SECONDS = 2.0


def redis_memory(settings: Settings) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
    """Memory of each server that holds keys, and whether it forgets. Raises redis.RedisError."""
    used: dict[str, float] = {}
    limit: dict[str, float] = {}
    unsafe: dict[str, float] = {}
    evicted = CounterMetricFamily("fraud_redis_evicted_keys", "Keys that it has forgotten by itself.", labels=["node"])
    options: dict[str, Any] = {"socket_timeout": _SECONDS, "socket_connect_timeout": _SECONDS}
    with connect_redis(redis_address(settings), **options, retry=Retry(NoBackoff(), 0)) as client:
        for master in masters(client):
            told: dict[str, Any] = master.info()  # type: ignore[assignment]
            node = place_of(master)
            used[node] = told["used_memory"]
            # without a limit of its own it grows until the machine has no more
            limit[node] = told["maxmemory"] or told["total_system_memory"]
            unsafe[node] = float(bool(redis_memory_warnings(told, node)))
            evicted.add_metric((node,), told["evicted_keys"])
    yield gauge("redis_memory_used_bytes", "Memory that Redis says its data takes.", "node", used)
    yield gauge("redis_memory_limit_bytes", "Its maxmemory; where that is unset, the machine's memory.", "node", limit)
    yield gauge("redis_unsafe", "1: it has no maxmemory, or a policy that lets it forget by itself.", "node", unsafe)
    yield evicted


def processes(settings: Settings) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
    """Processor time and memory of each process that `up` started here, its descendants included, and of the stores."""
    cpu = CounterMetricFamily("fraud_process_cpu_seconds", "Processor time since the start.", labels=["process"])
    memory: dict[str, float] = {}
    for name, root in _roots(settings).items():
        seconds, resident = _taken(root)
        cpu.add_metric((name,), seconds)
        memory[name] = resident
    yield cpu
    yield gauge("process_resident_bytes", "Memory in use; what processes share is counted in each.", "process", memory)


def following(settings: Settings) -> Iterator[GaugeMetricFamily]:
    """How far a region has followed the first; nothing in the first."""
    followed = read_followed(settings.home)
    if followed is None:
        return
    looked = followed.looked_at.timestamp()
    yield single("region_publication", "Publication of the first region that was looked at last.", followed.number)
    yield single("region_looked_timestamp_seconds", "When the lake was last asked for it and answered.", looked)
    yield single("region_problem", "1: something of it could not be taken over.", float(followed.problem is not None))


def _roots(settings: Settings) -> dict[str, psutil.Process]:
    home = open_home(settings)
    found = {path.stem: process for path in home.run.glob("*.pid") if (process := recorded_process(path))}
    found.pop("up", None)  # its children are counted by name
    stores = {
        "redis": redis_pid(settings) if settings.redis_url is None else None,
        "postgres": postgres_pid(settings) if settings.postgres_url is None else None,
    }
    return found | {name: psutil.Process(pid) for name, pid in stores.items() if pid}


def _taken(root: psutil.Process) -> tuple[float, float]:
    """Processor seconds and resident bytes of a process and its descendants, ended ones included in the seconds."""
    seconds = resident = 0.0
    for process in [root, *root.children(recursive=True)]:
        try:
            times = process.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
            resident += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return seconds, resident
