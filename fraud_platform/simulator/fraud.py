"""Fraud: what each pattern does, from its own stream, so that a day's frauds are known without its legitimate traffic.

What belongs here: the patterns. What does not: how frauds are labelled (`labels`), where they concentrate
(`campaigns`).
A day's incidents begin on that day and end within 24 hours, so the frauds received on a day began on it or the day
before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from fraud_platform.simulator.bursts import Groups, expand, stagger
from fraud_platform.simulator.campaigns import MAX_LAG, MIN_LAG, leaking_merchants, testing_grounds
from fraud_platform.simulator.everyday import amounts, draw_users, local_to_us, places, purchases
from fraud_platform.simulator.geography import shares
from fraud_platform.simulator.population import pick_by
from fraud_platform.simulator.randomness import Floats, Ints, Keys, Stream
from fraud_platform.simulator.rows import Rows, concat
from fraud_platform.simulator.world import DAY_US, World

PATTERNS = ("card_testing", "account_takeover", "compromised_merchant", "out_of_character", "unremarkable")
"""Names by index; `Rows.pattern` holds the index."""


@dataclass(frozen=True)
class Leaked:
    """Cards used at leaking merchants, arrays of shape (cards,)."""

    user: Ints
    merchant: Ints
    lag: Ints
    """Days from the card's use to its abuse."""

    def after(self, days: int) -> "Leaked":
        """The cards that are abused this many days after their use."""
        due = self.lag == days
        return Leaked(self.user[due], self.merchant[due], self.lag[due])


def concat_leaked(parts: Sequence[Leaked]) -> Leaked:
    """All cards, in order. `parts` is not empty."""
    return Leaked(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Leaked)))


def leaked_cards(world: World) -> Leaked:
    """The cards that are used at leaking merchants on the day and will be abused for it."""
    rng = world.rng(Stream.LEAKS)
    user = _victims(world, rng, "compromised_merchant", 1.7)
    merchant = rng.choice(leaking_merchants(world), len(user))
    return Leaked(user, merchant, rng.integers(MIN_LAG, MAX_LAG + 1, len(user)))


def incidents(world: World, leaked: Leaked) -> Rows:
    """All fraud that begins on the day, numbered 0, 1, … `leaked`: the cards whose abuse is due."""
    rows = concat(
        [
            _card_testing(world),
            _account_takeover(world),
            _compromised_merchant(world, leaked),
            _out_of_character(world),
            _unremarkable(world),
        ]
    )
    rows = rows.but(number=np.arange(len(rows)))
    return rows.take(rows.received < world.start_us + 2 * DAY_US)


def _victims(world: World, rng: np.random.Generator, pattern: str, mean_rows: float) -> Ints:
    """Whose cards: half by how much they are used, half anyone's."""
    share = getattr(world.behaviour, pattern)
    size = int(rng.poisson(share * world.expected * world.behaviour.volume_scale / mean_rows))
    anyone = rng.integers(0, len(world.users), size)
    return np.where(rng.random(size) < 0.5, draw_users(world, rng, size), anyone)


def _new_devices(rng: np.random.Generator, groups: Groups) -> Keys:
    """One device per group that nobody has used before."""
    fresh = rng.integers(1, 2**63, int(groups.group.max(initial=-1)) + 1, dtype=np.uint64)
    return fresh[groups.group]


def _habit(world: World, user: Ints) -> Floats:
    return np.asarray(np.exp(world.users.log_amount[user]) * world.behaviour.amount_scale)


def _finish(world: World, rng: np.random.Generator, rows: Rows, received: Ints, pattern: str) -> Rows:
    latitude, longitude = places(world, rng, rows.user, rows.merchant)
    return rows.but(
        received=received,
        timestamp=received - (rows.received - rows.timestamp),
        amount=np.maximum(rows.amount, 10),
        device=np.where(world.merchants.online[rows.merchant], rows.device, _wallets(rng, rows)),
        latitude=latitude,
        longitude=longitude,
        pattern=np.full(len(rows), PATTERNS.index(pattern), np.int8),
    )


def _wallets(rng: np.random.Generator, rows: Rows) -> Keys:
    """At a till a device is seldom seen, whoever pays."""
    return np.where(rng.random(len(rows)) < 0.9, np.uint64(0), rows.device)


def _anytime(world: World, rng: np.random.Generator, size: int) -> Ints:
    return world.start_us + (rng.random(size) * 86_400_000).astype(np.int64) * 1_000


