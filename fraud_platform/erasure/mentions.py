"""Where rows name a user: as a value, in a list, in JSON, in an encoded record.

What belongs here: finding. What does not: what becomes of what was found (`rows`). Every column is looked at but those
that name something else, since a bank may number merchants like users. An identifier is found as a whole value; one
that is part of another value, such as a transaction_id made of it, is not.
"""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraud_platform.inference_log.record import decode_record

Bools = NDArray[np.bool_]

OTHERS = frozenset(
    {"merchant_id", "merchants", "transaction_id", "decision_id", "caller", "country", "user_country", "countries"}
)
"""Columns and JSON keys whose values name something other than a user."""


def searchable(schema: pa.Schema) -> list[str]:
    """Columns that can name somebody: texts, lists of texts, bytes."""
    kinds = (_is_text, _is_texts, _is_bytes)
    return [field.name for field in schema if field.name not in OTHERS and any(kind(field.type) for kind in kinds)]


def mentions(rows: pa.Table, user: str) -> Bools:
    """Which rows name the user in any column."""
    found = np.zeros(rows.num_rows, bool)
    for name in searchable(rows.schema):
        found |= mentioned(rows[name], user)
    return found


def mentioned(column: pa.ChunkedArray, user: str) -> Bools:
    """Which values of one searchable column name the user."""
    found = np.zeros(len(column), bool)
    if not len(column):
        return found
    if _is_texts(column.type):
        lists = pa.chunked_array([column]).combine_chunks() if isinstance(column, pa.Array) else column.combine_chunks()
        hits = pc.fill_null(pc.equal(pc.list_flatten(lists), user), False)
        found[pc.list_parent_indices(lists).filter(hits).to_numpy()] = True
        return found
    needle = user.encode() if _is_bytes(column.type) else user
    maybe = pc.fill_null(pc.match_substring(column, needle), False).to_numpy(zero_copy_only=False)
    for position in np.flatnonzero(maybe):
        found[position] = says(column[int(position)].as_py(), user)
    return found


def says(value: str | bytes, user: str) -> bool:
    """Whether a text is the identifier or JSON that names it, or bytes are a record that does.

    Bytes that are no record and hold the identifier anywhere count as naming it.
    """
    if isinstance(value, str):
        return value == user or any(str(leaf) == user for leaf in leaves(value))
    try:
        return decode_record(value).request.user_id == user
    except msgspec.MsgspecError:
        return user.encode() in value


def leaves(text: str) -> Iterator[Any]:
    """The values of a JSON object or array that may name a user; none of any other text."""
    if text[:1] in ("{", "["):
        with contextlib.suppress(ValueError):
            yield from _leaves(json.loads(text))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in OTHERS:
                yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_texts(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) and _is_text(kind.value_type))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
