"""Velocity at serving speed: the names, script and replies of the sorted sets that count attempts per entity.

What belongs here: keys, arguments, parsing, and when a window is complete. What does not: the connection (`store`) and
rebuilding from the lake (`warm`).
"""

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraud_platform import processing
from fraud_platform.features.catalogue import (
    CATALOGUE,
    HOUR,
    LIVE_HISTORY,
    VELOCITY_WINDOWS,
    Catalogue,
    Feature,
)
from fraud_platform.schema import Transaction

SCRIPT = (Path(__file__).parent / "velocity.lua").read_text()
SEED_SCRIPT = (Path(__file__).parent / "velocity_seed.lua").read_text()
SCRIPT_SHA = hashlib.sha1(SCRIPT.encode()).hexdigest().encode()
"""The name that Redis gives the script; no secret."""

Entity = Literal["user", "merchant"]
ENTITIES: tuple[Entity, ...] = ("user", "merchant")

IDENTITY_LIFE = processing.DUPLICATE_WINDOW_US
"""Microseconds of received_at for which a repeated (caller, transaction) is the same attempt."""

SET_EXPIRY_MS = 73 * HOUR // 1_000
"""An entry counts until effective time + 48 h, and effective time may lag received_at by 24 h; one hour of slack."""

IDENTITY_EXPIRY_MS = 25 * HOUR // 1_000
"""Memory is given back an hour after an identity's life; the script itself compares received_at."""

COUNTED_AHEAD = processing.COUNTED_AHEAD_US
"""How far an effective time may be ahead of received_at, hence how far attempts lost before an epoch reach into it."""


@dataclass(frozen=True)
class _Windows:
    """Which windows one entity's call reads, and what becomes of its reply."""

    windows: tuple[int, ...]
    features: tuple[tuple[int, int, int], ...]
    """Per feature: position in the velocity block, position in the script's reply, window in microseconds."""


_REPLIED = {("count", ""): 0, ("sum", "amount"): 1}
"""What the script replies of each window, in its order, by aggregate and operand."""


@dataclass(frozen=True)
class Plan:
    """What the script is asked for a set's velocity block, and how its replies become that."""

    width: int
    windows: dict[Entity, _Windows]
    tails: dict[tuple[Entity, ...], bytes]
    """What is the same for every attempt at these entities, as Redis reads it."""


def plan_of(catalogue: Catalogue) -> Plan:
    """The plan of a set."""
    block = catalogue.of("velocity")
    windows = {entity: _windows(block, entity) for entity in ENTITIES}
    together = (ENTITIES, *((entity,) for entity in ENTITIES))
    return Plan(len(block), windows, {entities: _tail([windows[each] for each in entities]) for entities in together})


def _windows(block: Sequence[Feature], entity: Entity) -> _Windows:
    features = [(i, f) for i, f in enumerate(block) if f.entity == entity]
    names = sorted({f.window for _, f in features}, key=VELOCITY_WINDOWS.__getitem__)
    windows = tuple(VELOCITY_WINDOWS[name] for name in names)
    return _Windows(
        windows,
        tuple(
            (i, _HEAD + 2 * names.index(f.window) + _REPLIED[f.aggregate, f.operand], VELOCITY_WINDOWS[f.window])
            for i, f in features
        ),
    )


def bulk(argument: bytes) -> bytes:
    """One argument of a command as Redis reads it."""
    return b"$%d\r\n%b\r\n" % (len(argument), argument)


_SHA = bulk(SCRIPT_SHA)
_HEAD = 4
"""Entries of an entity's reply before its windows."""
_ARGUMENTS = 7
"""Of the script, beside its keys."""
_ATTEMPT = struct.Struct("<dddd")


