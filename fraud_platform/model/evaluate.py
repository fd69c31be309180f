"""How good a model is on a holdout: ranking with intervals, the baseline beside it, precision and recall at thresholds.

What belongs here: figures of one model. What does not: whether it may be promoted (`gate`), pictures (`plots`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fraud_platform.model.ranking import Bools, Comparison, Interval, compare
from fraud_platform.settings import Settings

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AtThreshold:
    """What happens when scores strictly greater than a threshold are acted on."""

    threshold: float
    flagged: int
    precision: float | None
    """None when nothing is flagged."""
    recall: float


@dataclass(frozen=True)
class Evaluation:
    """A candidate on its matured holdout, with logistic regression on the same rows."""

    rows: int
    frauds: int
    unknown: int
    """Transactions left out because their label is unknown."""
    comparison: Comparison
    """The candidate against the baseline."""
    block: AtThreshold
    review: AtThreshold

    def metrics(self) -> dict[str, float]:
        """Flat figures for MLflow and Dagster; what is undefined is left out."""
        ranking, baseline = self.comparison.candidate, self.comparison.reference
        flat = {
            "holdout_rows": float(self.rows),
            "holdout_frauds": float(self.frauds),
            "holdout_unknown": float(self.unknown),
            "holdout_fraud_rate": self.frauds / self.rows,
            "baseline_auc": baseline.auc.value,
            "baseline_average_precision": baseline.average_precision.value,
        }
        intervals: dict[str, Interval] = {
            "auc": ranking.auc,
            "average_precision": ranking.average_precision,
            "average_precision_gain": self.comparison.average_precision_gain,
        }
        for name, interval in intervals.items():
            flat |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
        for name, at in (("block", self.block), ("review", self.review)):
            flat |= {f"{name}_flagged": float(at.flagged), f"{name}_recall": at.recall}
            if at.precision is not None:
                flat[f"{name}_precision"] = at.precision
        return flat


def at_threshold(is_fraud: Bools, scores: Floats, threshold: float) -> AtThreshold:
    """Precision and recall of acting on every score strictly greater than the threshold."""
    flagged = scores > threshold
    caught = int((flagged & is_fraud).sum())
    count = int(flagged.sum())
    return AtThreshold(threshold, count, caught / count if count else None, caught / int(is_fraud.sum()))


def evaluate(is_fraud: Bools, scores: Floats, baseline: Floats, unknown: int, settings: Settings) -> Evaluation:
    """Measure scores against those of the baseline on the same labelled examples, arrays of shape (n,).

    Raises ValueError unless there are frauds and good examples.
    """
    return Evaluation(
        rows=len(is_fraud),
        frauds=int(is_fraud.sum()),
        unknown=unknown,
        comparison=compare(is_fraud, scores, baseline, settings.seed),
        block=at_threshold(is_fraud, scores, settings.threshold),
        review=at_threshold(is_fraud, scores, settings.review_threshold),
    )
