"""Where crime concentrates for a while: merchants that leak cards, merchants that testers of cards have found.

What belongs here: which merchants, when. What does not: the frauds that follow (`fraud`).
"""

from dataclasses import dataclass

import numpy as np

from fraud_platform.simulator.randomness import Floats, Ints, Salt, uniform
from fraud_platform.simulator.world import World

BLOCK_DAYS = 80
"""A merchant's calendar is cut into blocks with at most one leak in each."""

LEAK_SHARE = 0.018
"""Share of blocks with a leak."""

MIN_LAG, MAX_LAG = 2, 14
"""Days between a card's use at a leaking merchant and its abuse."""

TESTING_BLOCK_DAYS = 20
TESTING_SHARE = 0.06


@dataclass(frozen=True)
class Leaks:
    """Merchants whose leaked cards may be abused today, arrays of shape (leaks,)."""

    merchant: Ints
    age: Ints
    """Days since the leak began."""
    length: Ints
    """Days that it lasts."""


def leaks(world: World) -> Leaks:
    """The leaks whose cards may be abused on the day; where there are none, the least lucky merchant's."""
    merchant = np.arange(len(world.merchants.country))
    phase = (uniform(world.seed, Salt.CAMPAIGN, merchant, 1) * BLOCK_DAYS).astype(np.int64)
    block, day = np.divmod(world.ordinal + phase, BLOCK_DAYS)
    length = 20 + (uniform(world.seed, Salt.CAMPAIGN, merchant, block, 2) * 25).astype(np.int64)
    start = (uniform(world.seed, Salt.CAMPAIGN, merchant, block, 3) * 18).astype(np.int64)
    luck = uniform(world.seed, Salt.CAMPAIGN, merchant, block, 4)
    age = day - start
    open_today = (age >= MIN_LAG) & (age < length + MAX_LAG - 1)
    chosen = np.flatnonzero(open_today & (luck < LEAK_SHARE))
    if not len(chosen) and open_today.any():
        chosen = np.array([np.argmin(np.where(open_today, luck, 2.0))])
    return Leaks(chosen, age[chosen], length[chosen])


def testing_grounds(world: World) -> Floats:
    """Weights of merchants, shape (merchants,), at which cards are tested these weeks: a few, all of them online."""
    merchant = np.arange(len(world.merchants.country))
    phase = (uniform(world.seed, Salt.TESTING_GROUND, merchant, 1) * TESTING_BLOCK_DAYS).astype(np.int64)
    block = (world.ordinal + phase) // TESTING_BLOCK_DAYS
    found = uniform(world.seed, Salt.TESTING_GROUND, merchant, block, 2) < TESTING_SHARE
    weights = world.merchants.exposure * np.sqrt(world.merchants.popularity) * world.merchants.online
    return weights * found if (weights * found).any() else weights
