"""Pictures of an evaluation as PNG bytes: precision-recall, ROC, calibration, gain, cost.

What belongs here: drawing. What does not: figures that anything decides on (`evaluate`).
"""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fraud_platform.model.costs import LossTable
from fraud_platform.model.ranking import Bools

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]

CALIBRATION_BINS = 10
_POINTS = 400
"""A curve is drawn through this many points; more are not seen."""
_COST_SHARE = 0.02
"""Of payments; the picture of costs ends there."""


def draw(
    is_fraud: Bools, models: dict[str, Floats], amounts: Floats, thresholds: dict[str, float], table: LossTable
) -> dict[str, bytes]:
    """PNG bytes by file name: precision_recall, roc, calibration, gain, cost. Arrays of shape (n,).

    models: scores by name; the first is the candidate's, whose costs are drawn. thresholds: by the name that marks each
    there.
    """
    scores = next(iter(models.values()))
    curves = {name: _curve(is_fraud, values) for name, values in models.items()}
    pictures: dict[str, bytes] = {}

    def precision_recall(axes: "Axes") -> None:
        for name, (caught, wrong) in curves.items():
            axes.step(caught / is_fraud.sum(), caught / (caught + wrong), where="post", label=name)
        axes.set(title="Precision and recall", xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))

    def roc(axes: "Axes") -> None:
        for name, (caught, wrong) in curves.items():
            axes.plot(np.r_[0, wrong] / (~is_fraud).sum(), np.r_[0, caught] / is_fraud.sum(), label=name)
        axes.plot([0, 1], [0, 1], color="0.7", linestyle=":", label="chance")
        axes.set(title="ROC", xlabel="good payments flagged", ylabel="frauds flagged", xlim=(0, 1), ylim=(0, 1.02))

    def calibration(axes: "Axes") -> None:
        for name, values in models.items():
            axes.plot(*reliability(is_fraud, values), marker="o", markersize=4, label=name)
        limits = (1e-5, 1)
        axes.plot(limits, limits, color="0.7", linestyle=":", label="perfect")
        axes.set(title="Calibration", xlabel="mean score", ylabel="share of fraud", xlim=limits, ylim=limits)
        axes.set_xscale("log")
        axes.set_yscale("log")

    def gain(axes: "Axes") -> None:
        for name, (caught, wrong) in curves.items():
            axes.plot((caught + wrong) / len(is_fraud), caught / is_fraud.sum(), label=name)
        shares = np.geomspace(1e-4, 1, 50)
        axes.plot(shares, shares, color="0.7", linestyle=":", label="chance")
        axes.set(title="Gain", xlabel="share of payments flagged", ylabel="share of frauds among them")
        axes.set(xlim=(1e-4, 1), ylim=(0, 1.02))
        axes.set_xscale("log")

    def cost(axes: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator, PercentFormatter

        order = np.argsort(-scores, kind="stable")
        let_through, blocked = table.if_let_through(is_fraud, amounts)[order], table.if_blocked(is_fraud)[order]
        losses = let_through.sum() + np.concatenate([[0.0], np.cumsum(blocked - let_through)])
        shown = max(1, int(len(scores) * _COST_SHARE))
        picked = np.unique(np.linspace(0, shown, _POINTS).astype(int))
        axes.plot(picked / len(scores), losses[picked] / len(scores) * 1_000)
        for number, (name, threshold) in enumerate(thresholds.items()):
            share = float((scores > threshold).mean())
            axes.axvline(share, color=f"C{number + 1}", linestyle="--", label=f"{name}, {threshold:.3g}")
        axes.set(title="Cost", xlabel="share of payments blocked", ylabel="loss of a thousand payments")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=1))

    for paint in (precision_recall, roc, calibration, gain, cost):
        pictures[f"{paint.__name__}.png"] = _picture(paint)
    return pictures


def reliability(is_fraud: Bools, scores: Floats) -> tuple[Floats, Floats]:
    """Mean score and share of fraud in up to CALIBRATION_BINS groups of about equally many frauds, by score.

    Groups of equally many examples would put nearly all frauds into one.
    """
    order = np.argsort(scores, kind="stable")
    frauds_below = np.asarray(np.cumsum(is_fraud[order]) - is_fraud[order], np.int64)
    group = np.minimum(frauds_below * CALIBRATION_BINS // max(int(is_fraud.sum()), 1), CALIBRATION_BINS - 1)
    sizes = np.bincount(group)
    present = sizes > 0
    mean = np.bincount(group, scores[order])[present] / sizes[present]
    share = np.bincount(group, is_fraud[order].astype(np.float64))[present] / sizes[present]
    return mean, share


def _curve(is_fraud: Bools, scores: Floats) -> tuple[Floats, Floats]:
    """Frauds and good payments at or above each distinct score, from the highest on, thinned to _POINTS."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.r_[np.diff(scores[order]) != 0, True])
    caught = np.cumsum(is_fraud[order])[last]
    # even steps of recall, not of rows: nearly all rows lie where nothing is seen
    picked = np.searchsorted(caught, np.linspace(1, caught[-1], _POINTS))
    kept = np.unique(np.r_[0, picked, len(last) - 1])
    return caught[kept].astype(np.float64), (last + 1 - caught)[kept].astype(np.float64)


def _picture(paint: "Callable[[Axes], None]") -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.6), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    paint(axes)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    sink = io.BytesIO()
    # without its date and version the same figures give the same bytes
    figure.savefig(sink, format="png", metadata={"Software": None})
    return sink.getvalue()
