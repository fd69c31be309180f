"""Histories of foreign shapes, written by the tests themselves, from file to lake."""

import gzip
import io
import json
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from fraud_platform.ingest.check import check_mapping, render
from fraud_platform.ingest.mapped_source import MappedSource
from fraud_platform.ingest.mapping import MappingError
from fraud_platform.ingest.source import open_source
from fraud_platform.ingest.steps import ingest_labels, ingest_rates, ingest_transactions
from fraud_platform.lake import Lake, MissingPartition, days_between
from fraud_platform.settings import Settings

SEMICOLONS = """Buchung;Kunde;Händler;Betrag;Zeit;Land;Betrug
1;007;Bäcker;1.234,50;09.03.2015 10:00:00;DE;N
2;007;Bäcker;12,5;10.03.2015 00:30:00;DE;J
2;007;Bäcker;12,5;10.03.2015 00:30:10;DE;J
3;008;;3;10.03.2015 10:00:00;AT;
4;008;Bank;1,005;10.03.2015 10:00:00;AT;N
5;008;Bank;viel;10.03.2015 10:00:00;AT;N
6;008;Bank;3;irgendwann;AT;N
7;008;Bank;-3;11.03.2015 10:00:00;AT;N
8;008;Bank;3;11.03.2015 10:00:00;XX;N
9;008
10;008;Bank;3;11.03.2015 10:00:00;AT;N;zu viel
11;008;Bank;;11.03.2015 10:00:00;AT;N
12;008;Bank;3;01.01.1970 00:00:00;AT;N
13;008;"Bank; Filiale
Süd";99999999999999;12.03.2015 10:00:00;AT;N
"""
GERMAN = """
path: {path}
currency: EUR
time_zone: Europe/Berlin
time_format: "%d.%m.%Y %H:%M:%S"
csv: {delimiter: ";", decimal: ","}
columns:
  transaction_id: Buchung
  user_id: Kunde
  merchant_id: Händler
  amount: Betrag
  timestamp: Zeit
  country: Land
label: {column: Betrug, fraud_values: [J], arrives_after_days: 2}
"""


def opened(folder: Path, mapping: str, path: str | Path, **settings: str) -> MappedSource:
    (folder / "history.yaml").write_text(mapping.replace("{path}", str(path)))
    return MappedSource.open(folder / "history.yaml", Settings(home=folder / "var", **settings))


def rows_of(source: MappedSource) -> list[dict]:
    days = days_between(source.first_day(), source.last_day())
    return [row for _, table in source.transactions(days) for row in table.to_pylist()]


@pytest.fixture
def german(tmp_path):
    (tmp_path / "export.csv").write_text(SEMICOLONS)
    return opened(tmp_path, GERMAN, tmp_path / "export.csv")


def test_every_line_of_a_csv_is_accepted_or_quarantined_with_its_reason(tmp_path, german):
    lake = Lake(str(tmp_path / "lake"))
    days = days_between(german.first_day(), german.last_day())
    assert days == days_between(date(2015, 3, 9), date(2015, 3, 12))
    reports = ingest_transactions(lake, german, days, "EUR")
    assert german.rows == 14
    assert sum(report.accepted + report.quarantined for report in reports) == 14
    assert [report.accepted for report in reports] == [3, 0, 0, 0]
    assert [report.duplicates for report in reports] == [1, 0, 0, 0]
    assert reports[0].reasons == {
        "timestamp cannot be read as a time of the years 1990 to 2099": 2,
        "the line is not CSV of this file's columns: missing columns": 1,
        "the line is not CSV of this file's columns: too many columns": 1,
    }
    assert reports[1].reasons == {
        "merchant_id is null": 1,
        "amount has more decimals than its currency": 1,
        "amount is not a finite number": 1,
    }
    assert reports[2].reasons == {
        "amount is negative": 1,
        "country is not an ISO 3166 alpha-2 code": 1,
        "amount is null": 1,
    }
    assert reports[3].reasons == {"amount is too large": 1}
    kept = lake.read("quarantine", days[0])["row"].to_pylist()
    assert "9;008" in kept
    assert json.loads(lake.read("quarantine", days[1]).to_pylist()[1]["row"])["Betrag"] in ("1,005", "viel")


