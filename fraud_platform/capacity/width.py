"""How wide a rate has to be served: workers, gateway, Redis shards, and the machines that hold them.

What belongs here: from a rate and what was measured to numbers of processes. What does not: formulas of queues
(`queueing`), money (`plan`).
"""

import math
from dataclasses import dataclass

from fraud_platform.capacity.figures import Width
from fraud_platform.capacity.queueing import Alone, Work, latency_p99, least_workers

TYPICAL_RATES = (1_000, 10_000, 100_000)
"""Payments per second that are shown beside the one that is asked for."""


@dataclass(frozen=True, kw_only=True)
class Wide:
    """What serves a rate. At `headroom` times the rate, P99 is within the budget and Redis and gateway just suffice."""

    rate: float
    """Payments per second at the peak."""
    workers: int
    """Of the service; each needs a core."""
    busy: float
    """Utilisation of a worker at the peak."""
    p99_ms: float
    """At the peak, by the model."""
    gateway_cores: int | None
    """None: what the gateway takes was not measured."""
    redis_shards: int
    """Redis works on one core each."""

    @property
    def cores(self) -> int:
        """All of them."""
        return self.workers + (self.gateway_cores or 0) + self.redis_shards

    def machines(self, vcpus: int) -> int:
        """Machines of `vcpus` cores each for the workers."""
        return -(-self.workers // vcpus)


def wide(rate: float, measured: Width, *, headroom: float, p99_ms: float) -> Wide:
    """What serves `rate` payments per second. Raises ValueError where a payment alone takes longer than `p99_ms`."""
    work = Work(seconds=measured.work_us / 1e6, variation=measured.work_variation)
    alone = Alone(mean=measured.alone_mean_ms / 1e3, p99=measured.alone_p99_ms / 1e3)
    workers = least_workers(rate * headroom, work, alone, p99_ms / 1e3)
    return Wide(
        rate=rate,
        workers=workers,
        busy=rate * work.seconds / workers,
        p99_ms=latency_p99(rate / workers, work, alone) * 1e3,
        gateway_cores=None if measured.gateway_us is None else _cores(rate * headroom * measured.gateway_us),
        redis_shards=_cores(rate * headroom * measured.redis_us),
    )


def _cores(microseconds: float) -> int:
    """Cores for so much work per second."""
    return max(1, math.ceil(microseconds / 1e6))
