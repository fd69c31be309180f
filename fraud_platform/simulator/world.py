"""The world on one day: who travels, which devices are in use, what the clocks show.

What belongs here: state that follows from seed and day alone. What does not: purchases (`everyday`, `fraud`).
"""

from dataclasses import dataclass
from datetime import date
from functools import cached_property

import numpy as np

from fraud_platform.simulator.behaviour import Behaviour
from fraud_platform.simulator.geography import shares, utc_offsets
from fraud_platform.simulator.population import Merchants, Users
from fraud_platform.simulator.randomness import Bools, Floats, Ints, Keys, Salt, Stream, generator, mix, uniform

DAY_US = 86_400_000_000
EPOCH_ORDINAL = date(1970, 1, 1).toordinal()


@dataclass(frozen=True)
class Trips:
    """Where some users are on one day, arrays with one value per user asked for."""

    country: Ints
    """-1: at home."""
    has_device: Bools
    """Whether the trip comes with a device of its own: a new phone, a hotel's computer."""
    device: Keys


@dataclass(frozen=True)
class World:
    """One bank on one day."""

    seed: int
    ordinal: int
    expected: float
    """Transactions that an ordinary day of this bank brings."""
    users: Users
    merchants: Merchants
    behaviour: Behaviour

    @property
    def start_us(self) -> int:
        """Midnight, UTC microseconds."""
        return self.epoch_day * DAY_US

    @property
    def epoch_day(self) -> int:
        """Days since 1970."""
        return self.ordinal - EPOCH_ORDINAL

    def rng(self, stream: Stream) -> np.random.Generator:
        """This day's generator of a stream."""
        return generator(self.seed, self.ordinal, stream)

    @cached_property
    def offsets(self) -> Floats:
        """Hours ahead of UTC per country."""
        return utc_offsets(self.ordinal)

    def trips(self, user: Ints) -> Trips:
        """Every user's calendar is cut into blocks of 40 to 160 days with at most one trip of 2 to 12 days in each."""
        if len(user) > len(self.users) // 2:
            everyone = self._everyones_trips
            return Trips(everyone.country[user], everyone.has_device[user], everyone.device[user])
        return self._trips(user)

    @cached_property
    def _everyones_trips(self) -> Trips:
        return self._trips(np.arange(len(self.users)))

    def _trips(self, who: Ints) -> Trips:
        span = 40 + (uniform(self.seed, Salt.TRIP, who, 1) * 120).astype(np.int64)
        phase = (uniform(self.seed, Salt.TRIP, who, 2) * span).astype(np.int64)
        block, day = np.divmod(self.ordinal + phase, span)
        length = 2 + (uniform(self.seed, Salt.TRIP, who, block, 3) * 11).astype(np.int64)
        start = (uniform(self.seed, Salt.TRIP, who, block, 4) * (span - length)).astype(np.int64)
        away = (day >= start) & (day < start + length) & (uniform(self.seed, Salt.TRIP, who, block, 5) < 0.8)
        draw = uniform(self.seed, Salt.TRIP, who, block, 6)
        country = np.searchsorted(np.cumsum(shares("trips")), draw, "right").clip(0, len(shares("trips")) - 1)
        away &= country != self.users.country[who]
        has_device = away & (uniform(self.seed, Salt.TRIP_DEVICE, who, block) < 0.25)
        return Trips(np.where(away, country, -1), has_device, mix(self.seed, Salt.TRIP_DEVICE, who, block, 1))

    def device(self, user: Ints, slot: Ints) -> Keys:
        """The device in a user's slot; each slot gets a new one every 200 to 900 days."""
        life = 200 + (uniform(self.seed, Salt.DEVICE, user, slot, 1) * 700).astype(np.int64)
        phase = (uniform(self.seed, Salt.DEVICE, user, slot, 2) * life).astype(np.int64)
        return mix(self.seed, Salt.DEVICE, user, slot, (self.ordinal + phase) // life)