def test_ids_keep_their_zeros_and_local_times_become_utc(tmp_path, german):
    lake = Lake(str(tmp_path / "lake"))
    ingest_transactions(lake, german, [date(2015, 3, 9)], "EUR")
    rows = lake.read("raw_transactions", date(2015, 3, 9)).to_pylist()
    # 00:30 in Berlin on the 10th is still the 9th in UTC
    assert [(row["transaction_id"], row["user_id"], row["amount"], row["received_at"]) for row in rows] == [
        ("1", "007", 123_450, datetime(2015, 3, 9, 9, tzinfo=UTC)),
        ("2", "007", 1_250, datetime(2015, 3, 9, 23, 30, tzinfo=UTC)),
        ("2", "007", 1_250, datetime(2015, 3, 9, 23, 30, 10, tzinfo=UTC)),
    ]


def test_labels_arrive_after_their_delay_one_for_each_transaction(tmp_path, german):
    lake = Lake(str(tmp_path / "lake"))
    written = ingest_labels(lake, german, days_between(date(2015, 3, 9), date(2015, 3, 14)))
    # a label speaks of a payment, whether or not our rules accept its row: hence those of the 11th and 12th
    assert list(written.values()) == [0, 0, 2, 0, 2, 1]
    assert lake.read("fraud_labels", date(2015, 3, 11)).to_pylist() == [
        {
            "transaction_id": number,
            "caller": "default",
            "transaction_date": date(2015, 3, 9),
            "arrived_at": at + timedelta(days=2),
            "source": "import",
            "revision": 1,
            "state": state,
        }
        for number, at, state in (
            ("1", datetime(2015, 3, 9, 9, tzinfo=UTC), "cleared"),
            ("2", datetime(2015, 3, 9, 23, 30, tzinfo=UTC), "confirmed"),
        )
    ]


def test_a_repeat_writes_the_same_bytes(tmp_path, german):
    lake = Lake(str(tmp_path / "lake"))
    days = days_between(german.first_day(), german.last_day())

    def written(source: MappedSource) -> dict[str, bytes]:
        ingest_rates(lake, source, days)
        ingest_transactions(lake, source, days, "EUR")
        ingest_labels(lake, source, days)
        return {str(file): file.read_bytes() for file in (tmp_path / "lake").rglob("*") if file.is_file()}

    first = written(german)
    # by what words and rates the days were read is a file of all of them, written under the lake's lock
    tables = {name: content for name, content in first.items() if name.endswith(".parquet")}
    assert len(tables) == 4 * len(days)
    for cached in (tmp_path / "var").rglob("*.parquet"):
        cached.unlink()
    again = opened(tmp_path, GERMAN, tmp_path / "export.csv")
    assert written(again) == first


def test_a_day_waits_for_the_day_before(tmp_path, german):
    with pytest.raises(MissingPartition, match="2015-03-11 cannot be ingested before 2015-03-10"):
        ingest_transactions(Lake(str(tmp_path / "lake")), german, [date(2015, 3, 11)], "EUR")


def test_a_dry_run_counts_the_same_and_writes_no_lake(tmp_path, german):
    settings = Settings(home=tmp_path / "var")
    report = check_mapping(tmp_path / "history.yaml", settings)
    assert (report.rows, report.accepted, report.quarantined, report.duplicates) == (14, 3, 11, 1)
    assert report.complete
    assert (report.first_day, report.last_day, report.users) == (date(2015, 3, 9), date(2015, 3, 12), 1)
    assert report.labels == {"cleared": 4, "confirmed": 1}
    assert len(report.examples) == 5
    assert not Path(settings.lake).exists()
    screen = io.StringIO()
    Console(width=400, file=screen).print(render(report))
    shown = screen.getvalue()
    assert "2015-03-09 to 2015-03-12 (4 of 4 with rows)" in shown
    assert "amount is negative" in shown
    assert '"Zeit":"irgendwann"' in shown


NESTED = """
path: {path}
currency: USD
epoch_unit: ms
columns:
  transaction_id: tx.id
  user_id: who.card
  merchant_id: who.shop
  amount: cents::BIGINT / 100
  timestamp: at
  received_at: seen
  currency: cur
  device_id: dev
label: {column: chargeback, arrives_at: chargeback_at, arrives_after_days: 30}
rates: {rates}
"""


