"""The lake: whole partitions or none, on any filesystem."""

from datetime import date
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from fraud_platform.lake import Lake, MissingPartition, days_between

DAY = date(2026, 3, 1)
ROWS = pa.table({"id": ["a", "b"], "amount": [1, 2]})


@pytest.fixture(params=["folder", "memory"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake") if request.param == "folder" else f"memory://{tmp_path.name}/lake")


def test_what_was_written_is_read(lake: Lake) -> None:
    lake.write("payments", DAY, ROWS)
    assert lake.read("payments", DAY).equals(ROWS)
    assert lake.exists("payments", DAY)
    assert lake.days("payments") == [DAY]
    assert lake.size("payments", DAY)[0] == 2


def test_a_missing_partition_names_table_and_day(lake: Lake) -> None:
    with pytest.raises(MissingPartition, match=r"payments has no partition 2026-03-01"):
        lake.read("payments", DAY)


def test_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    first, second = Lake(str(tmp_path / "a")), Lake(str(tmp_path / "b"))
    for lake in (first, second):
        lake.write("payments", DAY, ROWS)
    assert Path(first.path("payments", DAY)).read_bytes() == Path(second.path("payments", DAY)).read_bytes()


def test_a_writer_killed_before_the_rename_leaves_the_old_partition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(str(tmp_path))
    lake.write("payments", DAY, ROWS)

    class Killed(BaseException): ...

    def killed(*arguments: object, **options: object) -> None:
        raise Killed

    monkeypatch.setattr(type(fsspec.filesystem("file")), "mv", killed)
    with pytest.raises(Killed):
        lake.write("payments", DAY, ROWS.slice(0, 1))

    assert lake.read("payments", DAY).equals(ROWS)
    assert lake.days("payments") == [DAY]
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_tables_name_may_hold_a_version(lake: Lake) -> None:
    lake.write("features/abc", DAY, ROWS)
    lake.write("features/def", DAY, ROWS.slice(0, 1))
    assert lake.read("features/abc", DAY).num_rows == 2
    assert lake.days("features/def") == [DAY]


def test_records_are_replaced_whole(lake: Lake) -> None:
    assert lake.read_record("dataset") is None
    lake.write_record("dataset", {"first": 1})
    lake.write_record("dataset", {"second": 2})
    assert lake.read_record("dataset") == {"second": 2}


def test_days_between_holds_both_ends() -> None:
    assert days_between(date(2026, 2, 27), date(2026, 3, 1)) == [date(2026, 2, 27), date(2026, 2, 28), DAY]
    assert days_between(DAY, date(2026, 2, 1)) == []


def test_rows_are_found_by_a_key_in_every_row_group_that_may_hold_them(lake: Lake) -> None:
    import io

    import pyarrow.parquet as pq

    names = [f"t-{number:03d}" for number in range(100)]
    # sorted and not: bounds that pass a row group over, and bounds that say nothing; a list moves physical columns
    for order in (names, names[::3] + names[1::3] + names[2::3]):
        table = pa.table({"parts": [[1, 2]] * 100, "key": [*order[:99], None], "value": list(range(100))})
        sink = io.BytesIO()
        pq.write_table(table, sink, row_group_size=10)
        path = lake.part_path("found", date(2026, 1, 1), "part-1")
        lake.write_bytes(path, sink.getvalue())
        wanted = {order[0], order[57], order[98], order[99], "a", "t-0505", "z"}
        found = lake.rows_of(path, "key", wanted, ["value", "key"])
        assert found == [{"value": number, "key": order[number]} for number in (0, 57, 98)]
        assert lake.rows_of(path, "key", ["zz"], ["value"]) == []
    with pytest.raises(FileNotFoundError):
        lake.rows_of(f"{path}.gone", "key", ["t-000"], ["value"])
