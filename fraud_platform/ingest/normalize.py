"""A mapping's expressions over a source's rows become one DuckDB table in EXPORT's shape, one row per source row.

What belongs here: the SQL of amounts, ids and labels, and what makes a source's value unreadable. What does not: files
(readers), times (times), or the rules that every source's rows must keep (standardize).
"""

import duckdb
from duckdb.sqltypes import VARCHAR

from fraud_platform.currency import currency_codes, exponent
from fraud_platform.expression import ExpressionError, check_expression
from fraud_platform.identifiers import SUSPECT, canonical
from fraud_platform.ingest.mapping import CsvOptions, LabelMapping, Mapping, MappingError
from fraud_platform.ingest.readers import SOURCE, identifier, quote, rejected_lines
from fraud_platform.ingest.times import FLOATS, TIME_MACROS, YEARS, instant
from fraud_platform.schema import EXPORT

NORMALIZED = "__normalized"
"""The table: day, EXPORT's columns, problem, source_row, label_state, label_arrived_at."""

_CANONICAL = "__canonical"
"""`identifiers.canonical` in SQL."""

_TRUE, _FALSE = ("1", "true", "t"), ("0", "false", "f")


def build(connection: duckdb.DuckDBPyConnection, mapping: Mapping) -> int:
    """Create the table NORMALIZED from the view SOURCE; returns the rows read, each of which is one row of the table.

    Raises MappingError when an expression does not fit the source or may not run (fraud_platform.expression), when a
    label has values that nobody explained, and when no row at all has a readable time.
    """
    connection.execute(TIME_MACROS)
    connection.create_function(_CANONICAL, canonical, [VARCHAR], VARCHAR)
    fields = _Fields(connection, mapping)
    sql = _statement(mapping, fields)
    try:
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {NORMALIZED} AS {sql}")
    except duckdb.Error as error:
        raise MappingError(f"columns: an expression failed on a row; TRY_CAST lets such rows pass: {error}") from error
    _check_labels(connection, mapping, fields)
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