def test_nested_json_lines_with_rates_late_rows_and_dated_labels(tmp_path):
    at = 1_400_000_000_000  # 2014-05-13T16:53:20Z
    lines = [
        {"tx": {"id": 1}, "who": {"card": 12345678901234567, "shop": "a"}, "cents": 1999, "at": at, "cur": "EUR"},
        {"tx": {"id": "A2"}, "who": {"card": 5, "shop": "b"}, "cents": 100, "at": at - 999, "seen": at + 90_000_000},
        {"tx": {"id": 3}, "who": {"card": 5, "shop": "b"}, "cents": 7, "at": at, "cur": "GBP"},
        {"tx": {"id": 4}, "who": None, "cents": 7, "at": at, "dev": "x", "chargeback": True, "chargeback_at": at + 1},
    ]
    lines[0] |= {"chargeback": True, "chargeback_at": at + 5 * 86_400_000}
    lines[1] |= {"chargeback": False, "chargeback_at": None}
    text = "\n".join([*map(json.dumps, lines), "", "{broken", "[1]"]) + "\n"
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write(text)
    (tmp_path / "rates.csv").write_text(
        "date,currency,rate\n2014-05-01,USD,0.72\n2014-05-14,USD,0.5\n2014-06-01,GBP,1.2\n"
    )
    mapping = NESTED.replace("{rates}", str(tmp_path / "rates.csv"))
    source = opened(tmp_path, mapping, tmp_path / "*.jsonl.gz")
    days = days_between(source.first_day(), source.last_day())
    assert days == [date(2014, 5, 13), date(2014, 5, 14)]
    lake = Lake(str(tmp_path / "lake"))
    reports = ingest_transactions(lake, source, days, "EUR")
    assert source.rows == 6
    assert [report.amounts_unknown for report in reports] == [1, 0]
    assert reports[0].reasons == {
        "the line is not a JSON object": 2,
        "user_id is null": 1,
    }
    assert {"{broken", "[1]"} <= set(lake.read("quarantine", days[0])["row"].to_pylist())
    first, third = lake.read("raw_transactions", days[0]).to_pylist()
    assert (third["currency"], third["amount_minor"], third["amount"]) == ("GBP", 7, None), "its first rate comes later"
    assert (first["user_id"], first["amount"], first["currency"]) == ("12345678901234567", 1_999, "EUR")
    (second,) = lake.read("raw_transactions", days[1]).to_pylist()
    assert (second["transaction_id"], second["currency"], second["amount"]) == ("A2", "USD", 50)
    assert second["clock_skew"]
    assert second["event_time"] == second["received_at"]
    assert ingest_labels(lake, source, [date(2014, 5, 18), date(2014, 6, 13)]) == {
        date(2014, 5, 18): 1,
        date(2014, 6, 13): 1,
    }
    assert lake.read("fraud_labels", date(2014, 5, 18))["state"].to_pylist() == ["confirmed"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2014-05-01,USD,zero", "2014-05-01, USD, zero, which is not a rate"),
        ("2014-05-01,USD,0", "which is not a rate"),
        ("soon,USD,1", "soon, USD, 1, which is not a rate"),
        ("2014-05-01,DOLLAR,1", "'DOLLAR' is not an ISO 4217"),
        ("2014-05-01,USD,1\n2014-05-01,USD,2", "more than one rate of USD on 2014-05-01"),
    ],
)
def test_a_rates_file_that_is_none_says_which_row(tmp_path, line, message):
    (tmp_path / "rates.csv").write_text(f"date,currency,rate\n{line}\n")
    source = opened(tmp_path, NESTED.replace("{rates}", str(tmp_path / "rates.csv")), "unread.jsonl")
    with pytest.raises(MappingError, match=message):
        source.rates(date(2014, 5, 2))


BARE = """
path: {path}
currency: EUR
time_zone: {zone}
columns: {user_id: who, amount: paid, timestamp: when_}
"""


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Europe/Dublin", "UTC"])
def test_local_times_become_utc_as_pep_495_says_also_when_clocks_change(tmp_path, zone):
    starts = [datetime(2023, 3, 12, 0), datetime(2023, 3, 26, 0), datetime(2023, 4, 2, 0), datetime(2023, 10, 1, 0)]
    starts += [datetime(2023, 10, 29, 0), datetime(2023, 11, 5, 0), datetime(2023, 7, 1, 0)]
    times = [start + timedelta(minutes=15 * n) for start in starts for n in range(24)]
    pq.write_table(
        pa.table(
            {"who": list(range(len(times))), "paid": [1.1] * len(times), "when_": pa.array(times, pa.timestamp("ns"))}
        ),
        tmp_path / "a.parquet",
    )
    found = {
        int(row["user_id"]): row["timestamp"]
        for row in rows_of(opened(tmp_path, BARE.replace("{zone}", zone), tmp_path / "a.parquet"))
    }
    expected = {n: time.replace(tzinfo=ZoneInfo(zone), fold=0).astimezone(UTC) for n, time in enumerate(times)}
    assert found == expected


