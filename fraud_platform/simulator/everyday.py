"""Everyday purchases: what a user buys, where, when, for how much and from which device.

What belongs here: habit, for any vector of users. What does not: how many purchases a day has (`legitimate`), and
fraud, which starts from these rows and changes them (`fraud`).
"""

import numpy as np

from fraud_platform.simulator.geography import shares
from fraud_platform.simulator.population import FAVOURITE_ONLINE_CDF, FAVOURITE_POS_CDF, pick_by
from fraud_platform.simulator.randomness import Bools, Floats, Ints, Keys
from fraud_platform.simulator.rows import Rows
from fraud_platform.simulator.world import Trips, World

MILLISECOND_US = 1_000

# relative traffic in each hour of local time, 00:00 first
_POS_HOURS = [1, 0.5, 0.4, 0.3, 0.4, 1, 3, 7, 9, 9, 10, 12, 14, 12, 10, 10, 12, 14, 14, 11, 8, 6, 4, 2]
_ONLINE_HOURS = [4, 2, 1.5, 1, 1, 1.5, 3, 5, 7, 8, 8, 8, 9, 8, 8, 8, 8, 9, 11, 13, 15, 15, 12, 8]
WEEK = np.array([0.93, 0.94, 0.97, 1.02, 1.14, 1.12, 0.88])
"""Traffic by weekday, Monday first; the mean is 1."""


def _hours(rng: np.random.Generator, online: Bools) -> Floats:
    """Local hours in [0, 24) that follow the day's rhythm."""
    at = rng.random(len(online))
    edges = np.arange(25.0)
    pos = np.interp(at, np.concatenate([[0], np.cumsum(_POS_HOURS) / np.sum(_POS_HOURS)]), edges)
    web = np.interp(at, np.concatenate([[0], np.cumsum(_ONLINE_HOURS) / np.sum(_ONLINE_HOURS)]), edges)
    return np.asarray(np.where(online, web, pos))


def local_to_us(world: World, user: Ints, hours: Floats) -> Ints:
    """UTC microseconds on this UTC day at which the clock of a user's home shows `hours`, to the millisecond."""
    offset = world.offsets[world.users.country[user]]
    utc = (hours - offset) % 24.0
    since_midnight = np.minimum((utc * 3_600_000).astype(np.int64), 86_399_999) * MILLISECOND_US
    return world.start_us + since_midnight


def draw_users(world: World, rng: np.random.Generator, size: int) -> Ints:
    """Who pays, by activity."""
    at = np.searchsorted(world.users.activity_cdf, rng.random(size), "right")
    return np.minimum(at, len(world.users) - 1).astype(np.int64)


def _merchants(world: World, rng: np.random.Generator, user: Ints, online: Bools, trips: Trips) -> Ints:
    users, merchants = world.users, world.merchants
    home = users.country[user].astype(np.int64)
    travelling = (trips.country >= 0) & ~online
    somewhere = pick_by(rng, shares("merchants"), len(user))
    elsewhere = np.where(online & (rng.random(len(user)) < 0.28), somewhere, home)
    elsewhere = np.where((trips.country >= 0) & (rng.random(len(user)) < 0.4), trips.country, elsewhere)
    discovered = merchants.pick(rng, np.where(travelling, trips.country, elsewhere), online)
    rank = rng.random(len(user))
    favourite = np.where(
        online,
        users.favourite_online[user, np.searchsorted(FAVOURITE_ONLINE_CDF, rank, "right")],
        users.favourite_pos[user, np.searchsorted(FAVOURITE_POS_CDF, rank, "right")],
    )
    loyal = (rng.random(len(user)) < np.where(online, 0.62, 0.7)) & ~travelling
    return np.where(loyal, favourite, discovered)


def amounts(world: World, rng: np.random.Generator, user: Ints, merchant: Ints) -> Floats:
    """What these users habitually spend at these merchants, minor units of the base currency."""
    users = world.users
    mean = users.log_amount[user] + world.merchants.log_level[merchant] * 0.8
    amount = np.exp(mean + rng.normal(0, 1, len(user)) * users.spread[user]) * world.behaviour.amount_scale
    # round prices are common
    rounded = np.maximum(np.rint(amount / 50) * 50, 50)
    return np.asarray(np.where(rng.random(len(user)) < 0.35, rounded, np.maximum(amount, 10)))


