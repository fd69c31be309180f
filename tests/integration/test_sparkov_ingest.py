"""A public generator's export, which nobody here shaped, through the committed mapping into a lake.

The file is named by the environment variable FRAUD_SPARKOV_FILE; without it these tests skip and say so.
"""

import os
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from fraud_platform.ingest.check import check_mapping
from fraud_platform.ingest.source import open_source
from fraud_platform.ingest.steps import ingest_labels, ingest_transactions
from fraud_platform.lake import days_between, open_lake
from fraud_platform.settings import Settings

MAPPING = Path(__file__).parents[2] / "examples" / "sparkov" / "mapping.yaml"
FILE = os.environ.get("FRAUD_SPARKOV_FILE")

pytestmark = pytest.mark.skipif(
    not FILE or not Path(FILE).exists(),
    reason="set FRAUD_SPARKOV_FILE to the Sparkov export (Parquet, 254,471 rows) to run these tests",
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("sparkov"), mapping=MAPPING, base_currency="USD")


def test_a_dry_run_accepts_every_row(settings):
    report = check_mapping(MAPPING, settings)
    assert (report.rows, report.accepted, report.quarantined, report.duplicates) == (254_471, 254_471, 0, 0)
    assert (report.first_day, report.last_day, report.days_with_rows) == (date(2024, 1, 1), date(2024, 12, 31), 366)
    assert (report.users, report.merchants) == (299, 693)
    assert report.labels == {"cleared": 251_518, "confirmed": 2_953}


def test_days_in_the_lake_hold_the_rows_of_the_file(settings):
    lake, source = open_lake(settings), open_source(settings, date(1999, 1, 1))
    days = days_between(date(2024, 1, 1), date(2024, 1, 10))
    reports = ingest_transactions(lake, source, days, "USD")
    raw = pq.read_table(FILE).to_pylist()
    # the oracle reads the file's two text columns, the mapping its epoch column: "in the same clock"
    of_day = Counter(row["trans_date"] for row in raw)
    assert [report.accepted for report in reports] == [of_day[day.isoformat()] for day in days]
    wanted = sorted(
        (
            datetime.fromisoformat(f"{row['trans_date']}T{row['trans_time']}+00:00"),
            f"{row['cc_num']}-{row['trans_num']}",
            str(row["cc_num"]),
            row["merchant"].removeprefix("fraud_"),
            round(row["amt"] * 100),
            (row["merch_lat"], row["merch_long"]),
        )
        for row in raw
        if row["trans_date"] == "2024-01-07"
    )
    found = [
        (
            row["received_at"],
            row["transaction_id"],
            row["user_id"],
            row["merchant_id"],
            row["amount"],
            (row["latitude"], row["longitude"]),
        )
        for row in lake.read("raw_transactions", date(2024, 1, 7)).to_pylist()
    ]
    assert found == wanted


def test_labels_arrive_a_week_later(settings):
    lake, source = open_lake(settings), open_source(settings, date(1999, 1, 1))
    arrival = date(2024, 3, 8)
    ingest_labels(lake, source, [arrival])
    found = {(row["transaction_id"], row["state"]) for row in lake.read("fraud_labels", arrival).to_pylist()}
    start = datetime(2024, 3, 1, tzinfo=UTC)
    wanted = {
        (f"{row['cc_num']}-{row['trans_num']}", "confirmed" if row["is_fraud"] else "cleared")
        for row in pq.read_table(FILE, columns=["cc_num", "trans_num", "unix_time", "is_fraud"]).to_pylist()
        if start <= datetime.fromtimestamp(row["unix_time"], UTC) < start + timedelta(days=1)
    }
    assert found == wanted
    assert "confirmed" in {state for _, state in found}
