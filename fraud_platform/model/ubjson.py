"""UBJSON in the subset that XGBoost writes, from bytes that nobody vouches for: read without recursion, within bounds.

What belongs here: reading, and writing what a model of plain numbers needs. What does not: what a document must hold
(`model_file` for trees, `linear_file`).
"""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 256 * 1024 * 1024
_MAX_DEPTH = 16
"""Of objects and lists; XGBoost writes 6."""
_MAX_VALUES = 20_000_000
_NUMBERS = {b"i": ">b", b"U": ">B", b"I": ">h", b"l": ">i", b"L": ">q", b"d": ">f", b"D": ">d"}
_ARRAYS = {b"U": ">u1", b"i": ">i1", b"I": ">i2", b"l": ">i4", b"L": ">i8", b"d": ">f4", b"D": ">f8"}


class ModelFileError(ValueError):
    """Bytes that are no model of this platform's kind; the message says where it stops being one."""


def read_document(payload: bytes) -> dict[str, Any]:
    """The one object of the payload; typed arrays as NumPy arrays. Raises ModelFileError."""
    return _Reader(payload).read()


def write_numbers(document: dict[str, dict[str, NDArray[np.float64]]]) -> bytes:
    """Named groups of named float64 arrays (n,) as one object, bit for bit."""
    parts = [b"{"]
    for group, arrays in document.items():
        parts += [_key(group), b"{"]
        for name, numbers in arrays.items():
            parts += [_key(name), b"[$D#L", struct.pack(">q", len(numbers)), np.asarray(numbers, ">f8").tobytes()]
        parts.append(b"}")
    return b"".join([*parts, b"}"])


def check_keys(value: Any, where: str, expected: set[str]) -> None:
    """Pass an object of exactly these keys. Raises ModelFileError."""
    if not isinstance(value, dict) or value.keys() != expected:
        found = sorted(value)[:20] if isinstance(value, dict) else type(value).__name__
        raise ModelFileError(f"{where or 'the file'} should have the keys {sorted(expected)}, not {found}")


def _key(name: str) -> bytes:
    encoded = name.encode()
    return b"L" + struct.pack(">q", len(encoded)) + encoded


class _Reader:
    """Counted lists, typed arrays, objects, no two keys alike."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._at = 0

    def read(self) -> dict[str, Any]:
        """See `read_document`."""
        if len(self._payload) > MAX_BYTES:
            raise ModelFileError(f"is larger than {MAX_BYTES:,} bytes")
        if self._take(1) != b"{":
            raise self._wrong("no object")
        whole: dict[str, Any] = {}
        open_: list[tuple[dict[str, Any] | list[Any], int]] = [(whole, 0)]
        """The objects and lists that are not read to their end, and how many values each list still waits for."""
        values = 0
        while open_:
            container, left = open_[-1]
            if isinstance(container, dict):
                if self._peek() == b"}":
                    self._at += 1
                    open_.pop()
                    continue
                key = self._key(container)
            elif left == 0:
                open_.pop()
                continue
            else:
                open_[-1] = container, left - 1
            values += 1
            if values > _MAX_VALUES or len(open_) > _MAX_DEPTH:
                raise self._wrong(f"more than {_MAX_VALUES:,} values or {_MAX_DEPTH} levels")
            value, waits = self._value()
            if isinstance(container, dict):
                container[key] = value
            else:
                container.append(value)
            if isinstance(value, dict) or waits:
                open_.append((value, waits))
        if self._at != len(self._payload):
            raise self._wrong("bytes after the end")
        return whole

    def _key(self, container: dict[str, Any]) -> str:
        if self._take(1) != b"L":
            raise self._wrong("no key")
        key = self._text()
        if key in container:
            raise self._wrong(f"{key!r} a second time")
        return key

    def _value(self) -> tuple[Any, int]:
        """A value, and how many values follow that are its own."""
        mark = self._take(1)
        if mark == b"{":
            return {}, 0
        if mark == b"[":
            return self._array()
        if mark == b"S":
            if self._take(1) != b"L":
                raise self._wrong("no length")
            return self._text(), 0
        if mark in _NUMBERS:
            return self._number(_NUMBERS[mark]), 0
        raise self._wrong(f"{mark!r}, which begins no value")

    def _array(self) -> tuple[Any, int]:
        mark = self._take(1)
        if mark == b"$":
            kind = _ARRAYS.get(self._take(1))
            if kind is None or self._take(2) != b"#L":
                raise self._wrong("no typed array")
            dtype = np.dtype(kind)
            length = self._length(dtype.itemsize)
            return np.frombuffer(self._take(length * dtype.itemsize), dtype).astype(dtype.newbyteorder("=")), 0
        if mark == b"#" and self._take(1) == b"L":
            return [], self._length(1)
        raise self._wrong("no counted list")

    def _text(self) -> str:
        try:
            return self._take(self._length(1)).decode()
        except UnicodeDecodeError as error:
            raise self._wrong("text that is not UTF-8") from error

    def _length(self, bytes_each: int) -> int:
        length = int(self._number(">q"))
        if not 0 <= length <= (len(self._payload) - self._at) // bytes_each:
            raise self._wrong(f"a length of {length:,}, more than the file has left")
        return length

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _peek(self) -> bytes:
        return self._payload[self._at : self._at + 1]

    def _take(self, count: int) -> bytes:
        found = self._payload[self._at : self._at + count]
        if len(found) != count:
            raise self._wrong("the end of the file")
        self._at += count
        return found

    def _wrong(self, what: str) -> ModelFileError:
        return ModelFileError(f"has {what} at byte {self._at:,}")
