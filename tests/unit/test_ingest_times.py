"""Times of every type that Parquet knows, written by pandas and pyarrow, held against pandas' own arithmetic."""

from datetime import UTC, date, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fraud_platform.ingest.mapped_source import MappedSource
from fraud_platform.ingest.mapping import MappingError
from fraud_platform.lake import days_between
from fraud_platform.settings import Settings

MAPPING = """
path: {path}
currency: EUR
time_zone: Europe/Berlin
columns: {user_id: who, amount: paid, timestamp: when_}
"""
LOCAL = [
    "2023-01-15 23:59:59.999999999",
    "2023-03-26 01:59:59.5",
    "2023-03-26 02:30:00",  # skipped
    "2023-10-29 02:30:00.000001999",  # repeated
    "2023-10-29 03:00:00",
    "1999-12-31 23:59:59.999999",
]


def opened(folder: Path, mapping: str, **columns: object) -> MappedSource:
    rows = len(next(iter(columns.values())))  # type: ignore[arg-type]
    table = pa.table({"who": [str(n) for n in range(rows)], "paid": [1] * rows, **columns})
    pq.write_table(table, folder / "a.parquet")
    (folder / "history.yaml").write_text(mapping.replace("{path}", str(folder / "a.parquet")))
    return MappedSource.open(folder / "history.yaml", Settings(home=folder / "var"))


def times_of(source: MappedSource, name: str = "timestamp") -> list[datetime | None]:
    days = sorted(source.day_versions())
    rows = [row for _, table in source.transactions(days) for row in table.to_pylist()]
    assert [row["problem"] for row in rows] == [None] * len(rows)
    return [row[name] for row in sorted(rows, key=lambda row: int(row["user_id"]))]


def as_instants(values: pd.DatetimeIndex) -> list[datetime]:
    """Cut to microseconds; a local time as PEP 495 with fold=0 has it."""
    cut = values.floor("us")
    if cut.tz is not None:
        return [value.to_pydatetime() for value in cut.tz_convert("UTC")]
    first = cut.tz_localize("Europe/Berlin", ambiguous=[True] * len(cut), nonexistent=pd.Timedelta("1h"))
    return [value.to_pydatetime() for value in first.tz_convert("UTC")]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York", "+05:30"])
def test_every_precision_with_and_without_a_zone_is_read_exactly(tmp_path, unit, zone):
    wanted = pd.DatetimeIndex(LOCAL)
    wanted = wanted if zone is None else wanted.tz_localize("UTC")
    wanted = wanted.floor(unit)
    stored = pa.array([value.value for value in wanted], pa.timestamp("ns", zone)).cast(pa.timestamp(unit, zone))
    assert times_of(opened(tmp_path, MAPPING, when_=stored)) == as_instants(wanted)


def test_pandas_own_times_in_utc_are_read_as_they_are(tmp_path):
    frame = pd.DataFrame({"when_": pd.date_range("2024-02-29 23:59:58", periods=4, freq="500001001ns", tz="UTC")})
    assert str(frame["when_"].dtype) == "datetime64[ns, UTC]"
    source = opened(tmp_path, MAPPING, when_=pa.Table.from_pandas(frame)["when_"])
    assert times_of(source) == as_instants(pd.DatetimeIndex(frame["when_"]))
    assert (source.first_day(), source.last_day()) == (date(2024, 2, 29), date(2024, 2, 29))


@pytest.mark.parametrize("expression", ["TRY_CAST(when_ AS TIMESTAMPTZ)", "when_::TIMESTAMPTZ", "when_"])
def test_an_expression_over_them_works_as_well(tmp_path, expression):
    stored = pa.array([datetime(2024, 5, 1, 10, tzinfo=UTC)], pa.timestamp("ns", "UTC"))
    source = opened(tmp_path, MAPPING.replace("when_", expression), when_=stored)
    assert times_of(source) == [datetime(2024, 5, 1, 10, tzinfo=UTC)]


@pytest.mark.parametrize("dtype", [pa.date32(), pa.date64()])
def test_a_date_is_the_midnight_of_the_mappings_zone(tmp_path, dtype):
    days = [date(2023, 3, 26), date(2023, 7, 1)]
    expected = [datetime(2023, 3, 25, 23, tzinfo=UTC), datetime(2023, 6, 30, 22, tzinfo=UTC)]
    assert times_of(opened(tmp_path, MAPPING, when_=pa.array(days, dtype))) == expected


