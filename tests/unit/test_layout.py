"""The byte layout by known bytes and by round trips through the bulk encoders; Feast itself is asked in integration."""

import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_platform.online import columns, layout

INT64 = st.integers(-(2**63), 2**63 - 1)


def encoded(column: pa.Array, encoder: str, *arguments: int) -> list[bytes]:
    values: list[bytes] = getattr(columns, encoder)(column, *arguments).to_pylist()
    return values


def test_an_entity_key_is_counted_and_sized_and_ends_with_the_project() -> None:
    expected = (
        b"\x01\x00\x00\x00"  # one join key
        b"\x02\x00\x00\x00\x07\x00\x00\x00user_id"  # a string of 7 bytes
        b"\x02\x00\x00\x00\x03\x00\x00\x00\xc3\xa9x"  # its value, a string of 3 bytes
        b"shop"
    )
    assert layout.entity_key("shop", "user_id", "éx") == expected
    assert expected.startswith(layout.entity_key_prefix("user_id"))


def murmur3(data: bytes) -> int:
    """MurmurHash3 x86 32-bit, seed 0, by its definition."""
    mask, state = 0xFFFFFFFF, 0

    def scrambled(block: int) -> int:
        block = block * 0xCC9E2D51 & mask
        return ((block << 15 | block >> 17) & mask) * 0x1B873593 & mask

    whole = len(data) // 4 * 4
    for (block,) in struct.iter_unpack("<I", data[:whole]):
        state ^= scrambled(block)
        state = ((state << 13 | state >> 19) & mask) * 5 + 0xE6546B64 & mask
    state ^= scrambled(int.from_bytes(data[whole:], "little")) if data[whole:] else 0
    state ^= len(data)
    state = (state ^ state >> 16) * 0x85EBCA6B & mask
    state = (state ^ state >> 13) * 0xC2B2AE35 & mask
    return state ^ state >> 16


@pytest.mark.parametrize(("view", "feature"), [("user_vector", "vector"), ("merchant_vector", "vector"), ("é", "xyz")])
def test_a_field_is_the_little_endian_murmur3_of_view_and_feature(view: str, feature: str) -> None:
    assert layout.field(view, feature) == struct.pack("<I", murmur3(f"{view}:{feature}".encode()))
    assert layout.timestamp_field(view) == b"_ts:" + view.encode()


@pytest.mark.parametrize(
    ("microseconds", "message"),
    [(0, b""), (5_000_000, b"\x08\x05"), (999_999, b"\x10\x98\x8c\xeb\xdc\x03"), (300_000_000, b"\x08\xac\x02")],
)
def test_a_timestamp_leaves_out_zero_fields(microseconds: int, message: bytes) -> None:
    assert layout.encode_timestamp(microseconds) == message
    assert layout.timestamp(message) == microseconds


@given(st.integers(-(2**52), 2**52))
def test_a_timestamp_keeps_every_microsecond(microseconds: int) -> None:
    assert layout.timestamp(layout.encode_timestamp(microseconds)) == microseconds


@pytest.mark.parametrize("width", [1, 17, 31, 32, 50, 4_100])
def test_floats_of_any_width_keep_their_bits(width: int) -> None:
    bits = np.random.default_rng(width).integers(0, 2**32, (3, width), dtype=np.uint32)
    bits[:, 0] = [0x7FC00000, 0x80000000, 0x00000001]  # NaN, negative zero, the smallest subnormal
    column = pa.array(list(bits.view(np.float32)), pa.list_(pa.float32()))
    for value, expected in zip(encoded(column, "_floats", width), bits, strict=True):
        found = layout.floats(value)
        assert found.dtype == np.float32
        assert found.view(np.uint32).tolist() == expected.tolist()


def test_a_null_among_floats_is_the_canonical_nan() -> None:
    (value,) = encoded(pa.array([[None, 1.5]], pa.list_(pa.float32())), "_floats", 2)
    assert value == b"\x82\x01\x0a\x0a\x08\x00\x00\xc0\x7f\x00\x00\xc0\x3f"


@pytest.mark.parametrize("rows", [[[1.0], [2.0, 3.0, 4.0]], [None, [1.0, 2.0]], [[1.0, 2.0], []]])
def test_vectors_of_another_width_are_refused(rows: list[list[float] | None]) -> None:
    with pytest.raises(ValueError, match="must hold 2 values"):
        encoded(pa.array(rows, pa.list_(pa.float32())), "_floats", 2)


@given(st.lists(st.none() | INT64, min_size=1, max_size=20))
@settings(max_examples=50)
def test_integers_come_back(numbers: list[int | None]) -> None:
    assert [layout.int64(value) for value in encoded(pa.array(numbers, pa.int64()), "_int64")] == numbers


@given(st.lists(st.lists(INT64 | st.integers(-200, 20_000), max_size=8), min_size=1, max_size=12), st.integers(0, 3))
@settings(max_examples=50)
def test_lists_of_integers_come_back_also_from_a_slice(rows: list[list[int]], start: int) -> None:
    column = pa.array(rows, pa.list_(pa.int64()))[start:]
    assert [layout.int64s(value) for value in encoded(column, "_int64s")] == rows[start:]


@given(st.lists(st.lists(st.text(max_size=200), max_size=5), min_size=1, max_size=12), st.integers(0, 3))
@settings(max_examples=50)
def test_lists_of_strings_come_back_also_from_a_slice(rows: list[list[str]], start: int) -> None:
    column = pa.array(rows, pa.list_(pa.string()))[start:]
    assert [layout.strings(value) for value in encoded(column, "_strings")] == rows[start:]


def test_a_null_list_is_no_bytes_and_an_empty_list_is_an_empty_message() -> None:
    assert encoded(pa.array([None, [], ["DE"]], pa.list_(pa.string())), "_strings") == [b"", b"b\x00", b"b\x04\n\x02DE"]
    assert encoded(pa.array([[1], None, []], pa.list_(pa.int64())), "_int64s") == [b"r\x03\n\x01\x01", b"", b"r\x00"]
    assert layout.strings(b"") == layout.int64s(b"") == []
    assert layout.floats(b"").size == 0
    assert layout.int64(b"") is None


@pytest.mark.parametrize("decode", [layout.floats, layout.int64, layout.strings, layout.int64s])
def test_a_value_of_another_type_is_refused(decode: object) -> None:
    with pytest.raises(layout.LayoutError, match="expected"):
        decode(b"\x35\x00\x00\x00\x00")  # type: ignore[operator]
