"""A dry run of a mapping file: what an ingest would accept and quarantine, without writing to the lake.

What belongs here: counting over the very functions that ingest uses, and showing the counts. What does not: rules, and
what looks odd although all were kept (`advice`).
"""

from collections import Counter
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from fraud_platform.channels import words
from fraud_platform.currency import Rates
from fraud_platform.ingest.advice import Observed, advice
from fraud_platform.ingest.mapped_source import MappedSource
from fraud_platform.ingest.standardize import standardize
from fraud_platform.lake import days_between
from fraud_platform.settings import Settings

EXAMPLES = 5


@dataclass(frozen=True)
class MappingReport:
    """What an ingest of a mapped history would do: accepted + quarantined = rows; duplicates are among the accepted."""

    name: str
    rows: int
    accepted: int
    quarantined: int
    duplicates: int
    first_day: date
    last_day: date
    days_with_rows: int
    users: int
    merchants: int
    reasons: dict[str, int]
    """Quarantined rows by reason, most frequent first."""
    examples: list[tuple[str, str]]
    """(reason, row as JSON) of the first quarantined rows."""
    amounts_unknown: dict[str, int]
    """Accepted rows whose currency has no rate on their day, by currency, most frequent first."""
    channels_unknown: dict[str, int]
    """Accepted rows whose channel is null since its text means none, by text, most frequent first."""
    labels: dict[str, int]
    """Labels by state; `not arrived` are those with a value but no arrival."""
    advice: list[str]
    """What looks odd, a sentence each, with what to do."""

    @property
    def complete(self) -> bool:
        """Whether every row read is accounted for."""
        return self.accepted + self.quarantined == self.rows


def check_mapping(path: Path, settings: Settings) -> MappingReport:
    """Read a mapped history as ingest would, and count. Raises MappingError where the mapping does not fit."""
    source = MappedSource.open(path, settings)
    days = days_between(source.first_day(), source.last_day())
    accepted = quarantined = duplicates = days_with_rows = 0
    reasons: Counter[str] = Counter()
    amounts_unknown: Counter[str] = Counter()
    channels_unknown: Counter[str] = Counter()
    known = words(settings.channel_synonyms)
    examples: list[tuple[str, str]] = []
    users: set[str] = set()
    merchants: set[str] = set()
    observed = Observed()
    firsts: dict[str, str] = {}
    previous: tuple[date, pa.Table] | None = None
    for day, export in tqdm(source.transactions(days), total=len(days), desc="check", unit="day", disable=None):
        if export.num_rows == 0:
            continue
        before = previous[1] if previous is not None and previous[0] == day - timedelta(days=1) else None
        rates = Rates.from_table(source.rates(day), settings.base_currency)
        result = standardize(export, day, rates, settings.base_currency, before, known)
        channels_unknown.update(result.channels_unknown)
        previous = day, result.transactions
        days_with_rows += 1
        accepted += result.transactions.num_rows
        quarantined += result.quarantine.num_rows
        duplicates += int(result.transactions["is_duplicate"].to_numpy(zero_copy_only=False).sum())
        users.update(result.transactions["user_id"].unique().to_pylist())
        merchants.update(result.transactions["merchant_id"].unique().to_pylist())
        unknown = pc.is_null(result.transactions["amount"])
        amounts_unknown.update(result.transactions["currency"].filter(unknown).to_pylist())
        observed.add(result.transactions)
        reasons.update(result.quarantine["reason"].to_pylist())
        for row in result.quarantine.to_pylist():
            firsts.setdefault(row["reason"], row["row"])
        for row in result.quarantine.slice(0, EXAMPLES - len(examples)).to_pylist():
            examples.append((row["reason"], row["row"]))
    return MappingReport(
        source.name, source.rows, accepted, quarantined, duplicates, source.first_day(), source.last_day(),
        days_with_rows, len(users), len(merchants), dict(reasons.most_common()), examples,
        dict(amounts_unknown.most_common()), dict(channels_unknown.most_common()), source.label_counts(),
        advice(source, observed, reasons, firsts),
    )  # fmt: skip


def render(report: MappingReport) -> Group:
    """The report as tables for a terminal (rich)."""
    counts = Table(title=f"mapping {report.name}", title_justify="left", show_header=False)
    days = (report.last_day - report.first_day).days + 1
    labels = ", ".join(f"{count:,} {state}" for state, count in report.labels.items()) or "none"
    for what, value in (
        ("rows read", f"{report.rows:,}"),
        ("accepted", f"{report.accepted:,}"),
        ("of them duplicates", f"{report.duplicates:,}"),
        ("quarantined", f"{report.quarantined:,}"),
        ("days", f"{report.first_day} to {report.last_day} ({report.days_with_rows:,} of {days:,} with rows)"),
        ("users, merchants", f"{report.users:,}, {report.merchants:,}"),
        ("labels", labels),
    ):
        counts.add_row(what, value)
    if report.amounts_unknown:
        currencies = ", ".join(f"{count:,} {code}" for code, count in report.amounts_unknown.items())
        counts.add_row("amounts unknown", f"{currencies}: no rate is known on their day")
    if report.channels_unknown:
        texts = ", ".join(f"{count:,} {text!r}" for text, count in list(report.channels_unknown.items())[:EXAMPLES])
        more = ", …" if len(report.channels_unknown) > EXAMPLES else ""
        counts.add_row("channels unknown", Text(f"{texts}{more}: say what they mean in the mapping's `channels`"))
    parts: list[RenderableType] = [counts]
    if report.reasons:
        reasons = Table("reason", "rows", title="quarantined", title_justify="left")
        for reason, count in report.reasons.items():
            reasons.add_row(reason, f"{count:,}")
        rows = Table("reason", "row", title="the first of them", title_justify="left")
        for reason, row in report.examples:
            rows.add_row(reason, Text(row, overflow="fold"))  # Text: brackets in somebody's data are no markup
        parts += [reasons, rows]
    if report.advice:
        parts.append(Text("look at", style="italic"))
        parts += [Padding(Text(f"- {sentence}"), (0, 0, 0, 2)) for sentence in report.advice]
    return Group(*parts)
