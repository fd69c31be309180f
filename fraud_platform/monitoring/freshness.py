"""How old the batch features were that decisions were made on.

What belongs here: the table `freshness`. What does not: the age at which a value counts as missing (`online.rows`).
"""

from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fraud_platform.features.catalogue import HOUR
from fraud_platform.inference_log.table import LogTable
from fraud_platform.lake import Lake
from fraud_platform.online.snapshot_record import end_of_day

FRESHNESS = "freshness"
QUANTILES = (0.5, 0.9, 0.99, 1.0)
FRESHNESS_SCHEMA = pa.schema(
    [
        pa.field("entity", pa.string(), nullable=False, metadata={"description": "user or merchant"}),
        pa.field("decisions", pa.int64(), nullable=False, metadata={"description": "decisions of the day"}),
        pa.field("without", pa.int64(), nullable=False, metadata={"description": "made without a snapshot"}),
        *(
            pa.field(
                f"age_hours_p{round(quantile * 100)}",
                pa.float64(),
                metadata={"description": f"hours from the snapshot's end to the decision, quantile {quantile}"},
            )
            for quantile in QUANTILES
        ),
    ]
)


def write_freshness(lake: Lake, days: list[date]) -> None:
    """The table for each day."""
    for day in days:
        lake.write(FRESHNESS, day, freshness(LogTable(lake), day))


def freshness(log: LogTable, day: date) -> pa.Table:
    """FRESHNESS_SCHEMA: a row per entity; without rows when nothing was decided."""
    decisions = log.read(day, ["received_at", "user_snapshot", "merchant_snapshot"])
    if not decisions.num_rows:
        return FRESHNESS_SCHEMA.empty_table()
    received = decisions.column("received_at").cast(pa.int64()).to_numpy()
    rows = []
    for entity in ("user", "merchant"):
        snapshots = decisions.column(f"{entity}_snapshot")
        known = pc.is_valid(snapshots).to_numpy(zero_copy_only=False)
        ends = [end_of_day(date.fromisoformat(each)) for each in snapshots.drop_null().to_pylist()]
        ages = (received[known] - np.array(ends, np.int64)) / HOUR
        quantiles = np.quantile(ages, QUANTILES) if len(ages) else [None] * len(QUANTILES)
        rows.append(
            {"entity": entity, "decisions": decisions.num_rows, "without": int((~known).sum())}
            | dict(zip(FRESHNESS_SCHEMA.names[3:], quantiles, strict=True))
        )
    return pa.Table.from_pylist(rows, FRESHNESS_SCHEMA)
