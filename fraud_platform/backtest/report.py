"""A backtest as people and programs read it: tables, notes, JSON, a picture by day.

What belongs here: words and drawing. What does not: any figure.
"""

import io
from collections.abc import Callable
from math import nan

import msgspec

from fraud_platform.backtest.figures import Figures, Judged
from fraud_platform.backtest.run import Backtest
from fraud_platform.model.ranking import Interval

Rows = list[list[str]]

FIGURES = ["", "this", "what ran"]
OVERLAP = ["stopped by", "payments", "amount", "frauds", "good"]


def figure_rows(found: Backtest) -> Rows:
    """Rows under FIGURES."""
    sides = (found.this, found.ran)
    does = "blocked" if found.hit_is == "block" else "blocked or flagged"

    def row(name: str, say: Callable[[Figures], str]) -> list[str]:
        return [name, *(say(side) for side in sides)]

    def judged(name: str, say: Callable[[Judged], str]) -> list[str]:
        return row(name, lambda one: "–" if one.judged is None else say(one.judged))

    return [
        row(f"payments {does}", lambda one: f"{one.hits:,} ({one.hits / found.payments:.3%})"),
        row("users touched", lambda one: f"{one.users:,}"),
        row(f"money, {found.currency}", lambda one: f"{one.amount:,.0f}"),
        judged("frauds caught", lambda j: f"{j.caught:,} of {found.frauds:,}"),
        judged(f"fraud caught, {found.currency}", lambda j: _money(j.money.caught)),
        judged("good payments stopped", lambda j: f"{j.wrongly:,}"),
        judged(f"good money stopped, {found.currency}", lambda j: _money(j.money.wrongly)),
        judged("precision", lambda j: _share(j.precision)),
        judged("recall", lambda j: _share(j.recall)),
        judged("false-positive rate", lambda j: _share(j.false_positive_rate, 3)),
        judged("loss of 1,000 payments, were these blocked", lambda j: _money(j.money.loss_per_thousand)),
    ]


def overlap_rows(found: Backtest) -> Rows:
    """Rows under OVERLAP."""
    return [
        [one.name, f"{one.payments:,}", f"{one.amount:,.0f} {found.currency}", f"{one.frauds:,}", f"{one.good:,}"]
        for one in found.overlap
    ]


def notes(found: Backtest) -> list[str]:
    """What has to be known beside the figures."""
    history = found.payments - found.decided
    judged = found.payments - found.immature - found.open_cases
    lines = [f"{found.payments:,} payments, {found.decided:,} decided by the service, {history:,} of imported history."]
    if history and found.ran_by is None:
        lines.append("No release is in force, so nothing ran on imported history.")
    elif history:
        lines.append(
            f"What ran on imported history is {found.ran_by}, in force now, on the vectors of the training set."
        )
    if found.ran_learned:
        lines.append(
            f"It learned from {found.ran_learned:,} of these payments: what ran looks better there than it was."
        )
    if found.learned:
        lines.append(f"What is tried scores by a model that learned from {found.learned:,} of them: begin later.")
    if found.undecided:
        lines.append(f"{found.undecided:,} payments give it nothing to decide by (a null, or no score): no hits.")
    if found.cut is None:
        lines.append("There are no labels: nothing can be judged.")
    else:
        lines.append(
            f"Judged are {judged:,} payments with {found.frauds:,} frauds ({found.fraud_amount:,.0f} "
            f"{found.currency}), by labels that arrived before {found.cut}. Unknown: {found.immature:,} younger than "
            f"{found.maturity_days} days then, {found.open_cases:,} under investigation or of an import "
            "whose silence means nothing."
        )
    lines.append("Brackets are 95% intervals: Wilson's for shares, bootstrap over payments for money.")
    return lines


def as_json(found: Backtest) -> bytes:
    """Everything, indented."""
    return msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n"


def draw(found: Backtest) -> bytes:
    """Hits, caught frauds and stopped good payments by day as PNG bytes; days that are not judged are shaded."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    days = [line.day for line in found.days]
    for name, values in {
        "hits": [line.hits for line in found.days],
        "what ran": [line.ran for line in found.days],
        # a gap, not 0, where nothing is known
        "frauds caught": [line.caught if line.matured else nan for line in found.days],
        "good stopped": [line.wrongly if line.matured else nan for line in found.days],
    }.items():
        axes.plot(days, values, label=name, marker="." if len(days) < 40 else "")  # type: ignore[arg-type]
    young = [line.day for line in found.days if line.matured < line.payments / 2]
    if young:
        axes.axvspan(young[0], young[-1], color="0.9", label="labels not matured")  # type: ignore[arg-type]
    axes.set(title=found.title, ylabel="payments a day", ylim=(0, None))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    figure.autofmt_xdate()
    sink = io.BytesIO()
    # without its date and version the same figures give the same bytes
    figure.savefig(sink, format="png", metadata={"Software": None})
    return sink.getvalue()


def _share(interval: Interval | None, digits: int = 1) -> str:
    if interval is None:
        return "–"
    return f"{interval.value:.{digits}%} [{interval.low:.{digits}%}, {interval.high:.{digits}%}]"


def _money(interval: Interval) -> str:
    return f"{interval.value:,.0f} [{interval.low:,.0f}, {interval.high:,.0f}]"
