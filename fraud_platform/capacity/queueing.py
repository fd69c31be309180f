"""The decision service as a queue: how busy workers are, how long a payment waits, how many workers a rate needs.

What belongs here: formulas, each with its source, as pure functions of numbers. What does not: measuring what they take
(`benchmarks.width`), what machines cost (`plan`).

A worker is an event loop, a single server, and a connection stays with the worker that took it: n workers are n queues
of an n-th of the rate each (M/G/1), not one queue before n servers (M/G/n), which would wait less.
All times are in seconds, rates per second.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one payment takes of a worker."""

    seconds: float
    """Mean processor time."""
    variation: float
    """Squared coefficient of variation of that time, variance / mean²: 0 always the same, 1 exponential."""


@dataclass(frozen=True, kw_only=True)
class Alone:
    """The latency of a payment that meets no other: its own processor time, Redis, the network."""

    mean: float
    p99: float


def utilisation(rate: float, work: Work, servers: int = 1) -> float:
    """Share of their time that servers work; a queue has a steady state below 1 alone."""
    return rate * work.seconds / servers


def erlang_c(servers: int, offered: float) -> float:
    """The chance that an arrival of M/M/c has to wait. offered: rate × seconds, below `servers`, else it is 1.

    Source: Erlang 1917; here from Erlang's B by its recursion (Kleinrock, Queueing Systems I, 1975, chapter 3).
    """
    if offered >= servers:
        return 1.0
    blocked = 1.0
    for count in range(1, servers + 1):
        blocked = offered * blocked / (count + offered * blocked)
    busy = offered / servers
    return blocked / (1 - busy + busy * blocked)


def mean_wait(rate: float, work: Work, servers: int = 1) -> float:
    """Mean time until a server turns to an arrival of M/G/c; infinite at a utilisation of 1 and more.

    Source: for one server Pollaczek and Khinchine, exact (Kleinrock I, chapter 5); for more the approximation of Allen
    and Cunneen (Allen, Probability, Statistics and Queueing Theory, 1990), exact for M/M/c: M/M/c's mean wait, times
    the mean of the arrivals' variation (Poisson: 1) and the work's.
    """
    busy = utilisation(rate, work, servers)
    if busy >= 1:
        return math.inf
    waits = erlang_c(servers, rate * work.seconds)
    return waits * work.seconds / (servers * (1 - busy)) * (1 + work.variation) / 2


def wait_quantile(rate: float, work: Work, servers: int = 1, share: float = 0.99) -> float:
    """The time that `share` of the arrivals wait at most.

    Who waits is taken to wait exponentially long, with the mean of `mean_wait`. Exact for M/M/c (Kleinrock I, chapter
    5); for other work the limit under heavy traffic (Kingman 1961; Köllerström 1974 for several servers).
    """
    mean = mean_wait(rate, work, servers)
    if math.isinf(mean):
        return math.inf
    waits = erlang_c(servers, rate * work.seconds)
    return 0.0 if waits <= 1 - share else mean / waits * math.log(waits / (1 - share))


def latency_p99(rate: float, work: Work, alone: Alone, servers: int = 1) -> float:
    """99% of the payments take at most so long: what each takes alone, and the wait.

    Of two independent times, means add up, and what their P99 lie above them adds up as squares do: exact where both
    are normal or where one does not vary, a rule of thumb in between.
    """
    mean = mean_wait(rate, work, servers)
    if math.isinf(mean):
        return math.inf
    beyond = max(0.0, wait_quantile(rate, work, servers) - mean)
    return alone.mean + mean + math.hypot(alone.p99 - alone.mean, beyond)


def least_workers(rate: float, work: Work, alone: Alone, budget: float) -> int:
    """The least number of workers, a queue each, with which P99 is at most `budget`.

    Raises ValueError where no number is enough, since a payment that meets no other takes longer.
    """
    if alone.p99 >= budget:
        raise ValueError(f"a payment alone takes {alone.p99 * 1e3:.1f} ms at P99, of a budget of {budget * 1e3:.1f} ms")
    workers = math.floor(rate * work.seconds) + 1
    while latency_p99(rate / workers, work, alone) > budget:
        workers += 1
    return workers


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One worker under a load."""

    rate: float
    seconds: float
    """Mean processor time of a payment at that rate."""
    mean: float
    p99: float
    """Latencies."""


def calibrate(light: Measured, heavier: Measured) -> tuple[float, Alone]:
    """The work's variation, and what a payment takes alone, with which M/G/1 has both means and the lighter load's P99.

    Both are measured under load, since a machine that has nothing to do wakes up late. A variation below 0 means that
    waits grow less than in any M/G/1; what a payment takes alone is then that of variation 0.
    """
    first, second = (_fixed_wait(at) for at in (light, heavier))
    found = (heavier.mean - light.mean) / (second - first) - 1
    work = Work(seconds=light.seconds, variation=max(0.0, found))
    wait = mean_wait(light.rate, work)
    alone = max(light.mean - wait, light.seconds)
    beyond = max(0.0, wait_quantile(light.rate, work) - wait)
    above = max(0.0, light.p99 - alone - wait)
    return found, Alone(mean=alone, p99=alone + math.sqrt(max(0.0, above**2 - beyond**2)))


def _fixed_wait(at: Measured) -> float:
    """The mean wait of M/D/1, which any other's is (1 + variation) times."""
    return mean_wait(at.rate, Work(seconds=at.seconds, variation=0.0))
