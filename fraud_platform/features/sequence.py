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
"""Days before a day D that its effective times depend on. They lie within (received_at − 24 h, received_at + 1 s), so
only rows received in the last 24 h and 1 s can push one forward."""

WINDOW_LOOKBACK_DAYS = 4
"""Days before a day D that its velocity depends on: a 24-hour window may begin 48 h before a row is received, and those
rows' own clamp reaches a further 24 h and 1 s back."""

WINDOW_REACH = 2 * DAY + HOUR
"""Microseconds before a day's first receipt that its windows reach back to, by received_at: a row counts at most 24 h
before it was received, in a window of 24 h; what was received earlier counts at most 1 s after it was."""


def sequence(transactions: ibis.Table, entity: str) -> ibis.Table:
    """Counted rows of RAW_TRANSACTIONS with `<entity>_effective_time`, int64 UTC microseconds, strictly increasing per
    entity, region and epoch in PROCESSING_ORDER, and `<entity>_counted_since`, int64 and
    never null: the epoch, and from when on its windows are complete. `region` is empty where it was null: each region
    counts what its own Redis sees.

    What velocity assigned to a payment that the service decided stands: two workers may have counted in another order
    than they received, and a window is what was counted. Any other row, those decided under an earlier rule among them,
    belongs to the epoch of the decision before it, and its effective time is max(min(event_time, received_at),
    previous + 1 µs). Unrolled, with n the running row number: effective(n) = n + max over i ≤ n of (its min(i) − i).
    Online that begins a new epoch where it comes to more than received_at + 1 s, which here takes a million rows of one
    entity in a second: no such rows are told apart.
    """
    key, epoch, time = f"{entity}_id", f"{entity}_counted_since", f"{entity}_effective_time"
    counted = transactions.filter(~transactions.is_duplicate)
    counted = counted.mutate(region=ibis.coalesce(counted.region, FIRST_REGION))
    running = ibis.cumulative_window(
        group_by=[counted[key], counted.region], order_by=[counted[name] for name in PROCESSING_ORDER]
    )
    # an epoch is carried to the rows up to the next decision
    counted = counted.mutate(_decisions=counted[epoch].count().over(running))
    carried = counted[epoch].max().over(ibis.window(group_by=[counted[key], counted.region, counted._decisions]))
    happened = ibis.least(microseconds(counted.event_time), microseconds(counted.received_at))
    assigned = ibis.ifelse(counted[epoch].notnull(), counted[time], None)
    counted = counted.mutate(
        **{epoch: ibis.coalesce(carried, 0), time: assigned}, _event=ibis.coalesce(assigned, happened)
    )
    groups, order = [key, "region", epoch], [*PROCESSING_ORDER]
    numbered = counted.mutate(_n=ibis.row_number().over(ibis.window(group_by=groups, order_by=order)).cast("int64"))
    running = ibis.cumulative_window(group_by=groups, order_by=order)
    by_order = numbered._n + (numbered._event - numbered._n).max().over(running)
    return numbered.mutate(**{time: ibis.coalesce(numbered[time], by_order)}).drop("_decisions", "_n", "_event")


def counted_order(rows: pa.Table) -> pa.Table:
    """RAW_TRANSACTIONS rows of a day in the order in which velocity counted them: that of receipt, but where the
    service counted two payments of a user or of a merchant in the other order, in that, epoch by epoch.

    Two workers may have counted two payments in one order at the user and in the other at the merchant; then no order
    is both, and receipt decides.
    """
    after: dict[int, list[int]] = defaultdict(list)
    waiting = [0] * rows.num_rows
    swapped = False
    for entity in ("user", "merchant"):
        counted: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
        names = (f"{entity}_id", f"{entity}_counted_since", f"{entity}_effective_time")
        for position, (name, since, at) in enumerate(zip(*(rows[each].to_pylist() for each in names), strict=True)):
            if since is not None and at is not None:
                counted[name, since].append((at, position))
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
