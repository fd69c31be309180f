"""Drift of a day's served decisions against the reference of the release that made them.

What belongs here: the tables `feature_drift` and `score_drift`. What does not: the index (`psi`), what follows from it
(`signals`).
"""

from collections import Counter
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.inference_log.table import LogTable
from fraud_platform.lake import Lake
from fraud_platform.monitoring.psi import Bins
from fraud_platform.monitoring.reference import Reference, read_reference
from fraud_platform.schema import TIME

FEATURE_DRIFT, SCORE_DRIFT = "feature_drift", "score_drift"
SCORE = "score"
"""Name of the score beside the features'."""


def _field(name: str, dtype: pa.DataType, meaning: str, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, dtype, nullable=nullable, metadata={"description": meaning})


def _list(dtype: pa.DataType) -> pa.DataType:
    # named as Parquet names it, so that what is read has the schema of what was written
    return pa.list_(pa.field("element", dtype))


FEATURE_DRIFT_SCHEMA = pa.schema(
    [
        _field("name", pa.string(), "a feature of the catalogue, or `score`"),
        _field("release", pa.string(), "release that decided most of the day; its reference is compared with"),
        _field("rows", pa.int64(), "decisions compared, with nothing degraded; of the score those of the release"),
        _field("decisions", pa.int64(), "all decisions of the day"),
        _field("psi", pa.float64(), "population stability index; null without rows", nullable=True),
        _field("usual_psi", pa.float64(), "the largest index that a day has without drift"),
        _field("null_share", pa.float64(), "share of null values", nullable=True),
        _field("reference_null_share", pa.float64(), "the same in the reference"),
        _field("counts", _list(pa.int64()), "rows per bin of the reference, null last"),
        _field("reference_counts", _list(pa.int64()), "the reference's rows per bin"),
        _field("edges", _list(pa.float64()), "upper bounds of the bins but the last two"),
    ]
)
SCORE_DRIFT_SCHEMA = pa.schema(
    [
        _field("hour", TIME, "begin of the UTC hour"),
        _field("release", pa.string(), "release that decided"),
        _field("rows", pa.int64(), "decisions of the release in the hour, with nothing degraded"),
        _field("mean", pa.float64(), "mean score"),
        _field("variance", pa.float64(), "variance of the score"),
        _field("psi", pa.float64(), "population stability index of the score"),
        _field("blocked", pa.int64(), "decisions to block"),
        _field("flagged", pa.int64(), "decisions to flag for review"),
        _field("histogram", _list(pa.int64()), "rows per twentieth of [0, 1], the last closed"),
    ]
)
_BUCKETS = 20
_COLUMNS = ["received_at", "score", "decision", "model_version", "model", "degraded", "catalogue_hash", "vector"]


@dataclass(frozen=True)
class Served:
    """A day's decisions that can be compared: with nothing degraded, whichever release made them.

    Payments are the same world for every release; a day on which one follows another is compared whole.
    """

    release: str | None
    """The one that made most of them; None when no release decided anything that day."""
    rows: pa.Table
    """Columns received_at, score, decision, model_version, vector."""
    left_out: int
    """Decisions that were degraded, or made on other features."""
    catalogue: Catalogue
    """The features of the vectors."""

    @property
    def own(self) -> NDArray[np.bool_]:
        """bool (n,): whether the release made it."""
        version = (self.release or "").replace("fraud-detector-", "fraud-detector/")
        made: NDArray[np.bool_] = pc.equal(self.rows.column("model_version"), version).to_numpy(zero_copy_only=False)
        return made

    @property
    def vectors(self) -> NDArray[np.float32]:
        """float32 (n, features), NaN for null."""
        flat: NDArray[np.float32] = self.rows.column("vector").combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(-1, len(self.catalogue.names))

    @property
    def scores(self) -> NDArray[np.float64]:
        """float64 (n,), NaN where another release scored."""
        return np.where(self.own, self.rows.column("score").to_numpy(), np.nan)


