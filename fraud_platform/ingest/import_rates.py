"""The exchange rates of an imported history: a file of date, currency, rate.

What belongs here: reading and checking that file, and which rates are known on a day. What does not: conversion
(fraud_platform.currency).
"""

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from datetime import date

import duckdb
import pyarrow as pa

from fraud_platform.currency import RATE_SCALE, UnknownCurrency, exponent
from fraud_platform.ingest.mapping import MappingError, infer_format
from fraud_platform.ingest.readers import find_files, quote
from fraud_platform.schema import RATES


@dataclass(frozen=True)
class ImportedRates:
    """Per currency the days of its rates, ascending, and the rates times 10^9."""

    by_currency: dict[str, tuple[list[date], list[int]]]

    def on(self, day: date) -> pa.Table:
        """The RATES known on `day`: each currency's last up to it, and none for a currency that has none yet."""
        known = {}
        for currency, (days, rates) in sorted(self.by_currency.items()):
            position = bisect_right(days, day)
            if position:
                known[currency] = rates[position - 1]
        return pa.table([list(known), list(known.values())], schema=RATES)


def load_rates(connection: duckdb.DuckDBPyConnection, path: str) -> ImportedRates:
    """Read a CSV or Parquet file of date, currency, rate (base-currency units per unit of the currency).

    Raises MappingError naming the first row that is no rate.
    """
    files = find_files([path], key="rates")
    files.make_known(connection)
    readers = {"csv": "read_csv([{}], header = true, all_varchar = true)", "parquet": "read_parquet([{}])"}
    form = infer_format(files.addresses)
    if form not in readers:
        raise MappingError(f"rates: {path} is neither CSV nor Parquet")
    relation = readers[form].format(", ".join(map(quote, files.addresses)))
    try:
        rows = connection.execute(
            f"""SELECT "date"::VARCHAR, currency, rate::VARCHAR, TRY_CAST("date" AS DATE) AS day,
                       CAST(TRY_CAST(rate AS DECIMAL(28, 9)) * {RATE_SCALE} AS BIGINT) AS rate_e9
                FROM {relation} ORDER BY currency, day"""
        ).fetchall()
    except duckdb.Error as error:
        raise MappingError(f"rates: {path} has no columns date, currency, rate that fit: {error}") from error
    found: dict[str, tuple[list[date], list[int]]] = defaultdict(lambda: ([], []))
    for day_text, currency, rate_text, day, rate_e9 in rows:
        if day is None or rate_e9 is None or rate_e9 <= 0:
            raise MappingError(f"rates: {path} holds {day_text}, {currency}, {rate_text}, which is not a rate")
        try:
            exponent(currency)
        except UnknownCurrency as error:
            raise MappingError(f"rates: {path}: {error}") from error
        days, rates = found[currency]
        if days and days[-1] == day:
            raise MappingError(f"rates: {path} holds more than one rate of {currency} on {day}")
        days.append(day)
        rates.append(rate_e9)
    return ImportedRates(dict(found))
