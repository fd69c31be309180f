"""Where crime concentrates for a while: merchants that leak cards, merchants that testers of cards have found.

What belongs here: which merchants, when. What does not: the frauds that follow (`fraud`).
"""

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


def leaking_merchants(world: World) -> Ints:
    """Merchants that leak the cards used at them on the day; where there are none, the unluckiest one."""
    merchant = np.arange(len(world.merchants.country))
    phase = (uniform(world.seed, Salt.CAMPAIGN, merchant, 1) * BLOCK_DAYS).astype(np.int64)
    block, day = np.divmod(world.ordinal + phase, BLOCK_DAYS)
    length = 20 + (uniform(world.seed, Salt.CAMPAIGN, merchant, block, 2) * 25).astype(np.int64)
    start = (uniform(world.seed, Salt.CAMPAIGN, merchant, block, 3) * (BLOCK_DAYS - length)).astype(np.int64)
    luck = uniform(world.seed, Salt.CAMPAIGN, merchant, block, 4)
    chosen = np.flatnonzero((day >= start) & (day < start + length) & (luck < LEAK_SHARE))
    return chosen if len(chosen) else np.array([np.argmin(luck)])


def testing_grounds(world: World) -> Floats:
    """Weights of merchants, shape (merchants,), at which cards are tested these weeks: a few, all of them online."""
    merchant = np.arange(len(world.merchants.country))
    phase = (uniform(world.seed, Salt.TESTING_GROUND, merchant, 1) * TESTING_BLOCK_DAYS).astype(np.int64)
    block = (world.ordinal + phase) // TESTING_BLOCK_DAYS
    found = uniform(world.seed, Salt.TESTING_GROUND, merchant, block, 2) < TESTING_SHARE
    weights = world.merchants.exposure * np.sqrt(world.merchants.popularity) * world.merchants.online
    return weights * found if (weights * found).any() else weights