def served(log: LogTable, day: date, catalogue: Catalogue = CATALOGUE) -> Served:
    """A day's decisions that can be compared, and the release that made most of them.

    A feature that a lost store has defaulted, or a score of another model, says nothing about the world.
    """
    rows = log.read(day, _COLUMNS)
    whole = rows.filter(
        pc.and_(pc.invert(rows.column("degraded")), pc.equal(rows.column("catalogue_hash"), catalogue.hash))
    )
    releases = Counter(whole.column("model_version").to_pylist())
    if not releases:
        return Served(None, whole, rows.num_rows, catalogue)
    version = min(releases, key=lambda name: (-releases[name], name))
    return Served(version.replace("/", "-"), whole, rows.num_rows - whole.num_rows, catalogue)


def write_feature_drift(lake: Lake, days: list[date], catalogue: Catalogue = CATALOGUE) -> None:
    """`feature_drift` of each day; without rows where nothing was decided or the release has no reference."""
    for day in days:
        compared = _with_reference(lake, day, catalogue)
        lake.write(FEATURE_DRIFT, day, feature_drift(*compared) if compared else FEATURE_DRIFT_SCHEMA.empty_table())


def write_score_drift(lake: Lake, days: list[date], catalogue: Catalogue = CATALOGUE) -> None:
    """`score_drift` of each day, as `write_feature_drift`."""
    for day in days:
        compared = _with_reference(lake, day, catalogue)
        lake.write(SCORE_DRIFT, day, score_drift(*compared) if compared else SCORE_DRIFT_SCHEMA.empty_table())


def _with_reference(lake: Lake, day: date, catalogue: Catalogue) -> tuple[Served, Reference] | None:
    decisions = served(LogTable(lake), day, catalogue)
    reference = None if decisions.release is None else read_reference(lake, decisions.release, catalogue)
    return None if reference is None else (decisions, reference)


def feature_drift(decisions: Served, reference: Reference) -> pa.Table:
    """FEATURE_DRIFT_SCHEMA: a row per feature, in the catalogue's order, and one for the score."""
    vectors = decisions.vectors
    rows = [
        _row(name, reference.features[name], vectors[:, index], reference.usual[name])
        for index, name in enumerate(decisions.catalogue.names)
        # a feature that is younger than the reference has nothing to be held against
        if name in reference.features
    ]
    rows.append(_row(SCORE, reference.score, decisions.scores[decisions.own], reference.usual_score))
    of_day = {"release": reference.release, "decisions": decisions.rows.num_rows + decisions.left_out}
    return pa.Table.from_pylist([{**row, **of_day} for row in rows], FEATURE_DRIFT_SCHEMA)


def _row(name: str, bins: Bins, values: NDArray[np.floating], usual: float) -> dict[str, object]:
    counts = bins.count(values)
    return {
        "name": name,
        "rows": len(values),
        "usual_psi": usual,
        "psi": bins.psi(counts) if len(values) else None,
        "null_share": counts[-1] / len(values) if len(values) else None,
        "reference_null_share": bins.null_share,
        "counts": counts,
        "reference_counts": bins.counts,
        "edges": bins.edges,
    }


def score_drift(decisions: Served, reference: Reference) -> pa.Table:
    """SCORE_DRIFT_SCHEMA: a row per hour with decisions, ascending."""
    of_release = decisions.rows.filter(pa.array(decisions.own))
    hours = pc.floor_temporal(of_release.column("received_at"), unit="hour")
    scores = of_release.column("score").to_numpy()
    made = of_release.column("decision").to_numpy(zero_copy_only=False)
    stamps = hours.cast(pa.int64()).to_numpy()
    rows = []
    for stamp in np.unique(stamps):
        own = stamps == stamp
        values = scores[own]
        rows.append(
            {
                "hour": int(stamp),
                "release": reference.release,
                "rows": len(values),
                "mean": float(values.mean()),
                "variance": float(values.var()),
                "psi": reference.score.psi(reference.score.count(values)),
                "blocked": int((made[own] == "block").sum()),
                "flagged": int((made[own] == "flag_for_review").sum()),
                "histogram": np.histogram(values, bins=_BUCKETS, range=(0, 1))[0],
            }
        )
    return pa.Table.from_pylist(rows, SCORE_DRIFT_SCHEMA)
