"""A real Redis server of a test's own, without persistence, on a loopback port.

What belongs here: starting and ending it. What does not: the embedded one, which has a socket (`embedded_redis`), and a
Cluster (`integration.redis_cluster_kit`).
"""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from fraud_platform.online.embedded_redis import find_redis_server

START_SECONDS = 20
NO_RETRY = Retry(NoBackoff(), 0)
"""Of a client whose first failure is its answer: redis-py's own three retries pause for up to 14 seconds."""


def wait_for(client: redis.Redis, log: Path | None = None) -> None:
    """Return once a server that was started answers and has loaded its data. log: shown where it does not."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        with suppress(redis.RedisError):
            client.ping()
            return
        assert time.monotonic() < deadline, f"Redis does not answer\n{log.read_text() if log is not None else ''}"
        time.sleep(0.02)


@dataclass
class RedisServer:
    """A server that runs."""

    port: int
    client: redis.Redis

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


@contextmanager
def begin_redis(folder: Path, **options: Any) -> Iterator[RedisServer]:
    """Start a server, and end it after the block. options: of redis.conf, beside the suite's own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {
        "port": port, "bind": "127.0.0.1", "save": "", "appendonly": "no", "hash-max-ziplist-value": 256,
        "maxmemory": "1gb", "maxmemory-policy": "noeviction", "dir": folder,
    }  # fmt: skip
    command = [str(find_redis_server())]
    for name, value in {**own, **options}.items():
        command += [f"--{name}", str(value)]
    log = folder / "redis.log"
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    client = redis.Redis(port=port, retry=NO_RETRY)
    try:
        wait_for(client, log)
        yield RedisServer(port, client)
    finally:
        client.close()
        server.terminate()
        server.wait(20)
