"""Times as a source writes them become instants, in DuckDB SQL.

What belongs here: types, formats, zones and clock changes of one time column. What does not: which column that is.
"""

from dataclasses import dataclass

from fraud_platform.ingest.mapping import Mapping, MappingError
from fraud_platform.ingest.readers import quote

YEARS = (1990, 2100)
"""Times outside are not believed: a zero in an epoch column would otherwise make decades of empty partitions."""

TIME_MACROS = f"""
CREATE OR REPLACE TEMP MACRO __plausible(t) AS
    CASE WHEN t >= TIMESTAMPTZ '{YEARS[0]}-01-01 00:00:00+00'
          AND t < TIMESTAMPTZ '{YEARS[1]}-01-01 00:00:00+00' THEN t END;
-- A wall-clock time that a zone has twice is the first of the two; one that it skips moves forward by the gap: both are
-- the offset in force before the change (PEP 495, fold=0). ICU alone would take the second of two.
CREATE OR REPLACE TEMP MACRO __shifted(t, zone) AS
    make_timestamptz(epoch_us(t) - epoch_us(timezone(zone, timezone(zone, t) - INTERVAL 1 DAY))
                     + epoch_us(timezone(zone, t) - INTERVAL 1 DAY));
CREATE OR REPLACE TEMP MACRO __first(t, zone) AS
    CASE WHEN timezone(zone, __shifted(t, zone)) = t THEN least(__shifted(t, zone), timezone(zone, t))
         ELSE timezone(zone, t) END;
CREATE OR REPLACE TEMP MACRO __localize(t, zone) AS
    CASE WHEN t >= TIMESTAMP '{YEARS[0] - 1}-12-01' AND t < TIMESTAMP '{YEARS[1]}-02-01' THEN __first(t, zone) END;
"""

_NAIVE = r"^\d{4}[-/]\d{1,2}[-/]\d{1,2}([T ]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?)?$"
_OFFSET = r"^\d{4}[-/]\d{1,2}[-/]\d{1,2}[T ]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?\s*([Zz]|[+-]\d{2}(:?\d{2})?)$"
_MICROS = {"s": 1_000_000, "ms": 1_000, "us": 1}
_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
_INTEGER_TYPES = {*_INTEGERS, *(f"U{name}" for name in _INTEGERS)}
FLOATS = {"FLOAT", "DOUBLE"}
_LOCAL, _ABSOLUTE = "NULL::TIMESTAMP", "NULL::TIMESTAMPTZ"


@dataclass(frozen=True)
class Instant:
    """SQL of one time column."""

    instant: str
    """TIMESTAMPTZ, null where the value is none of the believed years."""
    clock_change: str
    """VARCHAR: `skipped` of a local time that its zone never had, `repeated` of one that it had twice, else null."""


def instant(name: str, column: str, dtype: str, mapping: Mapping) -> Instant:
    """How the time in `column`, of DuckDB type `dtype`, is read. What is below a microsecond is cut.

    Raises MappingError naming the field where the type can be no time, or lacks its unit.
    """
    zone = quote(mapping.time_zone)
    local, absolute = _read(name, column, dtype, mapping)
    at = f"__plausible(coalesce({absolute}, __localize({local}, {zone})))"
    if local == _LOCAL or mapping.time_zone == "UTC":
        return Instant(at, "NULL::VARCHAR")
    changed = f"""CASE WHEN timezone({zone}, {at}) <> {local} THEN 'skipped'
        WHEN timezone({zone}, {local}) <> {at} THEN 'repeated' END"""
    return Instant(at, changed if absolute == _ABSOLUTE else f"CASE WHEN {absolute} IS NULL THEN {changed} END")


def _read(name: str, column: str, dtype: str, mapping: Mapping) -> tuple[str, str]:
    """SQL of a value without an offset, a TIMESTAMP of the mapping's zone, and of one that is an instant by itself, a
    TIMESTAMPTZ; each null where the value is the other."""
    if dtype == "TIMESTAMPTZ_NS":
        return _LOCAL, _cut(column, "make_timestamptz")
    if dtype == "TIMESTAMP WITH TIME ZONE":
        return _LOCAL, column
    if dtype == "TIMESTAMP_NS":
        return _cut(column, "make_timestamp"), _ABSOLUTE
    if dtype.startswith("TIMESTAMP") or dtype == "DATE":
        return f"CAST({column} AS TIMESTAMP)", _ABSOLUTE
    numeric = dtype in _INTEGER_TYPES or dtype in FLOATS or dtype.startswith("DECIMAL")
    if numeric and mapping.epoch_unit is None:
        raise MappingError(f"{name} is a number ({dtype}): set epoch_unit to s, ms, us or ns")
    if numeric or (dtype == "VARCHAR" and mapping.epoch_unit is not None):
        return _LOCAL, _of_number(column, mapping.epoch_unit or "s")
    if dtype != "VARCHAR":
        raise MappingError(f"{name} is a {dtype}, which is not a time: give an expression that converts it")
    text = f"trim({column})"
    if mapping.time_format is not None:
        zoned = "%z" in mapping.time_format or "%Z" in mapping.time_format
        parsed = f"try_strptime({text}, {quote(mapping.time_format)})"
        if "%n" in mapping.time_format:  # nanoseconds
            parsed = _cut(parsed, "make_timestamptz" if zoned else "make_timestamp")
        return (_LOCAL, parsed) if zoned else (parsed, _ABSOLUTE)
    # DuckDB drops an offset or zone name when it casts to TIMESTAMP, so the shape decides first.
    return (
        f"CASE WHEN regexp_matches({text}, {quote(_NAIVE)}) THEN TRY_CAST({text} AS TIMESTAMP) END",
        f"""CASE WHEN regexp_matches({text}, {quote(_OFFSET)})
            THEN TRY_CAST(regexp_replace({text}, '\\s+([Zz+-])', '\\1') AS TIMESTAMPTZ) END""",
    )


def _cut(column: str, make: str) -> str:
    """Nanoseconds to microseconds: a cast would round, the last ones of a day into the next."""
    return f"{make}(epoch_ns({column}) // 1000)"


def _of_number(column: str, unit: str) -> str:
    if unit == "ns":
        micros = f"TRY_CAST(TRY_CAST({column} AS HUGEINT) // 1000 AS BIGINT)"
    else:
        micros = f"TRY_CAST(TRY_CAST({column} AS DECIMAL(24, 6)) * {_MICROS[unit]} AS BIGINT)"
    low, high = ((year - 1970) * 366 * 86_400_000_000 for year in YEARS)
    # Near bounds only keep make_timestamptz within its range; __plausible is exact.
    return f"CASE WHEN {micros} BETWEEN {low // 2} AND {high} THEN make_timestamptz({micros}) END"
