"""A Redis Cluster of real processes on loopback: masters, replicas, and what can happen to them.

What belongs here: starting, joining, moving slots, asking. What does not: what is tested with it.
"""

import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS

from fraud_platform.online.embedded_redis import find_redis_server
from tests.redis_kit import NO_RETRY, wait_for

NODE_TIMEOUT_MS = 1_000
"""Silence after which a master counts as failed; a bank would take 15 s, a test cannot."""
_BUS = 10_000
"""The cluster's own port is the client's and this."""


def until(happened: Callable[[], bool], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.05)


def _free_ports() -> int:
    """A port that is free together with its bus port."""
    while True:
        port = random.SystemRandom().randrange(20_000, 50_000)
        try:
            for each in (port, port + _BUS):
                with socket.socket() as sock:
                    sock.bind(("127.0.0.1", each))
        except OSError:
            continue
        return port


class Node:
    """One redis-server of a Cluster."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder, self.port = folder, _free_ports()
        self.name = f"127.0.0.1:{self.port}"
        self.client = redis.Redis(port=self.port, socket_timeout=5, retry=NO_RETRY)
        self.start()
        self.id = str(self.client.execute_command("CLUSTER", "MYID").decode())

    def start(self) -> None:
        options = {
            "port": self.port, "bind": "127.0.0.1", "cluster-enabled": "yes", "cluster-node-timeout": NODE_TIMEOUT_MS,
            "cluster-config-file": "nodes.conf", "save": "", "appendonly": "yes", "dir": self.folder,
            "hash-max-ziplist-value": 256, "repl-diskless-sync": "yes", "repl-diskless-sync-delay": 0,
        }  # fmt: skip
        command = [str(find_redis_server()), *(text for n, v in options.items() for text in (f"--{n}", f"{v}"))]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        wait_for(self.client, self.folder / "log")

    def cluster(self, *arguments: object) -> object:
        return self.client.execute_command("CLUSTER", *arguments)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)


class RedisCluster:
    """Three masters that share the slots, each with a replica if wanted."""

    def __init__(self, folder: Path, *, replicas: bool) -> None:
        self.folder = folder
        self.masters = [Node(folder / f"master-{number}") for number in range(3)]
        self.replicas = [Node(folder / f"replica-{number}") for number in range(3)] if replicas else []
        bounds = [REDIS_CLUSTER_HASH_SLOTS * n // 3 for n in range(4)]
        for number, master in enumerate(self.masters):
            master.cluster("ADDSLOTS", *range(bounds[number], bounds[number + 1]))
            master.cluster("SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            self.meet(node)
        for master, replica in zip(self.masters, self.replicas, strict=False):
            until(lambda m=master, r=replica: m.id.encode() in r.cluster("NODES"), "acquaintance")  # type: ignore[misc]
            replica.cluster("REPLICATE", master.id)
        self.wait_until_whole()
        for replica in self.replicas:
            until(lambda r=replica: r.client.info("replication").get("master_link_status") == "up", "replication")  # type: ignore[misc]

    @property
    def nodes(self) -> list[Node]:
        return [*self.masters, *self.replicas]

    @property
    def url(self) -> str:
        first, *others = self.masters
        return f"redis-cluster://{first.name}?" + "&".join(f"node={node.name}" for node in others)

    def meet(self, node: Node) -> None:
        node.cluster("MEET", "127.0.0.1", self.masters[0].port)

    def add_master(self) -> Node:
        node = Node(self.folder / f"master-{len(self.masters)}")
        self.meet(node)
        self.masters.append(node)
        until(lambda: all(node.id.encode() in other.cluster("NODES") for other in self.nodes), "acquaintance")  # type: ignore[operator]
        self.wait_until_whole()
        return node

    def wait_until_whole(self) -> None:
        until(lambda: all(self._whole(node) for node in self.nodes if node.process.poll() is None), "a whole Cluster")

    @staticmethod
    def _whole(node: Node) -> bool:
        told = node.cluster("INFO").decode()  # type: ignore[attr-defined]
        return "cluster_state:ok" in told and f"cluster_slots_ok:{REDIS_CLUSTER_HASH_SLOTS}" in told

    def move(self, slots: list[int], source: Node, target: Node, pause: float = 0.0) -> None:
        """Move slots with their keys, as `redis-cli --cluster reshard` does: importing, migrating, keys, done."""
        for slot in slots:
            target.cluster("SETSLOT", slot, "IMPORTING", source.id)
            source.cluster("SETSLOT", slot, "MIGRATING", target.id)
            while keys := source.cluster("GETKEYSINSLOT", slot, 10):
                time.sleep(pause)
                arguments = ("127.0.0.1", target.port, "", 0, 5_000, "KEYS", *keys)  # type: ignore[misc]
                source.client.execute_command("MIGRATE", *arguments)
            for node in (target, source, *(each for each in self.masters if each not in (source, target))):
                node.cluster("SETSLOT", slot, "NODE", target.id)

    def end(self) -> None:
        for node in self.nodes:
            node.client.close()
            if node.process.poll() is None:
                node.process.send_signal(signal.SIGCONT)
                node.kill()