def _card_testing(world: World) -> Rows:
    """Small online amounts in quick succession at one or few merchants; a large one where the card proved alive."""
    rng = world.rng(Stream.CARD_TESTING)
    victim = _victims(world, rng, "card_testing", 9.1)
    tests = 4 + rng.poisson(4.5, len(victim))
    cashes_in = rng.random(len(victim)) < 0.6
    groups = expand(tests + cashes_in)
    last = (groups.place == tests[groups.group]) & cashes_in[groups.group]
    rows = purchases(world, rng, victim[groups.group])
    ground = world.merchants.choose(rng, testing_grounds(world), len(victim))[groups.group]
    second = world.merchants.choose(rng, testing_grounds(world), len(victim))[groups.group]
    hops = (rng.random(len(victim)) < 0.3)[groups.group] & (groups.place % 2 == 1)
    pull = world.merchants.exposure * world.merchants.popularity * world.merchants.online
    target = world.merchants.choose(rng, pull, len(rows))
    small = rng.uniform(40, 450, len(rows)) * world.behaviour.amount_scale
    large = _habit(world, rows.user) * rng.lognormal(np.log(4), 0.5, len(rows))
    # patient testers look like anyone's small purchases
    pace = np.where(rng.random(len(victim)) < 0.15, 900.0, 25.0)[groups.group]
    gap = np.where(last, rng.uniform(60, 3_600, len(rows)), pace * rng.lognormal(0, 0.7, len(rows)))
    own_device = rng.random(len(victim)) < 0.25
    rows = rows.but(
        merchant=np.where(last, target, np.where(hops, second, ground)),
        amount=np.where(last, large, small),
        device=np.where(own_device[groups.group], rows.device, _new_devices(rng, groups)),
    )
    return _finish(world, rng, rows, stagger(_anytime(world, rng, len(victim)), groups, gap), "card_testing")


def _account_takeover(world: World) -> Rows:
    """A new device, mostly in a country that is not the user's, spends above habit for some hours."""
    rng = world.rng(Stream.ACCOUNT_TAKEOVER)
    victim = _victims(world, rng, "account_takeover", 2.8)
    groups = expand(1 + rng.poisson(1.8, len(victim)))
    rows = purchases(world, rng, victim[groups.group])
    away = pick_by(rng, shares("trips"), len(victim))
    home = world.users.country[victim].astype(np.int64)
    country = np.where(rng.random(len(victim)) < 0.88, away, home)[groups.group]
    online = rng.random(len(rows)) < 0.92
    above = rng.lognormal(np.log(4.5), 0.45, len(rows))
    modest = (rng.random(len(victim)) < 0.15)[groups.group]
    merchant = world.merchants.pick(rng, country, online)
    habitual = amounts(world, rng, rows.user, merchant)
    rows = rows.but(
        merchant=merchant,
        amount=np.where(modest, habitual, _habit(world, rows.user) * above),
        device=_new_devices(rng, groups),
    )
    received = stagger(_anytime(world, rng, len(victim)), groups, rng.lognormal(np.log(1_500), 0.8, len(rows)))
    return _finish(world, rng, rows, received, "account_takeover")


def _compromised_merchant(world: World, leaked: Leaked) -> Rows:
    """Cards used at a leaking merchant are abused days later: elsewhere, and at that merchant itself."""
    rng = world.rng(Stream.COMPROMISED_MERCHANT)
    victim = leaked.user
    groups = expand(1 + rng.poisson(0.7, len(victim)))
    rows = purchases(world, rng, victim[groups.group])
    pull = world.merchants.exposure * world.merchants.popularity
    elsewhere = world.merchants.choose(rng, pull, len(rows))
    at_source = (rng.random(len(victim)) < 0.5)[groups.group]
    unknown = rng.random(len(rows)) < 0.45
    merchant = np.where(at_source, leaked.merchant[groups.group], elsewhere)
    amount = amounts(world, rng, rows.user, merchant) * rng.lognormal(np.log(2.0), 0.5, len(rows))
    rows = rows.but(merchant=merchant, amount=amount, device=np.where(unknown, _new_devices(rng, groups), rows.device))
    # whoever abuses cards where they were stolen does it when nobody looks
    begins = groups.place == 0
    hours = rng.uniform(22.5, 29, len(victim)) % 24
    first = np.where(at_source[begins], local_to_us(world, victim, hours), rows.received[begins])
    received = stagger(first, groups, rng.lognormal(np.log(2_400), 0.8, len(rows)))
    return _finish(world, rng, rows, received, "compromised_merchant")


def _out_of_character(world: World) -> Rows:
    """Several times the habit, mostly in the small hours, with nothing else amiss."""
    rng = world.rng(Stream.OUT_OF_CHARACTER)
    victim = _victims(world, rng, "out_of_character", 1.3)
    groups = expand(1 + rng.poisson(0.3, len(victim)))
    rows = purchases(world, rng, victim[groups.group])
    amount = _habit(world, rows.user) * rng.lognormal(np.log(8), 0.45, len(rows))
    night = local_to_us(world, victim, rng.uniform(0, 5.5, len(victim)))
    first = np.where(rng.random(len(victim)) < 0.85, night, rows.received[groups.place == 0])
    received = stagger(first, groups, rng.lognormal(np.log(900), 0.8, len(rows)))
    return _finish(world, rng, rows.but(amount=amount), received, "out_of_character")


def _unremarkable(world: World) -> Rows:
    """One purchase like any other of this user, if anything at a shop that thieves prefer."""
    rng = world.rng(Stream.UNREMARKABLE)
    victim = _victims(world, rng, "unremarkable", 1.0)
    rows = purchases(world, rng, victim)
    pull = world.merchants.exposure * world.merchants.popularity
    tempting = world.merchants.choose(rng, pull, len(rows))
    merchant = np.where(rng.random(len(rows)) < 0.35, tempting, rows.merchant)
    rows = rows.but(merchant=merchant, amount=amounts(world, rng, victim, merchant))
    return _finish(world, rng, rows, rows.received, "unremarkable")
