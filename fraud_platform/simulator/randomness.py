"""Where randomness comes from: one generator per (seed, day, stream), and hashes for what has no day of its own.

What belongs here: seeding and stateless draws. What does not: any distribution of the simulated world.
"""

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Keys = NDArray[np.uint64]


class Stream(IntEnum):
    """Independent streams of one day; a change in one leaves the others' bytes alone."""

    USERS = 1
    MERCHANTS = 2
    COUNTS = 3
    EVERYDAY = 4
    LOOKALIKES = 5
    RETRIES = 6
    CARD_TESTING = 7
    ACCOUNT_TAKEOVER = 8
    COMPROMISED_MERCHANT = 9
    OUT_OF_CHARACTER = 10
    UNREMARKABLE = 11
    FRAUD_LABELS = 12
    LEGITIMATE_LABELS = 13
    LEAK_VISITS = 14
    LEAKS = 15


class Salt(IntEnum):
    """Keeps hashes of the same subject for different purposes apart."""

    TRIP = 101
    TRIP_DEVICE = 102
    DEVICE = 103
    IDENTIFIER = 104
    CAMPAIGN = 105
    RATE = 106
    TESTING_GROUND = 107
    GAPS = 108


def generator(seed: int, ordinal: int, stream: Stream) -> np.random.Generator:
    """The generator of one stream on one day; `ordinal` is date.toordinal(), 0 for what has no day."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, ordinal, int(stream)])))


def mix(*keys: Any) -> Keys:
    """A 64-bit hash per row of the broadcast integer keys (splitmix64 of one key after the other)."""
    state = np.asarray([0x9E3779B97F4A7C15], np.uint64)
    for key in keys:
        state = state ^ np.asarray(key).astype(np.uint64)
        state = state + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state


def uniform(*keys: Any) -> Floats:
    """A float64 in [0, 1) per row of the keys."""
    return (mix(*keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53
