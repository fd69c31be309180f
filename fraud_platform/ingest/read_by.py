"""What each day's rows were read by: the words of `channel` and the exchange rates, kept beside them.

What belongs here: the record, and which days the words and rates of today would read otherwise. What does not: reading
(`standardize`), who is told (`quality`).

A word that is explained, or a rate that becomes known or is corrected, after a day was built changes nothing of that
day: snapshots of it were served and models learned from it, so nobody but a person builds it again. Until then the
days before and after the change hold values of two kinds, and this says which. A decision's row is read once, when it
is decided, and is no part of it. Days that were built before there was this record are unknown, and not told.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from fraud_platform.currency import Rates, currency_codes
from fraud_platform.ingest.source import Source
from fraud_platform.lake import Lake

RECORD = "raw_transactions_read_by.json"


class ReadBy(msgspec.Struct, frozen=True):
    """What a day's rows, but for decisions, were read by."""

    words: str | None
    """Digest of the words of `channel`; None where no row had a text there."""
    rates: dict[str, int | None]
    """`rate_e9` of each currency in them but the base currency; None where there was no rate."""


@dataclass(frozen=True)
class ReadOtherwise:
    """Days whose rows the words and rates of today would read otherwise, ascending."""

    words: list[date] = field(default_factory=list)
    rates: dict[str, list[date]] = field(default_factory=dict)
    """By currency."""

    @property
    def days(self) -> list[date]:
        """All of them, once."""
        return sorted({*self.words, *(day for days in self.rates.values() for day in days)})


def words_digest(words: Mapping[str, str]) -> str:
    """12 hex digits that change with any word or its channel."""
    return hashlib.sha256(json.dumps(sorted(words.items())).encode()).hexdigest()[:12]


def read_by(export: pa.Table, rates: Rates, words: Mapping[str, str]) -> ReadBy:
    """What the rows of a source's day are read by. export: EXPORT's columns, and `decision_id` where some are
    decisions."""
    if "decision_id" in export.column_names:
        export = export.filter(pc.is_null(export["decision_id"]))
    currencies = set(pc.unique(export["currency"]).to_pylist()) & currency_codes() - {rates.base_currency}
    has_texts = export["channel"].null_count < export.num_rows
    return ReadBy(
        words_digest(words) if has_texts else None,
        {currency: rates.rate_e9.get(currency) for currency in sorted(currencies)},
    )


def note_read_by(lake: Lake, days: Mapping[date, ReadBy]) -> None:
    """Keep what these days were read by, in place of what was kept of them. Raises OSError."""
    path = lake.document_path(RECORD)
    while True:
        # two runs may build different days at once
        seen = lake.seen(path)
        kept = _kept(lake) | {day.isoformat(): read for day, read in days.items()}
        if lake.replace(path, msgspec.json.encode(kept, order="sorted"), seen):
            return


def read_otherwise(lake: Lake, source: Source, words: Mapping[str, str]) -> ReadOtherwise:
    """The days that `words`, and the rates that `source` has now, would read otherwise. Raises OSError."""
    digest = words_digest(words)
    other_words, other_rates = [], defaultdict(list)
    for key, read in sorted(_kept(lake).items()):
        day = date.fromisoformat(key)
        if read.words not in (None, digest):
            other_words.append(day)
        if read.rates:
            table = source.rates(day)
            now = dict(zip(table["currency"].to_pylist(), table["rate_e9"].to_pylist(), strict=True))
            for currency, rate in read.rates.items():
                if now.get(currency) != rate:
                    other_rates[currency].append(day)
    return ReadOtherwise(other_words, dict(other_rates))


def _kept(lake: Lake) -> dict[str, ReadBy]:
    payload = lake.document(RECORD)
    return {} if payload is None else msgspec.json.decode(payload, type=dict[str, ReadBy])
