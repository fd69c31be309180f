"""A Redis Cluster: nodes are asked in parallel, and the claim goes ahead of the counts, which are on other servers.

What belongs here: the waves of a Cluster, and its epochs. What does not: routing (`cluster_wire`), one server
(`standalone`), what the replies mean (`store`).

Each slot has an epoch of its own: it moves with the slot, and a master that lost its data has lost its epochs too.
"""

import asyncio
from collections.abc import Sequence

import hiredis
import msgspec
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from fraud_platform.online import velocity
from fraud_platform.online.attempt import Attempt, Keyed, get
from fraud_platform.online.cluster_wire import ClusterWire
from fraud_platform.online.shards import in_slot
from fraud_platform.online.standalone import Asked, CatchUp, epoch_of, load_scripts
from fraud_platform.online.wire import Reply, StoreError, Wire, command

_CATCH_UP_SECONDS = 0.1
_EPOCHS_AT_ONCE = 1_024
_PASSING = ("NOSCRIPT", "CLUSTERDOWN", "MOVED", "ASK", "TRYAGAIN", "LOADING", "READONLY")
"""Beginnings of errors that another attempt, a moment later, may not meet."""


class Cluster:
    """A `Server` that is many servers."""

    def __init__(self, url: str, *, deadline: float, prefix: bytes, catch_up: CatchUp) -> None:
        """deadline: seconds after which a read fails; catch_up: awaited on every new connection to a node, before it
        serves, and whenever something that was sent may not have been counted."""
        self._wire = ClusterWire(url, deadline=deadline, prepare=self._prepare)
        self._deadline = deadline
        self._catch_up = catch_up
        self._epoch_key = velocity.epoch_key(prefix)
        self._behind = asyncio.Event()
        self._troubles = 0
        self._posts: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether all nodes can be asked and have counted whatever they were sent."""
        return self._wire.ready and not self._behind.is_set()

    async def open(self) -> None:
        """Find the nodes, and stay connected in the background."""
        await self._wire.open()
        self._task = asyncio.create_task(self._keep_up())

    async def close(self) -> None:
        """Let what was posted arrive, then close the connections."""
        await asyncio.gather(*self._posts)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._wire.close()

    async def ask(self, attempt: Attempt, reads: Sequence[Keyed], keys: tuple[bytes, ...]) -> Asked:
        """`Server.ask`: first the claim and what is read, then the counts."""
        try:
            async with asyncio.timeout(self._deadline):
                return await self._ask(attempt, [*reads, *map(get, keys)], len(reads))
        except (TimeoutError, StoreError) as error:
            if attempt.write:
                self._fall_behind()
            raise StoreError(str(error) or f"no answer from the Redis Cluster in {self._deadline:g} s") from error

    async def _ask(self, attempt: Attempt, reads: Sequence[Keyed], own: int) -> Asked:
        """own: how many of what is read are the payment's own; after them come the values that all read."""
        standing = b""
        if attempt.claim:
            stands, *found = await self._answers((attempt.claiming(), *reads))
            standing = stands or b""
            counted = attempt.calls_once_claimed(standing)
            user, merchant, *epochs = await self._answers((*counted, *self._epochs_of(counted)))
        else:
            counted = attempt.calls()
            user, merchant, *rest = await self._answers((*counted, *self._epochs_of(counted), *reads))
            epochs, found = rest[:2], rest[2:]
        (_, of_user), (_, of_merchant) = user, merchant
        return Asked(standing, of_user, of_merchant, _joined(*map(epoch_of, epochs)), found[:own], found[own:])

    async def command(self, keyed: Keyed) -> Reply:
        """`Server.command`."""
        (reply,) = await self._answers((keyed,))
        return reply

    def post(self, attempt: Attempt) -> None:
        """`Server.post`."""
        task = asyncio.get_running_loop().create_task(self._post(attempt))
        self._posts.add(task)
        task.add_done_callback(self._posts.discard)

    async def _post(self, attempt: Attempt) -> None:
        try:
            arrived = await self.deliver([attempt])
        except hiredis.ReplyError:
            arrived = False
        if not arrived:
            self._fall_behind()

    async def deliver(self, attempts: Sequence[Attempt]) -> bool:
        """`Server.deliver`: claims, then counts. Raises hiredis.ReplyError for what is refused."""
        claimed = [each for each in attempts if each.claim]
        standing = await self._delivered([each.claiming() for each in claimed])
        counts = [each for attempt in attempts if not attempt.claim for each in attempt.calls()]
        for attempt, stands in zip(claimed, standing, strict=True):
            if not isinstance(stands, StoreError):
                counts += attempt.calls_once_claimed(stands)
        counted = await self._delivered(counts)
        return not any(isinstance(reply, StoreError) for reply in (*standing, *counted))

    async def begin_epoch(self, attempt: Attempt, epoch: velocity.Epoch) -> None:
        """`Server.begin_epoch`, for the slots of the attempt's entities; the first to come names it."""
        keys = [each.key for each in self._epochs_of(attempt.calls())]
        value = msgspec.json.encode(epoch)
        await self._answers([Keyed(key, command(b"SET", key, value, b"NX")) for key in keys])

    async def renew_epochs(self, epoch: velocity.Epoch) -> None:
        """`Server.renew_epochs`. Raises StoreError."""
        value = msgspec.json.encode(epoch)
        keys = [in_slot(self._epoch_key, number) for number in range(REDIS_CLUSTER_HASH_SLOTS)]
        for start in range(0, REDIS_CLUSTER_HASH_SLOTS, _EPOCHS_AT_ONCE):
            await self._answers(
                [Keyed(key, command(b"SET", key, value, b"XX")) for key in keys[start : start + _EPOCHS_AT_ONCE]],
                preparing=True,
            )

    def _epochs_of(self, calls: Sequence[Keyed]) -> list[Keyed]:
        keys = [in_slot(self._epoch_key, key_slot(call.key)) for call in calls]
        return [get(key) for key in keys]

    async def _answers(self, commands: Sequence[Keyed], *, preparing: bool = False) -> list[Reply]:
        """Replies to all. Raises StoreError when one did not come or was an error."""
        replies = await self._wire.exchange(commands, preparing=preparing)
        for reply in replies:
            if isinstance(reply, StoreError):
                raise reply
            if isinstance(reply, hiredis.ReplyError):
                if str(reply).startswith("NOSCRIPT"):
                    await self._wire.each(load_scripts)
                raise StoreError(str(reply)) from reply
        return replies

    async def _delivered(self, commands: Sequence[Keyed]) -> list[Reply | StoreError]:
        replies = await self._wire.exchange(commands, preparing=True)
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError) and not str(reply).startswith(_PASSING):
                raise reply
        return [StoreError(str(reply)) if isinstance(reply, hiredis.ReplyError) else reply for reply in replies]

    async def _prepare(self, wire: Wire) -> None:
        """A new connection to a node: what it missed comes before the first read, as far as other nodes allow."""
        await load_scripts(wire)
        if not await self._catch_up(self):
            self._fall_behind()

    def _fall_behind(self) -> None:
        self._troubles += 1
        self._behind.set()

    async def _keep_up(self) -> None:
        """Send again what may not have been counted, until it has arrived."""
        while True:
            await self._behind.wait()
            await asyncio.sleep(_CATCH_UP_SECONDS)
            if not self._wire.ready:
                continue
            troubles = self._troubles
            try:
                caught_up = await self._catch_up(self)
            except (StoreError, hiredis.ReplyError):
                # visible as `ready`; the next round tries again
                caught_up = False
            if caught_up and troubles == self._troubles:
                self._behind.clear()


def _joined(user: velocity.Epoch | None, merchant: velocity.Epoch | None) -> velocity.Epoch | None:
    """What holds for both: the windows of a payment are complete where both entities' are."""
    if user is None or merchant is None or user == merchant:
        return None if merchant is None else user
    return velocity.Epoch(
        epoch=f"{user.epoch}/{merchant.epoch}", complete_since=max(user.complete_since, merchant.complete_since)
    )
