"""Processing order and effective time per entity, as the online velocity script assigns them one by one.

What belongs here: the clamp and the number of days it can reach back. What does not: windows over it.
"""

import ibis

from fraud_platform.features.offline import microseconds

CLAMP_LOOKBACK_DAYS = 2
"""Days before a day D that its effective times depend on. event_time lies within (received_at − 24 h, received_at +
5 min), so only rows received in the last 24 h 5 min can push one forward."""

WINDOW_LOOKBACK_DAYS = 4
"""Days before a day D that its velocity depends on: a 24-hour window may begin 48 h 5 min before a row is received, and
those rows' own clamp reaches a further 24 h 5 min back."""


def sequence(transactions: ibis.Table, entity: str) -> ibis.Table:
    """Counted rows of RAW_TRANSACTIONS with `<entity>_effective_time`, int64 UTC microseconds, strictly increasing per
    entity in processing order (received_at, transaction_id): max(event_time, previous + 1 µs).

    Unrolled, with n the running row number: effective(n) = n + max over i ≤ n of (event_time(i) − i).
    """
    key = f"{entity}_id"
    counted = transactions.filter(~transactions.is_duplicate)
    order = [counted.received_at, counted.transaction_id]
    numbered = counted.mutate(
        _n=ibis.row_number().over(ibis.window(group_by=counted[key], order_by=order)).cast("int64"),
        _event=microseconds(counted.event_time),
    )
    running = ibis.cumulative_window(group_by=numbered[key], order_by=[numbered.received_at, numbered.transaction_id])
    effective = numbered._n + (numbered._event - numbered._n).max().over(running)
    return numbered.mutate(**{f"{entity}_effective_time": effective}).drop("_n", "_event")
