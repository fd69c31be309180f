"""Whose payment a row of the lake is, also in a file that is older than its column `caller`.

What belongs here: the caller where a file does not name one. What does not: names (`fraud_platform.callers`), other
columns that a file may lack (`features.offline`).
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fraud_platform.callers import DEFAULT_CALLER
from fraud_platform.inference_log.table import LogTable
from fraud_platform.lake import Lake

_KEY = ["transaction_id", "received_at"]


def with_callers(lake: Lake, rows: pa.Table) -> pa.Table:
    """Rows of raw_transactions or of the training set, each with its `caller`; the column's place is kept.

    rows: with transaction_id and received_at. A row without a caller comes from a file older than the column: it takes
    the caller of the decision that was received under its transaction_id at that instant, else the default caller. Only
    then the log is read. Two callers' decisions on one id in one microsecond would take the later caller's name.
    """
    present = "caller" in rows.column_names
    column = rows["caller"] if present else pa.nulls(rows.num_rows, pa.string())
    if column.null_count:
        unknown = pc.is_null(column)
        column = pc.fill_null(pc.if_else(unknown, _decided(lake, rows, unknown), column), DEFAULT_CALLER)
    field = pa.field("caller", pa.string(), nullable=False)
    if not present:
        return rows.append_column(field, column)
    position = rows.schema.get_field_index("caller")
    return rows.set_column(position, rows.schema.field(position), column)


def _decided(lake: Lake, rows: pa.Table, unknown: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Per row the caller of the decision that it is, null where it is none or its caller is known."""
    log = LogTable(lake)
    days = pc.unique(rows["received_at"].filter(unknown).cast(pa.date32())).to_pylist()
    held = [log.told(day, [*_KEY, "caller"]) for day in sorted(set(days) & set(log.days()))]
    callers = {
        (name, at): caller
        for part in held
        for name, at, caller in zip(*_plain(part), part["caller"].to_pylist(), strict=True)
    }
    found: list[str | None] = [None] * rows.num_rows
    # few of a long history's rows were decided
    named = pc.is_in(rows["transaction_id"], value_set=pa.array({name for name, _ in callers}, pa.string()))
    positions = np.flatnonzero(named.to_numpy(zero_copy_only=False))
    for position, key in zip(positions, zip(*_plain(rows.take(pa.array(positions))), strict=True), strict=True):
        found[position] = callers.get(key)
    return pa.array(found, pa.string())


def _plain(rows: pa.Table) -> tuple[list[str], list[int]]:
    return rows["transaction_id"].to_pylist(), rows["received_at"].cast(pa.int64()).to_pylist()