def _devices(
    world: World, rng: np.random.Generator, user: Ints, online: Bools, trips: Trips
) -> tuple[Keys, Bools, Bools]:
    """What these users pay from: mostly their first device online; at a till a phone's wallet or nothing. Then who pays
    from a device of a trip, and who from one that nobody sees again.
    """
    draw = rng.random(len(user))
    slot = np.minimum((draw > 0.74).astype(np.int64) + (draw > 0.94), world.users.devices[user] - 1)
    slot = np.where(online, slot, 0)
    device = world.device(user, slot)
    travelling = trips.has_device & (rng.random(len(user)) < 0.8)
    device = np.where(travelling, trips.device, device)
    guest = online & (rng.random(len(user)) < world.behaviour.guest_device)
    device = np.where(guest, rng.integers(1, 2**63, len(user), dtype=np.uint64), device)
    silent = rng.random(len(user)) < np.where(online, 0.03, 0.9)
    return np.where(silent, np.uint64(0), device), travelling, guest


def places(world: World, rng: np.random.Generator, user: Ints, merchant: Ints) -> tuple[Floats, Floats]:
    """Latitude and longitude: the till's, or where the payer's address points online; often unknown."""
    online = world.merchants.online[merchant]
    known = rng.random(len(user)) > np.where(online, 0.5, 0.12)
    latitude = np.where(online, world.users.latitude[user], world.merchants.latitude[merchant])
    longitude = np.where(online, world.users.longitude[user], world.merchants.longitude[merchant])
    jitter = np.where(online, 0.08, 0.0005)
    return (
        np.where(known, np.round(latitude + rng.normal(0, 1, len(user)) * jitter, 5), np.nan),
        np.where(known, np.round(longitude + rng.normal(0, 1, len(user)) * jitter, 5), np.nan),
    )


def delays(world: World, rng: np.random.Generator, size: int) -> Ints:
    """Microseconds from timestamp to received_at; negative where the caller's clock is ahead."""
    behaviour = world.behaviour
    delay = 0.05 + rng.exponential(0.45, size)
    kind = rng.random(size)
    edges = np.cumsum([behaviour.late, behaviour.very_late, behaviour.clock_ahead, behaviour.stale_clock])
    for slow, low, high, start, end in (
        (1, 60.0, 1_800.0, 0.0, edges[0]),
        (1, 3_600.0, 39_600.0, edges[0], edges[1]),
        (-1, 60.0, 900.0, edges[1], edges[2]),
        (1, 90_000.0, 180_000.0, edges[2], edges[3]),
    ):
        chosen = np.flatnonzero((kind >= start) & (kind < end))
        delay[chosen] = slow * rng.uniform(low, high, len(chosen))
    return (delay * 1_000).astype(np.int64) * MILLISECOND_US


def purchases(world: World, rng: np.random.Generator, user: Ints, merchant: Ints | None = None) -> Rows:
    """One ordinary purchase per user given, received on this UTC day, numbered 0, 1, …; at `merchant` where given."""
    trips = world.trips(user)
    if merchant is None:
        online = rng.random(len(user)) < world.users.online_share[user] * world.behaviour.online_scale
        merchant = _merchants(world, rng, user, online, trips)
    online = world.merchants.online[merchant]
    received = local_to_us(world, user, _hours(rng, online) + world.users.phase_hours[user])
    latitude, longitude = places(world, rng, user, merchant)
    device, on_trips_device, guest = _devices(world, rng, user, online, trips)
    # holidays are dear and a large order is rather placed at a borrowed desk, but nobody trusts a hotel's computer
    away = np.where(trips.country >= 0, 1.8, 1.0) * np.where(on_trips_device & online, 0.35, 1.0)
    mood = away * np.where(guest & (trips.country < 0), 1.7, 1.0)
    return Rows(
        user=user,
        merchant=merchant.astype(np.int64),
        amount=amounts(world, rng, user, merchant) * mood,
        timestamp=received - delays(world, rng, len(user)),
        received=received,
        device=device,
        latitude=latitude,
        longitude=longitude,
        number=np.arange(len(user)),
        pattern=np.full(len(user), -1, np.int8),
    )
