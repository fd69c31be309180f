"""A day's legitimate traffic: everyday purchases, what resembles fraud without being it, and retries.

What belongs here: how many purchases a day has and their look-alikes. What does not: a single purchase (`everyday`).
"""

import numpy as np

from fraud_platform.simulator.bursts import expand, stagger
from fraud_platform.simulator.everyday import WEEK, amounts, draw_users, places, purchases
from fraud_platform.simulator.population import SMALL_PURCHASES
from fraud_platform.simulator.randomness import Floats, Ints, Stream
from fraud_platform.simulator.rows import Rows, concat
from fraud_platform.simulator.world import DAY_US, World

_SMALL_BURST_ROWS, _SPREE_ROWS = 5.0, 3.0


def everyday_count(world: World) -> int:
    """Everyday purchases of the day, numbered 0, 1, …; known without generating them."""
    behaviour = world.behaviour
    special = behaviour.small_burst + behaviour.shopping_spree + fraud_share(world)
    mean = world.expected * behaviour.volume_scale * (1 - special) * WEEK[(world.ordinal + 6) % 7]
    return int(world.rng(Stream.COUNTS).poisson(max(mean, 0.0)))


def fraud_share(world: World) -> float:
    """Fraud as a share of all transactions."""
    b = world.behaviour
    return b.card_testing + b.account_takeover + b.compromised_merchant + b.out_of_character + b.unremarkable


def legitimate_rows(world: World) -> Rows:
    """All legitimate purchases received on the day but those that lead to a card's leak; numbered 0, 1, …"""
    rng = world.rng(Stream.EVERYDAY)
    rows = purchases(world, rng, draw_users(world, rng, everyday_count(world)))
    big = rng.random(len(rows)) < world.behaviour.big_ticket
    rows = rows.but(amount=np.where(big, rows.amount * rng.lognormal(np.log(4.5), 0.5, len(rows)), rows.amount))
    rng = world.rng(Stream.LOOKALIKES)
    rows = concat([rows, _small_bursts(world, rng), _sprees(world, rng)])
    rows = rows.but(number=np.arange(len(rows)))
    return rows.take(rows.received < world.start_us + DAY_US)


def _small_bursts(world: World, rng: np.random.Generator) -> Rows:
    """Tickets, lives in a game, songs: several small purchases within minutes."""
    groups = expand(3 + rng.poisson(_SMALL_BURST_ROWS - 3, _incidents(world, rng, "small_burst", _SMALL_BURST_ROWS)))
    first = purchases(world, rng, draw_users(world, rng, int(groups.group.max(initial=-1)) + 1))
    small = world.merchants.popularity * SMALL_PURCHASES[world.merchants.category]
    merchant = world.merchants.choose(rng, small, len(first))
    rows = first.take(groups.group)
    received = stagger(first.received, groups, rng.lognormal(np.log(35), 0.9, len(rows)))
    habit = np.minimum(np.exp(world.users.log_amount[rows.user]) * 0.12, 1_200)
    amount = habit * rng.lognormal(0, 0.45, len(rows)) * world.behaviour.amount_scale
    rows = rows.but(merchant=merchant[groups.group], amount=np.maximum(np.rint(amount / 10) * 10, 30))
    return _placed(world, rng, rows, received)


def _sprees(world: World, rng: np.random.Generator) -> Rows:
    """An afternoon in town, a weekend's online orders: several habitual purchases within an hour."""
    groups = expand(2 + rng.poisson(_SPREE_ROWS - 2, _incidents(world, rng, "shopping_spree", _SPREE_ROWS)))
    first = purchases(world, rng, draw_users(world, rng, int(groups.group.max(initial=-1)) + 1))
    rows = purchases(world, rng, first.user[groups.group])
    received = stagger(first.received, groups, rng.lognormal(np.log(420), 0.9, len(rows)))
    merchant = np.where(rng.random(len(rows)) < 0.5, first.merchant[groups.group], rows.merchant)
    amount = amounts(world, rng, rows.user, merchant) * 1.3
    return _placed(world, rng, rows.but(merchant=merchant, amount=amount), received)


def _placed(world: World, rng: np.random.Generator, rows: Rows, received: Ints) -> Rows:
    latitude, longitude = places(world, rng, rows.user, rows.merchant)
    delay: Ints = rows.received - rows.timestamp
    return rows.but(received=received, timestamp=received - delay, latitude=latitude, longitude=longitude)


def _incidents(world: World, rng: np.random.Generator, share: str, mean_rows: float) -> int:
    mean = getattr(world.behaviour, share) * world.expected * world.behaviour.volume_scale / mean_rows
    return int(rng.poisson(mean))


def with_retries(world: World, rows: Rows) -> Rows:
    """The rows and, for a small share, the same transaction received again seconds to minutes later that day."""
    rng = world.rng(Stream.RETRIES)
    again = rows.take(rng.random(len(rows)) < world.behaviour.retry)
    wait: Floats = np.rint(np.clip(rng.lognormal(np.log(15), 1.3, len(again)), 1, 1_200) * 1_000)
    again = again.but(received=again.received + wait.astype(np.int64) * 1_000)
    return concat([rows, again.take(again.received < world.start_us + DAY_US)])
