"""The velocity script against windows counted by hand, for sets that one read holds and for longer ones."""

import itertools
import random
from collections.abc import AsyncIterator

import pytest
import redis

from fraud_platform.features.catalogue import CATALOGUE, LIVE_HISTORY, VELOCITY_WINDOWS
from fraud_platform.online.store import OnlineStore
from fraud_platform.online.velocity import set_key
from fraud_platform.schema import Transaction

SECOND = 1_000_000
NOW = 1_795_435_200 * SECOND
NAMES = [feature.name for feature in CATALOGUE.of("velocity")]


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[OnlineStore]:
    with redis.Redis.from_url(redis_url) as client:
        client.set("fraud:velocity:epoch", b'{"epoch":"test","complete_since":0}')
    store = OnlineStore(redis_url, ttl_days=3)
    await store.open()
    yield store
    await store.close()


def by_hand(name: str, attempts: list[tuple[int, int]], at: int) -> float:
    """A velocity feature over (t − w, t] of one entity's (effective time, amount)."""
    feature = next(feature for feature in CATALOGUE.of("velocity") if feature.name == name)
    inside = [amount for time, amount in attempts if at - VELOCITY_WINDOWS[feature.window] < time <= at]
    return float(sum(inside) if "amount_sum" in name else len(inside))


@pytest.mark.parametrize("seed", range(4))
async def test_every_window_of_a_stream_equals_the_count_by_hand(store: OnlineStore, redis_url: str, seed: int) -> None:
    rng = random.Random(seed)
    gaps = [0, 1, 30 * SECOND, 60 * SECOND, 600 * SECOND, 3_600 * SECOND, 7 * 3_600 * SECOND, LIVE_HISTORY]
    attempts: list[tuple[int, int]] = []
    sent: list[tuple[Transaction, int]] = []
    at = NOW
    for number in range(60):
        at += rng.choice(gaps[: rng.choice([3, 8])])
        payment = Transaction(
            transaction_id=f"t-{number}", user_id="u", merchant_id="m", amount=rng.randrange(10_000),
            # out of order at times, as callers' clocks are
            event_time=at - rng.choice([0, 0, 5 * SECOND]), received_at=at,
        )  # fmt: skip
        previous = attempts[-1][0] if attempts else None
        effective = payment.event_time if previous is None else max(payment.event_time, previous + 1)
        attempts.append((effective, payment.amount))
        sent.append((payment, effective))
        found = await store.read(payment)
        assert (found.user_effective_time, found.duplicate) == (effective, False)
        expected = [by_hand(name, attempts, effective) for name in NAMES]
        assert found.velocity.tolist() == expected
        old = None if previous is None or previous <= effective - LIVE_HISTORY else previous
        assert found.last_effective_time == old
    with redis.Redis.from_url(redis_url) as client:
        kept = client.zcard(set_key("user", "u"))
    # what no window can reach is given back, but for the newest of it
    last = attempts[-1][0]
    assert kept == sum(time > last - LIVE_HISTORY for time, _ in attempts) + (attempts[0][0] <= last - LIVE_HISTORY)


async def test_an_attempt_that_comes_again_sees_what_it_saw_and_counts_once(store: OnlineStore) -> None:
    payments = [
        Transaction(
            transaction_id=f"t-{number}", user_id="u", merchant_id="m", amount=100 + number,
            event_time=NOW + number * 20 * SECOND, received_at=NOW + number * 20 * SECOND,
        )
        for number in range(12)
    ]  # fmt: skip
    first = [await store.read(payment) for payment in payments]
    for payment, seen in itertools.chain(zip(payments, first, strict=True), zip(payments, first, strict=True)):
        again = await store.read(payment)
        assert again.duplicate
        assert again.velocity.tolist() == seen.velocity.tolist()
        assert again.user_effective_time == seen.user_effective_time
        assert again.last_effective_time == seen.last_effective_time