@pytest.mark.parametrize(
    ("values", "extra", "expected"),
    [
        (["2020-06-01T12:00:00Z", "2020-06-01 14:00:00+02:00", "2020-06-01T08:00:00 -0400"], "", "12:00:00"),
        (["2020-06-01 14:00", "2020-06-01T14:00:00", "2020/06/01 14:00:00.0"], "", "12:00:00"),
        ([1_591_012_800, 1_591_012_800.0], "epoch_unit: s", "12:00:00"),
        ([1_591_012_800.25], "epoch_unit: s", "12:00:00.250000"),
        (["1591012800000"], "epoch_unit: ms", "12:00:00"),
        ([1_591_012_800_000_001], "epoch_unit: us", "12:00:00.000001"),
        ([datetime(2020, 6, 1, 12, tzinfo=UTC)], "", "12:00:00"),
        (["June 1, 2020 02:00:00 PM"], 'time_format: "%B %d, %Y %I:%M:%S %p"', "12:00:00"),
        (["01.06.2020 08:00:00 -0400"], 'time_format: "%d.%m.%Y %H:%M:%S %z"', "12:00:00"),
    ],
)
def test_times_are_read_from_text_numbers_and_native_types(tmp_path, values, extra, expected):
    for value in values:
        pq.write_table(pa.table({"who": [1], "paid": [1], "when_": [value]}), tmp_path / "a.parquet")
        source = opened(tmp_path, BARE.replace("{zone}", "Europe/Berlin") + extra, tmp_path / "a.parquet")
        (row,) = rows_of(source)
        assert row["problem"] is None
        assert row["timestamp"] == datetime.fromisoformat(f"2020-06-01T{expected}+00:00")


@pytest.mark.parametrize(
    "text", ["2020-06-01 14:00:00 Europe/Paris", "infinity", "0001-01-01", "9999-12-31", "2020-13-01", "yesterday", ""]
)
def test_a_time_that_cannot_be_trusted_is_quarantined_under_the_first_day(tmp_path, text):
    table = pa.table({"who": [1, 2], "paid": [1, 1], "when_": [text, "2020-06-01 14:00:00"]})
    pq.write_table(table, tmp_path / "a.parquet")
    source = opened(tmp_path, BARE.replace("{zone}", "UTC"), tmp_path / "a.parquet")
    assert source.first_day() == source.last_day() == date(2020, 6, 1)
    problems = {row["user_id"]: row["problem"] for row in rows_of(source)}
    assert problems["1"].startswith("timestamp cannot be read")
    assert problems["2"] is None


@pytest.mark.parametrize(
    ("currency", "value", "minor", "problem"),
    [
        ("EUR", 75.11, 7_511, None),
        ("EUR", 0.1 + 0.2, 30, None),
        ("EUR", 123_456_789.29, 12_345_678_929, None),
        ("EUR", 0.005, None, "amount has more decimals than its currency"),
        ("JPY", 100.0, 100, None),
        ("JPY", 100.5, None, "amount has more decimals than its currency"),
        ("KWD", 1.234, 1_234, None),
        ("EUR", float("nan"), None, "amount is not a finite number"),
        ("EUR", float("inf"), None, "amount is not a finite number"),
        ("EUR", 1e30, None, "amount is too large"),
        ("EUR", None, None, "amount is null"),
        ("EUR", "1,5", None, "amount is not a finite number"),
    ],
)
def test_amounts_bear_binary_noise_but_no_further_decimals(tmp_path, currency, value, minor, problem):
    table = pa.table({"who": [1], "paid": [value], "when_": ["2020-06-01"]})
    pq.write_table(table, tmp_path / "a.parquet")
    mapping = BARE.replace("{zone}", "UTC").replace("EUR", currency)
    (row,) = rows_of(opened(tmp_path, mapping, tmp_path / "a.parquet", base_currency=currency))
    assert (row["amount_minor"], row["problem"]) == (minor, problem)


