"""A SQL expression that somebody wrote over one row: what it may say, and the closed room that it runs in.

What belongs here: the check of an expression, and a DuckDB connection that reaches nothing but named files. What does
not: which columns there are and what an expression is for (a backtest's rule, an import's mapping).

An expression is parsed by DuckDB itself and refused unless it is one expression over the columns of one row: no table,
no subquery, no aggregate, and no function that depends on the clock, on chance or on the session. Two walls: what the
check lets through still runs with files and network switched off and that switch locked.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb

_ALLOWED = {
    "BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "FUNCTION", "LAMBDA",
    "OPERATOR", "TYPE",
}  # fmt: skip
_NAMED = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
    "STAR": "*",
    "PARAMETER": "a parameter",
    "POSITIONAL_REFERENCE": "a column by number",
    "DEFAULT": "DEFAULT",
}
# DuckDB calls these functions of their arguments alone, and they are not: age() of one moment is its distance from
# today, the clock is in the next two, the session in version(), and the last binds a statement given as text.
_NOT_PURE = {"age", "current_localtime", "current_localtimestamp", "version", "json_serialize_plan"}


class ExpressionError(ValueError):
    """An expression that may not run; the message says what is wrong and what there is."""


def seal(connection: duckdb.DuckDBPyConnection, paths: Sequence[str] = ()) -> None:
    """Shut the connection for good: of files and network it reaches `paths` alone, and nothing opens it again.

    paths: as its statements spell them, of the filesystems that were registered before. The directory it spills to
    stays open to it.
    """
    listed = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
    connection.execute(f"SET allowed_paths = [{listed}]")
    for setting in ("python_enable_replacements = false", "enable_external_access = false"):
        connection.execute(f"SET {setting}")
    connection.execute("SET lock_configuration = true")


def check_expression(connection: duckdb.DuckDBPyConnection, text: str, columns: Sequence[str]) -> None:
    """Pass one expression over `columns`, whose parts may be reached with a dot. Raises ExpressionError."""
    _check(connection, text, columns, ())


def _check(connection: duckdb.DuckDBPyConnection, text: str, columns: Sequence[str], callers: tuple[str, ...]) -> None:
    node = _parsed(connection, text)
    plain = _parsed(connection, "true")
    shape, expected = ({key: value for key, value in one.items() if key != "select_list"} for one in (node, plain))
    if shape != expected or len(node["select_list"]) != 1 or node["select_list"][0]["alias"]:
        raise ExpressionError(f"{text!r} is not one expression over the columns of a row, such as amount > 500")
    known = {name.lower() for name in columns}
    for part in _walk(node["select_list"]):
        kind = part.get("class")
        if kind == "LAMBDA" and part["syntax_type"] != "SINGLE_ARROW":  # the arrow also reads a field of JSON
            raise ExpressionError(f"{text!r} has a lambda; an expression may use only the columns of one row")
        if kind is not None and kind not in _ALLOWED:
            named = _NAMED.get(kind, kind.lower())
            raise ExpressionError(f"{text!r} has {named}; an expression may use only the columns of one row")
        if kind == "COLUMN_REF" and part["column_names"][0].lower() not in known:
            name = ".".join(part["column_names"])
            raise ExpressionError(
                f"there is no column {name}; there are {', '.join(columns)} (put text in single quotes)"
            )
        if kind == "FUNCTION" and not _is_pure(connection, part["function_name"].lower(), callers):
            raise ExpressionError(
                f"{part['function_name']}() may not be used: an expression knows neither other rows, nor files, nor "
                "clock, nor chance"
            )


def _parsed(connection: duckdb.DuckDBPyConnection, text: str) -> dict[str, Any]:
    # all rows: DuckDB does nothing else while one is left
    try:
        ((answer,),) = connection.execute("select json_serialize_sql(?)", [f"select {text}"]).fetchall()
        answer = json.loads(answer)
    except (duckdb.Error, RecursionError) as error:
        raise ExpressionError(f"{text[:80]!r} cannot be read: {_first_line(error)}") from error
    if answer["error"]:
        raise ExpressionError(f"{text!r} cannot be read: {answer['error_message']}")
    if len(answer["statements"]) != 1:
        raise ExpressionError(f"{text!r} is more than one statement")
    node: dict[str, Any] = answer["statements"][0]["node"]
    return node


def _walk(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of the tree, parents first; without recursion, since whoever wrote it chose its depth."""
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
        children = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        waiting.extend(reversed(list(children)))


def _is_pure(connection: duckdb.DuckDBPyConnection, name: str, callers: tuple[str, ...]) -> bool:
    """Whether all that DuckDB knows by this name are scalar functions whose answer hangs on their arguments alone.

    A macro, such as nullif, is what its definition is. callers: the macros being looked into.
    """
    if name in _NOT_PURE or name in callers:
        return False
    rows = connection.execute(
        """select distinct function_type, stability, parameters, macro_definition from duckdb_functions()
           where lower(function_name) = ?""",
        [name],
    ).fetchall()
    # a name that nobody knows is DuckDB's to refuse, with a suggestion
    return all(
        _is_pure_macro(connection, definition, parameters, (*callers, name))
        if function_type == "macro"
        else function_type == "scalar" and stability == "CONSISTENT"
        for function_type, stability, parameters, definition in rows
    )


def _is_pure_macro(
    connection: duckdb.DuckDBPyConnection, definition: str, parameters: list[str], callers: tuple[str, ...]
) -> bool:
    try:
        _check(connection, definition, parameters, callers)
    except ExpressionError:
        return False
    return True


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
