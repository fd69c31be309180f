"""What a day's decisions were worth, once their labels have matured.

What belongs here: the table `performance`. What does not: which label counts (`features.labels`), what follows from a
figure (`signals`).

A blocked payment did not happen, and whether it was fraud is known only where somebody looked. Where a share of
would-be blocks was let through (`decision.measurement`), those stand for all of them, each for 1 / propensity: the
figures then say what they would of all payments. Where none was, they speak of the blocked payments that somebody
looked at, and those are seldom typical.
"""

from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.special import ndtri

from fraud_platform.decision.measurement import RELEASED
from fraud_platform.features.label_rules import label_rules
from fraud_platform.features.labels import label_transactions
from fraud_platform.inference_log.table import LogTable
from fraud_platform.lake import Lake
from fraud_platform.model.data import labels_before
from fraud_platform.model.ranking import COVERAGE, Interval, rank
from fraud_platform.model.split import microseconds
from fraud_platform.settings import Settings

PERFORMANCE = "performance"
RANKED_FRAUDS = 10
"""Frauds (and good payments) of a day below which ranking says nothing."""


def _field(name: str, dtype: pa.DataType, meaning: str, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, dtype, nullable=nullable, metadata={"description": meaning})


def _interval(name: str, meaning: str) -> list[pa.Field]:
    bounds = (("", ""), ("_low", ", lower bound"), ("_high", ", upper bound"))
    return [_field(f"{name}{end}", pa.float64(), f"{meaning}{what}", nullable=True) for end, what in bounds]


PERFORMANCE_SCHEMA = pa.schema(
    [
        _field("model_version", pa.string(), "model that decided, or `none` for the rules alone"),
        _field("decisions", pa.int64(), "decisions of the day"),
        _field("labelled", pa.int64(), "decisions whose label is known at maturity"),
        _field("frauds", pa.int64(), "frauds among them"),
        _field("alerts", pa.int64(), "decisions to block or to flag for review: what somebody has to look at"),
        *_interval("fraud_rate", "share of frauds"),
        *_interval("auc", "AUC ROC of the score"),
        *_interval("average_precision", "average precision of the score"),
        *_interval("catch_rate", "share of frauds that were blocked, or would have been"),
        *_interval("false_positive_rate", "share of good payments that were blocked, or would have been"),
        *_interval("block_precision", "share of frauds among payments that were blocked, or would have been"),
        _field("blocks", pa.int64(), "payments that were blocked"),
        _field("blocks_known", pa.int64(), "blocked payments of which somebody said what they were"),
        _field("released", pa.int64(), "payments above the threshold that were let through to be measured"),
        _field("blocked_fraud_minor", pa.int64(), "amount of blocked frauds, minor units of the base currency"),
        _field("blocked_good_minor", pa.int64(), "amount of blocked good payments"),
        _field("missed_fraud_minor", pa.int64(), "amount of frauds that were not blocked, those let through included"),
    ]
)
_COLUMNS = [
    *("caller", "transaction_id", "received_at"),
    *("score", "decision", "reason", "propensity", "model_version", "amount"),
]


def matured(day: date, maturity_days: int) -> date:
    """The first day on which everything about a day is known: a payment without a label is good by then."""
    return day + timedelta(days=maturity_days + 1)


def write_performance(lake: Lake, settings: Settings, days: list[date]) -> None:
    """The table for each day, with the labels that had arrived at its maturity and none that came later."""
    for day in days:
        lake.write(PERFORMANCE, day, performance(lake, settings, day))


def performance(lake: Lake, settings: Settings, day: date) -> pa.Table:
    """PERFORMANCE_SCHEMA: a row per model version that decided."""
    decisions = LogTable(lake).read(day, _COLUMNS)
    if not decisions.num_rows:
        return PERFORMANCE_SCHEMA.empty_table()
    decisions = decisions.append_column("transaction_date", decisions.column("received_at").cast(pa.date32()))
    decisions = decisions.append_column("blocked", pc.equal(decisions.column("decision"), "block"))
    cut = matured(day, settings.label_maturity_days)
    known = labels_before(lake, cut, label_rules(settings))
    labelled = label_transactions(decisions, known, microseconds(cut), settings.label_maturity_days)
    versions = sorted(set(labelled.column("model_version").to_pylist()))
    rows = [
        _figures(version, labelled.filter(pc.equal(labelled.column("model_version"), version)), settings.seed)
        for version in versions
    ]
    return pa.Table.from_pylist(rows, PERFORMANCE_SCHEMA)


