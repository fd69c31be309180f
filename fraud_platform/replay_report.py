"""What a replay saw, and how people read it.

What belongs here: counts, examples, the screen. What does not: replaying and comparing (`replay`).
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fraud_platform.features.catalogue import CATALOGUE

if TYPE_CHECKING:
    from rich.console import Group

SHOWN_DIFFERENCES = 20


@dataclass(frozen=True)
class Difference:
    """One value that serving would not have computed."""

    caller: str
    transaction_id: str
    feature: str
    online: float
    offline: float


@dataclass
class ReplayReport:
    """What a replay saw. `rows` counts transactions compared; duplicates pass through the store but have no row."""

    day: date
    rows: int = 0
    duplicates: int = 0
    conflicts: int = 0
    """Rows that reuse the caller's transaction_id of another payment within 24 hours: serving answers 409 and counts
    nothing."""
    copies: int = 0
    """A source's rows that a later decision stands for: the service saw the decision alone."""
    elsewhere: int = 0
    """Rows that repeat a payment of another region within 24 hours: decided here as well, since this region's
    Redis did not know it, and counted there alone."""
    unmatched: int = 0
    """Transactions on one side alone: also a difference."""
    differing: Counter[str] = field(default_factory=Counter)
    examples: list[Difference] = field(default_factory=list)
    non_null: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(CATALOGUE.names), np.int64))
    non_default: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(CATALOGUE.names), np.int64))

    @property
    def values(self) -> int:
        """Values compared."""
        return self.rows * len(CATALOGUE.names)

    @property
    def differences(self) -> int:
        """Values that differ, plus 50 for every transaction found on one side alone."""
        return sum(self.differing.values()) + self.unmatched * len(CATALOGUE.names)


def plain(report: ReplayReport) -> dict[str, Any]:
    """The report for a program: all counts, and what of each feature was there, as shares of the rows, and differed."""
    features = [
        {
            "feature": feature.name,
            "source": feature.source,
            "non_null": report.non_null[position] / max(report.rows, 1),
            "non_default": report.non_default[position] / max(report.rows, 1),
            "differences": report.differing[feature.name],
        }
        for position, feature in enumerate(CATALOGUE.features)
    ]
    counts = {
        name: value for name, value in vars(report).items() if name not in ("differing", "non_null", "non_default")
    }
    return {**counts, "values": report.values, "differences": report.differences, "features": features}


def render(report: ReplayReport) -> "Group":
    """The report as people read it: rows and values, then per feature what was there and what differed."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("feature", "source"):
        table.add_column(name, no_wrap=True)
    for name in ("non-null", "non-default", "differences"):
        table.add_column(name, justify="right")
    rows = max(report.rows, 1)
    for position, feature in enumerate(CATALOGUE.features):
        differing = report.differing[feature.name]
        table.add_row(
            feature.name,
            feature.source,
            f"{report.non_null[position] / rows:.1%}",
            f"{report.non_default[position] / rows:.1%}",
            Text(str(differing), style="red" if differing else ""),
        )
    aside = (
        f"{report.duplicates} duplicates, {report.conflicts} conflicts, {report.copies} copies of later decisions, "
        f"{report.elsewhere} of another region, {report.unmatched} on one side alone"
    )
    verdict = (
        f"{report.day}: {report.rows:,} rows, {report.values:,} values, {report.differences:,} differences ({aside})"
    )
    examples = [
        Text(f"{e.transaction_id} of {e.caller}, {e.feature}: online {e.online!r}, offline {e.offline!r}")
        for e in report.examples
    ]
    return Group(table, *examples, Text(verdict, style="red" if report.differences else "green"))