def _tail(of_entities: Sequence[_Windows]) -> bytes:
    numbers = [IDENTITY_LIFE, LIVE_HISTORY, COUNTED_AHEAD]
    for each in of_entities:
        numbers += [len(each.windows), *each.windows]
    form = f"<{'d' * len(numbers)}"
    lives = (b"%d" % milliseconds for milliseconds in (SET_EXPIRY_MS, IDENTITY_EXPIRY_MS, IDENTITY_LIFE // 1_000))
    return b"".join(map(bulk, (struct.pack(form, *numbers), form.encode(), *lives)))


PLAN = plan_of(CATALOGUE)
"""The code's own: of attempts whose windows nobody reads, and of whoever hands no set."""


class Epoch(msgspec.Struct, frozen=True, kw_only=True):
    """Since when velocity is complete. A store that lost its data starts a new epoch and owns up to what it lacks.

    An entity may have one of its own, by which a wrong clock harms nobody else: `Reply.since`.
    """

    epoch: str
    complete_since: int
    """UTC microseconds: every attempt with an effective time from here on is counted."""


class Reply(msgspec.Struct, frozen=True):
    """What the script says of one entity."""

    effective_time: int
    duplicate: bool
    previous: int | None
    since: int
    """UTC microseconds: every attempt at the entity with an effective time from here on is counted; 0 unless a clock
    jumped."""
    numbers: list[Any]
    """The script's reply, count and sum per window from `_HEAD` on."""


def complete_after(now: int) -> int:
    """From which effective time on velocity is complete when attempts up to `now` may be missing; microseconds."""
    return now + COUNTED_AHEAD + 1


def set_key(entity: Entity, identifier: str, prefix: bytes = b"") -> bytes:
    """Key of an entity's sorted set; the braces keep it in one Cluster slot with its identities."""
    return b"%sfraud:velocity:{%s:%s}" % (prefix, entity.encode(), identifier.encode())


def identity_key(entity: Entity, identifier: str, caller: str, transaction_id: str, prefix: bytes = b"") -> bytes:
    """Key that remembers that a caller's transaction was counted at an entity, in the set's Cluster slot."""
    name = f"{caller}:{transaction_id}".encode()
    return b"%sfraud:seen:{%s:%s}:%s" % (prefix, entity.encode(), identifier.encode(), name)


def epoch_key(prefix: bytes = b"") -> bytes:
    """Key of the store's epoch."""
    return prefix + b"fraud:velocity:epoch"


def call(
    entities: tuple[Entity, ...],
    payment: Transaction,
    caller: str,
    prefix: bytes,
    *,
    write: bool,
    decision: bytes,
    claim: bytes,
    plan: Plan,
) -> tuple[bytes, bytes]:
    """The first entity's key and the script's call for one attempt at these, as Redis reads it.

    decision: key of the payment's decision, empty for none.
    """
    keys = []
    for entity in entities:
        identifier = payment.user_id if entity == "user" else payment.merchant_id
        keys.append(set_key(entity, identifier, prefix))
        keys.append(identity_key(entity, identifier, caller, payment.transaction_id, prefix))
    if decision:
        keys.append(decision)
    happened = min(payment.event_time, payment.received_at)
    # an amount that is not known is counted and adds nothing
    attempt = _ATTEMPT.pack(happened, payment.amount or 0, payment.received_at, write)
    return keys[0], b"".join(
        (
            b"*%d\r\n$7\r\nEVALSHA\r\n%b$1\r\n%d\r\n" % (3 + len(keys) + _ARGUMENTS, _SHA, len(keys)),
            *[b"$%d\r\n%b\r\n" % (len(key), key) for key in keys],
            b"$%d\r\n%b\r\n$%d\r\n%b\r\n" % (_ATTEMPT.size, attempt, len(claim), claim),
            plan.tails[entities],
        )
    )


def parse(reply: list[Any]) -> Reply:
    """The script's reply on one entity."""
    return Reply(reply[0], reply[1] == 1, None if reply[2] < 0 else reply[2], reply[3], reply)


def complete_block(plan: Plan, user: Reply, merchant: Reply, epoch: Epoch | None) -> NDArray[np.float64]:
    """A set's velocity block, float64: null wherever a window reaches behind the epoch, or its entity's."""
    block = [math.nan] * plan.width
    if epoch is not None:
        for of, reply in ((plan.windows["user"], user), (plan.windows["merchant"], merchant)):
            # the window (t − w, t] begins with the microsecond t − w + 1
            reach = reply.effective_time + 1 - max(epoch.complete_since, reply.since)
            for position, index, window in of.features:
                if window <= reach:
                    block[position] = reply.numbers[index]
    return np.array(block, np.float64)


def last_attempt(user: Reply, snapshot_last: int | None, epoch: Epoch | None) -> int | None:
    """The user's previous effective time, live or snapshot; None when one in between may be lost.

    Once a clock has jumped, a snapshot's may be of another clock: one that is later than the live one, or than this
    attempt, leaves it unknown which was the last.
    """
    live = user.previous
    reach = user.effective_time - LIVE_HISTORY + 1
    if live is None and (epoch is None or reach < max(epoch.complete_since, user.since)):
        return None
    if snapshot_last is None:
        return live
    if user.since and snapshot_last > (user.effective_time if live is None else live):
        return None
    return snapshot_last if live is None else max(live, snapshot_last)


def carried(since: int) -> bytes:
    """What an entity's entries and identities carry behind their own of its epoch; nothing where it has none."""
    return b":%d" % since if since else b""
