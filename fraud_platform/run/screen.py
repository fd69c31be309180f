"""What `up`, `down` and `status` print.

What belongs here: tables and panels. What does not: knowing what to print.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from fraud_platform.run.samples import Decided  # which imports Arrow

COLOURS = {"ready": "green", "running": "green", "starting": "yellow", "waiting": "dim", "ended": "red", "down": "red"}
DECISIONS = {"allow": "green", "flag_for_review": "yellow", "block": "red"}


@dataclass(frozen=True)
class Line:
    """One row of the status table; the state's first word gives its colour."""

    name: str
    state: str
    seconds: float | None = None
    url: str | None = None


def status_table(lines: Sequence[Line]) -> Table:
    """Name, state, seconds until ready, URL."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("what")
    table.add_column("state", max_width=70, overflow="ellipsis", no_wrap=True)
    table.add_column("seconds", justify="right")
    table.add_column("address", no_wrap=True)
    for line in lines:
        state = Text(line.state, style=COLOURS.get(line.state.split(" ")[0], ""))
        table.add_row(line.name, state, "" if line.seconds is None else f"{line.seconds:.1f}", line.url or "")
    return table


def decision_table(decided: "Sequence[Decided]") -> Table:
    """The sample payments and their answers; an answer that is no decision shows its problem."""
    table = Table(title="Sample payments", box=SIMPLE_HEAD, pad_edge=False, title_justify="left")
    for name in ("payment", "transaction"):
        table.add_column(name)
    table.add_column("amount", justify="right", no_wrap=True)
    table.add_column("score", justify="right")
    for name in ("decision", "reason", "served by"):
        table.add_column(name)
    for one in decided:
        payment, answer = one.sample.payment, one.answer
        amount = f"{payment['amount']:,.2f} {payment['currency']}"
        start = (one.sample.story, payment["transaction_id"], amount)
        if one.status != 200:
            problem = str(answer.get("detail") or answer.get("title") or "no decision")
            table.add_row(*start, "", Text(f"HTTP {one.status}", style="red"), problem, "")
            continue
        decision = Text(answer["decision"], style=DECISIONS.get(answer["decision"], ""))
        sources = ", ".join(dict.fromkeys(str(source) for source in answer["served_by"].values()))
        # None where the rules decided
        score = "" if answer["score"] is None else f"{answer['score']:.4f}"
        table.add_row(*start, score, decision, answer["reason"], sources)
    return table


def trouble(title: str, text: str) -> Panel:
    """A process that ended when it should not have, with the end of its log."""
    return Panel(Text(text or "(it wrote nothing)"), title=Text(title), title_align="left", border_style="red")
