"""A rule as an expression over one payment, in SQL, evaluated by DuckDB without access to anything else.

What belongs here: what an expression may say, and its answer for a day of payments. What does not: the columns
(`traffic`), what a hit is worth (`figures`).

An expression is parsed by DuckDB itself and refused unless it is one expression over the columns of one payment: no
table, no subquery, no aggregate, and no function that depends on the clock, on chance or on the session. What is left
runs in memory, with files and network switched off and that switch locked.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Bools = NDArray[np.bool_]

_TABLE = "traffic"
_FORBIDDEN = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
    "STAR": "*",
    "PARAMETER": "a parameter",
    "LAMBDA": "a lambda",
}


class RuleError(ValueError):
    """An expression that is no rule; the message says what is wrong and what there is."""


class Rule:
    """A checked expression; true is a hit."""

    def __init__(self, text: str, columns: pa.Schema, memory: str) -> None:
        """columns: of the payments. memory: DuckDB's limit, such as 1GB. Raises RuleError."""
        self.text = text
        self._connection = duckdb.connect(
            config={"enable_external_access": False, "memory_limit": memory, "lock_configuration": True}
        )
        _check(self._connection, text, columns.names)
        dtype = self._answer(columns.empty_table()).schema.field("hit").type
        if not pa.types.is_boolean(dtype):
            raise RuleError(f"a rule is true or false of a payment; {text!r} gives {dtype}")

    def hits(self, payments: pa.Table) -> tuple[Bools, Bools]:
        """Which payments the rule hits, and which it cannot tell of, because a value that it asks for is null.

        payments: of the schema that the rule was checked with. Both (n,). Raises RuleError.
        """
        hit = self._answer(payments).column("hit")
        undecided = np.asarray(hit.is_null().to_numpy(zero_copy_only=False), np.bool_)
        return np.asarray(hit.fill_null(False).to_numpy(zero_copy_only=False), np.bool_), undecided

    def _answer(self, payments: pa.Table) -> pa.Table:
        self._connection.register(_TABLE, payments)
        try:
            # on lines of its own: a comment at its end takes nothing else with it
            return self._connection.sql(f"select (\n{self.text}\n) as hit from {_TABLE}").to_arrow_table()
        except duckdb.Error as error:
            raise RuleError(f"{self.text!r}: {_first_line(error)}") from error
        finally:
            self._connection.unregister(_TABLE)


def _check(connection: duckdb.DuckDBPyConnection, text: str, columns: Sequence[str]) -> None:
    node = _parsed(connection, text)
    plain = _parsed(connection, "true")
    shape, expected = ({key: value for key, value in one.items() if key != "select_list"} for one in (node, plain))
    if shape != expected or len(node["select_list"]) != 1 or node["select_list"][0]["alias"]:
        raise RuleError(f"a rule is one expression over a payment's columns, such as amount > 500, not {text!r}")
    known = {name.lower() for name in columns}
    for part in _walk(node["select_list"]):
        kind = part.get("class")
        if kind in _FORBIDDEN:
            raise RuleError(f"{text!r} has {_FORBIDDEN[kind]}; a rule speaks of one payment and its columns alone")
        if kind == "COLUMN_REF":
            name = ".".join(part["column_names"])
            if name.lower() not in known:
                raise RuleError(
                    f"there is no column {name}; there are {', '.join(columns)} (text stands in single quotes)"
                )
        if kind == "FUNCTION" and not _is_pure(connection, part["function_name"]):
            raise RuleError(
                f"{part['function_name']}() may not be used: a rule knows neither other payments, nor clock, nor chance"
            )


def _parsed(connection: duckdb.DuckDBPyConnection, text: str) -> dict[str, Any]:
    # all rows: DuckDB does nothing else while one is left
    ((answer,),) = connection.execute("select json_serialize_sql(?)", [f"select {text}"]).fetchall()
    answer = json.loads(answer)
    if answer["error"]:
        raise RuleError(f"{text!r} cannot be read: {answer['error_message']}")
    if len(answer["statements"]) != 1:
        raise RuleError(f"{text!r} is more than one statement")
    node: dict[str, Any] = answer["statements"][0]["node"]
    return node


def _walk(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
    children = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    for child in children:
        yield from _walk(child)


def _is_pure(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    """Whether DuckDB knows only scalar functions of this name whose answer hangs on their arguments alone."""
    if name.lower() == "age":
        # of one moment it is that moment's distance from today, which DuckDB does not say of it
        return False
    rows = connection.execute(
        "select function_type = 'scalar' and stability = 'CONSISTENT' from duckdb_functions() where function_name = ?",
        [name.lower()],
    ).fetchall()
    # a name that nobody knows is DuckDB's to refuse, with a suggestion
    return all(row[0] for row in rows)


def _first_line(error: duckdb.Error) -> str:
    return str(error).strip().splitlines()[0]
