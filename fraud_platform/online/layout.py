"""Feast's Redis byte layout, read and written without importing Feast, whose import takes ten seconds.

What belongs here: keys, hash fields and protobuf values of entity key serialization version 3, one value at a time.
What does not: Redis connections and bulk encoding (`writer`). Feast is pinned exactly; a contract test holds every
function here against Feast's own helpers and message classes, byte for byte.
"""

import struct
from functools import cache

import mmh3
import numpy as np
from numpy.typing import NDArray

_pack_length = struct.Struct("<I").pack
_STRING = struct.pack("<I", 2)  # feast.types.ValueType.STRING
_ONE = struct.pack("<I", 1)

# Tags of feast.types.Value's fields: number << 3 | wire type.
INT64_TAG = b"\x20"
STRING_LIST_TAG = b"\x62"
INT64_LIST_TAG = b"\x72"
FLOAT_LIST_TAG = b"\x82\x01"
ELEMENT_TAG = b"\x0a"
"""Tag of the one repeated field of each list message."""

_NANOS_TAG = 0x10
_SIGN = 1 << 63


class LayoutError(ValueError):
    """Bytes that are not the message that the layout expects; the message names what was read."""


def entity_key(project: str, join_key: str, value: str) -> bytes:
    """Redis key of one string-valued entity: Feast's serialized entity key, then the project."""
    text = value.encode()
    return b"%b%b%b%b" % (entity_key_prefix(join_key), _pack_length(len(text)), text, project.encode())


@cache
def entity_key_prefix(join_key: str) -> bytes:
    """The bytes that every key of one join key begins with: all but the value's length, the value and the project."""
    return b"".join((_ONE, _STRING, _sized(join_key.encode()), _STRING))


def field(view: str, feature: str) -> bytes:
    """Hash field of a feature: murmur3 of `view:feature`, four bytes little-endian."""
    return struct.pack("<I", mmh3.hash(f"{view}:{feature}", signed=False))


def timestamp_field(view: str) -> bytes:
    """Hash field that holds the event timestamp of a view's row."""
    return b"_ts:" + view.encode()


@cache
def floats_head(width: int) -> bytes:
    """What an Array(Float32) value of `width` elements begins with: all but the raw little-endian floats."""
    inner = ELEMENT_TAG + varint(4 * width)
    return FLOAT_LIST_TAG + varint(len(inner) + 4 * width) + inner


def floats(value: bytes) -> NDArray[np.float32]:
    """An Array(Float32) value as a read-only view of its bytes; a null is an array of length 0. Raises LayoutError."""
    if not value:
        return np.empty(0, np.float32)
    if value[:2] != FLOAT_LIST_TAG:
        raise LayoutError(f"expected Array(Float32), got {value[:8]!r}")
    if value[2] == 0:
        return np.empty(0, np.float32)
    if value[2] < 0x80:  # 31 floats or fewer: both lengths take one byte
        return np.frombuffer(value, "<f4", offset=5)
    _, start = _varint(value, 2)
    _, start = _varint(value, start + 1)
    return np.frombuffer(value, "<f4", offset=start)


def int64(value: bytes) -> int | None:
    """An Int64 value; None for a null. Raises LayoutError."""
    if not value:
        return None
    if value[:1] != INT64_TAG:
        raise LayoutError(f"expected Int64, got {value[:8]!r}")
    number, end = _varint(value, 1)
    if end != len(value):
        raise LayoutError(f"an Int64 has {len(value) - end} bytes too many")
    return _signed(number)


def strings(value: bytes) -> list[str]:
    """An Array(String) value; a null is an empty list. Raises LayoutError."""
    if not value:
        return []
    if value[:1] != STRING_LIST_TAG:
        raise LayoutError(f"expected Array(String), got {value[:8]!r}")
    size, position = _varint(value, 1)
    if position + size != len(value):
        raise LayoutError("an Array(String) is of another length than it says")
    found = []
    while position < len(value):
        size, start = _varint(value, position + 1)
        position = start + size
        found.append(value[start:position].decode())
    if position != len(value):
        raise LayoutError("an Array(String) ends within an element")
    return found


def int64s(value: bytes) -> list[int]:
    """An Array(Int64) value; a null is an empty list. Raises LayoutError."""
    if not value:
        return []
    if value[:1] != INT64_LIST_TAG:
        raise LayoutError(f"expected Array(Int64), got {value[:8]!r}")
    size, position = _varint(value, 1)
    if position + size != len(value):
        raise LayoutError("an Array(Int64) is of another length than it says")
    if size == 0:
        return []
    size, position = _varint(value, position + 1)
    if position + size != len(value):
        raise LayoutError("an Array(Int64) is of another length than it says")
    found = []
    while position < len(value):
        number, position = _varint(value, position)
        found.append(_signed(number))
    return found


def timestamp(value: bytes) -> int:
    """A row's event timestamp (google.protobuf.Timestamp) in UTC microseconds since 1970."""
    seconds = nanos = position = 0
    while position < len(value):
        tag = value[position]
        number, position = _varint(value, position + 1)
        if tag == _NANOS_TAG:
            nanos = number
        else:
            seconds = _signed(number)
    return seconds * 1_000_000 + nanos // 1_000


def encode_timestamp(microseconds: int) -> bytes:
    """Inverse of `timestamp`; zero fields are left out, as protobuf does."""
    seconds, rest = divmod(microseconds, 1_000_000)
    encoded = b"\x08" + varint(seconds) if seconds else b""
    return encoded + (bytes((_NANOS_TAG,)) + varint(rest * 1_000) if rest else b"")


def varint(number: int) -> bytes:
    """Protobuf's base-128 varint; a negative number is taken as two's complement in 64 bits, ten bytes long."""
    number &= (1 << 64) - 1
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _sized(text: bytes) -> bytes:
    return _pack_length(len(text)) + text


def _varint(value: bytes, position: int) -> tuple[int, int]:
    """The varint at `position` and the position behind it."""
    number = shift = 0
    while True:
        byte = value[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7


def _signed(number: int) -> int:
    return number - (1 << 64) if number & _SIGN else number