def test_without_an_id_column_ids_follow_from_the_row_and_its_occurrence(tmp_path):
    rows = [(1, 5, "2020-06-01 10:00"), (1, 5, "2020-06-01 10:00"), (2, 5, "2020-06-01 10:00")]

    def ids(order: list[tuple]) -> list[str]:
        who, paid, when = zip(*order, strict=True)
        pq.write_table(pa.table({"who": who, "paid": paid, "when_": when}), tmp_path / "a.parquet")
        return sorted(
            row["transaction_id"]
            for row in rows_of(opened(tmp_path, BARE.replace("{zone}", "UTC"), tmp_path / "a.parquet"))
        )

    first = ids(rows)
    assert len(set(first)) == 3
    assert Counter(name.split("-")[1] for name in first) == {"1": 2, "2": 1}
    assert ids(rows[::-1]) == first


def test_files_of_an_address_are_read_together_and_again_only_when_they_change(tmp_path):
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/shop/1.csv", b"who,paid,when_\n1,5,2020-06-01\n")
    memory.pipe_file("/shop/2.csv", b"paid,when_,who,more\n6,2020-06-02,2,x\n")
    try:
        mapping = BARE.replace("{zone}", "UTC")
        source = opened(tmp_path, mapping, "memory://shop/*.csv")
        assert {row["user_id"]: row["amount_minor"] for row in rows_of(source)} == {"1": 500, "2": 600}
        (cache,) = (tmp_path / "var" / "imports").glob("*.parquet")
        before = cache.stat().st_mtime_ns
        assert opened(tmp_path, mapping, "memory://shop/*.csv").rows == 2
        assert cache.stat().st_mtime_ns == before
        memory.pipe_file("/shop/3.csv", b"who,paid,when_\n3,7,2020-06-03\n")
        assert opened(tmp_path, mapping, "memory://shop/*.csv").rows == 3
        assert [file.name for file in (tmp_path / "var" / "imports").glob("*.parquet")] != [cache.name]
        assert not cache.exists()
    finally:
        memory.rm("/shop", recursive=True)


def test_bounds_of_the_mapping_quarantine_what_lies_outside(tmp_path):
    times = ["1999-01-01", "2020-06-01", "2020-06-02 23:59:59.999999", "2020-06-03"]
    pq.write_table(pa.table({"who": range(4), "paid": [1] * 4, "when_": times}), tmp_path / "a.parquet")
    mapping = BARE.replace("{zone}", "UTC") + "first_day: 2020-06-01\nlast_day: 2020-06-02\n"
    source = opened(tmp_path, mapping, tmp_path / "a.parquet")
    assert (source.first_day(), source.last_day()) == (date(2020, 6, 1), date(2020, 6, 2))
    assert {row["user_id"]: row["problem"] for row in rows_of(source)} == {
        "0": "received before the mapping's first_day",
        "1": None,
        "2": None,
        "3": "received after the mapping's last_day",
    }


def test_whole_numbers_that_a_null_turned_into_floats_stay_the_ids_they_were(tmp_path):
    table = pa.table({"who": [7.0, None], "paid": [1, 1], "when_": ["2020-06-01"] * 2})
    pq.write_table(table, tmp_path / "a.parquet")
    rows = rows_of(opened(tmp_path, BARE.replace("{zone}", "UTC"), tmp_path / "a.parquet"))
    assert [row["user_id"] for row in rows] == ["7", None]


def test_a_default_fills_a_null_merchant_only_when_asked_for(tmp_path):
    table = pa.table({"who": [1], "paid": [1], "when_": ["2020-06-01"], "shop": pa.array([None], pa.string())})
    pq.write_table(table, tmp_path / "a.parquet")
    mapping = BARE.replace("{zone}", "UTC").replace("{user_id", "{merchant_id: shop, user_id")
    assert rows_of(opened(tmp_path, mapping, tmp_path / "a.parquet"))[0]["merchant_id"] is None
    asked = mapping + "defaults: {merchant_id: cash}\n"
    assert rows_of(opened(tmp_path, asked, tmp_path / "a.parquet"))[0]["merchant_id"] == "cash"


def test_settings_choose_the_mapped_history(tmp_path, german):
    settings = Settings(home=tmp_path / "var", mapping=tmp_path / "history.yaml")
    source = open_source(settings, date(1999, 1, 1))
    assert (source.name, source.first_day()) == ("history", date(2015, 3, 9))


