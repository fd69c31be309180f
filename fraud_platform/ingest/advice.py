"""What looks odd in a mapped history although every rule was kept: one sentence each, with what to do.

What belongs here: counting what a mapping's author may not have meant, and saying it. What does not: rules by which a
row is refused (`normalize`, `standardize`), reading (`mapped_source`).
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.ingest.mapped_source import LabelShares, MappedSource
from fraud_platform.ingest.mapping import LabelMapping, Mapping
from fraud_platform.ingest.standardize import MAX_TEXT

UNLABELLED_SHARE = 0.05
"""Above, beside labels that say good, silence hardly means that all was well."""
FRAUD_SHARE = 0.10
"""Above, fraud is no rarity: fraud and good may have been exchanged, or the rows drawn by their label."""
_NUMBER_AS_TEXT = {
    r"^-?\d+\.0+$": "a whole number written with a decimal point",
    r"^-?\d(\.\d+)?[eE]\+\d+$": "a number in exponent form, whose last digits may be lost",
}
_IDS = ("transaction_id", "user_id", "merchant_id", "device_id")
_MADE_OF = {"device_key": "device_id", "event_time": "timestamp"}
_BEHIND = {"transaction_id", "currency"}
"""Fields that no feature names as its input and that decide values: which row is a repeat, what an amount is worth."""


@dataclass
class Observed:
    """Counts over accepted rows."""

    rows: int = 0
    without_country: int = 0
    numbers: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Rows per (field, pattern) of an id that looks like a number written as text."""
    examples: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, rows: pa.Table) -> None:
        """Count RAW_TRANSACTIONS rows."""
        self.rows += rows.num_rows
        self.without_country += rows["country"].null_count
        for name in _IDS:
            for pattern in _NUMBER_AS_TEXT:
                odd = rows[name].filter(pc.fill_null(pc.match_substring_regex(rows[name], pattern), False))
                if len(odd):
                    self.numbers[name, pattern] += len(odd)
                    self.examples.setdefault((name, pattern), odd[0].as_py())


def advice(source: MappedSource, observed: Observed, reasons: dict[str, int], firsts: dict[str, str]) -> list[str]:
    """What to look at, most telling first. reasons: quarantined rows by reason. firsts: the first row of each, JSON."""
    mapping = source.mapping
    told = [*_of_ids(mapping, observed, reasons, firsts), *_of_times(source)]
    if mapping.label is not None:
        told += _of_labels(mapping.label, source.label_shares(), source.remarks().unlisted)
    return [*told, *_of_columns(mapping, observed)]


def _of_ids(mapping: Mapping, observed: Observed, reasons: dict[str, int], firsts: dict[str, str]) -> Iterator[str]:
    for name in _IDS:
        key = f"columns.{name}"
        for reason, count in reasons.items():
            if reason.startswith(f"{name} is a floating-point number"):
                yield (
                    f"{key}: {count:,} rows have an id that is a floating-point number too large to be exact: "
                    "different ids have become one in the file already. Write the column as text or as an integer. "
                    f"The first row: {firsts[reason]}"
                )
        long = reasons.get(f"{name} is longer than {MAX_TEXT} characters", 0)
        if long:
            yield (
                f"{key}: {long:,} rows have an id of over {MAX_TEXT} characters, which the service refuses as well. "
                f"Map a shorter one, such as md5({getattr(mapping.columns, name)}), and send the same to the service"
            )
        for pattern, what in _NUMBER_AS_TEXT.items():
            count = observed.numbers[name, pattern]
            if count:
                yield (
                    f"{key}: {count:,} rows have {what}, for example {observed.examples[name, pattern]!r}. Text is "
                    "taken as it stands, so the service must be sent the same: export the column as text or an integer"
                )


def _of_times(source: MappedSource) -> Iterator[str]:
    zone = source.mapping.time_zone
    for name, counts in source.remarks().clock_changes.items():
        key = "label.arrives_at" if name == "arrives_at" else f"columns.{name}"
        skipped, repeated = counts.get("skipped", 0), counts.get("repeated", 0)
        if skipped:
            yield f"{key}: {skipped:,} rows have a time that clocks in {zone} skip; they are moved forward by the gap"
        if repeated:
            yield (
                f"{key}: {repeated:,} rows have a time that clocks in {zone} show twice; they are taken as the first "
                "of the two. Export times with their offset, or in UTC, where an hour matters"
            )


def _of_labels(label: LabelMapping, shares: LabelShares, unlisted: dict[str, int]) -> Iterator[str]:
    for value, count in unlisted.items():
        yield (
            f"label.column: {value!r} ({_share(count, shares.rows)} of the rows) stands in no list and counts as "
            "cleared; say so with label.cleared_values, or name it in label.unknown_values"
        )
    silent, labelled = shares.unlabelled, shares.rows - shares.unlabelled
    if not labelled:
        yield "label.column: no row has a label; there is nothing to learn from"
        return
    if label.unlabelled == "good_after_maturity":
        if shares.good and silent > UNLABELLED_SHARE * shares.rows:
            yield (
                f"label: {_share(silent, shares.rows)} of the rows have no label although others say good; once they "
                "are old enough they count as good too. Where nobody has looked at them, set label.unlabelled: unknown"
            )
    elif not shares.good:
        yield (
            "label: no row says good, and silence means nothing (label.unlabelled: unknown): a model has no good "
            "payment to learn from. Leave label.unlabelled out where only frauds are labelled"
        )
    if not shares.fraud:
        yield "label.column: no row is fraud; look at label.fraud_values"
    judged = labelled if shares.good else shares.rows
    if shares.fraud > FRAUD_SHARE * judged:
        yield (
            f"label.column: {_share(shares.fraud, judged)} of the rows are fraud; look whether the values are the "
            "right way round, and whether rows were left out because they were good"
        )
    if shares.at_once:
        yield (
            f"label: {shares.at_once:,} labels ({_share(shares.at_once, labelled)}) arrive at the moment of their "
            "payment or before, when nobody can have known: a model's figures will be too good. Give "
            "label.arrives_after_days or label.arrives_at as it was"
        )


def _of_columns(mapping: Mapping, observed: Observed) -> Iterator[str]:
    mapped = [name for name, value in mapping.columns.model_dump(exclude_none=True).items() if value]
    unread = [name for name in mapped if name not in features_read()]
    if unread:
        yield (f"columns: no feature reads {', '.join(unread)}; they are kept, and rules and reports may use them")
    if observed.without_country:
        yield (
            f"columns.country: {_share(observed.without_country, observed.rows)} of the rows have no country; the "
            "service requires one with each payment, so a model would meet values there that it has not learned from"
        )


def features_read() -> set[str]:
    """Fields of a mapping's `columns` that some feature is made of."""
    inputs = [each.split(".") for feature in CATALOGUE.features for each in feature.inputs]
    return {_MADE_OF.get(name, name) for table, name in inputs if table == "raw_transactions"} | _BEHIND


def _share(part: int, whole: int) -> str:
    return f"{part / max(whole, 1):.1%}"
