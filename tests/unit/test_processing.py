"""Event time, device fingerprints and duplicates, against plain code."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_platform.processing import (
    CountedRows,
    decided_later,
    device_key,
    device_keys,
    event_time,
    identities,
    mark_duplicates,
)

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
    """For each row of (identity, received, decided) in order: is another row that payment? Decisions are asked first:
    is there a counted decision less than 24 hours back? Then the others: a counted row less than 24 hours back, or a
    counted decision on the same day?"""
    counted = list(earlier)
    marks = {}
    for turn in (True, False):
        for number, (name, at, decided) in enumerate(rows):
            if decided is turn:
                before = any(
                    other == name and 0 <= at - when < DAY and (by_us or not turn) for other, when, by_us in counted
                )
                today = not turn and any(other == name and by_us and when >= DAY for other, when, by_us in counted)
                marks[number] = before or today
                if not marks[number]:
                    counted.append((name, at, decided))
    return [marks[number] for number in range(len(rows))]


def marked(rows, earlier=None):
    names, times, decided, elsewhere = ([(*row, False)[n] for row in rows] for n in range(4))
    before = None
    if earlier is not None:
        before = CountedRows(
            pa.array([row[0] for row in earlier], pa.string()),
            np.array([row[1] for row in earlier], np.int64),
            np.array([row[2] for row in earlier], np.bool_),
        )
    return mark_duplicates(
        pa.array(names, pa.string()),
        np.array(times, np.int64),
        np.array(decided, np.bool_),
        np.array(elsewhere, np.bool_),
        before,
    ).tolist()


instants = st.one_of(st.integers(0, DAY - 1), st.sampled_from([0, 1, DAY // 2, DAY // 2 + 1, DAY - 1]))
named = st.tuples(st.sampled_from("abc"), instants, st.booleans())


@given(today=st.lists(named, max_size=12), yesterday=st.lists(named, max_size=12))
def test_duplicates_equal_the_definition(today, yesterday):
    rows = sorted(((name, DAY + at, decided) for name, at, decided in today), key=lambda row: (row[1], row[0]))
    before = sorted(yesterday, key=lambda row: (row[1], row[0]))
    counted = [row for row, repeat in zip(before, marked(before), strict=True) if not repeat]
    assert marked(rows, counted) == naive_duplicates(rows, counted)


def test_a_row_exactly_a_day_later_counts_anew_and_a_duplicate_does_not_prolong_the_wait():
    rows = [("x", DAY + n, False) for n in (1, 2, 3)]
    assert marked(rows, [("x", 2, False), ("y", 10, False)]) == [True, False, True]


def test_the_first_day_has_nothing_before_it():
    assert marked([("a", 1, False), ("b", 2, False), ("a", 3, False)]) == [False, False, True]
    assert marked([]) == []


def test_a_decision_stands_before_any_row_of_a_source_and_the_first_decision_before_the_others():
    assert marked([("a", 1, False), ("a", 2, True), ("a", 3, True), ("a", 4, False)]) == [True, False, True, True]
    # a row that counted the day before keeps no decision from counting, a decision does
    assert marked([("a", DAY + 1, True)], [("a", 2, False)]) == [False]
    assert marked([("a", DAY + 1, True)], [("a", 2, True)]) == [True]
    # what is known to be no payment of its own keeps none from counting
    assert marked([("a", 1, True, True), ("a", 2, True), ("b", 3, False, True)]) == [True, False, True]


@given(rows=st.lists(named, max_size=8), decisions=st.lists(named, max_size=8))
def test_what_was_decided_within_a_day_equals_the_definition(rows, decisions):
    found = decided_later(
        pa.array([name for name, _, _ in rows], pa.string()),
        np.array([at for _, at, _ in rows], np.int64),
        pa.array([name for name, _, _ in decisions], pa.string()),
        np.array([DAY // 2 + at for _, at, _ in decisions], np.int64),
    )
    expected = [
        any(other == name and 0 <= DAY // 2 + when - at < DAY for other, when, _ in decisions) for name, at, _ in rows
    ]
    assert found.tolist() == expected


def test_a_payment_is_known_by_its_caller_and_its_id():
    rows = pa.table({"caller": ["a", "b", None], "transaction_id": ["t:1", "t:1", "t"]})
    assert identities(rows).to_pylist() == ["a:t:1", "b:t:1", None]