def test_an_ended_history_goes_on_where_that_is_asked_for(tmp_path):
    from fraud_platform.dataset import find_dataset, fix_dataset

    (tmp_path / "export.csv").write_text(SEMICOLONS)
    opened(tmp_path, GERMAN, tmp_path / "export.csv")
    settings = Settings(home=tmp_path / "var", mapping=tmp_path / "history.yaml")
    lake, now = Lake(str(tmp_path / "lake")), datetime(2015, 4, 1, 9, tzinfo=UTC)
    assert fix_dataset(settings, lake, now)[0].last_day == date(2015, 3, 12)
    going_on = settings.model_copy(update={"history_goes_on": True})
    assert find_dataset(going_on, lake, now).last_complete_day(now) == date(2015, 3, 31)
    assert find_dataset(settings, lake, now).last_complete_day(now) == date(2015, 3, 12)


def test_a_mapping_names_whose_payments_its_rows_are(tmp_path):
    path = tmp_path / "one.csv"
    path.write_text("id,user,amount,at,bad\n1,u,2,2024-10-26 10:00:00,1\n2,u,2,2024-10-26 11:00:00,0\n")
    mapping = """
path: {path}
currency: EUR
columns: {transaction_id: id, user_id: user, amount: amount, timestamp: at}
defaults: {merchant_id: m}
label: {column: bad, arrives_after_days: 1}
"""
    source = opened(tmp_path, mapping, path)
    acme = opened(tmp_path, f"caller: acme{mapping}", path)
    assert acme.fingerprint == source.fingerprint, "the files need no other reading"
    day = date(2024, 10, 26)
    for each, caller in ((source, "default"), (acme, "acme")):
        lake = Lake(str(tmp_path / caller))
        ingest_transactions(lake, each, [day], "EUR")
        assert lake.read("raw_transactions", day)["caller"].to_pylist() == [caller] * 2


@pytest.mark.parametrize("name", ["a:b", "", "-shop", "x" * 65, "two words"])
def test_a_name_that_no_caller_can_have_is_refused(tmp_path, name):
    columns = "columns: {user_id: u, amount: a, timestamp: t}"
    with pytest.raises(MappingError, match=r"caller: .* is no caller's name: 1 to 64 letters"):
        opened(tmp_path, f'path: {{path}}\ncurrency: EUR\ncaller: "{name}"\n{columns}\n', tmp_path / "x.csv")


def test_a_mapping_says_what_its_words_of_channel_mean(tmp_path):
    words = ["Kanal 7", "K9", "WEB", "pos", "", "Fax", "Fax"]
    lines = [f"{n},u,1.00,2026-03-0{1 + n % 2}T10:00:00Z,{word}" for n, word in enumerate(words)]
    (tmp_path / "a.csv").write_text("id,who,total,at,way\n" + "\n".join(lines) + "\n")
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(
        f"path: {tmp_path}/a.csv\ncurrency: EUR\nchannels: {{' kanal 7': online, K9: atm, web: pos}}\n"
        "columns: {transaction_id: id, user_id: who, amount: total, timestamp: at, channel: way}\n"
    )
    settings = Settings(home=tmp_path / "home")
    source = MappedSource.open(mapping, settings)
    lake = Lake(str(tmp_path / "lake"))
    reports = ingest_transactions(lake, source, days_between(source.first_day(), source.last_day()), "EUR")
    rows = {row["transaction_id"]: row for day in lake.days("raw_transactions")
            for row in lake.read("raw_transactions", day).to_pylist()}  # fmt: skip
    assert [rows[str(n)]["channel"] for n in range(7)] == ["online", "atm", "pos", "pos", None, None, None]
    assert sum(report.channels_unknown for report in reports) == 2
    report = check_mapping(mapping, settings)
    assert report.channels_unknown == {"Fax": 2}
    screen = io.StringIO()
    Console(width=200, file=screen).print(render(report))
    assert "2 'Fax': say what they mean in the mapping's `channels`" in screen.getvalue()
    known = Settings(home=tmp_path / "home", channel_synonyms={"fax": "moto"})
    assert check_mapping(mapping, known).channels_unknown == {}
    mapping.write_text(mapping.read_text().replace("K9: atm", "K9: cash"))
    with pytest.raises(MappingError, match="'cash' is not a channel"):
        MappedSource.open(mapping, settings)
