"""Where rows name a person: as a value, in a list, in JSON, in a line that is no JSON, in an encoded record.

What belongs here: finding. What does not: how a person is written (`names`), what becomes of what was found (`rows`).
Every column is looked at but those that name something else, since a bank may number merchants like users; an
identifier that is part of another one, such as a transaction_id made of it, is not found.
"""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraud_platform.erasure.names import Names
from fraud_platform.inference_log.record import DecisionRecord, decode_record

Bools = NDArray[np.bool_]

OTHERS = frozenset(
    {"merchant_id", "merchants", "transaction_id", "decision_id", "caller", "country", "user_country", "countries"}
)
"""Columns and JSON keys whose values name something other than a user."""
SOURCE_TEXTS = ("row", "source_row")
"""Columns of a rejected row's own text."""


def searchable(schema: pa.Schema) -> list[str]:
    """Columns that can name somebody: texts, lists of texts, bytes."""
    kinds = (_is_text, _is_texts, _is_bytes)
    return [field.name for field in schema if field.name not in OTHERS and any(kind(field.type) for kind in kinds)]


def mentions(rows: pa.Table, names: Names) -> Bools:
    """Which rows name the person in any column."""
    found = np.zeros(rows.num_rows, bool)
    for name in searchable(rows.schema):
        found |= _mentioned(name, rows[name], names)
    return found


def owned(rows: pa.Table, names: Names) -> Bools:
    """Which rows are the person's own: by user_id, or where it is null by a device that is theirs alone."""
    found = np.zeros(rows.num_rows, bool)
    for name, values in (("user_id", names.users), ("device_id", sorted(names.devices))):
        if name in rows.column_names and _is_text(rows.schema.field(name).type):
            found |= _is_in(rows[name], values)
    return found


def _mentioned(name: str, column: pa.ChunkedArray, names: Names) -> Bools:
    """Which values of one searchable column name the person."""
    found = np.zeros(len(column), bool)
    if not len(column):
        return found
    if name in ("user_id", "device_id") and _is_text(column.type):
        return _is_in(column, names.users if name == "user_id" else sorted(names.devices))
    if _is_texts(column.type):
        lists = pa.chunked_array([column]).combine_chunks() if isinstance(column, pa.Array) else column.combine_chunks()
        hits = _is_in(pc.list_flatten(lists), names.users)
        found[pc.list_parent_indices(lists).filter(pa.array(hits)).to_numpy()] = True
        return found
    for position in np.flatnonzero(_maybe(column, names)):
        value = column[int(position)].as_py()
        found[position] = record_names(value, names) if isinstance(value, bytes) else text_names(name, value, names)
    return found


def _is_in(column: pa.ChunkedArray | pa.Array, values: list[str]) -> Bools:
    found: Bools = pc.fill_null(pc.is_in(column, pa.array(values, column.type)), False).to_numpy(zero_copy_only=False)
    return found


def _maybe(column: pa.ChunkedArray, names: Names) -> Bools:
    """Which values may name the person: quick, and never false where they do."""
    binary = _is_bytes(column.type)
    found = np.zeros(len(column), bool)
    for core in names.cores:
        hits = pc.match_substring(column, core.encode() if binary else core)
        found |= pc.fill_null(hits, False).to_numpy(zero_copy_only=False)
    if names.scientific is not None:
        hits = pc.match_substring_regex(column, names.scientific)
        found |= pc.fill_null(hits, False).to_numpy(zero_copy_only=False)
    if binary:
        hits = pc.match_substring_regex(column, names.hint)
        found |= pc.fill_null(hits, False).to_numpy(zero_copy_only=False)
        return found
    begin = 0
    for chunk in column.chunks:
        odd = np.flatnonzero(_odd(chunk))
        if len(odd):
            hits = pc.match_substring_regex(chunk.take(pa.array(odd)), names.hint)
            found[begin + odd] |= hits.to_numpy(zero_copy_only=False)
        begin += len(chunk)
    return found


def _odd(texts: pa.Array) -> Bools:
    """Which texts may stand otherwise than the rule of identity reads them; in most columns none does."""
    held = texts.buffers()[2]
    together = b"" if held is None else held.to_pybytes()
    if together.isascii() and b"\\" not in together and b"%" not in together:
        return np.zeros(len(texts), bool)
    odd = pc.invert(pc.string_is_ascii(texts))
    for mark in ("\\", "%"):
        odd = pc.or_(odd, pc.match_substring(texts, mark))
    found: Bools = pc.fill_null(odd, False).to_numpy(zero_copy_only=False)
    return found


def text_names(column: str, value: str, names: Names) -> bool:
    """Whether a column's text is the user's identifier, names the person, or is JSON that does."""
    if names.is_user(value):
        return True
    parsed = _json(value)
    if parsed is not None:
        return any(names.in_text(str(leaf)) for leaf in _leaves(parsed))
    return names.in_text(value) if column in SOURCE_TEXTS else names.in_prose(value)


def record_names(value: bytes, names: Names) -> bool:
    """Whether bytes are a decision record of the user's, or one that names the person, or no record and name them."""
    try:
        record = decode_record(value)
    except msgspec.MsgspecError:
        return names.in_bytes(value)
    return names.is_user(record.request.user_id) or bool(naming(record, names))


def naming(record: DecisionRecord, names: Names) -> list[str]:
    """Fields of the request, which may be empty, whose text names the person."""
    request = record.request
    told = {name: getattr(request, name) for name in ("merchant_category", "channel", "device_id")}
    return [
        name
        for name, value in told.items()
        if value is not None
        and (names.is_user(value) or names.in_prose(value) or (name == "device_id" and value in names.devices))
    ]


def texts_of(row: str) -> Iterator[str]:
    """The texts of a rejected row that may name a user: JSON's values, and the whole of what is no JSON."""
    parsed = _json(row)
    yield from (str(leaf) for leaf in _leaves(parsed)) if parsed is not None else [row]


def _json(text: str) -> Any:
    """An object or array; None of any other text."""
    if text[:1] in ("{", "["):
        try:
            return json.loads(text)
        except ValueError:
            return None
    return None


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in OTHERS:
                yield key
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
