"""A column that goes null is told, and one that is as null as ever is not: by the files' own counts."""

from collections.abc import Callable, Mapping
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.lake import Lake
from fraud_platform.monitoring import null_share
from fraud_platform.monitoring.null_share import HISTORY_DAYS, LEAST_DAYS, NULL_DAYS, columns_of, null_shares
from fraud_platform.quality import Finding
from fraud_platform.settings import Settings

RAW = tables.RAW_TRANSACTIONS
DAY = date(2026, 3, 1)
ROWS = 400
Shares = Mapping[str, float]
COLUMNS = columns_of(CATALOGUE)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path))


def write(lake: Lake, day: date, shares: Shares, rows: int = ROWS) -> None:
    """A day of which each column is null in a share of its rows, drawn with the day as seed; `country` never is."""
    random = np.random.default_rng(day.toordinal())
    columns = {}
    for name in COLUMNS[RAW]:
        gone = random.random(rows) < shares.get(name, 0)
        columns[name] = pa.array(np.arange(rows, dtype=np.float64), mask=gone)
    lake.write(RAW, day, pa.table(columns))


def history(lake: Lake, days: int, shares: Callable[[int], Shares], rows: int = ROWS) -> None:
    """The `days` days before DAY; shares: by how many days before."""
    for back in range(1, days + 1):
        write(lake, DAY - timedelta(days=back), shares(back), rows)


def told(lake: Lake, *, mapped: tuple[str, ...] = (), day: date = DAY) -> Mapping[str, str]:
    finding = null_shares(lake, RAW, [day], mapped)
    assert finding.severity == "warn"
    assert finding.passed is (finding.facts["bad_days"] == 0)
    found: Mapping[str, str] = finding.facts["examples"].get(day.isoformat(), {})
    return found


def test_a_column_that_goes_null_is_named_with_its_share_and_its_usual_one(lake: Lake) -> None:
    history(lake, HISTORY_DAYS, lambda back: {"device_id": 0.2, "latitude": 1})
    write(lake, DAY, {"device_id": 1, "latitude": 1})
    found = told(lake)
    assert set(found) == {"device_id"}
    assert found["device_id"].startswith("100.0% null, usually 20.")
    assert null_shares(lake, RAW, [DAY]).facts["remedy"] == "docs/closed-loop.md, Columns that go null"


def test_a_part_of_the_rows_is_enough(lake: Lake) -> None:
    history(lake, HISTORY_DAYS, lambda back: {"channel": 0.02})
    write(lake, DAY, {"channel": 0.15})
    assert set(told(lake)) == {"channel"}


def test_a_column_that_is_as_null_as_ever_or_less_is_not_told(lake: Lake) -> None:
    history(lake, HISTORY_DAYS, lambda back: {"device_id": 0.5, "channel": 0.02})
    write(lake, DAY, {"device_id": 0.1, "channel": 0.04})
    assert told(lake) == {}


def test_days_that_differ_by_themselves_widen_the_limit(lake: Lake) -> None:
    # as at a bank whose weekends bring other payments
    history(lake, HISTORY_DAYS, lambda back: {"device_id": 0.6 if back % 7 < 2 else 0.2, "channel": 0.3})
    write(lake, DAY, {"device_id": 0.6, "channel": 0.6})
    assert set(told(lake)) == {"channel"}


def test_the_limit_is_laneys(lake: Lake) -> None:
    nulls = [10, 30, 20, 50, 15, 25, 40, 10, 20, 30, 10, 60, 20, 30]
    for back, count in enumerate(reversed(nulls), 1):
        plain = {name: pa.array([None] * count + [1.0] * (200 - count)) for name in COLUMNS[RAW]}
        lake.write(RAW, DAY - timedelta(days=back), pa.table(plain))
    usual = sum(nulls) / (200 * len(nulls))
    sigma = (usual * (1 - usual) / 200) ** 0.5
    ranges = [abs(a - b) / 200 / sigma for a, b in zip(nulls[1:], nulls[:-1], strict=True)]
    limit = usual + 3 * sigma * (sum(ranges) / len(ranges)) / 1.128
    for count, expected in ((int(limit * 200), False), (int(limit * 200) + 1, True)):
        plain = {name: pa.array([None] * count + [1.0] * (200 - count)) for name in COLUMNS[RAW]}
        lake.write(RAW, DAY, pa.table(plain))
        assert ("amount" in told(lake)) is expected, (count, limit)


@pytest.mark.parametrize(("days", "rows"), [(LEAST_DAYS - 1, ROWS), (HISTORY_DAYS, null_share.LEAST_ROWS - 1)])
def test_too_little_history_says_nothing(lake: Lake, days: int, rows: int) -> None:
    history(lake, days, lambda back: {}, rows)
    write(lake, DAY, {"device_id": 1})
    assert told(lake) == {}
    assert null_shares(lake, RAW, [DAY]).facts["days_compared"] == 0


def test_a_day_of_few_rows_says_nothing(lake: Lake) -> None:
    history(lake, HISTORY_DAYS, lambda back: {})
    write(lake, DAY, {"device_id": 1}, rows=3)
    assert told(lake) == {}


def test_a_column_that_stays_null_is_told_on_every_day_for_a_year(lake: Lake) -> None:
    first = DAY - timedelta(days=HISTORY_DAYS)
    history(lake, 2 * HISTORY_DAYS, lambda back: {"device_id": float(back <= HISTORY_DAYS), "latitude": 1})
    write(lake, DAY, {"device_id": 1, "latitude": 1})
    for number in range(HISTORY_DAYS):
        assert set(told(lake, day=first + timedelta(days=number))) == {"device_id"}, number
    assert told(lake) == {"device_id": f"null on each of the last {NULL_DAYS} days, and it had values before"}


def test_a_column_that_the_mapping_gives_and_that_never_had_a_value_is_told(lake: Lake) -> None:
    history(lake, NULL_DAYS - 1, lambda back: {"latitude": 1, "longitude": 1}, rows=5)
    assert told(lake, mapped=("latitude",)) == {}, "a day short"
    write(lake, DAY, {"latitude": 1, "longitude": 1}, rows=5)
    assert told(lake, mapped=("latitude", "country")) == {
        "latitude": f"null on each of the last {NULL_DAYS} days, though the mapping gives it"
    }


def test_what_a_mapping_gives(tmp_path: Path) -> None:
    path = tmp_path / "mapping.yaml"
    path.write_text(
        "path: none.csv\ncurrency: EUR\ncolumns: {user_id: u, amount: a, timestamp: t, device_id: d}\n"
        "defaults: {country: DE}\n"
    )
    assert null_share.mapped_columns(Settings(home=tmp_path, mapping=path)) == {"amount", "country", "device_id"}
    assert null_share.mapped_columns(Settings(home=tmp_path)) == frozenset()


def test_it_is_a_finding_of_each_table_that_has_columns(lake: Lake) -> None:
    for table in COLUMNS:
        lake.write(table, DAY, pa.table({name: pa.array([1.0]) for name in COLUMNS[table]}))
        finding = null_shares(lake, table, [DAY])
        assert isinstance(finding, Finding)
        assert (finding.rule, finding.passed) == ("null_share", True)
