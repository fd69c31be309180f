"""Processing order and effective time per entity, as the online velocity script assigns them one by one.

What belongs here: the clamp, the number of days it can reach back, the order of rows. What does not: windows over it.
"""

import heapq
from collections import defaultdict
from itertools import pairwise

import ibis
import pyarrow as pa

from fraud_platform.features.catalogue import DAY, HOUR
from fraud_platform.features.offline import microseconds
from fraud_platform.schema import FIRST_REGION, PROCESSING_ORDER

CLAMP_LOOKBACK_DAYS = 2
"""Days before a day D that its effective times depend on. event_time lies within (received_at − 24 h, received_at +
5 min), so only rows received in the last 24 h 5 min can push one forward."""

WINDOW_LOOKBACK_DAYS = 4
"""Days before a day D that its velocity depends on: a 24-hour window may begin 48 h 5 min before a row is received, and
those rows' own clamp reaches a further 24 h 5 min back."""

WINDOW_REACH = 2 * DAY + HOUR
"""Microseconds before a day's first receipt that its windows reach back to, by received_at: a row counts at most 24 h
before it was received, in a window of 24 h; what was received earlier counts at most 5 min after it was, and 1 µs for
each row that it had to give way to."""


def sequence(transactions: ibis.Table, entity: str) -> ibis.Table:
    """Counted rows of RAW_TRANSACTIONS with `<entity>_effective_time`, int64 UTC microseconds, strictly increasing per
    entity and region in PROCESSING_ORDER: max(event_time, previous + 1 µs). `region` is empty where it was null: each
    region counts what its own Redis sees.

    Unrolled, with n the running row number: effective(n) = n + max over i ≤ n of (event_time(i) − i). What velocity
    assigned to a payment that the service decided stands: two workers may have counted in another order than they
    received, and a window is what was counted.
    """
    key = f"{entity}_id"
    counted = transactions.filter(~transactions.is_duplicate)
    counted = counted.mutate(region=ibis.coalesce(counted.region, FIRST_REGION))
    order = [counted[name] for name in PROCESSING_ORDER]
    assigned = counted[f"{entity}_effective_time"]
    numbered = counted.mutate(
        _n=ibis.row_number().over(ibis.window(group_by=[counted[key], counted.region], order_by=order)).cast("int64"),
        _event=ibis.coalesce(assigned, microseconds(counted.event_time)),
    )
    running = ibis.cumulative_window(
        group_by=[numbered[key], numbered.region], order_by=[numbered[name] for name in PROCESSING_ORDER]
    )
    by_order = numbered._n + (numbered._event - numbered._n).max().over(running)
    effective = ibis.coalesce(numbered[f"{entity}_effective_time"], by_order)
    return numbered.mutate(**{f"{entity}_effective_time": effective}).drop("_n", "_event")


def counted_order(rows: pa.Table) -> pa.Table:
    """RAW_TRANSACTIONS rows of a day in the order in which velocity counted them: that of receipt, but where the
    service counted two payments of a user or of a merchant in the other order, in that.

    Two workers may have counted two payments in one order at the user and in the other at the merchant; then no order
    is both, and receipt decides.
    """
    after: dict[int, list[int]] = defaultdict(list)
    waiting = [0] * rows.num_rows
    swapped = False
    for entity in ("user", "merchant"):
        counted: dict[str, list[tuple[int, int]]] = defaultdict(list)
        columns = (rows[f"{entity}_id"].to_pylist(), rows[f"{entity}_effective_time"].to_pylist())
        for position, (name, at) in enumerate(zip(*columns, strict=True)):
            if at is not None:
                counted[name].append((at, position))
        for own in counted.values():
            for (_, first), (_, second) in pairwise(sorted(own)):
                after[first].append(second)
                waiting[second] += 1
                swapped |= second < first
    if not swapped:
        return rows
    ready = [position for position, before in enumerate(waiting) if not before]
    order = []
    while ready:
        order.append(heapq.heappop(ready))
        for position in after[order[-1]]:
            waiting[position] -= 1
            if not waiting[position]:
                heapq.heappush(ready, position)
    return rows.take(pa.array(order + sorted(set(range(rows.num_rows)) - set(order))))
