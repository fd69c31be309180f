"""The queueing formulas against values known independently of them, and against queues played through."""

import heapq
import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from fraud_platform.capacity.queueing import (
    Alone,
    Measured,
    Work,
    calibrate,
    erlang_c,
    latency_p99,
    least_workers,
    mean_wait,
    utilisation,
    wait_quantile,
)

EXPONENTIAL = Work(seconds=0.001, variation=1.0)
ALWAYS_THE_SAME = Work(seconds=0.001, variation=0.0)


@pytest.mark.parametrize(
    ("servers", "offered", "chance"),
    # by hand, and from printed tables of Erlang's C
    [(1, 0.7, 0.7), (2, 1.0, 1 / 3), (3, 2.0, 4 / 9), (5, 4.0, 0.5541), (10, 8.0, 0.4092), (2, 2.5, 1.0)],
)
def test_erlang_s_c_is_the_tables(servers: int, offered: float, chance: float) -> None:
    assert erlang_c(servers, offered) == pytest.approx(chance, abs=5e-5)


def test_one_server_waits_as_the_textbook_says() -> None:
    # M/M/1: ρ / (μ − λ); M/D/1: half of it
    assert mean_wait(800, EXPONENTIAL) == pytest.approx(0.8 / 200)
    assert mean_wait(800, ALWAYS_THE_SAME) == pytest.approx(0.4 / 200)
    # M/M/1: P(W > t) = ρ e^(−(μ − λ) t)
    assert wait_quantile(800, EXPONENTIAL) == pytest.approx(math.log(80) / 200)
    assert wait_quantile(5, EXPONENTIAL) == 0.0
    assert utilisation(800, EXPONENTIAL, 2) == pytest.approx(0.4)


def test_several_servers_wait_as_erlang_says() -> None:
    # M/M/2 at ρ = ½: C / (2μ − λ)
    assert mean_wait(1_000, EXPONENTIAL, 2) == pytest.approx(1 / 3 / 1_000)
    assert wait_quantile(1_000, EXPONENTIAL, 2) == pytest.approx(math.log(100 / 3) / 1_000)


def test_a_queue_that_grows_for_ever_waits_for_ever() -> None:
    for value in (mean_wait(1_000, EXPONENTIAL), wait_quantile(1_001, EXPONENTIAL)):
        assert value == math.inf
    assert latency_p99(2_000, EXPONENTIAL, Alone(mean=0.001, p99=0.002)) == math.inf


def exponential(random: np.random.Generator, count: int) -> NDArray[np.float64]:
    return random.exponential(0.001, count)


def same(_: np.random.Generator, count: int) -> NDArray[np.float64]:
    return np.full(count, 0.001)


def mixed(random: np.random.Generator, count: int) -> NDArray[np.float64]:
    """One in ten takes nine times as long as the others: mean 1 ms, squared coefficient of variation 1.78."""
    return np.where(random.random(count) < 0.1, 0.005, 0.005 / 9)


def played(work: Callable[[np.random.Generator, int], NDArray[np.float64]], rate: float, servers: int) -> list[float]:
    """Mean and P99 of the waits in a queue that is played through, first come, first served."""
    random = np.random.default_rng(17)
    count = 400_000
    arrivals = np.cumsum(random.exponential(1 / rate, count))
    free = [0.0] * servers
    waits = np.empty(count)
    for number, (arrives, takes) in enumerate(zip(arrivals.tolist(), work(random, count).tolist(), strict=True)):
        begins = max(arrives, heapq.heappop(free))
        waits[number] = begins - arrives
        heapq.heappush(free, begins + takes)
    return [float(waits.mean()), float(np.quantile(waits, 0.99))]


@pytest.mark.parametrize(
    ("work", "variation", "servers", "busy"),
    [(exponential, 1.0, 1, 0.7), (same, 0.0, 1, 0.5), (same, 0.0, 1, 0.85), (mixed, 16 / 9, 1, 0.7),
     (exponential, 1.0, 4, 0.8), (same, 0.0, 3, 0.8)],
)  # fmt: skip
def test_the_formulas_hold_in_a_queue_that_is_played_through(
    work: Callable[[np.random.Generator, int], NDArray[np.float64]], variation: float, servers: int, busy: float
) -> None:
    rate = busy * servers / 0.001
    mean, p99 = played(work, rate, servers)
    model = Work(seconds=0.001, variation=variation)
    # one server's mean is exact; what is left is chance
    assert mean_wait(rate, model, servers) == pytest.approx(mean, rel=0.05 if servers == 1 else 0.12)
    # the exponential tail is an approximation
    assert wait_quantile(rate, model, servers) == pytest.approx(p99, rel=0.2)


def test_waits_and_what_a_payment_takes_alone_make_its_latency() -> None:
    still = Alone(mean=0.002, p99=0.002)
    assert latency_p99(800, EXPONENTIAL, still) == pytest.approx(0.002 + wait_quantile(800, EXPONENTIAL))
    uneven = Alone(mean=0.002, p99=0.005)
    assert latency_p99(1e-9, EXPONENTIAL, uneven) == pytest.approx(0.005)


def test_the_least_number_of_workers_is_enough_and_one_less_is_not() -> None:
    alone = Alone(mean=0.001, p99=0.003)
    for rate, budget in ((1_000, 0.02), (10_000, 0.01), (100_000, 0.02)):
        workers = least_workers(rate, EXPONENTIAL, alone, budget)
        assert latency_p99(rate / workers, EXPONENTIAL, alone) <= budget
        assert latency_p99(rate / (workers - 1), EXPONENTIAL, alone) > budget
    assert least_workers(1, EXPONENTIAL, alone, 0.02) == 1
    with pytest.raises(ValueError, match=r"takes 3\.0 ms at P99, of a budget of 3\.0 ms"):
        least_workers(1, EXPONENTIAL, alone, 0.003)


def test_calibration_finds_what_made_the_latencies() -> None:
    for variation in (0.0, 0.4, 3.0):
        work, alone = Work(seconds=0.001, variation=variation), Alone(mean=0.002, p99=0.006)
        light, heavier = (
            Measured(
                rate=rate, seconds=0.001, mean=alone.mean + mean_wait(rate, work), p99=latency_p99(rate, work, alone)
            )
            for rate in (300, 500)
        )
        found, by_itself = calibrate(light, heavier)
        assert found == pytest.approx(variation)
        assert (by_itself.mean, by_itself.p99) == pytest.approx((alone.mean, alone.p99))


def test_waits_that_do_not_grow_are_told_as_such() -> None:
    light, heavier = (Measured(rate=rate, seconds=0.001, mean=0.003, p99=0.004) for rate in (300, 500))
    found, alone = calibrate(light, heavier)
    assert found == -1
    assert alone.mean == pytest.approx(0.003 - mean_wait(300, ALWAYS_THE_SAME))