@pytest.mark.parametrize("dtype", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_text_bears_its_own_offset_or_the_mappings_zone(tmp_path, dtype):
    text = pa.array(["2023-10-29 02:30:00", "2023-10-29T02:30:00.1234567+01:00", "2023-10-29 00:30:00Z"])
    stored = text.dictionary_encode() if pa.types.is_dictionary(dtype) else text.cast(dtype)
    source = opened(tmp_path, MAPPING, when_=stored)
    assert times_of(source) == [
        datetime(2023, 10, 29, 0, 30, tzinfo=UTC),
        datetime(2023, 10, 29, 1, 30, 0, 123_456, tzinfo=UTC),
        datetime(2023, 10, 29, 0, 30, tzinfo=UTC),
    ]
    assert source.remarks().clock_changes == {"timestamp": {"repeated": 1}}


@pytest.mark.parametrize(
    ("unit", "stored"),
    [
        ("s", pa.array([1_700_000_000], pa.int32())),
        ("s", pa.array([1_700_000_000], pa.uint64())),
        ("ms", pa.array([1_700_000_000_000.0])),
        ("us", pa.array([1_700_000_000_000_000])),
        ("ns", pa.array([1_700_000_000_000_000_999])),
        ("ns", pa.array(["1700000000000000999"])),
        ("s", pa.array([1_700_000_000], pa.int64()).cast(pa.decimal128(21, 2))),
    ],
)
def test_a_number_is_what_the_mappings_unit_makes_of_it(tmp_path, unit, stored):
    source = opened(tmp_path, MAPPING + f"epoch_unit: {unit}\n", when_=stored)
    assert times_of(source) == [datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)]


def test_times_that_a_change_of_clocks_moved_are_counted_per_column(tmp_path):
    local = pa.array([value.value for value in pd.DatetimeIndex(LOCAL)], pa.timestamp("ns"))
    mapping = MAPPING.replace("timestamp: when_", "timestamp: when_, received_at: seen")
    seen = pa.array(["2023-11-01 10:00:00"] * 5 + [None])
    source = opened(tmp_path, mapping, when_=local, seen=seen)
    assert source.remarks().clock_changes == {"timestamp": {"skipped": 1, "repeated": 1}}
    again = MappedSource.open(tmp_path / "history.yaml", Settings(home=tmp_path / "var"))
    assert again.remarks() == source.remarks(), "a later process reads them from the cached rows"
    utc = opened(tmp_path, mapping.replace("Europe/Berlin", "UTC"), when_=local, seen=seen)
    assert utc.remarks().clock_changes == {}


@pytest.mark.parametrize("stored", [pa.array([3_600], pa.time32("s")), pa.array([b"2023-01-01"]), pa.array([[1]])])
def test_what_is_no_time_is_refused_with_its_type(tmp_path, stored):
    with pytest.raises(MappingError, match=r"timestamp is a .*, which is not a time"):
        opened(tmp_path, MAPPING, when_=stored).first_day()


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (
            "timestamp: TRY_CAST(seen AS TIMESTAMP)",
            r"columns.timestamp: .* is null on every row.*the first row: .*soon",
        ),
        (
            "timestamp: when_, received_at: TRY_CAST(seen AS TIMESTAMP)",
            r"columns.received_at: .* is null on every row, although its columns have values",
        ),
        (
            "timestamp: when_, latitude: TRY_CAST(seen AS DOUBLE)",
            r"columns.latitude: .* is null on every row, although its columns have values",
        ),
        ("timestamp: when_, received_at: seen", r"columns.received_at: none of its values can be read as a time"),
    ],
)
def test_a_column_that_cannot_be_read_at_all_is_refused_and_not_made_null(tmp_path, field, message):
    mapping = MAPPING.replace("timestamp: when_", field)
    with pytest.raises(MappingError, match=message):
        opened(tmp_path, mapping, when_=pa.array(["2023-01-01"] * 2), seen=pa.array(["soon", "later"])).first_day()


def test_a_column_that_is_empty_is_no_failure(tmp_path):
    mapping = MAPPING.replace("timestamp: when_", "timestamp: when_, received_at: TRY_CAST(seen AS TIMESTAMP)")
    source = opened(tmp_path, mapping, when_=pa.array(["2023-01-01"]), seen=pa.array([None], pa.string()))
    assert days_between(source.first_day(), source.last_day()) == [date(2022, 12, 31)]