def _figures(version: str, rows: pa.Table, seed: int) -> dict[str, object]:
    blocked_rows = rows.column("blocked").to_numpy(zero_copy_only=False)
    alerts = int((rows.column("decision").to_numpy(zero_copy_only=False) != "allow").sum())
    known = rows.filter(pc.is_valid(rows.column("is_fraud")))
    fraud = known.column("is_fraud").to_numpy(zero_copy_only=False).astype(bool)
    blocked = known.column("blocked").to_numpy(zero_copy_only=False)
    released = pc.equal(known.column("reason"), RELEASED).to_numpy(zero_copy_only=False)
    stopped, weights = blocked | released, _weights(known, blocked, released)
    # the money of a payment whose amount is not known adds nothing
    amounts = pc.fill_null(known.column("amount"), 0).to_numpy()
    return {
        "model_version": version,
        "decisions": rows.num_rows,
        "labelled": len(fraud),
        "frauds": int(fraud.sum()),
        "alerts": alerts,
        **_share("fraud_rate", fraud, weights),
        **_ranked(fraud, known.column("score").to_numpy(zero_copy_only=False), seed),
        **_share("catch_rate", stopped[fraud], weights[fraud]),
        **_share("false_positive_rate", stopped[~fraud], weights[~fraud]),
        **_share("block_precision", fraud[stopped], weights[stopped]),
        "blocks": int(blocked_rows.sum()),
        "blocks_known": int(blocked.sum()),
        "released": int(released.sum()),
        "blocked_fraud_minor": round(float((amounts * weights)[fraud & stopped].sum())),
        "blocked_good_minor": round(float((amounts * weights)[~fraud & stopped].sum())),
        "missed_fraud_minor": int(amounts[fraud & ~blocked].sum()),
    }


def _weights(rows: pa.Table, blocked: NDArray[np.bool_], released: NDArray[np.bool_]) -> NDArray[np.float64]:
    """1 / propensity of what was let through; 0 of a block that was drawn and stayed, for which those stand; else 1."""
    propensity = rows.column("propensity").to_numpy(zero_copy_only=False).astype(float)
    drawn = ~np.isnan(propensity)
    return np.where(released & drawn, 1 / np.where(drawn, propensity, 1.0), np.where(blocked & drawn, 0.0, 1.0))


def share(chosen: NDArray[np.bool_], weights: NDArray[np.float64] | None = None) -> Interval | None:
    """A share with its Wilson interval of COVERAGE, at the number of equal weights that would say as much (Kish, 1965);
    None of nothing. weights: (n,); None: all weigh 1."""
    given = np.ones(len(chosen)) if weights is None else weights
    total = float(given.sum())
    if not total:
        return None
    value, count = float(given[chosen].sum()) / total, total**2 / float((given**2).sum())
    # the normal quantile; all of scipy.stats would be imported for it
    z = float(ndtri((1 + COVERAGE) / 2))
    centre = (value + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * float(np.sqrt(value * (1 - value) / count + (z / (2 * count)) ** 2))
    return Interval(value, max(0.0, centre - half), min(1.0, centre + half))


def _share(name: str, chosen: NDArray[np.bool_], weights: NDArray[np.float64]) -> dict[str, float | None]:
    found = share(chosen, weights)
    parts = (None, None, None) if found is None else (found.value, found.low, found.high)
    return dict(zip((name, f"{name}_low", f"{name}_high"), parts, strict=True))


def _ranked(fraud: NDArray[np.bool_], scores: NDArray[np.float64], seed: int) -> dict[str, float | None]:
    scored = ~np.isnan(scores)
    fraud, scores = fraud[scored], scores[scored]
    if min(fraud.sum(), (~fraud).sum()) < RANKED_FRAUDS:
        return {}
    ranking = rank(fraud, scores, seed)
    figures = {"auc": ranking.auc, "average_precision": ranking.average_precision}
    return {
        f"{name}{end}": getattr(figure, part)
        for name, figure in figures.items()
        for end, part in (("", "value"), ("_low", "low"), ("_high", "high"))
    }
