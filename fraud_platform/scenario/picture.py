"""A scenario as people read it: one picture over its days, and a table.

What belongs here: drawing. What does not: figures (`facts`).
"""

import io
from typing import TYPE_CHECKING

from fraud_platform.scenario.facts import DayFigures, Facts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

_MARKS = {"training": "retraining", "in shadow": "shadow", "a canary": "canary", "the champion": "champion",
          "rolled back": "rolled back"}  # fmt: skip


def draw(title: str, facts: Facts) -> bytes:
    """PNG: drift, catch rate and who decided, day by day, with what the loop did."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (drift, caught, deciding) = plt.subplots(3, 1, figsize=(10, 8), sharex=True, layout="constrained")
    days = [day.number for day in facts.days]
    _line(drift, days, [day.drift for day in facts.days], "feature that drifts most", "tab:blue")
    _line(drift, days, [day.score_drift for day in facts.days], "score", "tab:orange")
    drift.axhline(1, color="black", linestyle=":", linewidth=1)
    drift.set(ylabel="PSI, times its limit", yscale="log", title=title)
    _line(
        caught, days, [_share(day.caught_frauds, day.frauds) for day in facts.days], "blocked or flagged", "tab:green"
    )
    _line(caught, days, [_share(day.blocked_frauds, day.frauds) for day in facts.days], "blocked", "tab:red")
    caught.set(ylabel="share of frauds", ylim=(0, 1))
    versions = sorted({version for day in facts.days for version in day.decided_by})
    shares = [[_share(day.decided_by[version], day.payments) or 0 for day in facts.days] for version in versions]
    deciding.stackplot(days, shares, labels=versions, step="mid", alpha=0.7)
    deciding.set(ylabel="share of payments", xlabel="day", ylim=(0, 1))
    for axes in (drift, caught, deciding):
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")
        axes.grid(alpha=0.3)
    done: dict[int, dict[str, None]] = {}
    for fact in facts.facts:
        if fact.kind in _MARKS:
            done.setdefault(fact.day, {})[_MARKS[fact.kind]] = None
    for day, marks in done.items():
        for axes in (drift, caught, deciding):
            axes.axvline(day, color="grey", linewidth=0.8)
        # upright, so that neighbouring days do not write over each other
        deciding.annotate(
            ", ".join(marks), (day, 0.03), (3, 0), textcoords="offset points", rotation=90, fontsize="small"
        )
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100, metadata={"Software": None})
    plt.close(figure)
    return picture.getvalue()


def _line(axes: "Axes", days: list[int], values: list[float | None], label: str, colour: str) -> None:
    known = [(day, value) for day, value in zip(days, values, strict=True) if value is not None]
    axes.plot([day for day, _ in known], [value for _, value in known], marker="o", label=label, color=colour)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def table(facts: Facts) -> "Table":
    """A row per day, and what the loop did on it."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("day", "payments", "errors", "degraded", "drift", "of score", "caught", "blocked good"):
        made.add_column(name, justify="right", no_wrap=True)
    made.add_column("decided by", no_wrap=True)
    made.add_column("what the loop did")
    for day in facts.days:
        done = dict.fromkeys(_said(fact.kind, fact.subject) for fact in facts.facts if fact.day == day.number)
        made.add_row(
            str(day.number), f"{day.payments:,}", str(day.errors), str(day.degraded), _times(day.drift),
            _times(day.score_drift), _percent(day), str(day.blocked_good), _deciders(day), "; ".join(done),
        )  # fmt: skip
    return made


def _said(kind: str, subject: str) -> str:
    if kind == "training":
        return f"training for {subject}"
    return f"told of {subject}" if kind == "alert" else f"{subject} {kind}"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}×"


def _percent(day: DayFigures) -> str:
    return f"{day.caught_frauds / day.frauds:.0%}" if day.frauds else ""


def _deciders(day: DayFigures) -> str:
    total = max(sum(day.decided_by.values()), 1)
    return ", ".join(
        f"{name.rpartition('/')[2]}: {count / total:.0%}" for name, count in sorted(day.decided_by.items())
    )
