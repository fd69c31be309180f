"""A mapping's expressions over a source's rows become one DuckDB table in EXPORT's shape, one row per source row.

What belongs here: the SQL of amounts, ids and labels, and what makes a source's value unreadable. What does not: files
(readers), times (times), or the rules that every source's rows must keep (standardize).
"""

import re
from collections.abc import Sequence

import duckdb
import msgspec
from duckdb.sqltypes import VARCHAR

from fraud_platform.currency import currency_codes, exponent
from fraud_platform.expression import ExpressionError, check_expression
from fraud_platform.identifiers import SUSPECT, canonical
from fraud_platform.ingest.mapping import CsvOptions, LabelMapping, Mapping, MappingError
from fraud_platform.ingest.readers import SOURCE, identifier, quote, rejected_lines
from fraud_platform.ingest.times import TIME_MACROS, YEARS, Instant, instant
from fraud_platform.schema import EXPORT

NORMALIZED = "__normalized"
"""The table: day, EXPORT's columns, problem, source_row, label_state, label_arrived_at, and REMARKS."""

REMARKS = ("unlisted", "timestamp_clock", "received_at_clock", "arrives_at_clock")
"""Columns of NORMALIZED that `remarks` counts: a label's value that the mapping does not list, clock changes."""

_CANONICAL = "__canonical"
"""`identifiers.canonical` in SQL."""

_TRUE, _FALSE = ("1", "true", "t"), ("0", "false", "f")
_TIMES = ("timestamp", "received_at", "arrives_at")
_UNREADABLE = {
    name: f"{'label.' if name == 'arrives_at' else ''}{name} cannot be read as a time of the years {YEARS[0]} to "
    f"{YEARS[1] - 1}"
    for name in _TIMES
}
_IDS = ("transaction_id", "user_id", "merchant_id", "device_id")
_WHOLE = {"FLOAT": 2**24, "DOUBLE": 2**53}
"""Below, every whole number of the type is itself; above, several share one value."""


class Remarks(msgspec.Struct, frozen=True):
    """What was read otherwise than somebody may think, counted over the rows without a problem."""

    clock_changes: dict[str, dict[str, int]]
    """Per time field: rows whose local time was `skipped` or `repeated` by a change of clocks."""
    unlisted: dict[str, int]
    """A label's value that is in no list of the mapping and counts as cleared, with its rows."""


def build(connection: duckdb.DuckDBPyConnection, mapping: Mapping) -> int:
    """Create the table NORMALIZED from the view SOURCE; returns the rows read, each of which is one row of the table.

    Raises MappingError when an expression does not fit the source or may not run (fraud_platform.expression), when a
    label has values that nobody explained, when no row at all has a readable time, and when a whole column cannot be
    read.
    """
    connection.execute(TIME_MACROS)
    connection.create_function(_CANONICAL, canonical, [VARCHAR], VARCHAR)
    fields = _Fields(connection, mapping)
    sql = _statement(mapping, fields)
    try:
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {NORMALIZED} AS {sql}")
    except duckdb.Error as error:
        raise MappingError(f"columns: an expression failed on a row; TRY_CAST lets such rows pass: {error}") from error
    _check_labels(connection, mapping)
    _check_columns(connection, fields)
    rejected = rejected_lines(connection)
    if rejected:
        connection.executemany(f"INSERT INTO {NORMALIZED} (problem, source_row) VALUES (?, ?)", rejected)
    read = _count(connection, SOURCE) + len(rejected)
    kept = _count(connection, NORMALIZED)
    if read != kept:
        raise RuntimeError(f"read {read} rows and normalised {kept}")
    connection.execute(f"UPDATE {NORMALIZED} SET day = (SELECT min(day) FROM {NORMALIZED}) WHERE day IS NULL")
    if connection.execute(f"SELECT 1 FROM {NORMALIZED} WHERE day IS NOT NULL LIMIT 1").fetchone() is None:
        example = connection.execute(f"SELECT problem, source_row FROM {NORMALIZED} LIMIT 1").fetchone()
        raise MappingError(f"columns.timestamp: none of {read} rows has a readable time; the first: {example}")
    return read


