"""Connections to all masters of a Redis Cluster: every command goes to the server of its key, to all in parallel.

What belongs here: who serves which slot, and following what moves. What does not: which commands (`cluster`), one
connection (`wire`). Redis-py's own asyncio client keeps a pool per node whose every call waits for its reply alone.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

import hiredis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from fraud_platform.online.attempt import Keyed
from fraud_platform.online.shards import node_url, seed_urls
from fraud_platform.online.wire import Reply, StoreError, Wire, command

_LOOK_SECONDS, _TROUBLED_LOOK_SECONDS = 10.0, 0.2
"""How often the map of slots is asked for: while all is well, and while a node is away."""
_REDIRECTS = 5
"""Moves that one command is sent after: a slot under way answers two, a failover one."""
_TRY_AGAIN_SECONDS = 0.002
_ASKING = command(b"ASKING")
_SLOTS = command(b"CLUSTER", b"SLOTS")


class ClusterWire:
    """Keeps itself up. Use from one event loop; `open` first, `close` last."""

    def __init__(self, url: str, *, deadline: float, prepare: Callable[[Wire], Awaitable[None]]) -> None:
        """deadline and prepare: as those of each node's `Wire`."""
        self._seeds = seed_urls(url)
        self._deadline = deadline
        self._prepare = prepare
        self._nodes: dict[str, Wire] = {}
        self._owners: list[str | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._look_now = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether every slot's server can be asked."""
        return bool(self._nodes) and all(wire.ready for wire in self._nodes.values())

    async def open(self) -> None:
        """Find the nodes and stay connected in the background; returns after the first attempt."""
        await self._look()
        self._task = asyncio.create_task(self._keep_looking())

    async def close(self) -> None:
        """End all connections."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*(wire.close() for wire in self._nodes.values()))

    async def exchange(self, commands: Sequence[Keyed], *, preparing: bool = False) -> list[Reply | StoreError]:
        """Each command's reply, or the StoreError that it got instead; a hiredis.ReplyError is a reply.

        preparing: also over connections that are not prepared yet.
        """
        replies: list[Reply | StoreError] = [None] * len(commands)
        by_node: dict[str | None, list[int]] = defaultdict(list)
        for position, each in enumerate(commands):
            by_node[self._owners[key_slot(each.key)]].append(position)
        waves = [
            (positions, self._send(node, b"".join([commands[p].payload for p in positions]), len(positions), preparing))
            for node, positions in by_node.items()
        ]
        for positions, wave in waves:
            for position, reply in zip(positions, await _outcome(wave, len(positions)), strict=True):
                replies[position] = reply
        for position, reply in enumerate(replies):
            if _is_redirection(reply):
                replies[position] = await self._follow(commands[position], reply, preparing)
        return replies

    async def each(self, do: Callable[[Wire], Awaitable[None]]) -> None:
        """Do it with every node's connection. Raises StoreError, hiredis.ReplyError."""
        await asyncio.gather(*(do(wire) for wire in self._nodes.values()))

    def _send(self, node: str | None, payload: bytes, replies: int, preparing: bool) -> Awaitable[list[Reply]]:
        """The wave under way, or one that fails at once: commands of other nodes must go out all the same."""
        wire = None if node is None else self._nodes.get(node)
        try:
            if wire is None:
                raise StoreError("no server of the Redis Cluster is known for this slot")
            return wire.begin(payload, replies) if preparing else wire.send(payload, replies)
        except StoreError as error:
            self._look_now.set()
            failed: asyncio.Future[list[Reply]] = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            return failed

    async def _follow(self, keyed: Keyed, reply: Reply, preparing: bool) -> Reply | StoreError:
        """The reply from wherever the key has gone."""
        for _ in range(_REDIRECTS):
            kind, _, rest = str(reply).partition(" ")
            node = self._owners[key_slot(keyed.key)]
            prefix = b""
            if kind in ("MOVED", "ASK"):
                node = rest.rpartition(" ")[2]
                if node.startswith(":"):
                    # a node that does not know its own address: it is where we reached it
                    node = f"{urlsplit(self._seeds[0]).hostname}{node}"
                if node not in self._nodes:
                    await self._adopt([node])
                if kind == "MOVED":
                    self._owners[key_slot(keyed.key)] = node
                    self._look_now.set()
                else:
                    prefix = _ASKING
            else:
                # TRYAGAIN: of this command's two keys one has moved already
                await asyncio.sleep(_TRY_AGAIN_SECONDS)
            wanted = 2 if prefix else 1
            reply = (await _outcome(self._send(node, prefix + keyed.payload, wanted, preparing), wanted))[-1]
            if not _is_redirection(reply):
                return reply
        return StoreError(f"the Redis Cluster sends on and on: {reply}")

    async def _keep_looking(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_LOOK_SECONDS if self.ready else _TROUBLED_LOOK_SECONDS):
                    await self._look_now.wait()
            except TimeoutError:
                # the usual round
                pass
            self._look_now.clear()
            await self._look()
            # however many commands ask for a look, the nodes are asked a few times a second at most
            await asyncio.sleep(_TROUBLED_LOOK_SECONDS / 4)

    async def _look(self) -> None:
        """Take the map of slots from the first node that tells it; the old one stays where none does."""
        told = await self._map()
        if told is None:
            return
        owners: list[str | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        for first, last, (host, port, *_), *_ in told:
            node = f"{(host or b'').decode() or urlsplit(self._seeds[0]).hostname}:{port}"
            owners[first : last + 1] = [node] * (last + 1 - first)
        masters = {node for node in owners if node is not None}
        await self._adopt(sorted(masters - self._nodes.keys()))
        self._owners = owners
        gone = [self._nodes.pop(node) for node in self._nodes.keys() - masters]
        await asyncio.gather(*(wire.close() for wire in gone))

    async def _map(self) -> list[list[Reply]] | None:
        for wire in [wire for wire in self._nodes.values() if wire.ready]:
            (reply,) = await _outcome(wire.send(_SLOTS, 1), 1)
            if isinstance(reply, list) and reply:
                return reply
        for seed in self._seeds:
            wire = Wire(seed, deadline=max(self._deadline, 1.0))
            try:
                await wire.open()
                reply = await wire.ask(b"CLUSTER", b"SLOTS")
            except (StoreError, hiredis.ReplyError):
                # visible as `ready`; the next seed may answer, and all are asked again in a moment
                continue
            finally:
                await wire.close()
            if isinstance(reply, list) and reply:
                return reply
        return None

    async def _adopt(self, nodes: Sequence[str]) -> None:
        new = {}
        for node in nodes:
            host, _, port = node.rpartition(":")
            new[node] = Wire(node_url(self._seeds[0], host, int(port)), deadline=self._deadline, prepare=self._prepare)
        # known before they are open: what prepares one may already ask another
        self._nodes |= new
        await asyncio.gather(*(wire.open() for wire in new.values()))


async def _outcome(wave: Awaitable[list[Reply]], wanted: int) -> Sequence[Reply | StoreError]:
    try:
        return await wave
    except StoreError as error:
        return [error] * wanted


def _is_redirection(reply: Reply | StoreError) -> bool:
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith(("MOVED ", "ASK ", "TRYAGAIN"))
