"""Which payment a row of a replayed day is, and what velocity had counted of it before the day began.

What belongs here: identities. What does not: sending payments and comparing values (`replay`).
"""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fraud_platform import schema
from fraud_platform.features import tables
from fraud_platform.features.offline import conformed
from fraud_platform.inference_log.callers import with_callers
from fraud_platform.lake import Lake
from fraud_platform.online import velocity
from fraud_platform.online.warm import Received, attempts
from fraud_platform.schema import Transaction
from fraud_platform.settings import Settings

Identity = tuple[str, str]
"""Caller and transaction_id."""

_KEY = ("caller", "transaction_id", "received_us")
_TIMES = ("user_effective_time", "merchant_effective_time")


def identities_of(rows: pa.Table) -> Iterator[Identity]:
    """The identity of each row."""
    return zip(rows.column("caller").to_pylist(), rows.column("transaction_id").to_pylist(), strict=True)


def _received(rows: pa.Table) -> list[int]:
    received: list[int] = rows.column("received_at").cast(pa.int64()).to_pylist()
    return received


def rows_of_region(lake: Lake, table: str, day: date, columns: pa.Schema, region: str) -> pa.Table:
    """A region's rows of a partition, whatever columns are younger than it. Raises MissingPartition."""
    rows = with_callers(lake, conformed(lake.read(table, day), columns))
    return rows.filter(pc.equal(pc.fill_null(rows["region"], schema.FIRST_REGION), region))


class Identities:
    """Whose payment an identity is for 24 hours; the region's decision service refuses another under it."""

    def __init__(self, lake: Lake, day: date, region: str) -> None:
        self._owner: dict[Identity, tuple[int, str, str]] = {}
        self._decided: set[Identity] = set()
        for each in (day - timedelta(days=1), day, day + timedelta(days=1)):
            if not lake.exists(tables.RAW_TRANSACTIONS, each):
                continue
            rows = rows_of_region(lake, tables.RAW_TRANSACTIONS, each, schema.RAW_TRANSACTIONS, region)
            counted = rows.filter(pc.invert(rows.column("is_duplicate")))
            if each < day:
                columns = [counted.column(name).to_pylist() for name in ("user_id", "merchant_id")]
                owners = zip(_received(counted), *columns, strict=True)
                self._owner = dict(zip(identities_of(counted), owners, strict=True))
            else:
                self._decided.update(identities_of(counted.filter(pc.is_valid(counted.column("decision_id")))))

    def verdict(
        self, caller: str, payment: Transaction, *, is_duplicate: bool
    ) -> Literal["ours", "conflict", "copy", "elsewhere"]:
        """Whether the identity is another payment's, or a duplicate of a decision to come, or of what this region never
        saw; an identity that is free becomes this payment's."""
        identity = caller, payment.transaction_id
        owner = self._owner.get(identity)
        if owner is not None and payment.received_at - owner[0] < velocity.IDENTITY_LIFE:
            return "ours" if owner[1:] == (payment.user_id, payment.merchant_id) else "conflict"
        if is_duplicate:
            return "copy" if identity in self._decided else "elsewhere"
        self._owner[identity] = (payment.received_at, payment.user_id, payment.merchant_id)
        return "ours"


def counted_before(settings: Settings, lake: Lake, day: date, raw: pa.Table) -> list[tuple[int, Received]]:
    """Decisions of the day that velocity knew already, as rows of `raw`, the region's of the day, each with the row of
    the day before that it stands for.

    Where velocity was warmed up from the lake between the two, the source's row had been counted; the decision then met
    its identity, and got the effective times of that row. Elsewhere it got times of its own.
    """
    before = day - timedelta(days=1)
    if not lake.exists(tables.RAW_TRANSACTIONS, before):
        return []
    rows = rows_of_region(lake, tables.RAW_TRANSACTIONS, before, schema.RAW_TRANSACTIONS, settings.region)
    copies = rows.filter(pc.and_(rows["is_duplicate"], pc.is_null(rows["decision_id"])))
    first: dict[Identity, int] = {}
    for identity, at in zip(identities_of(copies), _received(copies), strict=True):
        first.setdefault(identity, at)
    counted = pc.and_(pc.invert(raw["is_duplicate"]), pc.is_valid(raw["decision_id"]))
    positions = np.flatnonzero(counted.to_numpy(zero_copy_only=False))
    told = zip(positions.tolist(), identities_of(raw.take(pa.array(positions))), strict=True)
    found = {(*identity, first[identity]): position for position, identity in told if identity in first}
    if not found:
        return []
    were = attempts(settings, lake, before, list(found))
    times = zip(*(were[name].to_pylist() for name in _TIMES), strict=True)
    assigned = dict(zip(zip(*(were[name].to_pylist() for name in _KEY), strict=True), times, strict=True))
    return [
        (position, copy)
        for copy, position in found.items()
        if assigned.get(copy) == tuple(raw[name][position].as_py() for name in _TIMES)
    ]


def by_receipt(raw: pa.Table, positions: set[int]) -> pa.Table:
    """The rows, some without the effective times that would put them before others in the order of counting."""
    keep = pa.array([position not in positions for position in range(raw.num_rows)])
    for name in _TIMES if positions else ():
        index = raw.schema.get_field_index(name)
        raw = raw.set_column(index, raw.schema.field(index), pc.if_else(keep, raw[name], None))
    return raw