def remarks(connection: duckdb.DuckDBPyConnection) -> Remarks:
    """What `build` remarked."""
    clocks = {name: dict(_counted(connection, f"{name}_clock", "problem IS NULL")) for name in _TIMES}
    return Remarks(
        {name: counts for name, counts in clocks.items() if counts},
        dict(_counted(connection, "unlisted", "problem IS NULL")),
    )


def _counted(connection: duckdb.DuckDBPyConnection, column: str, condition: str) -> list[tuple[str, int]]:
    """Values of a column with their rows, most frequent first."""
    return connection.execute(
        f"""SELECT {column}, count(*) FROM {NORMALIZED} WHERE {column} IS NOT NULL AND {condition}
            GROUP BY ALL ORDER BY 2 DESC, 1"""
    ).fetchall()


def _count(connection: duckdb.DuckDBPyConnection, relation: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM {relation}").fetchone()
    assert row is not None
    return int(row[0])


_TRIES = re.compile(r"\btry(_cast|_strptime)?\s*\(", re.IGNORECASE)


class _Fields:
    """The mapping's expressions, bound to the source's columns, with their DuckDB types."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, mapping: Mapping) -> None:
        described = connection.execute(f"DESCRIBE SELECT * EXCLUDE (__row, __bad, __raw) FROM {SOURCE}").fetchall()
        self._columns = {str(row[0]).lower(): str(row[0]) for row in described}
        self._connection = connection
        self.sql: dict[str, str] = {}
        self.types: dict[str, str] = {}
        self.keys: dict[str, str] = {}
        """The mapping's key of each field."""
        self.trying: dict[str, str] = {}
        """Expressions with a cast or parse that makes null of what it cannot read."""
        for name, expression in mapping.columns.model_dump(exclude_none=True).items():
            self._bind(name, f"columns.{name}", expression)
        if mapping.label is not None:
            self._bind("label", "label.column", mapping.label.column)
            if mapping.label.arrives_at is not None:
                self._bind("arrives_at", "label.arrives_at", mapping.label.arrives_at)

    def named_in(self, expression: str) -> list[str]:
        """The source's columns whose names stand in an expression."""
        words = {word.lower() for word in re.findall(r"\w+", expression)}
        return [column for name, column in self._columns.items() if set(re.findall(r"\w+", name)) <= words]

    def _bind(self, name: str, key: str, expression: str) -> None:
        column = self._columns.get(expression.lower())
        # on lines of its own: a comment at its end takes nothing else with it
        sql = identifier(column) if column is not None else f"(\n{expression}\n)"
        try:
            if column is None:
                check_expression(self._connection, expression, list(self._columns.values()))
            row = self._connection.execute(f"DESCRIBE SELECT {sql} FROM {SOURCE}").fetchone()
        except (ExpressionError, duckdb.Error) as error:
            known = ", ".join(self._columns.values())
            raise MappingError(f"{key}: {expression!r} fits no column; the columns are {known} ({error})") from error
        assert row is not None
        self.sql[name], self.types[name], self.keys[name] = sql, str(row[1]), key
        if column is None and _TRIES.search(expression):
            self.trying[name] = expression


def _statement(mapping: Mapping, fields: _Fields) -> str:
    bound = ", ".join(f"{sql} AS {identifier('_' + name)}" for name, sql in fields.sql.items())
    times = {name: _instant(fields, name, mapping) for name in _TIMES}
    clocks = ", ".join(f"{one.clock_change} AS {name}_clock" for name, one in times.items())
    texts = {name: _optional_text(mapping, fields, name) for name in ("country", "user_country", "channel")}
    texts |= {"merchant_category": _optional_text(mapping, fields, "merchant_category")}
    # one of which nothing can be seen is none
    texts |= {"device_id": f"nullif({_identifier(_optional_text(mapping, fields, 'device_id'))}, '')"}
    currency = _optional_text(mapping, fields, "currency")
    problem = " ".join(f"WHEN {test} THEN {quote(reason)}" for reason, test in _problems(mapping, fields))
    label, unlisted = _label(mapping.label, fields) if mapping.label else ("NULL::VARCHAR", "NULL::VARCHAR")
    outside = " OR ".join(test for _, test in _bounds(mapping)) or "false"
    return f"""
WITH bound AS (SELECT __row, __bad, __raw, {bound} FROM {SOURCE}),
typed AS (
    SELECT *, {_transaction_id(fields)} AS transaction_id,
        {_identifier(_text(fields, "user_id"))} AS user_id,
        {_identifier(_merchant(mapping, fields))} AS merchant_id, {currency} AS currency,
        {_number(mapping.csv, fields, "amount", "DECIMAL(24, 6)")} AS __amount,
        {_number(mapping.csv, fields, "amount", "DOUBLE")} AS __approximate,
        {times["timestamp"].instant} AS "timestamp", {times["received_at"].instant} AS received_at,
        {", ".join(f"{sql} AS {name}" for name, sql in texts.items())},
        {_number(mapping.csv, fields, "latitude", "DOUBLE")} AS latitude,
        {_number(mapping.csv, fields, "longitude", "DOUBLE")} AS longitude,
        {label} AS label_state, {unlisted} AS unlisted, {times["arrives_at"].instant} AS __arrives_at, {clocks}
    FROM bound),
scaled AS (
    SELECT *, __amount * {_minor_units()} AS __minor, coalesce(received_at, "timestamp") AS __received FROM typed),
judged AS (SELECT *, CASE {problem} END AS problem FROM scaled)
SELECT CASE WHEN NOT ({outside}) THEN CAST(__received AT TIME ZONE 'UTC' AS DATE) END AS day,
    transaction_id, user_id, merchant_id,
    CASE WHEN problem IS NULL THEN TRY_CAST(__minor AS BIGINT) END AS amount_minor,
    currency, "timestamp", received_at, {", ".join(EXPORT.names[7:])},
    problem, CASE WHEN problem IS NOT NULL THEN coalesce(__raw, to_json(__row)::VARCHAR) END AS source_row,
    CASE WHEN problem IS NULL THEN label_state END AS label_state,
    CASE WHEN problem IS NULL AND label_state IS NOT NULL THEN {_arrival(mapping.label)} END AS label_arrived_at,
    {", ".join(REMARKS)}
FROM judged"""


def _instant(fields: _Fields, name: str, mapping: Mapping) -> Instant:
    if name not in fields.sql:
        return Instant("NULL::TIMESTAMPTZ", "NULL::VARCHAR")
    return instant(name, identifier("_" + name), fields.types[name], mapping)


def _problems(mapping: Mapping, fields: _Fields) -> list[tuple[str, str]]:
    """(reason, SQL test) of what makes a row unreadable, most telling first."""
    found = [("the line is not a JSON object", "__bad IS NOT NULL"), ("timestamp is null", '"_timestamp" IS NULL')]
    found.append((_UNREADABLE["timestamp"], '"timestamp" IS NULL'))
    if "received_at" in fields.sql:
        found.append((_UNREADABLE["received_at"], '"_received_at" IS NOT NULL AND received_at IS NULL'))
    found += _bounds(mapping)
    found += [
        ("amount is null", '"_amount" IS NULL'),
        ("amount is not a finite number", "__approximate IS NULL OR NOT isfinite(__approximate)"),
        ("amount is too large", "__amount IS NULL"),
        ("amount has more decimals than its currency", "__minor <> floor(__minor)"),
    ]
    for name in _IDS:
        limit = _WHOLE.get(fields.types.get(name, ""))
        if limit is not None:
            column = identifier("_" + name)
            found.append((f"{name} is a fraction, which names nobody", f"{column} <> floor({column})"))
            reason = f"{name} is a floating-point number from 2^{limit.bit_length() - 1} on, whose last digits are lost"
            found.append((reason, f"abs({column}) >= {limit}"))
    for name in ("latitude", "longitude"):
        if name in fields.sql:
            found.append((f"{name} is not a number", f'"_{name}" IS NOT NULL AND {name} IS NULL'))
    if "arrives_at" in fields.sql:
        found.append((_UNREADABLE["arrives_at"], '"_arrives_at" IS NOT NULL AND __arrives_at IS NULL'))
    return found


def _bounds(mapping: Mapping) -> list[tuple[str, str]]:
    """(reason, SQL test) of a row that the mapping wants kept out; such a row has no day of its own either."""
    found = []
    if mapping.first_day:
        start = f"TIMESTAMPTZ '{mapping.first_day.isoformat()} 00:00:00+00'"
        found.append(("received before the mapping's first_day", f"__received < {start}"))
    if mapping.last_day:
        end = f"TIMESTAMPTZ '{mapping.last_day.isoformat()} 00:00:00+00' + INTERVAL 1 DAY"
        found.append(("received after the mapping's last_day", f"__received >= {end}"))
    return found


def _text(fields: _Fields, name: str) -> str:
    """A value as text. A number that is whole is its digits, however its type writes it: a float is often an integer
    column with nulls. A NaN is a null. Text stays as it stands."""
    column = identifier("_" + name)
    dtype = fields.types[name]
    text = f"CAST({column} AS VARCHAR)"
    if dtype in _WHOLE:
        whole = f"{column} = floor({column}) AND abs({column}) < {_WHOLE[dtype]}"
        digits = f"CAST(CAST({column} AS BIGINT) AS VARCHAR)"
        return f"CASE WHEN isnan({column}) THEN NULL WHEN {whole} THEN {digits} ELSE {text} END"
    if dtype.startswith("DECIMAL"):
        return f"CASE WHEN {column} = floor({column}) THEN CAST(floor({column}) AS VARCHAR) ELSE {text} END"
    return text


def _optional_text(mapping: Mapping, fields: _Fields, name: str) -> str:
    default = mapping.currency if name == "currency" else getattr(mapping.defaults, name, None)
    fallback = quote(default) if default is not None else "NULL::VARCHAR"
    text = f"coalesce(nullif(trim({_text(fields, name)}), ''), {fallback})" if name in fields.sql else fallback
    return _meant(text, mapping.channels) if name == "channel" and mapping.channels else text


def _meant(text: str, meanings: dict[str, str]) -> str:
    """The channel that the mapping gives a text; the text itself where it gives none."""
    cases = " ".join(f"WHEN {quote(word.strip().lower())} THEN {quote(meant)}" for word, meant in meanings.items())
    return f"CASE lower({text}) {cases} ELSE {text} END"


def _identifier(text: str) -> str:
    """An id by the platform's rule; the few values that it may change are left to Python, the one place of the rule."""
    return f"CASE WHEN regexp_matches({text}, {quote(SUSPECT)}) THEN {_CANONICAL}({text}) ELSE {text} END"


def _merchant(mapping: Mapping, fields: _Fields) -> str:
    if "merchant_id" not in fields.sql:
        return quote(mapping.defaults.merchant_id)
    if "merchant_id" not in mapping.defaults.model_fields_set:
        return _text(fields, "merchant_id")  # a null stays one and is quarantined, unless a default was asked for
    return _optional_text(mapping, fields, "merchant_id")


def _transaction_id(fields: _Fields) -> str:
    if "transaction_id" in fields.sql:
        return _identifier(_text(fields, "transaction_id"))
    # Rows alike in every column are interchangeable, so which of them is the first does not matter.
    content = "md5(to_json(__row)::VARCHAR)"
    return f"{content} || '-' || row_number() OVER (PARTITION BY {content})"


def _number(csv: CsvOptions, fields: _Fields, name: str, dtype: str) -> str:
    if name not in fields.sql:
        return f"NULL::{dtype}"
    column = identifier("_" + name)
    if csv.decimal == "," and fields.types[name] == "VARCHAR":
        column = f"replace(replace({column}, '.', ''), ',', '.')"
    return f"TRY_CAST({column} AS {dtype})"


def _minor_units() -> str:
    by_places: dict[int, list[str]] = {}
    for code in sorted(currency_codes()):
        by_places.setdefault(exponent(code), []).append(quote(code))
    cases = [f"WHEN currency IN ({', '.join(codes)}) THEN {10**n}" for n, codes in by_places.items() if n != 2]
    return f"(CASE {' '.join(cases)} ELSE 100 END)::DECIMAL(5, 0)"


def _label(label: LabelMapping, fields: _Fields) -> tuple[str, str]:
    """SQL of the label's state, and of its value where that is in no list; such a value counts as cleared."""
    text = f"nullif(lower(trim({_text(fields, 'label')})), '')"
    unknown, fraud, cleared = _listed(label.unknown_values), _fraud_values(label), _cleared_values(label)
    silent = f"{text} IS NULL" + (f" OR {_among(text, unknown)}" if unknown else "")
    return (
        f"CASE WHEN {silent} THEN NULL WHEN {_among(text, fraud)} THEN 'confirmed' ELSE 'cleared' END",
        f"CASE WHEN NOT ({_among(text, (*unknown, *fraud, *cleared))}) THEN {text} END",
    )


def _among(text: str, values: Sequence[str]) -> str:
    return f"{text} IN ({', '.join(map(quote, values))})"


def _listed(values: Sequence[str | int | bool] | None) -> tuple[str, ...]:
    return tuple(str(value).strip().lower() for value in values or ())


def _fraud_values(label: LabelMapping) -> tuple[str, ...]:
    return _TRUE if label.fraud_values is None else _listed(label.fraud_values)


def _cleared_values(label: LabelMapping) -> tuple[str, ...]:
    """Empty where the mapping lists none beside its fraud_values: then one other value may be it."""
    if label.cleared_values is not None:
        return _listed(label.cleared_values)
    return _FALSE if label.fraud_values is None else ()


def _arrival(label: LabelMapping | None) -> str:
    """SQL of when the label arrived, never before its transaction; null: not yet."""
    if label is None:
        return "NULL::TIMESTAMPTZ"
    delay = label.arrives_after_days
    fallback = f"__received + INTERVAL {delay} DAY" if delay is not None else "NULL::TIMESTAMPTZ"
    return f"CASE WHEN __arrives_at IS NULL THEN {fallback} ELSE greatest(__arrives_at, __received) END"


def _check_labels(connection: duckdb.DuckDBPyConnection, mapping: Mapping) -> None:
    """Refuse values that the mapping does not explain; beside fraud_values alone, one other value means cleared."""
    label = mapping.label
    if label is None:
        return
    found = _counted(connection, "unlisted", "problem IS NULL")
    if not found or (label.fraud_values is not None and label.cleared_values is None and len(found) == 1):
        return
    rows = sum(count for _, count in _counted(connection, "true", "problem IS NULL"))
    shown = ", ".join(f"{value!r} ({count / rows:.1%} of the rows)" for value, count in found[:5])
    raise MappingError(
        f"label.column has the values {shown}: list those that mean fraud in label.fraud_values, those that mean good "
        "in label.cleared_values, and those by which nobody says anything in label.unknown_values"
    )


def _check_columns(connection: duckdb.DuckDBPyConnection, fields: _Fields) -> None:
    """Refuse an expression that makes null of every value that it was given, and a time column that cannot be read."""
    for name, expression in fields.trying.items():
        given = " OR ".join(f"{identifier(column)} IS NOT NULL" for column in fields.named_in(expression))
        if not given or _first(connection, SOURCE, f"{fields.sql[name]} IS NOT NULL") is not None:
            continue
        example = _first(connection, SOURCE, given, "to_json(__row)::VARCHAR")
        if example is not None:
            raise MappingError(
                f"{fields.keys[name]}: {expression!r} is null on every row, although its columns have values; the "
                f"first row: {example}"
            )
    for name in ("received_at", "arrives_at"):
        if name not in fields.sql:
            continue
        unread = f"problem = {quote(_UNREADABLE[name])}"
        if _first(connection, NORMALIZED, unread) is None:
            continue
        read = "received_at" if name == "received_at" else "label_arrived_at"
        if _first(connection, NORMALIZED, f"{read} IS NOT NULL AND problem IS NULL") is None:
            example = _first(connection, NORMALIZED, unread, "source_row")
            raise MappingError(
                f"{fields.keys[name]}: none of its values can be read as a time; the first row: {example}"
            )


def _first(connection: duckdb.DuckDBPyConnection, relation: str, condition: str, value: str = "1") -> str | None:
    row = connection.execute(f"SELECT {value} FROM {relation} WHERE {condition} LIMIT 1").fetchone()
    return None if row is None else str(row[0])
