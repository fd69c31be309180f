"""Velocity at serving speed: the names, script and replies of the sorted sets that count attempts per entity.

What belongs here: keys, arguments, parsing, and when a window is complete. What does not: the connection (`store`) and
rebuilding from the lake (`warm`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraud_platform import processing
from fraud_platform.features.catalogue import CATALOGUE, HOUR, LIVE_HISTORY, VELOCITY_WINDOWS
from fraud_platform.schema import Transaction

SCRIPT = (Path(__file__).parent / "velocity.lua").read_text()
SEED_SCRIPT = (Path(__file__).parent / "velocity_seed.lua").read_text()

Entity = Literal["user", "merchant"]
ENTITIES: tuple[Entity, ...] = ("user", "merchant")

IDENTITY_LIFE = processing.DUPLICATE_WINDOW_US
"""Microseconds of received_at for which a repeated (caller, transaction) is the same attempt."""

SET_EXPIRY_MS = 73 * HOUR // 1_000
"""An entry counts until effective time + 48 h, and effective time may lag received_at by 24 h; one hour of slack."""

IDENTITY_EXPIRY_MS = 25 * HOUR // 1_000
"""Memory is given back an hour after an identity's life; the script itself compares received_at."""

CLOCK_AHEAD = processing.MAX_AHEAD_US
"""How far event_time may be ahead of received_at, hence how far attempts lost before an epoch may reach into it."""


@dataclass(frozen=True)
class _Plan:
    """Which windows one entity's call reads, and where its reply goes in the velocity block."""

    windows: tuple[int, ...]
    reply: NDArray[np.intp]
    """Positions in the script's reply, one per feature of the entity."""
    block: NDArray[np.intp]
    """Positions in the velocity block of the vector, one per feature of the entity."""
    feature_windows: NDArray[np.int64]


def _plan(entity: Entity) -> _Plan:
    features = [(i, f) for i, f in enumerate(CATALOGUE.of("velocity")) if f.name.startswith(f"{entity}_")]
    names = sorted({f.window for _, f in features}, key=VELOCITY_WINDOWS.__getitem__)
    reply = [3 + 2 * names.index(f.window) + ("amount_sum" in f.name) for _, f in features]
    return _Plan(
        tuple(VELOCITY_WINDOWS[name] for name in names),
        np.array(reply, np.intp),
        np.array([i for i, _ in features], np.intp),
        np.array([VELOCITY_WINDOWS[f.window] for _, f in features], np.int64),
    )


PLANS: dict[Entity, _Plan] = {"user": _plan("user"), "merchant": _plan("merchant")}
WIDTH = len(CATALOGUE.of("velocity"))


class Epoch(msgspec.Struct, frozen=True, kw_only=True):
    """Since when velocity is complete. A store that lost its data starts a new epoch and owns up to what it lacks."""

    epoch: str
    complete_since: int
    """UTC microseconds: every attempt with an effective time from here on is counted."""


@dataclass(frozen=True)
class Reply:
    """What one call of the script says of one entity."""

    effective_time: int
    duplicate: bool
    previous: int | None
    values: NDArray[np.float64]
    """One per feature of the entity in the velocity block; not yet null where the epoch is incomplete."""


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


def arguments(entity: Entity, payment: Transaction, *, write: bool) -> list[int]:
    """ARGV of the script for one attempt."""
    return [
        payment.event_time,
        payment.amount,
        payment.received_at,
        int(write),
        IDENTITY_LIFE,
        LIVE_HISTORY,
        SET_EXPIRY_MS,
        IDENTITY_EXPIRY_MS,
        *PLANS[entity].windows,
    ]


def parse(entity: Entity, reply: list[int]) -> Reply:
    """The script's reply."""
    values = np.array(reply, np.float64)[PLANS[entity].reply]
    return Reply(reply[0], bool(reply[1]), None if reply[2] < 0 else reply[2], values)


def complete_block(user: Reply, merchant: Reply, epoch: Epoch | None) -> NDArray[np.float64]:
    """The velocity block, float64 of shape (11,): null wherever a window reaches behind the epoch."""
    block = np.full(WIDTH, np.nan)
    if epoch is None:
        return block
    for plan, reply in ((PLANS["user"], user), (PLANS["merchant"], merchant)):
        # the window (t − w, t] begins with the microsecond t − w + 1
        complete = reply.effective_time - plan.feature_windows + 1 >= epoch.complete_since
        block[plan.block] = np.where(complete, reply.values, np.nan)
    return block


def last_attempt(user: Reply, snapshot_last: int | None, epoch: Epoch | None) -> int | None:
    """The user's previous effective time, live or snapshot; None when one in between may be lost."""
    if user.previous is not None:
        return user.previous if snapshot_last is None else max(user.previous, snapshot_last)
    if epoch is None or user.effective_time - LIVE_HISTORY + 1 < epoch.complete_since:
        return None
    return snapshot_last
