"""One day of a source's rows becomes one partition: checked, converted, ordered, duplicates marked, misfits set aside.

What belongs here: which row fits and what its columns become. What does not: reading sources, writing the lake.
Every row of the export comes out exactly once, in `transactions` or in `quarantine`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fraud_platform.callers import DEFAULT_CALLER
from fraud_platform.channels import WORDS, channel_of
from fraud_platform.currency import MAX_MINOR, Rates, country_codes, currency_codes
from fraud_platform.processing import CountedRows, decided_later, device_keys, event_time, identities, mark_duplicates
from fraud_platform.schema import EXPORT, PROCESSING_ORDER, QUARANTINE, RAW_TRANSACTIONS, TIME

PROBLEM = pa.field("problem", pa.string())
"""Optional column beside EXPORT's: why the source itself rejects the row, naming the field; null where it does not."""

SOURCE_ROW = pa.field("source_row", pa.string())
"""Optional column beside EXPORT's: the row as it stood in the source, JSON; read only for rows with a problem."""

CALLER = pa.field("caller", pa.string())
"""Optional column beside EXPORT's: whose payment the row is; the default caller's where it is null or absent."""

DECIDED = (
    pa.field("decision_id", pa.string()),
    pa.field("decided_amount", pa.int64()),
    pa.field("user_effective_time", pa.int64()),
    pa.field("merchant_effective_time", pa.int64()),
    pa.field("region", pa.string()),
    pa.field("user_counted_since", pa.int64()),
    pa.field("merchant_counted_since", pa.int64()),
)
"""Optional columns beside EXPORT's: what the service has settled of a payment that it decided, null for any other. Its
amount in the base currency stands at the rates that were in force then, and is not converted anew: one that was null
stays null."""

STANDS_ELSEWHERE = pa.field("stands_elsewhere", pa.bool_())
"""Optional column beside EXPORT's: a decision that this day's rows may not hold stands for this row, which is then a
duplicate."""

COPIES = b"copies"
"""Optional key of the export's schema metadata: how many of the source's rows were left out, a decision standing for
each of them."""

MAX_TEXT = 128
"""Longest identifier or category, in characters."""

_TEXTS = ("transaction_id", "user_id", "merchant_id", "merchant_category", "channel", "device_id")
_REQUIRED = ("transaction_id", "user_id", "merchant_id", "amount_minor", "currency", "timestamp")
_IDS = ("transaction_id", "user_id", "merchant_id", "device_id")
_DEGREES = {"latitude": 90.0, "longitude": 180.0}

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Standardized:
    """What became of one day's rows: RAW_TRANSACTIONS in processing order, and QUARANTINE."""

    transactions: pa.Table
    quarantine: pa.Table
    channels_unknown: dict[str, int]
    """Texts of `channel` that mean no channel, which are null among the transactions, and in how many of these."""


def standardize(
    export: pa.Table,
    day: date,
    rates: Rates,
    base_currency: str,
    previous: pa.Table | None = None,
    channel_words: Mapping[str, str] = WORDS,
) -> Standardized:
    """Check and convert the rows received on `day`.

    `export` has EXPORT's columns in any order, and may have PROBLEM, SOURCE_ROW, CALLER, DECIDED's and
    STANDS_ELSEWHERE. `previous` is the RAW_TRANSACTIONS partition of the day before, against which repeats are found.
    `channel_words`: of `channels.words`.
    Raises ValueError when `rates` convert to another currency than `base_currency`.
    """
    if rates.base_currency != base_currency:
        raise ValueError(f"rates convert to {rates.base_currency}, the base currency is {base_currency}")
    rows = export.select(EXPORT.names).cast(EXPORT)
    received = pc.coalesce(rows["received_at"], rows["timestamp"])
    rows = rows.set_column(rows.schema.get_field_index("received_at"), EXPORT.field("received_at"), received)
    decided = pc.is_valid(_beside(export, DECIDED[0])).to_numpy(zero_copy_only=False)
    reasons = _reasons(rows, day, rates, decided)
    if PROBLEM.name in export.column_names:
        reasons = pc.coalesce(export[PROBLEM.name].cast(pa.string()), reasons)
    rows = rows.append_column(CALLER, pc.fill_null(_beside(export, CALLER), DEFAULT_CALLER))
    for field in (*DECIDED, STANDS_ELSEWHERE):
        rows = rows.append_column(field, _beside(export, field))
    fits = pc.is_null(reasons)
    # Stable: rows alike in all keys keep the source's order.
    accepted = rows.filter(fits).sort_by([(name, "ascending") for name in PROCESSING_ORDER])
    transactions = _finish(accepted, rates, previous, channel_words)
    unknown = accepted["channel"].filter(pc.is_null(transactions["channel"])).drop_null()
    counts = {one["values"]: one["counts"] for one in pc.value_counts(unknown).to_pylist()}
    return Standardized(transactions, _set_aside(export, reasons, fits), counts)