def _count(connection: duckdb.DuckDBPyConnection, relation: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM {relation}").fetchone()
    assert row is not None
    return int(row[0])


class _Fields:
    """The mapping's expressions, bound to the source's columns, with their DuckDB types."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, mapping: Mapping) -> None:
        described = connection.execute(f"DESCRIBE SELECT * EXCLUDE (__row, __bad, __raw) FROM {SOURCE}").fetchall()
        self._columns = {str(row[0]).lower(): str(row[0]) for row in described}
        self._connection = connection
        self.sql: dict[str, str] = {}
        self.types: dict[str, str] = {}
        for name, expression in mapping.columns.model_dump(exclude_none=True).items():
            self._bind(name, f"columns.{name}", expression)
        if mapping.label is not None:
            self._bind("label", "label.column", mapping.label.column)
            if mapping.label.arrives_at is not None:
                self._bind("arrives_at", "label.arrives_at", mapping.label.arrives_at)

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
        self.sql[name], self.types[name] = sql, str(row[1])


def _statement(mapping: Mapping, fields: _Fields) -> str:
    bound = ", ".join(f"{sql} AS {identifier('_' + name)}" for name, sql in fields.sql.items())
    times = {name: _instant(fields, name, mapping) for name in ("timestamp", "received_at", "arrives_at")}
    texts = {name: _optional_text(mapping, fields, name) for name in ("country", "user_country", "channel")}
    texts |= {"merchant_category": _optional_text(mapping, fields, "merchant_category")}
    # one of which nothing can be seen is none
    texts |= {"device_id": f"nullif({_identifier(_optional_text(mapping, fields, 'device_id'))}, '')"}
    currency = _optional_text(mapping, fields, "currency")
    problem = " ".join(f"WHEN {test} THEN {quote(reason)}" for reason, test in _problems(mapping, fields))
    label = _label_state(mapping.label, fields) if mapping.label else "NULL::VARCHAR"
    outside = " OR ".join(test for _, test in _bounds(mapping)) or "false"
    return f"""
WITH bound AS (SELECT __row, __bad, __raw, {bound} FROM {SOURCE}),
typed AS (
    SELECT *, {_transaction_id(fields)} AS transaction_id,
        {_identifier(_text(fields, "user_id"))} AS user_id,
        {_identifier(_merchant(mapping, fields))} AS merchant_id, {currency} AS currency,
        {_number(mapping.csv, fields, "amount", "DECIMAL(24, 6)")} AS __amount,
        {_number(mapping.csv, fields, "amount", "DOUBLE")} AS __approximate,
        {times["timestamp"]} AS "timestamp", {times["received_at"]} AS received_at,
        {", ".join(f"{sql} AS {name}" for name, sql in texts.items())},
        {_number(mapping.csv, fields, "latitude", "DOUBLE")} AS latitude,
        {_number(mapping.csv, fields, "longitude", "DOUBLE")} AS longitude,
        {label} AS label_state, {times["arrives_at"]} AS __arrives_at
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
    CASE WHEN problem IS NULL AND label_state IS NOT NULL THEN {_arrival(mapping.label)} END AS label_arrived_at
FROM judged"""


def _instant(fields: _Fields, name: str, mapping: Mapping) -> str:
    if name not in fields.sql:
        return "NULL::TIMESTAMPTZ"
    return instant(name, identifier("_" + name), fields.types[name], mapping)


def _problems(mapping: Mapping, fields: _Fields) -> list[tuple[str, str]]:
    """(reason, SQL test) of what makes a row unreadable, most telling first."""
    readable = f"cannot be read as a time of the years {YEARS[0]} to {YEARS[1] - 1}"
    found = [("the line is not a JSON object", "__bad IS NOT NULL"), ("timestamp is null", '"_timestamp" IS NULL')]
    found.append((f"timestamp {readable}", '"timestamp" IS NULL'))
    if "received_at" in fields.sql:
        found.append((f"received_at {readable}", '"_received_at" IS NOT NULL AND received_at IS NULL'))
    found += _bounds(mapping)
    found += [
        ("amount is null", '"_amount" IS NULL'),
        ("amount is not a finite number", "__approximate IS NULL OR NOT isfinite(__approximate)"),
        ("amount is too large", "__amount IS NULL"),
        ("amount has more decimals than its currency", "__minor <> floor(__minor)"),
    ]
    for name in ("latitude", "longitude"):
        if name in fields.sql:
            found.append((f"{name} is not a number", f'"_{name}" IS NOT NULL AND {name} IS NULL'))
    if "arrives_at" in fields.sql:
        found.append((f"label.arrives_at {readable}", '"_arrives_at" IS NOT NULL AND __arrives_at IS NULL'))
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
    """A value as text: a float that holds a whole number (an integer column with nulls, often) without its `.0`."""
    column = identifier("_" + name)
    if fields.types[name] in FLOATS:
        whole = f"{column} = floor({column}) AND abs({column}) < 9007199254740992"
        return f"CASE WHEN {whole} THEN CAST(CAST({column} AS BIGINT) AS VARCHAR) ELSE CAST({column} AS VARCHAR) END"
    return f"CAST({column} AS VARCHAR)"


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


def _label_state(label: LabelMapping, fields: _Fields) -> str:
    """SQL of the label's state; `?` marks a value that is neither of the two."""
    text = f"lower(trim({_text(fields, 'label')}))"
    if label.fraud_values is not None:
        listed = ", ".join(quote(str(value).lower()) for value in label.fraud_values)
        judged = f"CASE WHEN {text} IN ({listed}) THEN 'confirmed' ELSE 'cleared' END"
    else:
        fraud, good = (", ".join(map(quote, values)) for values in (_TRUE, _FALSE))
        judged = f"CASE WHEN {text} IN ({fraud}) THEN 'confirmed' WHEN {text} IN ({good}) THEN 'cleared' ELSE '?' END"
    return f"CASE WHEN nullif({text}, '') IS NOT NULL THEN {judged} END"


def _arrival(label: LabelMapping | None) -> str:
    """SQL of when the label arrived, never before its transaction; null: not yet."""
    if label is None:
        return "NULL::TIMESTAMPTZ"
    delay = label.arrives_after_days
    fallback = f"__received + INTERVAL {delay} DAY" if delay is not None else "NULL::TIMESTAMPTZ"
    return f"CASE WHEN __arrives_at IS NULL THEN {fallback} ELSE greatest(__arrives_at, __received) END"


def _check_labels(connection: duckdb.DuckDBPyConnection, mapping: Mapping, fields: _Fields) -> None:
    found = connection.execute(f"SELECT 1 FROM {NORMALIZED} WHERE label_state = '?' LIMIT 1").fetchone()
    if found is None:
        return
    values = connection.execute(
        f"""SELECT DISTINCT lower(trim({_text(fields, "label")})) AS value
            FROM (SELECT {fields.sql["label"]} AS _label FROM {SOURCE})
            WHERE value NOT IN ({", ".join(map(quote, ("", *_TRUE, *_FALSE)))}) ORDER BY value LIMIT 5"""
    ).fetchall()
    shown = ", ".join(repr(value) for (value,) in values)
    raise MappingError(f"label.column has the values {shown}: list those that mean fraud in label.fraud_values")
