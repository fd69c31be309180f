"""What the service's own decisions mean for training: what did not happen, what was let through to be measured.

What belongs here: the decisions that training rows came from, their weights, and refusing days of which served and
recomputed values differ. What does not: which label counts (`features.labels`), loading vectors (`data`).
"""

import hashlib
from collections.abc import Sequence
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fraud_platform.decision.measurement import RELEASED
from fraud_platform.inference_log.table import SCHEMA, LogTable
from fraud_platform.lake import Lake
from fraud_platform.model.split import TrainingDataError
from fraud_platform.monitoring.skew import SKEW

MAX_WEIGHT = 50.0
"""Most that a payment let through to be measured weighs, that of a share of 2%: one payment must not make a model."""

_KEY = ["caller", "transaction_id", "received_at"]
_COLUMNS = [*_KEY, "decision", "reason", "propensity"]


def with_decisions(lake: Lake, days: Sequence[date], keys: pa.Table) -> pa.Table:
    """Training rows with `blocked` (bool) and `weight` (float64).

    keys: rows of the training set of `days`, with caller, transaction_id and received_at. A payment let through to be
    measured weighs 1 / propensity, at most MAX_WEIGHT, and so stands for those like it that were blocked; any other
    weighs 1.
    """
    decisions = _decisions(lake, days)
    blocked, weight = np.zeros(keys.num_rows, np.bool_), np.ones(keys.num_rows)
    known = {tuple(row[name] for name in _KEY): row for row in decisions.to_pylist()}
    named = pc.is_in(keys["transaction_id"], value_set=decisions["transaction_id"].combine_chunks())
    positions = np.flatnonzero(named.to_numpy(zero_copy_only=False))
    for position, row in zip(positions, keys.select(_KEY).take(pa.array(positions)).to_pylist(), strict=True):
        decision = known.get(tuple(row.values()))
        if decision is not None:
            blocked[position] = decision["decision"] == "block"
            weight[position] = _weight(decision["reason"], decision["propensity"])
    return keys.append_column("blocked", pa.array(blocked)).append_column("weight", pa.array(weight))


def _weight(reason: str, propensity: float | None) -> float:
    return min(MAX_WEIGHT, 1 / propensity) if reason == RELEASED and propensity else 1.0


def _decisions(lake: Lake, days: Sequence[date]) -> pa.Table:
    """Payments of `days` that were blocked, and those let through to be measured."""
    log = LogTable(lake)
    parts = [log.read(day, _COLUMNS) for day in sorted(set(days) & set(log.days()))]
    rows = pa.concat_tables([SCHEMA.empty_table().select(_COLUMNS), *parts])
    return rows.filter(pc.or_(pc.equal(rows["decision"], "block"), pc.equal(rows["reason"], RELEASED)))


def decisions_version(lake: Lake, days: Sequence[date]) -> dict[str, str | int] | None:
    """What training takes from the log, as `data.data_versions` names a table; None where it takes nothing."""
    rows = _decisions(lake, days).sort_by([(name, "ascending") for name in _COLUMNS])
    if not rows.num_rows:
        return None
    used = pc.unique(rows["received_at"].cast(pa.date32())).to_pylist()
    return {
        "first_day": min(used).isoformat(),
        "last_day": max(used).isoformat(),
        "partitions": len(used),
        "sha256": hashlib.sha256(repr(rows.to_pylist()).encode()).hexdigest(),
    }


def refuse_skew(lake: Lake, days: Sequence[date], accepted: Sequence[date]) -> None:
    """Raise TrainingDataError for a day of `days` on which served and recomputed values differ.

    accepted: days whose differences somebody has explained (`settings.accepted_skew_days`); whoever trains on one keeps
    its name beside the model.
    """
    for day in sorted(set(days) & set(lake.days(SKEW)) - set(accepted)):
        for row in lake.read(SKEW, day).to_pylist():
            if row["differences"]:
                raise TrainingDataError(
                    f"{day}: {row['feature']} was served with other values than training would use for "
                    f"{row['differences']} of {row['compared']} decisions (for example {row['example']}). "
                    "Find out why, build the day and its skew again; where the values of training are the right ones, "
                    "name the day in FRAUD_ACCEPTED_SKEW_DAYS"
                )
