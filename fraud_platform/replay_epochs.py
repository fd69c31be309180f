"""Entities whose counters began an epoch of their own, in a replay: their sets are those that the day's decisions met.

What belongs here: what an epoch had counted before a payment. What does not: the rule by which one begins
(`velocity.lua`): the clock that jumped may lie in another day, so a replay takes epochs from the record, as it does the
order of counting.
"""

from bisect import bisect_left
from collections import defaultdict
from datetime import date
from operator import itemgetter

import pyarrow as pa
import pyarrow.compute as pc

from fraud_platform.lake import Lake
from fraud_platform.online import velocity
from fraud_platform.online.shards import RedisClient
from fraud_platform.online.warm import attempts, history, put_history
from fraud_platform.schema import Transaction
from fraud_platform.settings import Settings

_Entity = tuple[velocity.Entity, str]


class Epochs:
    """Puts the recorded epoch of a payment's user and merchant into the replay's key space, where it is another than
    the one that the set is in. Nothing where no clock had jumped."""

    def __init__(self, settings: Settings, lake: Lake, redis_client: RedisClient, day: date, prefix: bytes) -> None:
        self._redis, self._prefix = redis_client, prefix
        self._in_force: dict[_Entity, int] = {}
        self._told: dict[tuple[velocity.Entity, str, str, int], tuple[str, int, int]] = {}
        self._counted: dict[tuple[str, str, int], list[tuple[int, int]]] = defaultdict(list)
        rows = attempts(settings, lake, day)
        for entity in velocity.ENTITIES:
            self._take(rows, entity)

    def _take(self, rows: pa.Table, entity: velocity.Entity) -> None:
        """Remember the attempts at those entities that ever had an epoch of their own."""
        began = rows.filter(pc.greater(rows[f"{entity}_counted_since"], 0))
        own = rows.filter(pc.is_in(rows[f"{entity}_id"], value_set=pc.unique(began[f"{entity}_id"])))
        of_entity = (f"{entity}_id", f"{entity}_counted_since", f"{entity}_effective_time")
        names = ("caller", "transaction_id", "received_us", *of_entity, "amount")
        columns = (own[name].to_pylist() for name in names)
        for caller, identifier, received, name, since, at, amount in zip(*columns, strict=True):
            self._told[entity, caller, identifier, received] = name, since, at
            self._counted[entity, name, since].append((at, amount))
        for counted in self._counted.values():
            counted.sort()

    def until(self, caller: str, payment: Transaction) -> None:
        """Make both sets what they were when the payment was counted."""
        for entity in velocity.ENTITIES:
            told = self._told.get((entity, caller, payment.transaction_id, payment.received_at))
            if told is None:
                continue
            name, since, at = told
            if self._in_force.get((entity, name)) == since:
                continue
            self._in_force[entity, name] = since
            counted = self._counted[entity, name, since]
            before = counted[: bisect_left(counted, at, key=itemgetter(0))]
            times, amounts = ([each[part] for each in before] for part in (0, 1))
            put_history(self._redis, velocity.set_key(entity, name, self._prefix), history(since, times, amounts))
