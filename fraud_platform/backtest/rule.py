"""A rule as an expression over one payment, in SQL, evaluated by DuckDB without access to anything else.

What belongs here: a rule's answer for a day of payments. What does not: what an expression may say
(fraud_platform.expression), the columns (`traffic`), what a hit is worth (`figures`).
"""

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fraud_platform.expression import ExpressionError, check_expression, seal

Bools = NDArray[np.bool_]

_TABLE = "traffic"


class RuleError(ValueError):
    """An expression that is no rule; the message says what is wrong and what there is."""


class Rule:
    """A checked expression; true is a hit."""

    def __init__(self, text: str, columns: pa.Schema, memory: str) -> None:
        """columns: of the payments. memory: DuckDB's limit, such as 1GB. Raises RuleError."""
        self.text = text
        self._connection = duckdb.connect(config={"memory_limit": memory})
        seal(self._connection)
        try:
            check_expression(self._connection, text, columns.names)
        except ExpressionError as error:
            raise RuleError(str(error)) from error
        dtype = self._answer(columns.empty_table()).schema.field("hit").type
        if not pa.types.is_boolean(dtype):
            raise RuleError(f"a rule must be true or false for a payment; {text!r} gives {dtype}")

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
            raise RuleError(f"{self.text!r}: {str(error).strip().splitlines()[0]}") from error
        finally:
            self._connection.unregister(_TABLE)
