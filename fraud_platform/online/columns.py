"""Columns of packed rows as Feast's bytes, a whole column at a time.

What belongs here: vectorised encoding of keys, values and timestamps. What does not: sending them (`writer`,
`cold_writer`), the layout of a single value (`layout`).
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraud_platform.online import layout
from fraud_platform.online.packed import EVENT_TIMESTAMP, VECTOR, Kind, PackedView


def checked(view: PackedView, rows: pa.Table) -> pa.Table:
    """The columns that are written, in order. Raises ValueError when one is missing."""
    columns = [view.join_key, EVENT_TIMESTAMP, *(name for name, _ in view.features)]
    missing = [name for name in columns if name not in rows.column_names]
    if missing:
        raise ValueError(f"rows of {view.name} lack the columns {', '.join(missing)}")
    return rows.select(columns)


def encoded(view: PackedView, rows: pa.Table, name: str, kind: Kind) -> pa.Array:
    """One feature's values as Feast's protobuf bytes. Raises ValueError for rows of another shape."""
    values = array_of(rows, name)
    return _floats(values, len(view.vector)) if name == VECTOR else _ENCODERS[kind](values)


def array_of(rows: pa.Table, name: str) -> pa.Array:
    """A column as one array."""
    column = rows[name]
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def join(parts: list[pa.Array | bytes]) -> pa.Array:
    """Concatenate byte columns and constants row by row."""
    columns = [pa.scalar(part, pa.binary()) if isinstance(part, bytes) else part for part in parts]
    return pc.binary_join_element_wise(*columns, pa.scalar(b"", pa.binary()))


def content(joined: pa.Array) -> memoryview:
    """The bytes of a binary column, end to end."""
    offsets = np.frombuffer(joined.buffers()[1], np.int32, len(joined) + 1, joined.offset * 4)
    return memoryview(joined.buffers()[2])[offsets[0] : offsets[-1]]


def by_length(values: pa.Array, render: Callable[[int], bytes]) -> pa.Array:
    """What `render` makes of each value's length in bytes; lengths repeat, so each is rendered once."""
    lengths = pc.dictionary_encode(pc.binary_length(values))
    rendered = pa.array([render(size) for size in lengths.dictionary.to_pylist()], pa.binary())
    return rendered.take(lengths.indices)


def _sized(tag: bytes, values: pa.Array) -> pa.Array:
    """Length-delimited protobuf fields: tag, length, bytes."""
    return join([tag, by_length(values, layout.varint), values])


def entity_keys(join_key: str, values: pa.Array, *, prefix: bytes = b"", suffix: bytes = b"") -> pa.Array:
    """Feast's serialized entity keys between a prefix and a suffix. Raises ValueError for a null."""
    if values.null_count:
        raise ValueError(f"{join_key} is null in {values.null_count} rows")
    names = values.cast(pa.binary())
    sizes = by_length(names, lambda size: size.to_bytes(4, "little"))
    return join([prefix + layout.entity_key_prefix(join_key), sizes, names, suffix])


def timestamps(values: pa.Array) -> pa.Array:
    """Event timestamps as protobuf. Snapshots share few instants, so each is encoded once."""
    if values.null_count:
        raise ValueError(f"{EVENT_TIMESTAMP} is null in {values.null_count} rows")
    instants = pc.dictionary_encode(values.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()))
    encoded = pa.array([layout.encode_timestamp(at) for at in instants.dictionary.to_pylist()], pa.binary())
    return encoded.take(instants.indices)


def _floats(values: pa.Array, width: int) -> pa.Array:
    """Array(Float32) of one width: a fixed header and the raw little-endian floats."""
    flat = values.flatten()
    fixed = pa.types.is_fixed_size_list(values.type) or pc.all(pc.equal(pc.list_value_length(values), width)).as_py()
    if values.null_count or len(flat) != len(values) * width or not fixed:
        raise ValueError(f"every {VECTOR} must hold {width} values")
    raw = pc.fill_null(flat.cast(pa.float32()), np.float32("nan")).to_numpy().astype("<f4", copy=False)
    header = layout.floats_head(width)
    size = len(header) + 4 * width
    out = np.empty((len(values), size), np.uint8)
    out[:, : len(header)] = np.frombuffer(header, np.uint8)
    out[:, len(header) :] = raw.view(np.uint8).reshape(len(values), 4 * width)
    return _binary(out.reshape(-1), np.arange(0, out.size + 1, size))


def _int64(values: pa.Array) -> pa.Array:
    present = join([layout.INT64_TAG, _varints(pc.fill_null(values, 0))])
    return pc.if_else(values.is_valid(), present, pa.scalar(b"", pa.binary()))


def _strings(values: pa.Array) -> pa.Array:
    flat = _sized(layout.ELEMENT_TAG, pc.fill_null(values.flatten().cast(pa.binary()), b""))
    return _present(values, _sized(layout.STRING_LIST_TAG, _concatenated(flat, values)))


def _int64s(values: pa.Array) -> pa.Array:
    numbers = values.flatten()
    if numbers.null_count:
        raise ValueError("a list of integers holds a null, which Feast cannot store")
    body = _concatenated(_varints(numbers), values)
    inner = pc.if_else(pc.equal(pc.binary_length(body), 0), pa.scalar(b"", pa.binary()), _sized(b"\x0a", body))
    return _present(values, _sized(layout.INT64_LIST_TAG, inner))


_ENCODERS: dict[Kind, Callable[[pa.Array], pa.Array]] = {"int64": _int64, "strings": _strings, "int64s": _int64s}


def _present(values: pa.Array, encoded: pa.Array) -> pa.Array:
    """Feast stores a null as no bytes at all."""
    return pc.if_else(values.is_valid(), encoded, pa.scalar(b"", pa.binary())) if values.null_count else encoded


def _concatenated(flat: pa.Array, lists: pa.Array) -> pa.Array:
    """The encoded elements of each list, one after the other. A binary column's rows lie end to end, so only the
    offsets change."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    ends = np.concatenate(([0], np.cumsum(lengths)))
    offsets = np.frombuffer(flat.buffers()[1], np.int32, len(flat) + 1, flat.offset * 4)
    return pa.Array.from_buffers(
        pa.binary(), len(lists), [None, pa.py_buffer(offsets[ends].astype(np.int32)), flat.buffers()[2]]
    )


def _varints(values: pa.Array) -> pa.Array:
    """Protobuf varints of an int64 column without nulls; negative numbers take ten bytes."""
    rest = values.to_numpy(zero_copy_only=False).astype(np.int64).view(np.uint64)
    groups = np.empty((len(rest), 10), np.uint8)
    for position in range(10):
        groups[:, position] = rest & np.uint64(0x7F)
        rest = rest >> np.uint64(7)
    used = np.maximum(10 - np.argmax(groups[:, ::-1] != 0, axis=1), 1)
    used[~groups.any(axis=1)] = 1
    positions = np.arange(10)
    groups |= np.where(positions < used[:, None] - 1, np.uint8(0x80), np.uint8(0))
    return _binary(groups[positions < used[:, None]], np.concatenate(([0], np.cumsum(used))))


def _binary(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> pa.Array:
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(np.ascontiguousarray(data))]
    return pa.Array.from_buffers(pa.binary(), len(offsets) - 1, buffers)