def mark_decided_later(previous: pa.Table, export: pa.Table) -> pa.Table:
    """The day before's RAW_TRANSACTIONS rows, once the day's export is known with its decisions.

    A source's row that a decision of the day stands for (`processing.decided_later`) becomes a duplicate, as it would
    be were its day built now. Without any, the very table that was given.
    """
    if "decision_id" not in export.column_names:
        return previous
    decisions = export.filter(pc.is_valid(export["decision_id"]))
    received, at = _micros(previous["received_at"]), _micros(decisions["received_at"])
    late = decided_later(identities(previous), received, identities(decisions), at) & ~_decided(previous)
    known = previous["is_duplicate"].to_numpy(zero_copy_only=False)
    if not (late & ~known).any():
        return previous
    field = RAW_TRANSACTIONS.field("is_duplicate")
    return previous.set_column(previous.schema.get_field_index(field.name), field, pa.array(known | late))


def _beside(export: pa.Table, field: pa.Field) -> pa.ChunkedArray | pa.Array:
    """An optional column; nulls where the export lacks it."""
    return export[field.name] if field.name in export.column_names else pa.nulls(export.num_rows, field.type)


def _reasons(rows: pa.Table, day: date, rates: Rates, decided: Bools) -> pa.ChunkedArray:
    """The first rule that each row breaks, null where it breaks none. decided: which rows the service decided."""
    broken = np.full(rows.num_rows, -1, dtype=np.int16)
    rules: list[str] = []

    def check(reason: str, breaks: Any) -> None:
        marks = pc.fill_null(breaks, False).to_numpy(zero_copy_only=False) if _is_arrow(breaks) else breaks
        broken[(broken < 0) & marks] = len(rules)
        rules.append(reason)

    for name in _REQUIRED:
        check(f"{name} is null", pc.is_null(rows[name]))
    for name in _IDS:
        check(f"{name} is empty", pc.equal(rows[name], ""))
    for name in _TEXTS:
        check(f"{name} is longer than {MAX_TEXT} characters", pc.greater(pc.utf8_length(rows[name]), MAX_TEXT))
    _check_amounts(rows, rates, decided, check)
    for name in ("country", "user_country"):
        unknown = pc.invert(pc.is_in(rows[name], value_set=pa.array(sorted(country_codes()))))
        check(f"{name} is not an ISO 3166 alpha-2 code", pc.and_(pc.is_valid(rows[name]), unknown))
    for name, limit in _DEGREES.items():
        outside = pc.invert(pc.less_equal(pc.abs(rows[name]), limit))  # a NaN is not within either
        check(f"{name} is outside -{limit:.0f} to {limit:.0f} degrees", outside)
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    received = rows["received_at"]
    before = pc.less(received, pa.scalar(start, TIME))
    after = pc.greater_equal(received, pa.scalar(start + timedelta(days=1), TIME))
    check("received_at is outside the partition's day", pc.or_(before, after))
    return pa.chunked_array([pa.array(rules, pa.string()).take(pa.array(broken, mask=broken < 0))])


def _is_arrow(values: Any) -> bool:
    return isinstance(values, pa.Array | pa.ChunkedArray)


