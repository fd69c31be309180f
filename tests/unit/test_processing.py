"""Event time, device fingerprints and duplicates, against plain code."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_platform.processing import CountedRows, device_key, device_keys, event_time, mark_duplicates

MINUTE, HOUR, DAY = 60_000_000, 3_600_000_000, 86_400_000_000
NOW = 1_700_000_000_000_000


@pytest.mark.parametrize(
    ("offset", "skewed"),
    [
        (0, False),
        (5 * MINUTE, False),
        (5 * MINUTE + 1, True),
        (-DAY, False),
        (-DAY - 1, True),
        (-10_000 * DAY, True),
        (10_000 * DAY, True),
    ],
)
def test_a_timestamp_stands_up_to_five_minutes_ahead_and_a_day_behind(offset, skewed):
    expected = NOW if skewed else NOW + offset
    assert event_time(NOW + offset, NOW) == (expected, skewed)
    times, skews = event_time(np.array([NOW + offset, NOW]), np.array([NOW, NOW]))
    assert times.tolist() == [expected, NOW]
    assert skews.tolist() == [skewed, False]


def test_a_device_has_the_same_fingerprint_alone_and_in_a_column():
    devices = ["d-1", None, "d-2", "d-1", "", "Gerät 7"]
    column = device_keys(pa.chunked_array([devices[:3], devices[3:]], pa.string()))
    assert column.type == pa.int64()
    assert column.to_pylist() == [None if device is None else device_key(device) for device in devices]
    expected = np.frombuffer(hashlib.blake2b("Gerät 7".encode(), digest_size=8).digest(), "<i8")[0]
    assert device_key("Gerät 7") == int(expected)


def test_a_fingerprint_is_the_same_tomorrow():
    # printf device-1 | b2sum -l 64, little endian
    assert device_key("device-1") == -1_482_442_332_260_067_413


def naive_duplicates(rows, earlier):
    """For each row in order: is there any counted row of its id less than 24 hours back?"""
    counted = list(earlier)
    marks = []
    for name, at in rows:
        repeat = any(other == name and at - when < DAY for other, when in counted)
        marks.append(repeat)
        if not repeat:
            counted.append((name, at))
    return marks


instants = st.one_of(st.integers(0, DAY - 1), st.sampled_from([0, 1, DAY // 2, DAY // 2 + 1, DAY - 1]))
named = st.tuples(st.sampled_from("abc"), instants)


@given(today=st.lists(named, max_size=12), yesterday=st.lists(named, max_size=12))
def test_duplicates_equal_the_definition(today, yesterday):
    rows = sorted(((name, DAY + at) for name, at in today), key=lambda row: (row[1], row[0]))
    before = sorted(yesterday, key=lambda row: (row[1], row[0]))
    counted = [row for row, repeat in zip(before, naive_duplicates(before, []), strict=True) if not repeat]
    earlier = CountedRows(
        pa.array([name for name, _ in counted], pa.string()), np.array([at for _, at in counted], np.int64)
    )
    found = mark_duplicates(
        pa.array([name for name, _ in rows], pa.string()), np.array([at for _, at in rows], np.int64), earlier
    )
    assert found.tolist() == naive_duplicates(rows, counted)


def test_a_row_exactly_a_day_later_counts_anew_and_a_duplicate_does_not_prolong_the_wait():
    at = np.array([DAY + 1, DAY + 2, DAY + 3], np.int64)
    earlier = CountedRows(pa.array(["x", "y"]), np.array([2, 10], np.int64))
    assert mark_duplicates(pa.array(["x", "x", "x"]), at, earlier).tolist() == [True, False, True]


def test_the_first_day_has_nothing_before_it():
    assert mark_duplicates(pa.array(["a", "b", "a"]), np.array([1, 2, 3], np.int64)).tolist() == [False, False, True]
    assert mark_duplicates(pa.array([], pa.string()), np.array([], np.int64)).tolist() == []
