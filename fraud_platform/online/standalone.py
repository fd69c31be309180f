"""One Redis server: whatever a payment needs is one write and one answer.

What belongs here: the wave of one server. What does not: the connection (`wire`), many servers (`cluster`), what the
replies mean (`store`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

import hiredis
import msgspec

from fraud_platform.online import velocity
from fraud_platform.online.attempt import Attempt, Keyed
from fraud_platform.online.decision_key import CLAIM_SCRIPT, SETTLE_SCRIPT
from fraud_platform.online.wire import Reply, StoreError, Wire, command

_OF_THE_SERVER = (
    "OOM", "MISCONF", "READONLY", "NOSCRIPT", "LOADING", "MASTERDOWN", "NOREPLICAS", "BUSY", "NOPERM", "NOAUTH",
)  # fmt: skip
"""Beginnings of errors that say how the server is, and nothing of what it was asked."""

SCRIPTS = (velocity.SCRIPT, SETTLE_SCRIPT, CLAIM_SCRIPT)


class Asked(NamedTuple):
    """Replies to one payment's wave."""

    standing: bytes
    """What was found as the payment's decision: nothing, a claim, or a record."""
    user: Reply
    merchant: Reply
    epoch: velocity.Epoch | None
    """None where velocity was lost and is not counted anew yet."""
    reads: list[Reply]
    values: list[Reply]


class Server(Protocol):
    """One Redis or many, to the store above it. What is awaited raises StoreError."""

    @property
    def ready(self) -> bool:
        """Whether all of it can be asked."""
        ...

    async def open(self) -> None: ...
    async def close(self) -> None: ...

    async def ask(self, attempt: Attempt, reads: Sequence[Keyed], keys: tuple[bytes, ...]) -> Asked:
        """Count the attempt and read beside it. keys: of values that every payment reads."""
        ...

    async def command(self, keyed: Keyed) -> Reply: ...

    def post(self, attempt: Attempt) -> None:
        """Send without waiting for the outcome, where there is a connection."""
        ...

    async def deliver(self, attempts: Sequence[Attempt]) -> bool:
        """Send again, in this order; False where some of it found no server. For `catch_up`."""
        ...

    async def begin_epoch(self, attempt: Attempt, epoch: velocity.Epoch) -> None:
        """Velocity of the attempt's entities was lost: it is counted anew under this epoch."""
        ...

    async def renew_epochs(self, epoch: velocity.Epoch) -> None:
        """All velocity may lack attempts: put this epoch in the place of every epoch that stands."""
        ...


CatchUp = Callable[[Server], Awaitable[bool]]
"""Sends what a server may not have counted; False where it has to be tried again. Raises StoreError, ReplyError."""

_epochs = msgspec.json.Decoder(velocity.Epoch)


def epoch_of(reply: Reply) -> velocity.Epoch | None:
    """An epoch as it is stored."""
    return _epochs.decode(reply) if reply else None


async def load_scripts(wire: Wire) -> None:
    """Make the server know the scripts by their names."""
    for script in SCRIPTS:
        await wire.ask(b"SCRIPT", b"LOAD", script.encode())


class Standalone:
    """A `Server` that is one server."""

    def __init__(self, url: str, *, deadline: float, prefix: bytes, catch_up: CatchUp) -> None:
        """deadline: seconds after which a wave fails; catch_up: awaited on every new connection, before it serves."""
        self._wire = Wire(url, deadline=deadline, prepare=self._prepare)
        self._catch_up = catch_up
        self._epoch_key = velocity.epoch_key(prefix)
        self._common: dict[tuple[bytes, ...], bytes] = {}
        """The command that reads the epoch and the values of some keys, which are few and always the same."""

    @property
    def ready(self) -> bool:
        """Whether it can be asked."""
        return self._wire.ready

    async def open(self) -> None:
        """Connect, and stay connected in the background."""
        await self._wire.open()

    async def close(self) -> None:
        """Close the connection."""
        await self._wire.close()

    async def ask(self, attempt: Attempt, reads: Sequence[Keyed], keys: tuple[bytes, ...]) -> Asked:
        """`Server.ask`: one write, one answer."""
        common = self._common.get(keys)
        if common is None:
            common = self._common[keys] = command(b"MGET", self._epoch_key, *keys)
        payload = b"".join([attempt.call().payload, *[read.payload for read in reads], common])
        replies = await self._wire.send(payload, len(reads) + 2)
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                raise self._refused(reply) from reply
        (standing, user, merchant), *found, (epoch, *values) = replies
        return Asked(standing, user, merchant, epoch_of(epoch), found, values)

    async def command(self, keyed: Keyed) -> Reply:
        """`Server.command`."""
        (reply,) = await self._wire.send(keyed.payload, 1)
        if isinstance(reply, hiredis.ReplyError):
            raise self._refused(reply) from reply
        return reply

    def post(self, attempt: Attempt) -> None:
        """`Server.post`."""
        if self._wire.ready:
            self._wire.send(*_payload([attempt])).add_done_callback(self._posted)

    async def deliver(self, attempts: Sequence[Attempt]) -> bool:
        """`Server.deliver`. Raises hiredis.ReplyError for what the server refuses."""
        replies = await self._wire.deliver(*_payload(attempts))
        refused = next((reply for reply in replies if isinstance(reply, hiredis.ReplyError)), None)
        if refused is not None:
            raise refused
        return True

    async def begin_epoch(self, attempt: Attempt, epoch: velocity.Epoch) -> None:
        """`Server.begin_epoch`; the first to come names it."""
        await self.command(Keyed(self._epoch_key, command(b"SET", self._epoch_key, msgspec.json.encode(epoch), b"NX")))

    async def renew_epochs(self, epoch: velocity.Epoch) -> None:
        """`Server.renew_epochs`."""
        await self._wire.ask(b"SET", self._epoch_key, msgspec.json.encode(epoch), b"XX")

    def _posted(self, sent: "asyncio.Future[list[Reply]]") -> None:
        if not sent.cancelled() and sent.exception() is None:
            for reply in sent.result():
                if isinstance(reply, hiredis.ReplyError):
                    self._refused(reply)

    def _refused(self, reply: hiredis.ReplyError) -> StoreError:
        """A server that takes nothing now, full for one, is away until it takes what it has missed: then `catch_up`
        goes through on a new connection. Otherwise what it refused would never be counted, and nobody would know."""
        why = str(reply)
        # a script's error begins otherwise before Redis 7
        if why.startswith(_OF_THE_SERVER) or any(f": -{word} " in why for word in _OF_THE_SERVER):
            self._wire.renew(why)
        return StoreError(why)

    async def _prepare(self, wire: Wire) -> None:
        await load_scripts(wire)
        await self._catch_up(self)


def _payload(attempts: Sequence[Attempt]) -> tuple[bytes, int]:
    commands = [attempt.call() for attempt in attempts]
    return b"".join([each.payload for each in commands]), len(commands)
