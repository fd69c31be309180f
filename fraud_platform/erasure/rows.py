"""What becomes of rows that name an erased user: the pseudonym in the identifier's place, device and location gone.

What belongs here: columns and records. What does not: which files (`files`), which rows (`mentions`).

The same pseudonym stands in every table, so that whatever is counted over users, sums of merchants above all, stays as
it was, also when it is built again. `device_is_new` is emptied with the device, in training set and record alike, or a
replay would find them differing.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraud_platform.erasure.mentions import OTHERS, Bools, naming, owned, text_names
from fraud_platform.erasure.names import Names
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.inference_log.record import (
    DecisionRecord,
    decode_record,
    encode_record,
    hash_of_request,
    vector_bytes,
)

DEVICE_IS_NEW = "device_is_new"
EMPTIED = ("device_id", "device_key", "devices", "known_devices", "latitude", "longitude", DEVICE_IS_NEW)
"""Columns that are null for an erased user, as they are where no device is known."""

_POSITION = CATALOGUE.names.index(DEVICE_IS_NEW) - len(CATALOGUE.names)
"""Where it stands in the vector of any set, from the end: request features are every set's last block."""

Pseudonyms = Mapping[str, str]
"""The name in the place of each spelling of the user's identifier."""


def anonymised(rows: pa.Table, theirs: Bools, names: Names, pseudonyms: Pseudonyms) -> pa.Table:
    """The rows without the person in `theirs`, those that name them; schema and order stay.

    Their own rows are the pseudonym's then. Of another user's row the text goes that names them, and nothing else.
    """
    if not theirs.any():
        return rows
    own = theirs & owned(rows, names)
    changed = [_column(rows, field, theirs, own, names, pseudonyms) for field in rows.schema]
    return pa.table(changed, schema=rows.schema)


def _column(
    rows: pa.Table, field: pa.Field, theirs: Bools, own: Bools, names: Names, pseudonyms: Pseudonyms
) -> pa.ChunkedArray:
    kind, name, column = field.type, field.name, rows[field.name]
    if name in OTHERS:
        return column
    if name in EMPTIED:
        return pc.if_else(pa.array(own), pa.scalar(None, kind), column)
    if pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
        # lists of a tile's members are in order
        return _each(column, kind, theirs, lambda value: _renamed(value, pseudonyms))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _each(column, kind, theirs, lambda value: _text(field, value, names, pseudonyms))
    if name == "record":
        return _each(column, kind, theirs, lambda value: anonymised_record(value, names, pseudonyms))
    if name == "vector" and "catalogue_hash" in rows.column_names:
        return _each(column, kind, own, _without_device)
    return column


def _each(column: pa.ChunkedArray, kind: pa.DataType, theirs: Bools, change: Callable[[Any], Any]) -> pa.Array:
    """The column with some values changed; a null stays one."""
    positions = np.flatnonzero(theirs)
    values = [column[int(position)].as_py() for position in positions]
    made = pa.array([None if value is None else change(value) for value in values], kind)
    order = np.arange(len(column))
    order[positions] = len(column) + np.arange(len(positions))
    return pa.concat_arrays([*_chunks(column), made]).take(pa.array(order))


def _chunks(column: pa.ChunkedArray | pa.Array) -> list[pa.Array]:
    return list(column.chunks) if isinstance(column, pa.ChunkedArray) else [column]


def _renamed(members: list[str], pseudonyms: Pseudonyms) -> list[str]:
    return sorted(pseudonyms.get(member, member) for member in members) if set(members) & set(pseudonyms) else members


def _text(field: pa.Field, value: str, names: Names, pseudonyms: Pseudonyms) -> str | None:
    if value in pseudonyms:
        return pseudonyms[value]
    if text_names(field.name, value, names):
        # a source's own row beside a column of its own, or what a caller wrote
        return None if field.nullable else ""
    return value


def _without_device(vector: Sequence[float] | NDArray[np.float32]) -> NDArray[np.float32]:
    emptied = np.array(vector, np.float32)
    emptied[_POSITION : _POSITION + 1] = np.nan
    return emptied


def anonymised_record(payload: bytes, names: Names, pseudonyms: Pseudonyms) -> bytes:
    """An encoded decision record without the person. Raises msgspec.MsgspecError for bytes that are no record."""
    record: DecisionRecord = decode_record(payload)
    request, vector, other = record.request, record.values, record.other_seen
    emptied: dict[str, Any] = dict.fromkeys(naming(record, names))
    if request.user_id in pseudonyms:
        emptied |= {"user_id": pseudonyms[request.user_id], "device_id": None, "latitude": None, "longitude": None}
        vector = _without_device(vector)
        if other is not None:
            other = msgspec.structs.replace(other, vector=vector_bytes(_without_device(other.values)))
    request = msgspec.structs.replace(request, **emptied)
    return encode_record(
        msgspec.structs.replace(
            # a hash of the old body would confirm a guess of who paid
            record,
            request=request,
            request_hash=hash_of_request(request, record.schema_version),
            vector=vector_bytes(vector),
            other_seen=other,
        )
    )