def _check_amounts(rows: pa.Table, rates: Rates, decided: Bools, check: Callable[[str, Any], None]) -> None:
    """An amount may be as large as the platform counts, in its own currency and, converted at the day's rates, in the
    base currency. A decision's was converted when it was taken, and what was taken then is not too large today."""
    currency, amount = rows["currency"], rows["amount_minor"]
    known = pc.is_in(currency, value_set=pa.array(sorted(currency_codes())))
    check("currency is not an ISO 4217 code", pc.and_(pc.is_valid(currency), pc.invert(known)))
    check("amount is negative", pc.less(amount, 0))
    too_large: Bools = np.zeros(rows.num_rows, dtype=np.bool_)
    for code in sorted(set(pc.unique(currency).to_pylist()) & currency_codes()):
        largest = rates.largest(code) if code in rates.currencies else MAX_MINOR
        mine = pc.fill_null(pc.equal(currency, code), False).to_numpy(zero_copy_only=False)
        for whose, most in ((decided, MAX_MINOR), (~decided, largest)):
            above = pc.fill_null(pc.greater(amount, most), False).to_numpy(zero_copy_only=False)
            too_large |= mine & whose & above
    check("amount is too large", too_large)


def _finish(rows: pa.Table, rates: Rates, previous: pa.Table | None, channel_words: Mapping[str, str]) -> pa.Table:
    """Add the derived columns of RAW_TRANSACTIONS to rows that fit, in processing order."""
    minor, decided = rows["amount_minor"].to_numpy(), _decided(rows)
    amounts, known = np.zeros(rows.num_rows, dtype=np.int64), np.zeros(rows.num_rows, dtype=np.bool_)
    for code in set(pc.unique(rows["currency"]).to_pylist()) & rates.currencies:
        mine = pc.equal(rows["currency"], code).to_numpy() & ~decided
        amounts[mine], known[mine] = rates.to_base(minor[mine], code), True
    received_us = _micros(rows["received_at"])
    event_us, skew = event_time(_micros(rows["timestamp"]), received_us)
    elsewhere = pc.fill_null(rows["stands_elsewhere"], False).to_numpy(zero_copy_only=False)
    duplicate = mark_duplicates(identities(rows), received_us, decided, elsewhere, _counted(previous))
    derived = {
        "amount": pc.if_else(
            pa.array(decided),
            rows["decided_amount"],
            pa.chunked_array([pa.array(amounts, mask=~known)]),
        ),
        "channel": _channels(rows["channel"], channel_words),
        "event_time": pa.array(event_us).cast(TIME),
        "clock_skew": pa.array(skew),
        "device_key": device_keys(rows["device_id"]),
        "is_duplicate": pa.array(duplicate),
    }
    columns = [derived[name] if name in derived else rows[name] for name in RAW_TRANSACTIONS.names]
    return pa.table(columns, schema=RAW_TRANSACTIONS).combine_chunks()


def _channels(column: pa.ChunkedArray, channel_words: Mapping[str, str]) -> pa.Array:
    """The word that each text means; null where it means none."""
    texts = column.combine_chunks().dictionary_encode()
    meant = [channel_of(text, channel_words) for text in texts.dictionary.to_pylist()]
    return pa.array(meant, pa.string()).take(texts.indices)


def _micros(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    values: npt.NDArray[np.int64] = column.cast(pa.int64()).to_numpy()
    return values


def _counted(previous: pa.Table | None) -> CountedRows | None:
    if previous is None:
        return None
    kept = previous.filter(pc.invert(previous["is_duplicate"]))
    return CountedRows(identities(kept), _micros(kept["received_at"]), _decided(kept))


def _decided(rows: pa.Table) -> Bools:
    decided: Bools = pc.is_valid(rows["decision_id"]).to_numpy(zero_copy_only=False)
    return decided


def _set_aside(export: pa.Table, reasons: pa.ChunkedArray, fits: pa.ChunkedArray) -> pa.Table:
    misfit = pc.invert(fits)
    rows = export.filter(misfit)
    given = rows[SOURCE_ROW.name].to_pylist() if SOURCE_ROW.name in rows.column_names else [None] * rows.num_rows
    written = [
        source_row if source_row is not None else json.dumps(row, default=_text)
        for source_row, row in zip(given, rows.select(EXPORT.names).to_pylist(), strict=True)
    ]
    return pa.table([reasons.filter(misfit), pa.array(written, pa.string())], schema=QUARANTINE)


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} in an exported row")
