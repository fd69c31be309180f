"""Which snapshot a payment saw: history by the calendar, then only what was really loaded."""

from datetime import UTC, date, datetime

from fraud_platform.features.in_force import Span, spans

TTL_DAYS = 3


def at(day: int, hour: int, minute: int = 0) -> int:
    return int(datetime(2026, 3, day, hour, minute, tzinfo=UTC).timestamp()) * 1_000_000


def snapshot_at(rows: list[Span], instant: int) -> date | None:
    found = [row.snapshot for row in rows if row.visible_from_us <= instant < row.visible_until_us]
    assert len(found) <= 1
    return found[0] if found else None


def march(*days: int) -> list[date]:
    return [date(2026, 3, day) for day in days]


def test_history_sees_yesterdays_snapshot_from_two_in_the_morning() -> None:
    rows = spans(march(1, 2), [], TTL_DAYS)
    assert snapshot_at(rows, at(2, 2) - 1) is None
    assert snapshot_at(rows, at(2, 2)) == date(2026, 3, 1)
    assert snapshot_at(rows, at(3, 2) - 1) == date(2026, 3, 1)
    assert snapshot_at(rows, at(3, 2)) == date(2026, 3, 2)


def test_a_snapshot_that_was_computed_but_never_loaded_was_never_seen() -> None:
    loads = [(at(4, 9), date(2026, 3, 3)), (at(6, 5), date(2026, 3, 5))]
    rows = spans(march(1, 2, 3, 4, 5), loads, TTL_DAYS)
    assert snapshot_at(rows, at(4, 8)) == date(2026, 3, 3), "history until the first load"
    assert snapshot_at(rows, at(5, 12)) == date(2026, 3, 3), "the load of the fourth was missed"
    assert snapshot_at(rows, at(6, 5)) == date(2026, 3, 5)


def test_past_its_time_to_live_a_snapshot_is_missing() -> None:
    rows = spans(march(1), [], TTL_DAYS)
    assert snapshot_at(rows, at(5, 2)) == date(2026, 3, 1), "exactly three days old is still alive"
    assert snapshot_at(rows, at(5, 2) + 1) is None


def test_going_back_to_an_older_snapshot_counts_from_its_load() -> None:
    loads = [(at(3, 3), date(2026, 3, 2)), (at(3, 5), date(2026, 3, 1))]
    rows = spans(march(1, 2), loads, TTL_DAYS)
    assert snapshot_at(rows, at(3, 4)) == date(2026, 3, 2)
    assert snapshot_at(rows, at(3, 6)) == date(2026, 3, 1)


def test_before_the_first_snapshot_none_was_in_force() -> None:
    assert spans([], [], TTL_DAYS) == []
