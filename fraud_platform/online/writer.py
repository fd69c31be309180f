"""Bulk writer: an Arrow table of packed rows becomes Feast's bytes in Redis, at memory speed.

What belongs here: the Redis protocol of many rows, and sending it. What does not: which rows to write and when they are
in force (`snapshot_load`), the bytes of a value (`columns`).

Every row is one HSET and one PEXPIRE. A chunk of rows is built column by column as Arrow binary arrays and joined in
one call, so that no Python code runs per row. The next chunk is encoded while Redis works on the one before.
"""

import time
from collections.abc import Callable, Iterator

import pyarrow as pa
from redis import Connection, RedisCluster
from redis.exceptions import AskError, ClusterDownError, MovedError, ResponseError, TryAgainError

from fraud_platform.online import layout
from fraud_platform.online.columns import array_of, by_length, checked, content, encoded, entity_keys, join, timestamps
from fraud_platform.online.packed import EVENT_TIMESTAMP, PackedView
from fraud_platform.online.shards import RedisClient, by_master

CHUNK_ROWS = 8_192
"""Rows encoded and sent at once: some 6 MB of protocol."""
_CHUNKS_A_SECOND = 200
"""The least number of chunks of a paced write: Redis answers nobody else while it works one off."""

_REPLIES_PER_ROW = 2

_MOVES, _MOVE_PAUSE = 40, 0.25
"""How often, and after how many seconds, rows are written again whose slots a Cluster is moving."""


class WriteError(RuntimeError):
    """Redis refused a command of the bulk write; the rows before it may have been written."""


def write_packed(
    redis_client: RedisClient,
    project: str,
    view: PackedView,
    rows: pa.Table,
    *,
    key_prefix: bytes = b"",
    ttl_seconds: int,
    rows_per_second: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write packed rows as Feast's bytes and return how many.

    `rows` has the view's join key (string), `snapshot_at` (timestamp, us, UTC), `vector` (list<float32> of the view's
    length; a null element is stored as NaN) and the view's extras. Keys are `key_prefix` + Feast's key and expire after
    `ttl_seconds`. `rows_per_second` leaves Redis time for others; None takes all it has. `progress` is called with the
    rows acknowledged since its last call. An existing row is overwritten, whatever its timestamp. On a Cluster each
    master gets its rows, one after the other. Raises WriteError when Redis refuses a command, redis.ConnectionError
    when it goes away, ValueError for rows of another shape.
    """
    if ttl_seconds <= 0:
        raise ValueError(f"ttl_seconds must be positive, got {ttl_seconds}")
    if isinstance(redis_client, RedisCluster):
        return _write_sharded(redis_client, project, view, rows, key_prefix, ttl_seconds, rows_per_second, progress)
    pool = redis_client.connection_pool
    connection = pool.get_connection()
    try:
        unanswered, due = 0, time.monotonic()
        for size, commands in _encoded_chunks(project, view, rows, key_prefix, ttl_seconds, rows_per_second):
            _acknowledge(connection, unanswered, progress)
            if rows_per_second:
                time.sleep(max(0.0, due - time.monotonic()))
                # a pause of Redis is not made up for by a burst
                due = max(due, time.monotonic()) + size / rows_per_second
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


def _write_sharded(
    cluster: RedisCluster,
    project: str,
    view: PackedView,
    rows: pa.Table,
    key_prefix: bytes,
    ttl_seconds: int,
    rows_per_second: int | None,
    progress: Callable[[int], None] | None,
) -> int:
    identifiers = array_of(rows.combine_chunks(), view.join_key)
    keys = entity_keys(view.join_key, identifiers, prefix=key_prefix, suffix=project.encode()).to_pylist()
    left = list(range(len(keys)))
    for attempt in range(_MOVES):
        moved: list[int] = []
        for master, positions in by_master(cluster, [keys[position] for position in left]):
            own = [left[position] for position in positions]
            try:
                write_packed(
                    master, project, view, rows.take(own),
                    key_prefix=key_prefix, ttl_seconds=ttl_seconds, rows_per_second=rows_per_second, progress=progress,
                )  # fmt: skip
            except WriteError as error:
                if not isinstance(error.__cause__, (MovedError, AskError, TryAgainError, ClusterDownError)):
                    raise
                if attempt == _MOVES - 1:
                    raise
                # written again whole: a row written twice is the same row
                moved += own
        if not moved:
            return int(rows.num_rows)
        left = moved
        time.sleep(_MOVE_PAUSE)
        cluster.nodes_manager.initialize()
    raise AssertionError("unreachable: the last attempt raises")


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
    project: str, view: PackedView, rows: pa.Table, key_prefix: bytes, ttl_seconds: int, rows_per_second: int | None
) -> Iterator[tuple[int, memoryview]]:
    written = checked(view, rows)
    step = min(CHUNK_ROWS, max(rows_per_second // _CHUNKS_A_SECOND, 1)) if rows_per_second else CHUNK_ROWS
    for start in range(0, rows.num_rows, step):
        chunk = written.slice(start, step).combine_chunks()
        yield chunk.num_rows, _encode(project, view, chunk, key_prefix, ttl_seconds)


def _encode(project: str, view: PackedView, rows: pa.Table, key_prefix: bytes, ttl_seconds: int) -> memoryview:
    """The Redis protocol of one chunk of rows."""
    identifiers = array_of(rows, view.join_key)
    keys = _bulk(entity_keys(view.join_key, identifiers, prefix=key_prefix, suffix=project.encode()))
    parts: list[pa.Array | bytes] = [
        _header(2 + 2 * (1 + len(view.features)), b"HSET"),
        keys,
        _argument(layout.timestamp_field(view.name)),
        _bulk(timestamps(array_of(rows, EVENT_TIMESTAMP))),
    ]
    for name, kind in view.features:
        parts += [_argument(layout.field(view.name, name)), _bulk(encoded(view, rows, name, kind))]
    parts += [_header(3, b"PEXPIRE"), keys, _argument(b"%d" % (ttl_seconds * 1_000))]
    return content(join(parts))


def _header(arguments: int, command: bytes) -> bytes:
    return b"*%d\r\n" % arguments + _argument(command)


def _argument(value: bytes) -> bytes:
    return b"$%d\r\n" % len(value) + value + b"\r\n"


def _bulk(values: pa.Array) -> pa.Array:
    """A binary column as arguments of the Redis protocol."""
    return join([by_length(values, lambda size: b"$%d\r\n" % size), values, b"\r\n"])
