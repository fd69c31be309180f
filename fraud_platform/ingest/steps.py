"""The ingest steps: a source's days into the lake's raw_transactions, quarantine, fraud_labels and fx_rates.

What belongs here: which partitions are written, in which order, from what. What does not: what makes a row fit
(standardize) or where rows come from (source). Every step replaces whole partitions, so repeating it adds nothing.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

import pyarrow as pa
from tqdm import tqdm

from fraud_platform.channels import WORDS
from fraud_platform.currency import Rates
from fraud_platform.features import tables
from fraud_platform.features.labels import labels_of
from fraud_platform.features.offline import conformed
from fraud_platform.inference_log.callers import with_callers
from fraud_platform.ingest.read_by import ReadBy, note_read_by, read_by
from fraud_platform.ingest.source import Source
from fraud_platform.ingest.standardize import COPIES, mark_decided_later, standardize
from fraud_platform.lake import Lake, MissingPartition
from fraud_platform.schema import LABELS, RATES, RAW_TRANSACTIONS


class NothingImportedError(ValueError):
    """A source has rows, and not one of them fits."""


class RowsLostError(RuntimeError):
    """Rows read and rows accounted for differ: a defect of ingest, never of the data."""


@dataclass(frozen=True)
class IngestReport:
    """What became of one day's rows: accepted + quarantined = rows read; duplicates are among the accepted."""

    day: date
    accepted: int
    quarantined: int
    duplicates: int
    decided: int = 0
    """Rows that are the service's decisions."""
    copies: int = 0
    """Rows of the source that were left out beforehand, a decision standing for each."""
    marked_before: int = 0
    """Rows of the day before that became duplicates, a decision of this day standing for each."""
    amounts_unknown: int = 0
    """Accepted rows whose currency has no recorded rate."""
    channels_unknown: int = 0
    """Accepted rows whose channel is a text that means none."""
    reasons: dict[str, int] = field(default_factory=dict)


def ingest_transactions(
    lake: Lake, source: Source, days: Sequence[date], base_currency: str, channel_words: Mapping[str, str] = WORDS
) -> list[IngestReport]:
    """Write raw_transactions and quarantine of `days`, ascending, also where a day is empty.

    A day needs the day before it in the lake, against which repeats are found, unless it is the source's first. Rows of
    that day for which a decision of this one stands are marked there as duplicates, as building it again would. Amounts
    convert at the day's recorded rates; where none are recorded yet, the source's are recorded first. The quarantine is
    written first, so a raw_transactions partition stands for a finished day. channel_words: of `channels.words`.

    Raises MissingPartition when the day before was not ingested, and NothingImportedError, once all is written, where
    these are all days of a source that has rows and none fits.
    """
    ordered = sorted(set(days))
    first_day = source.first_day()
    previous_day: date | None = None
    previous: pa.Table | None = None
    reports = []
    read: dict[date, ReadBy] = {}
    for day, export in tqdm(
        source.transactions(ordered), total=len(ordered), desc="ingest transactions", unit="day", disable=None
    ):
        if previous_day != day - timedelta(days=1):
            previous = _day_before(lake, day, first_day)
        marked = 0
        if previous is not None:
            known, previous = previous, mark_decided_later(previous, export)
            if previous is not known:
                marked = _duplicates(previous) - _duplicates(known)
                lake.write(tables.RAW_TRANSACTIONS, day - timedelta(days=1), previous.combine_chunks())
        rates = _recorded_rates(lake, source, day, base_currency)
        read[day] = read_by(export, rates, channel_words)
        result = standardize(export, day, rates, base_currency, previous, channel_words)
        accepted, quarantined = result.transactions.num_rows, result.quarantine.num_rows
        if accepted + quarantined != export.num_rows:
            raise RowsLostError(f"{day}: read {export.num_rows} rows, accounted for {accepted + quarantined}")
        lake.write(tables.QUARANTINE, day, result.quarantine)
        lake.write(tables.RAW_TRANSACTIONS, day, result.transactions)
        reasons = Counter(result.quarantine["reason"].to_pylist())
        decided = accepted - result.transactions["decision_id"].null_count
        copies = int((export.schema.metadata or {}).get(COPIES, 0))
        duplicates = _duplicates(result.transactions)
        reports.append(
            IngestReport(
                day, accepted, quarantined, duplicates, decided, copies, marked,
                amounts_unknown=result.transactions["amount"].null_count,
                channels_unknown=sum(result.channels_unknown.values()), reasons=dict(reasons),
            )
        )  # fmt: skip
        previous_day, previous = day, result.transactions
    # a run that is killed before this has its days built again
    note_read_by(lake, read)
    _refuse_nothing(reports, first_day, source.last_day())
    return reports


def _refuse_nothing(reports: Sequence[IngestReport], first_day: date, last_day: date | None) -> None:
    days = {report.day for report in reports}
    reasons = sum((Counter(report.reasons) for report in reports), Counter())
    whole = last_day is not None and {first_day, last_day} <= days
    if whole and reasons and not any(report.accepted for report in reports):
        told = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common(5))
        raise NothingImportedError(
            f"none of the {reasons.total()} rows of {first_day} to {last_day} could be imported, all are quarantined: "
            f"{told}. `fraud-platform ingest --check` shows the rows; correct the mapping or the files"
        )


def ingest_labels(lake: Lake, source: Source, days: Sequence[date]) -> dict[date, int]:
    """Write the fraud_labels that arrived on each of `days`, also where none did; returns the rows per day."""
    ordered = sorted(set(days))
    written = {}
    for day, labels in tqdm(source.labels(ordered), total=len(ordered), desc="ingest labels", unit="day", disable=None):
        # the same statement at the same instant is one, whoever repeats it
        each_once = labels_of(labels).group_by(LABELS.names).aggregate([]).cast(LABELS)
        lake.write(tables.FRAUD_LABELS, day, each_once.sort_by([(name, "ascending") for name in _LABEL_ORDER]))
        written[day] = each_once.num_rows
    return written


_LABEL_ORDER = ("arrived_at", "transaction_id", "caller", "transaction_date", "source", "revision", "state")


def ingest_rates(lake: Lake, source: Source, days: Sequence[date]) -> dict[date, int]:
    """Record the source's fx_rates of each of `days`; returns the currencies per day."""
    written = {}
    for day in sorted(set(days)):
        rates = source.rates(day).select(RATES.names).cast(RATES).sort_by("currency")
        lake.write(tables.FX_RATES, day, rates.combine_chunks())
        written[day] = rates.num_rows
    return written


def _recorded_rates(lake: Lake, source: Source, day: date, base_currency: str) -> Rates:
    if not lake.exists(tables.FX_RATES, day):
        ingest_rates(lake, source, [day])
    return Rates.from_table(lake.read(tables.FX_RATES, day), base_currency)


def _day_before(lake: Lake, day: date, first_day: date) -> pa.Table | None:
    before = day - timedelta(days=1)
    if before < first_day:
        return None
    try:
        rows = conformed(lake.read(tables.RAW_TRANSACTIONS, before), RAW_TRANSACTIONS)
    except MissingPartition as error:
        raise MissingPartition(f"{day} cannot be ingested before {before}: {error}") from error
    return with_callers(lake, rows).select(RAW_TRANSACTIONS.names).cast(RAW_TRANSACTIONS)


def _duplicates(rows: pa.Table) -> int:
    return int(rows["is_duplicate"].to_numpy(zero_copy_only=False).sum())
