"""Training-serving skew: the values that were scored against those that training would use for the same payments.

What belongs here: the table `skew`. What does not: computing the offline values (`features.training_set`).

Equal means the same float32 bits, or both null. Compared are decisions with nothing degraded whose velocity was
complete and counted what the training set counts; the others are counted by cause, never left out silently. A cause
never depends on the values.
"""

from collections import Counter
from datetime import date, timedelta
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fraud_platform.features.catalogue import CATALOGUE, LIVE_HISTORY, Catalogue
from fraud_platform.features.sequence import WINDOW_LOOKBACK_DAYS
from fraud_platform.features.tables import tables_of
from fraud_platform.inference_log.callers import with_callers
from fraud_platform.inference_log.record import DecisionRecord
from fraud_platform.inference_log.table import LogTable
from fraud_platform.lake import Lake, days_between
from fraud_platform.monitoring.one_sided import ATTEMPT, Key, OneSided, Row, find_one_sided, plain

SKEW = "skew"
SKEW_SCHEMA = pa.schema(
    [
        pa.field("feature", pa.string(), nullable=False, metadata={"description": "name in the catalogue"}),
        pa.field("compared", pa.int64(), nullable=False, metadata={"description": "decisions compared"}),
        pa.field("differences", pa.int64(), nullable=False, metadata={"description": "values that differ"}),
        pa.field("example", pa.string(), metadata={"description": "transaction, served and offline value of one"}),
    ]
)
CAUSES = (
    *("degraded", "incomplete_epoch", "other_catalogue", "not_in_training_set", "other_snapshot"),
    "one_sided_attempt",
)

OfflineRow = tuple[tuple[str | None, str | None], np.ndarray]
"""The user's and the merchant's snapshot, and the vector, float32 (features,)."""


def write_skew(lake: Lake, days: list[date], catalogue: Catalogue = CATALOGUE) -> dict[date, dict[str, int]]:
    """The table for each day; returns how many of its decisions were left out, per cause of CAUSES."""
    left_out = {}
    for day in days:
        table, causes = skew(lake, day, catalogue)
        lake.write(SKEW, day, table)
        left_out[day] = {cause: causes[cause] for cause in CAUSES}
    return left_out


def skew(lake: Lake, day: date, catalogue: Catalogue = CATALOGUE) -> tuple[pa.Table, Counter[str]]:
    """SKEW_SCHEMA with a row per feature, and the decisions that could not be compared."""
    causes: Counter[str] = Counter()
    offline = OfflineDay(lake, day, catalogue=catalogue)
    served, expected, names = [], [], []
    for record in LogTable(lake).records(day):
        found = offline.of(record)
        if isinstance(found, str):
            causes[found] += 1
            continue
        served.append(record.values)
        expected.append(found)
        names.append(record.request.transaction_id)
    return _compared(np.array(served), np.array(expected), names, catalogue), causes


class OfflineDay:
    """What the training set has for the decisions of a UTC day, and which of them it cannot be compared with: the one
    exclusion for everybody who compares."""

    def __init__(
        self, lake: Lake, day: date, transaction_id: str | None = None, catalogue: Catalogue = CATALOGUE
    ) -> None:
        """transaction_id: the only one that will be asked for, which spares reading the day."""
        self._lake, self._day, self._catalogue = lake, day, catalogue
        self._rows = offline_vectors(lake, day, transaction_id, catalogue)
        self._one_sided: dict[str, OneSided] = {}

    def of(self, record: DecisionRecord) -> np.ndarray | str:
        """The vector that the decision's must equal, float32 (features,), or which of CAUSES forbids to compare."""
        row = self._rows.get((record.caller, record.request.transaction_id, record.received_at))
        cause = cause_of(record, row, self._catalogue)
        if cause is not None or row is None:
            return cause or "not_in_training_set"
        if record.epoch is not None and self._beside(record.epoch).touches(record):
            return "one_sided_attempt"
        return row[1]

    def _beside(self, epoch: str) -> OneSided:
        if epoch not in self._one_sided:
            self._one_sided[epoch] = find_one_sided(self._lake, self._day, epoch, self._attempts, self._catalogue)
        return self._one_sided[epoch]

    @cached_property
    def _attempts(self) -> list[Row]:
        log = LogTable(self._lake)
        around = days_between(self._day - timedelta(days=WINDOW_LOOKBACK_DAYS), self._day + timedelta(days=1))
        return plain(pa.concat_tables([log.read(each, ATTEMPT) for each in around]))


def cause_of(record: DecisionRecord, row: OfflineRow | None, catalogue: Catalogue = CATALOGUE) -> str | None:
    """Which of CAUSES, `one_sided_attempt` aside, keeps a decision from being held against its row of the training set;
    None where it must equal it."""
    if record.catalogue_hash != catalogue.hash:
        return "other_catalogue"
    if record.served_by.user_features != "redis" or record.served_by.merchant_features != "redis":
        return "degraded"
    oldest = min(record.user_effective_time, record.merchant_effective_time) - LIVE_HISTORY
    if record.epoch is None or record.complete_since is None or oldest < record.complete_since:
        return "incomplete_epoch"
    if row is None:
        return "not_in_training_set"
    return None if row[0] == (record.user_snapshot, record.merchant_snapshot) else "other_snapshot"


def offline_vectors(
    lake: Lake, day: date, transaction_id: str | None = None, catalogue: Catalogue = CATALOGUE
) -> dict[Key, OfflineRow]:
    """Snapshots and vector per transaction of the training set, or of those with one transaction_id, each caller's;
    nothing for a day that was not built."""
    table = tables_of(catalogue).training_set
    if not lake.exists(table, day):
        return {}
    columns = ["caller", "transaction_id", "received_at", "user_snapshot", "merchant_snapshot", *catalogue.names]
    wanted = None if transaction_id is None else pc.field("transaction_id") == transaction_id
    rows = with_callers(lake, lake.read_file(lake.path(table, day), columns, wanted))
    vectors = np.column_stack([rows.column(name).to_numpy(zero_copy_only=False) for name in catalogue.names])
    snapshots = zip(
        *(pc.cast(rows.column(f"{entity}_snapshot"), pa.string()).to_pylist() for entity in ("user", "merchant")),
        strict=True,
    )
    identifiers = zip(
        rows.column("caller").to_pylist(),
        rows.column("transaction_id").to_pylist(),
        rows.column("received_at").cast(pa.int64()).to_pylist(),
        strict=True,
    )
    return {
        identifier: (pair, vector.astype(np.float32))
        for identifier, pair, vector in zip(identifiers, snapshots, vectors, strict=True)
    }


def _compared(served: np.ndarray, expected: np.ndarray, names: list[str], catalogue: Catalogue) -> pa.Table:
    if not names:
        return SKEW_SCHEMA.empty_table()
    same = (served.view(np.uint32) == expected.view(np.uint32)) | (np.isnan(served) & np.isnan(expected))
    rows = []
    for index, feature in enumerate(catalogue.names):
        wrong = np.flatnonzero(~same[:, index])
        example = None
        if len(wrong):
            first = wrong[0]
            example = f"{names[first]}: served {served[first, index]!r}, offline {expected[first, index]!r}"
        rows.append({"feature": feature, "compared": len(names), "differences": len(wrong), "example": example})
    return pa.Table.from_pylist(rows, SKEW_SCHEMA)
