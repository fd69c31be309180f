"""Who exists: users with home, habit and favourites; merchants with category, country and popularity.

What belongs here: what is drawn once per bank and never changes. What does not: anything that depends on a day.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fraud_platform.simulator.geography import COUNTRIES, shares
from fraud_platform.simulator.randomness import Bools, Floats, Ints, Stream, generator

FAVOURITES_POS, FAVOURITES_ONLINE = 6, 4
FAVOURITE_POS_CDF = np.cumsum(0.62 ** np.arange(FAVOURITES_POS)) / np.sum(0.62 ** np.arange(FAVOURITES_POS))
FAVOURITE_ONLINE_CDF = np.cumsum(0.62 ** np.arange(FAVOURITES_ONLINE)) / np.sum(0.62 ** np.arange(FAVOURITES_ONLINE))


class Category(NamedTuple):
    """A merchant category: shares among pos and online merchants, log amount level, pull on fraudsters."""

    code: str
    pos: float
    online: float
    level: float
    exposure: float


CATEGORIES = (
    Category("5411", 0.26, 0.05, -0.2, 0.4),  # groceries
    Category("5812", 0.20, 0.03, -0.1, 0.3),  # restaurants
    Category("5541", 0.09, 0.00, 0.3, 0.6),  # fuel
    Category("4111", 0.07, 0.03, -1.7, 0.2),  # local transport
    Category("5912", 0.09, 0.04, -0.3, 0.4),  # pharmacies
    Category("6011", 0.06, 0.00, 0.8, 0.8),  # cash
    Category("5311", 0.09, 0.12, 0.4, 1.0),  # department stores
    Category("5651", 0.08, 0.15, 0.4, 1.0),  # clothing
    Category("5732", 0.04, 0.13, 1.2, 3.0),  # electronics
    Category("7011", 0.02, 0.05, 1.3, 0.8),  # hotels
    Category("4511", 0.00, 0.05, 1.6, 1.2),  # airlines
    Category("5942", 0.00, 0.07, -0.2, 0.4),  # books
    Category("5816", 0.00, 0.09, -1.4, 1.5),  # games
    Category("5818", 0.00, 0.08, -1.2, 1.0),  # app stores
    Category("5999", 0.00, 0.08, 0.1, 2.0),  # other retail
    Category("4829", 0.00, 0.03, 1.0, 4.0),  # money transfer
)
SMALL_PURCHASES = np.array([category.code in ("4111", "5816", "5818") for category in CATEGORIES])


@dataclass(frozen=True)
class Merchants:
    """Arrays of shape (merchants,) and look-ups by (country, channel)."""

    country: NDArray[np.int8]
    category: NDArray[np.int8]
    online: Bools
    log_level: Floats
    popularity: Floats
    exposure: Floats
    """Relative pull on fraudsters, beyond popularity."""
    latitude: Floats
    longitude: Floats
    _order: Ints
    _cumulative: Floats
    _low: Floats
    _high: Floats

    def pick(self, rng: np.random.Generator, country: Ints, online: Bools) -> Ints:
        """A merchant per row, by popularity within country and channel; any merchant where there is none."""
        group = country * 2 + online
        low, high = self._low[group], self._high[group]
        at = low + rng.random(len(group)) * (high - low)
        place = np.minimum(np.searchsorted(self._cumulative, at, "right"), len(self._order) - 1)
        return np.asarray(self._order[place], np.int64)

    def choose(self, rng: np.random.Generator, weights: Floats, size: int) -> Ints:
        """Merchants drawn by `weights`, shape (merchants,); by popularity when they are all zero."""
        return pick_by(rng, weights if weights.any() else self.popularity, size)


@dataclass(frozen=True)
class Users:
    """Arrays of shape (users,); favourites are merchant indices of shape (users, k), the dearest first."""

    country: NDArray[np.int8]
    activity: Floats
    activity_cdf: Floats
    log_amount: Floats
    spread: Floats
    online_share: Floats
    devices: NDArray[np.int8]
    phase_hours: Floats
    """How much later than their country they live."""
    latitude: Floats
    longitude: Floats
    favourite_pos: NDArray[np.int32]
    favourite_online: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.country)


def pick_by(rng: np.random.Generator, weights: Floats, size: int) -> Ints:
    """`size` indices into `weights`, drawn in proportion to them."""
    cumulative = np.cumsum(weights)
    at = np.searchsorted(cumulative, rng.random(size) * cumulative[-1], "right")
    return np.asarray(np.minimum(at, len(weights) - 1), np.int64)


def draw_merchants(seed: int, count: int) -> Merchants:
    """The merchants of a bank. A third sells online; popularity falls off as 1 / rank^0.9."""
    rng = generator(seed, 0, Stream.MERCHANTS)
    country = pick_by(rng, shares("merchants"), count).astype(np.int8)
    online = rng.random(count) < 0.34
    pos_shares = np.array([category.pos for category in CATEGORIES])
    online_shares = np.array([category.online for category in CATEGORIES])
    category = np.where(online, pick_by(rng, online_shares, count), pick_by(rng, pos_shares, count)).astype(np.int8)
    popularity = 1.0 / (1.0 + rng.permutation(count)) ** 0.9
    levels = np.array([category.level for category in CATEGORIES])
    pulls = np.array([category.exposure for category in CATEGORIES])
    group = country.astype(np.int64) * 2 + online
    order = np.argsort(group, kind="stable").astype(np.int64)
    cumulative = np.cumsum(popularity[order])
    groups = np.arange(2 * len(COUNTRIES))
    edges = np.concatenate([[0.0], cumulative])
    low = edges[np.searchsorted(group[order], groups, "left")]
    high = edges[np.searchsorted(group[order], groups, "right")]
    empty = low == high
    return Merchants(
        country=country,
        category=category,
        online=online,
        log_level=levels[category] + rng.normal(0, 0.35, count),
        popularity=popularity / popularity.sum(),
        exposure=pulls[category] * rng.lognormal(0, 0.9, count),
        latitude=_spread(rng, country, "latitude"),
        longitude=_spread(rng, country, "longitude"),
        _order=order,
        _cumulative=cumulative,
        _low=np.where(empty, 0.0, low),
        _high=np.where(empty, cumulative[-1], high),
    )


def draw_users(seed: int, count: int, merchants: Merchants) -> Users:
    """The users of a bank, their favourites among its merchants."""
    rng = generator(seed, 0, Stream.USERS)
    country = pick_by(rng, shares("users"), count).astype(np.int8)
    activity = rng.lognormal(0, 0.95, count)
    # a shop at home for most, anywhere in the world for the rest
    home = np.repeat(country.astype(np.int64), FAVOURITES_ONLINE)
    anywhere = pick_by(rng, shares("merchants"), len(home))
    where = np.where(rng.random(len(home)) < 0.8, home, anywhere)
    pos_home = np.repeat(country.astype(np.int64), FAVOURITES_POS)
    favourite_pos = merchants.pick(rng, pos_home, np.zeros(len(pos_home), np.bool_))
    favourite_online = merchants.pick(rng, where, np.ones(len(where), np.bool_))
    return Users(
        country=country,
        activity=activity,
        activity_cdf=np.cumsum(activity) / activity.sum(),
        log_amount=rng.normal(np.log(2_600), 0.6, count),
        spread=rng.uniform(0.45, 0.95, count),
        online_share=rng.beta(1.6, 2.4, count),
        devices=rng.choice(np.array([1, 2, 3], np.int8), count, p=[0.5, 0.35, 0.15]),
        phase_hours=rng.normal(0, 1.6, count),
        latitude=_spread(rng, country, "latitude"),
        longitude=_spread(rng, country, "longitude"),
        favourite_pos=favourite_pos.reshape(count, FAVOURITES_POS).astype(np.int32),
        favourite_online=favourite_online.reshape(count, FAVOURITES_ONLINE).astype(np.int32),
    )


def _spread(rng: np.random.Generator, country: NDArray[np.int8], axis: str) -> Floats:
    centres = np.array([getattr(each, axis) for each in COUNTRIES])
    return np.asarray(centres[country] + rng.normal(0, 1.1, len(country)))
