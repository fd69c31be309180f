"""What identity a value of a file has: numbers, text, and numbers that are no identity any more."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fraud_platform.ingest.check import MappingReport, check_mapping
from fraud_platform.ingest.mapped_source import MappedSource
from fraud_platform.settings import Settings

MAPPING = """
path: {path}
currency: EUR
columns: {user_id: who, amount: paid, timestamp: when_, country: land}
"""


def checked(folder: Path, who: pa.Array) -> tuple[MappingReport, list[str | None], list[str | None]]:
    """The report, and the rows' user ids and problems in the file's order."""
    rows = len(who)
    when = [f"2024-03-01 10:{n:02}:00" for n in range(rows)]
    pq.write_table(
        pa.table({"who": who, "paid": [1] * rows, "when_": when, "land": ["DE"] * rows}), folder / "a.parquet"
    )
    path = folder / "history.yaml"
    path.write_text(MAPPING.replace("{path}", str(folder / "a.parquet")))
    settings = Settings(home=folder / "var")
    source = MappedSource.open(path, settings)
    ((_, table),) = source.transactions([source.first_day()])
    return check_mapping(path, settings), table["user_id"].to_pylist(), table["problem"].to_pylist()


@pytest.mark.parametrize(
    ("who", "ids"),
    [
        (pa.array([12345.0, 2.0**53 - 1, 0.0]), ["12345", "9007199254740991", "0"]),
        (pa.array([12345.0, 2.0**24 - 1], pa.float32()), ["12345", "16777215"]),
        (pa.array([12345, 2**63 - 1]), ["12345", "9223372036854775807"]),
        (pa.array([2**64 - 1], pa.uint64()), ["18446744073709551615"]),
        (pa.array([12345, 7]).cast(pa.decimal128(21, 2)), ["12345", "7"]),
        (pa.array(["012345", "12345", "abc"]), ["012345", "12345", "abc"]),
    ],
)
def test_a_whole_number_is_its_digits_and_text_is_what_it_says(tmp_path, who, ids):
    report, found, problems = checked(tmp_path, who)
    assert (found, problems, report.advice) == (ids, [None] * len(ids), [])


@pytest.mark.parametrize(
    ("dtype", "power", "odd"), [(pa.float64(), 53, 2.0**53), (pa.float64(), 53, 1e20), (pa.float32(), 24, 2.0**24)]
)
def test_a_float_that_stands_for_several_ids_is_none(tmp_path, dtype, power, odd):
    report, _, problems = checked(tmp_path, pa.array([7.0, odd, -odd], dtype))
    lost = f"user_id is a floating-point number from 2^{power} on, whose last digits are lost"
    assert problems == [None, lost, lost]
    assert (report.accepted, report.reasons) == (1, {lost: 2})
    (sentence,) = report.advice
    assert sentence.startswith("columns.user_id: 2 rows have an id that is a floating-point number too large")
    assert '"when_":"2024-03-01 10:01:00"' in sentence, "an example"


def test_a_fraction_and_a_nan_name_nobody(tmp_path):
    _, found, problems = checked(tmp_path, pa.array([7.0, 7.5, float("nan"), None]))
    assert problems == [None, "user_id is a fraction, which names nobody", None, None]
    assert [found[0], *found[2:]] == ["7", None, None]


def test_text_that_was_a_number_once_is_kept_and_named(tmp_path):
    report, found, _ = checked(tmp_path, pa.array(["12345.0", "1.23457E+16", "12e45", "1.5"]))
    assert found == ["12345.0", "1.23457E+16", "12e45", "1.5"]
    decimal, exponent = report.advice
    assert "columns.user_id: 1 rows have a whole number written with a decimal point, for example '12345.0'" in decimal
    assert "columns.user_id: 1 rows have a number in exponent form" in exponent
    assert "'1.23457E+16'" in exponent


def test_an_id_that_is_too_long_is_named_with_what_to_do(tmp_path):
    report, _, _ = checked(tmp_path, pa.array(["x" * 128, "y" * 129]))
    assert report.reasons == {"user_id is longer than 128 characters": 1}
    (sentence,) = report.advice
    assert "1 rows have an id of over 128 characters" in sentence
    assert "md5(who)" in sentence
