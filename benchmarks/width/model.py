"""The queueing model beside what was measured, and what it says that other rates need.

What belongs here: from measurements to the model's figures and predictions. What does not: its formulas
(`fraud_platform.capacity.queueing`), measuring, showing.
"""

from dataclasses import asdict
from typing import Any

import msgspec

from fraud_platform.capacity.figures import Width
from fraud_platform.capacity.prices import read_prices
from fraud_platform.capacity.queueing import Alone, Measured, Work, calibrate, latency_p99, mean_wait, utilisation
from fraud_platform.capacity.width import TYPICAL_RATES, wide

CALIBRATED_AT = (0.3, 0.5)
"""Shares of saturation."""

Figures = dict[str, Any]


def summary(found: Figures) -> Figures:
    """Fields of `capacity.figures.Width`, the model beside each latency, and what typical rates need."""
    of_one = found["one_core"][0]
    # calibrated at two loads, to be held against the others
    light, heavier = (min(found["latencies"], key=lambda at: abs(at["share"] - share)) for share in CALIBRATED_AT)
    fitted, alone = calibrate(_measured(light), _measured(heavier))
    behind = [each for each in found["instances"] if each["where"] == "gateway"]
    measured = Width(
        work_us=of_one["cpu_us"],
        work_variation=max(0.0, fitted),
        alone_mean_ms=alone.mean * 1e3,
        alone_p99_ms=alone.p99 * 1e3,
        redis_us=of_one["redis_us"],
        gateway_us=behind[0]["cpu_us"] if behind else None,
    )
    rules = read_prices().rules
    try:
        needs = [wide(rate, measured, headroom=rules.headroom, p99_ms=rules.p99_ms) for rate in TYPICAL_RATES]
        refused = None
    except ValueError as error:
        # a machine on which even a payment alone is late: what was measured is shown all the same
        needs, refused = [], str(error)
    return {
        **msgspec.to_builtins(measured),
        # as it fitted: below 0 payments wait less than in any M/G/1
        "fitted_variation": fitted,
        "calibrated_at": [light["share"], heavier["share"]],
        "model": [_beside(each, alone, max(0.0, fitted)) for each in found["latencies"]],
        "headroom": rules.headroom,
        "budget_ms": rules.p99_ms,
        "refused": refused,
        "needs": [asdict(need) | {"cores": need.cores} for need in needs],
    }


def _measured(at: Figures) -> Measured:
    return Measured(
        rate=at["rate"], seconds=at["cpu_us"] / 1e6, mean=at["mean_ms"] / 1e3, p99=at["p99_ms"] / 1e3
    )  # fmt: skip


def _beside(at: Figures, alone: Alone, fitted: float) -> Figures:
    """What the model says of a measured load. fitted: the work's variation."""
    work = Work(seconds=at["cpu_us"] / 1e6, variation=fitted)
    p99_ms = latency_p99(at["rate"], work, alone) * 1e3
    return {
        "share": at["share"],
        "busy": utilisation(at["rate"], work),
        "mean_ms": (alone.mean + mean_wait(at["rate"], work)) * 1e3,
        "p99_ms": p99_ms,
        "p99_of_measured": p99_ms / at["p99_ms"],
    }
