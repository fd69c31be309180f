"""Bulk writer: an Arrow table of packed rows becomes Feast's bytes in Redis, at memory speed.

What belongs here: vectorised encoding of Feast's layout and of the Redis protocol, and sending it. What does not: which
rows to write and when they are in force (`snapshot_load`), the layout of a single value (`layout`).

Every row is one HSET and one PEXPIRE. A chunk of rows is built column by column as Arrow binary arrays and joined in
one call, so that no Python code runs per row. The next chunk is encoded while Redis works on the one before.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from redis import Connection, Redis
from redis.exceptions import ResponseError

from fraud_platform.online import layout
from fraud_platform.online.packed import EVENT_TIMESTAMP, VECTOR, Kind, PackedView

CHUNK_ROWS = 8_192
"""Rows encoded and sent at once: some 6 MB of protocol."""

_REPLIES_PER_ROW = 2


class WriteError(RuntimeError):
    """Redis refused a command of the bulk write; the rows before it may have been written."""


def write_packed(
    redis_client: Redis,
    project: str,
    view: PackedView,
    rows: pa.Table,
    *,
    key_prefix: bytes = b"",
    ttl_seconds: int,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write packed rows as Feast's bytes and return how many.

    `rows` has the view's join key (string), `snapshot_at` (timestamp, us, UTC), `vector` (list<float32> of the view's
    length; a null element is stored as NaN) and the view's extras. Keys are `key_prefix` + Feast's key and expire after
    `ttl_seconds`. `progress` is called with the rows acknowledged since its last call. An existing row is overwritten,
    whatever its timestamp. Raises WriteError when Redis refuses a command, redis.ConnectionError when it goes away,
    ValueError for rows of another shape.
    """
    if ttl_seconds <= 0:
        raise ValueError(f"ttl_seconds must be positive, got {ttl_seconds}")
    pool = redis_client.connection_pool
    connection = pool.get_connection()
    try:
        unanswered = 0
        for size, commands in _encoded_chunks(project, view, rows, key_prefix, ttl_seconds):
            _acknowledge(connection, unanswered, progress)
            connection.send_packed_command([commands])  # type: ignore[no-untyped-call]
            unanswered = size
        _acknowledge(connection, unanswered, progress)
    except BaseException:
        # replies that nobody read must not meet the connection's next user
        connection.disconnect()  # type: ignore[no-untyped-call]
        raise
    finally:
        pool.release(connection)
    return int(rows.num_rows)


def _acknowledge(connection: Connection, size: int, progress: Callable[[int], None] | None) -> None:
    if not size:
        return
    try:
        for _ in range(size * _REPLIES_PER_ROW):
            connection.read_response()  # type: ignore[no-untyped-call]
    except ResponseError as error:
        raise WriteError(f"the online store refused a row: {error}") from error
    if progress:
        progress(size)


def _encoded_chunks(
    project: str, view: PackedView, rows: pa.Table, key_prefix: bytes, ttl_seconds: int
) -> Iterator[tuple[int, memoryview]]:
    columns = [view.join_key, EVENT_TIMESTAMP, *(name for name, _ in view.features)]
    missing = [name for name in columns if name not in rows.column_names]
    if missing:
        raise ValueError(f"rows of {view.name} lack the columns {', '.join(missing)}")
    for start in range(0, rows.num_rows, CHUNK_ROWS):
        chunk = rows.select(columns).slice(start, CHUNK_ROWS).combine_chunks()
        yield chunk.num_rows, _encode(project, view, chunk, key_prefix, ttl_seconds)


def _encode(project: str, view: PackedView, rows: pa.Table, key_prefix: bytes, ttl_seconds: int) -> memoryview:
    """The Redis protocol of one chunk of rows."""
    keys = _bulk(_keys(project, view.join_key, _array(rows, view.join_key), key_prefix))
    parts: list[pa.Array | bytes] = [
        _header(2 + 2 * (1 + len(view.features)), b"HSET"),
        keys,
        _argument(layout.timestamp_field(view.name)),
        _bulk(_timestamps(_array(rows, EVENT_TIMESTAMP))),
    ]
    for name, kind in view.features:
        values = _array(rows, name)
        encoded = _floats(values, len(view.vector)) if name == VECTOR else _ENCODERS[kind](values)
        parts += [_argument(layout.field(view.name, name)), _bulk(encoded)]
    parts += [_header(3, b"PEXPIRE"), keys, _argument(b"%d" % (ttl_seconds * 1_000))]
    joined = _join(parts)
    offsets = np.frombuffer(joined.buffers()[1], np.int32, len(joined) + 1, joined.offset * 4)
    return memoryview(joined.buffers()[2])[offsets[0] : offsets[-1]]


def _array(rows: pa.Table, name: str) -> pa.Array:
    column = rows[name]
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _join(parts: list[pa.Array | bytes]) -> pa.Array:
    """Concatenate byte columns and constants row by row."""
    columns = [pa.scalar(part, pa.binary()) if isinstance(part, bytes) else part for part in parts]
    return pc.binary_join_element_wise(*columns, pa.scalar(b"", pa.binary()))


def _header(arguments: int, command: bytes) -> bytes:
    return b"*%d\r\n" % arguments + _argument(command)


def _argument(value: bytes) -> bytes:
    return b"$%d\r\n" % len(value) + value + b"\r\n"


def _bulk(values: pa.Array) -> pa.Array:
    """A binary column as arguments of the Redis protocol."""
    return _join([_by_length(values, lambda size: b"$%d\r\n" % size), values, b"\r\n"])


def _by_length(values: pa.Array, render: Callable[[int], bytes]) -> pa.Array:
    """What `render` makes of each value's length in bytes; lengths repeat, so each is rendered once."""
    lengths = pc.dictionary_encode(pc.binary_length(values))
    rendered = pa.array([render(size) for size in lengths.dictionary.to_pylist()], pa.binary())
    return rendered.take(lengths.indices)


def _sized(tag: bytes, values: pa.Array) -> pa.Array:
    """Length-delimited protobuf fields: tag, length, bytes."""
    return _join([tag, _by_length(values, layout.varint), values])


def _keys(project: str, join_key: str, values: pa.Array, key_prefix: bytes) -> pa.Array:
    if values.null_count:
        raise ValueError(f"{join_key} is null in {values.null_count} rows")
    names = values.cast(pa.binary())
    sizes = _by_length(names, lambda size: size.to_bytes(4, "little"))
    return _join([key_prefix + layout.entity_key_prefix(join_key), sizes, names, project.encode()])


def _timestamps(values: pa.Array) -> pa.Array:
    """Snapshots share few instants, so each is encoded once."""
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
    inner = layout.ELEMENT_TAG + layout.varint(4 * width)
    header = layout.FLOAT_LIST_TAG + layout.varint(len(inner) + 4 * width) + inner
    size = len(header) + 4 * width
    out = np.empty((len(values), size), np.uint8)
    out[:, : len(header)] = np.frombuffer(header, np.uint8)
    out[:, len(header) :] = raw.view(np.uint8).reshape(len(values), 4 * width)
    return _binary(out.reshape(-1), np.arange(0, out.size + 1, size))


def _int64(values: pa.Array) -> pa.Array:
    present = _join([layout.INT64_TAG, _varints(pc.fill_null(values, 0))])
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
