"""The lake on S3: the same rows as in a folder, writers beside each other, and what is asked of the store."""

import json
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from fraud_platform.cli import app
from fraud_platform.dataset import fix_dataset
from fraud_platform.erasure import files
from fraud_platform.erasure.names import Names
from fraud_platform.features import tables
from fraud_platform.features.gaps import GapError
from fraud_platform.features.in_force import spans
from fraud_platform.features.snapshots import write_medians, write_merchant_features, write_user_features
from fraud_platform.features.tiles import write_label_tiles, write_merchant_tiles, write_user_tiles
from fraud_platform.features.training_set import write_training_set
from fraud_platform.homes import begin_home
from fraud_platform.inference_log import consumer as consumer_module
from fraud_platform.inference_log.broker import Message
from fraud_platform.inference_log.consumer import Consumer
from fraud_platform.inference_log.positions import Move, OtherWriterError, Position, Positions
from fraud_platform.inference_log.record import DecisionRecord, encode_record
from fraud_platform.inference_log.redis_stream import RedisStream
from fraud_platform.inference_log.table import TABLE, LogTable, rows
from fraud_platform.ingest.steps import ingest_labels, ingest_rates, ingest_transactions
from fraud_platform.lake import Lake, days_between, open_lake
from fraud_platform.quality import evaluate
from fraud_platform.settings import Settings
from tests.integration.s3_kit import BUCKET, S3, s3_server
from tests.integration.s3_writers import STREAM, commit_each, consume, machine_clock, merge
from tests.record_kit import DAY, record, records

MakeSettings = Callable[..., Settings]

ROWS = pa.table({"id": ["a", "b"]})


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_server() as server:
        yield server


@pytest.fixture
def root(s3: S3, tmp_path: Path) -> str:
    """A prefix that nobody has used."""
    return f"s3://{BUCKET}/{tmp_path.name}"


@pytest.fixture
def lake(root: str) -> Lake:
    return Lake(root)


@pytest.fixture(params=["folder", "s3"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake")) if request.param == "folder" else request.getfixturevalue("lake")


def committed(
    table: LogTable, *decisions: DecisionRecord, offsets: Mapping[str, Mapping[str, Any]] | None = None
) -> list[str]:
    return table.commit(rows([(each, encode_record(each)) for each in decisions]), offsets or {})


def owner(table: LogTable) -> str:
    """Who writes the stream; empty where nobody does."""
    return "".join(at.owner for at in table.committed().sources.get("redis", {}).values())


def held(lake: Lake, day: date = DAY) -> Counter[str]:
    """How often each decision lies in the day's files."""
    parts = [lake.read_file(path, ["decision_id"]) for path in lake.files(TABLE, "*.parquet", day)]
    return Counter(identifier for part in parts for identifier in part["decision_id"].to_pylist())


def test_a_bucket_that_is_not_there_is_said_and_not_made(s3: S3) -> None:
    with pytest.raises(FileNotFoundError, match="bucket does not exist"):
        Lake("s3://nobody/lake").write("payments", DAY, ROWS)


def test_what_another_process_wrote_is_seen_at_once(root: str) -> None:
    mine, theirs = Lake(root), Lake(root)
    assert mine.days("payments") == []
    theirs.write("payments", DAY, ROWS)
    assert mine.exists("payments", DAY)
    theirs.write("payments", DAY, ROWS.slice(1))
    assert (mine.days("payments"), mine.read("payments", DAY).num_rows) == ([DAY], 1)


def test_what_was_seen_is_replaced_and_nothing_else(either: Lake) -> None:
    path = either.document_path("record.json")
    assert not either.replace(path, b"1", "never there")
    assert either.replace(path, b"1", None)
    assert not either.replace(path, b"2", None)
    seen = either.seen(path)
    assert either.replace(path, b"two", seen)
    assert not either.replace(path, b"three", seen)
    assert either.document("record.json") == b"two"


def test_of_writers_that_saw_the_same_one_wins(either: Lake) -> None:
    path, start, won = either.document_path("counter.json"), threading.Barrier(4), Counter[int]()

    def count(writer: int) -> None:
        own = Lake(either.root)
        start.wait()
        for _ in range(10):
            while True:
                seen = own.seen(path)
                value = int(own.document("counter.json") or b"0") if seen else 0
                if own.replace(path, str(value + 1).encode(), seen):
                    won[writer] += 1
                    break

    threads = [threading.Thread(target=count, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert either.document("counter.json") == b"40"
    assert won == dict.fromkeys(range(4), 10)


@pytest.fixture
def started() -> Iterator[Callable[..., Any]]:
    """Starts a function in a process of its own; all are ended with the test."""
    context, processes = multiprocessing.get_context("spawn"), []

    def start(function: Callable[..., None], *arguments: object) -> Any:
        processes.append(context.Process(target=function, args=arguments))
        processes[-1].start()
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.join()


def wait_for(reached: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def send(stream: RedisStream, decisions: list[DecisionRecord]) -> None:
    stream.send([Message(b"u", encode_record(each)) for each in decisions])


def test_two_writers_and_two_mergers_that_know_nothing_of_each_other_lose_nothing_and_keep_nothing_twice(
    root: str, lake: Lake, started: Callable[..., Any]
) -> None:
    mergers = [started(merge, root) for _ in range(2)]
    writers = [started(commit_each, root, first, 25) for first in (0, 25)]
    for process in writers:
        process.join(90)
        assert process.exitcode == 0
    for process in mergers:
        process.kill()
        process.join()
    table = LogTable(lake)
    assert list(table.records(DAY)) == records(50)
    assert table.committed().number == 50
    ends = {f"source-{first}": records(1, first=first + 24)[0].decision_id for first in (0, 25)}
    assert {name: table.committed().offsets(name)["0"] for name in ends} == ends
    assert table.merge(DAY) == 50
    assert held(lake) == Counter(each.decision_id for each in records(50))


def test_two_consumers_of_one_name_which_neither_stands_by_count_each_decision_once(
    root: str, lake: Lake, redis_url: str, started: Callable[..., Any]
) -> None:
    consumers = [started(consume, root, redis_url, "same", 0) for _ in range(2)]
    wait_for(lambda: len(lake.documents("started")) == 2)
    stream, table, written = RedisStream(redis_url, STREAM), LogTable(lake), list[DecisionRecord]()

    def ten_commits_have_met() -> bool:
        written.extend(records(20, first=len(written)))
        send(stream, written[-20:])
        return table.committed().number >= 10

    wait_for(ten_commits_have_met)
    wait_for(lambda: stream.lag({}) == {"0": 0})
    for process in consumers:
        process.terminate()
        process.join(20)
        assert process.exitcode == 0
    assert list(table.records(DAY)) == written
    assert table.merge(DAY) == len(written)
    assert held(lake) == Counter(each.decision_id for each in written)


def test_a_merge_that_another_has_overtaken_begins_again(either: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    table, other = LogTable(either), LogTable(either)
    committed(table, record("t-1", decision_id="1" * 32))
    replace = Lake.replace

    def overtaken(self: Lake, path: str, payload: bytes, seen: str | None) -> bool:
        monkeypatch.setattr(Lake, "replace", replace)
        committed(other, record("t-2", decision_id="2" * 32))
        assert other.merge(DAY) == 2
        return replace(self, path, payload, seen)

    monkeypatch.setattr(Lake, "replace", overtaken)
    assert table.merge(DAY) == 2
    assert held(either) == {"1" * 32: 1, "2" * 32: 1}


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Has something happen once, after the next commit has written its rows and before it moves its offsets."""

    def happens(what: Callable[[], object]) -> None:
        finish = Positions.finish

        def overtaken(self: Positions, move: Move) -> None:
            monkeypatch.setattr(Positions, "finish", finish)
            what()
            finish(self, move)

        monkeypatch.setattr(Positions, "finish", overtaken)

    return happens


def test_a_commit_that_another_has_overtaken_takes_nothing_from_it(
    either: Lake, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    mine, theirs = LogTable(either, "mine"), LogTable(either, "theirs")
    assert mine.positions.claim("kafka", ["0", "1"]) == {}
    assert theirs.positions.claim("kafka", ["2"]) == {}
    assert theirs.positions.claim("other", ["0"]) == {}
    committed(mine, record("t-1", decision_id="1" * 32), offsets={"kafka": {"0": 10}})
    meanwhile(lambda: committed(theirs, record("t-2", decision_id="2" * 32), offsets={"kafka": {"2": 7}}))
    committed(mine, record("t-3", decision_id="3" * 32), offsets={"kafka": {"1": 5}})
    meanwhile(lambda: theirs.positions.note_caught_up("other", ["0"], ["0"], 9))
    committed(mine, record("t-4", decision_id="4" * 32), offsets={"kafka": {"0": 11}})
    last = mine.committed()
    assert (last.number, last.offsets("kafka")) == (4, {"0": 11, "1": 5, "2": 7})
    assert last.sources["other"] == {"0": Position(None, "theirs", 9)}
    assert held(either) == {str(n) * 32: 1 for n in range(1, 5)}


def test_a_commit_whose_partition_another_has_moved_meanwhile_moves_nothing(
    either: Lake, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    mine, theirs = LogTable(either, "mine"), LogTable(either, "theirs")
    mine.positions.claim("kafka", ["0", "1"])
    committed(mine, record("t-1", decision_id="1" * 32), offsets={"kafka": {"0": 10, "1": 10}})

    def taken() -> None:
        assert theirs.positions.claim("kafka", ["1"]) == {"1": 10}

    meanwhile(taken)
    with pytest.raises(OtherWriterError, match="theirs writes kafka, 1, not mine"):
        committed(mine, record("t-2", decision_id="2" * 32), offsets={"kafka": {"0": 20, "1": 20}})
    assert mine.committed().offsets("kafka") == {"0": 10, "1": 10}
    # read again by the one who has it now, and once by readers
    committed(theirs, record("t-2", decision_id="2" * 32), offsets={"kafka": {"1": 20}})
    committed(mine, record("t-3", decision_id="3" * 32), offsets={"kafka": {"0": 20}})
    assert mine.committed().offsets("kafka") == {"0": 20, "1": 20}
    assert [each.request.transaction_id for each in mine.records(DAY)] == ["t-1", "t-2", "t-3"]


def test_two_of_one_name_do_not_move_what_the_other_moved(either: Lake) -> None:
    one, two = LogTable(either, "same"), LogTable(either, "same")
    one.positions.claim("kafka", ["0"])
    two.positions.claim("kafka", ["0"])
    committed(one, record("t-1", decision_id="1" * 32), offsets={"kafka": {"0": 10}})
    with pytest.raises(OtherWriterError, match="moved kafka, 0, from None"):
        committed(two, record("t-2", decision_id="2" * 32), offsets={"kafka": {"0": 5}})


def test_a_source_is_caught_up_when_all_of_its_partitions_are(either: Lake) -> None:
    one, two = LogTable(either, "one"), LogTable(either, "two")
    assert one.committed().caught_up_at("kafka") == 0
    one.positions.claim("kafka", ["0"])
    one.positions.note_caught_up("kafka", ["0"], ["0", "1"], 100)
    assert one.committed().caught_up_at("kafka") == 0  # nobody has read the other
    two.positions.claim("kafka", ["1"])
    two.positions.note_caught_up("kafka", ["1"], ["0", "1"], 90)
    one.positions.note_caught_up("kafka", ["0"], ["0", "1"], 200)
    assert (one.committed().caught_up_at("kafka"), one.committed().caught_up_at("other")) == (90, 0)


def test_the_record_of_a_log_that_one_consumer_wrote_is_read(either: Lake) -> None:
    old = {"number": 3, "offsets": {"kafka:t": {"0": 5, "1": 7}}, "caught_up_at": 9, "writer": "host:/home"}
    either.write_record("inference_log/committed", old)
    table = LogTable(either, "new")
    assert table.committed().sources == {
        "kafka:t": {"0": Position(5, "host:/home", 9), "1": Position(7, "host:/home", 9)}
    }
    assert table.positions.claim("kafka:t", ["0", "1", "2"]) == {"0": 5, "1": 7}
    committed(table, record(), offsets={"kafka:t": {"1": 8}})
    last = table.committed()
    assert (last.number, last.offsets("kafka:t"), last.caught_up_at("kafka:t")) == (4, {"0": 5, "1": 8}, 0)


def test_a_second_consumer_stands_by_until_the_first_is_silent(
    root: str, lake: Lake, redis_url: str, started: Callable[..., Any]
) -> None:
    stream, table = RedisStream(redis_url, STREAM), LogTable(lake)
    first = started(consume, root, redis_url, "first", 2_000_000)
    wait_for(lambda: owner(table) == "first")
    started(consume, root, redis_url, "second", 2_000_000)
    send(stream, records(50))
    wait_for(lambda: stream.lag({}) == {"0": 0})
    assert owner(table) == "first"
    os.kill(first.pid, signal.SIGKILL)
    send(stream, records(50, first=50))
    wait_for(lambda: stream.lag({}) == {"0": 0})
    assert owner(table) == "second"
    # no decision lies twice even in the parts
    assert held(lake) == Counter(each.decision_id for each in records(100))


def test_who_was_replaced_commits_nothing_and_who_ended_in_order_is_not_waited_for(lake: Lake) -> None:
    first, second = LogTable(lake, "first"), LogTable(lake, "second")
    first.positions.claim("redis", ["0"])
    committed(first, record("t-1", decision_id="1" * 32), offsets={"redis": {"0": "1-0"}})
    second.positions.claim("redis", ["0"])
    late = (
        lambda: committed(first, record("t-2", decision_id="2" * 32), offsets={"redis": {"0": "2-0"}}),
        lambda: first.positions.note_caught_up("redis", ["0"], ["0"], 1),
    )
    for each in late:
        with pytest.raises(OtherWriterError, match="second writes redis, 0, not first"):
            each()
    first.positions.release("redis")
    assert owner(second) == "second"
    second.positions.release("redis")
    assert owner(second) == ""
    assert held(lake) == {"1" * 32: 1}


def test_consumers_of_two_brokers_write_one_lake_at_once(lake: Lake, redis_url: str) -> None:
    now, brokers = [0], {name: RedisStream(redis_url, f"{STREAM}-{name}") for name in ("north", "south")}
    consumers = [
        Consumer(name, stream, LogTable(lake, name), clock=lambda: now[0], failed=lambda *_: None, commit_us=1)
        for name, stream in brokers.items()
    ]
    for turn in range(3):
        for number, stream in enumerate(brokers.values()):
            send(stream, records(5, first=100 * number + 5 * turn))
        for consumer in consumers:
            consumer.step(0.1)
            now[0] += 2
            consumer.step(0.001)
    assert list(LogTable(lake).records(DAY)) == [*records(15), *records(15, first=100)]
    assert LogTable(lake).committed().number == 6
    for consumer in consumers:
        consumer.close()


def test_a_file_that_was_merged_during_an_erasure_does_not_come_back(lake: Lake) -> None:
    table = LogTable(lake)
    (part,) = committed(table, record())
    found = files.Found(paths=[(lake, part)])
    seen = Lake.seen

    def merged_after_it_was_seen(self: Lake, path: str) -> str | None:
        version = seen(self, path)
        if path == part:
            LogTable(lake).merge(DAY)
        return version

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lake, "seen", merged_after_it_was_seen)
        files.take_out(found, Names("u-1"), {"u-1": "p-1"})
    assert [path.rsplit("/", 1)[1] for path in lake.files(TABLE, "*.parquet")] == ["data.parquet"]


def test_the_first_run_of_two_fixes_the_history_for_both(either: Lake) -> None:
    assert either.create_record("dataset", {"first": 1})
    assert not either.create_record("dataset", {"first": 2})
    assert either.read_record("dataset") == {"first": 1}


def test_a_thousand_days_are_one_listing_and_a_scan_asks_for_no_file_twice(s3: S3, lake: Lake) -> None:
    days = days_between(date(2024, 1, 1), date(2024, 1, 1) + timedelta(days=1_199))
    lake.write("payments", days[0], ROWS)
    content = lake.open("payments", days[0]).read()
    s3.put({lake.path("payments", day).removeprefix(f"{BUCKET}/"): content for day in days})
    with s3.counting() as asked:
        assert lake.days("payments") == days
    assert asked == {"LIST": 2}
    import duckdb

    connection = duckdb.connect()
    lake.attach(connection)
    with s3.counting() as asked:
        paths = lake.scan_paths("payments", days[-30:])
        query = f"SELECT count(*), count(DISTINCT date) FROM read_parquet({paths}, hive_partitioning = true)"
        assert connection.execute(query).fetchone() == (60, 30)
    assert asked["LIST"] == 2
    assert asked["HEAD"] == 0
    assert asked["GET"] <= 60
    # what was written after the last scan is in the next
    lake.write("payments", days[-1], ROWS.slice(1))
    paths = lake.scan_paths("payments", days[-1:])
    assert connection.execute(f"SELECT count(*) FROM read_parquet({paths})").fetchone() == (1,)


def test_a_day_of_many_commits_is_a_few_files_and_is_listed_at_once(
    s3: S3, lake: Lake, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "FOLD_PARTS", 10)
    now = [0]
    stream = RedisStream(redis_url, STREAM)
    consumer = Consumer(
        "redis", stream, LogTable(lake, "one"), clock=lambda: now[0], failed=lambda *_: None, commit_us=1
    )
    written = records(15)
    for each in written:
        send(stream, [each])
        consumer.step(0.1)
        now[0] += 2
        consumer.step(0.001)
    consumer.close()
    assert len(lake.files(TABLE, "*", DAY)) == 6
    table = LogTable(lake)
    assert list(table.records(DAY)) == written
    with s3.counting() as asked:
        assert (table.days(), table.unmerged(DAY + timedelta(days=1))) == ([DAY], [DAY])
    assert asked == {"LIST": 2}
    assert table.merge(DAY) == len(written)
    assert [path.rsplit("/", 1)[1] for path in lake.files(TABLE, "*.parquet")] == ["data.parquet"]
    assert list(table.records(DAY)) == written


def test_retention_deletes_by_its_command(root: str, lake: Lake, tmp_path: Path) -> None:
    old = datetime.now(UTC) - timedelta(days=91)
    for number, at in enumerate((old, datetime.now(UTC))):
        committed(LogTable(lake), record(decision_id=f"{number:032x}", received_at=int(at.timestamp() * 1e6)))
    begin_home(tmp_path / "home")
    environment = {"FRAUD_HOME": str(tmp_path / "home"), "FRAUD_LAKE_URL": root}
    result = CliRunner().invoke(app, ["inference-log", "retain", "--yes"], env=environment)
    assert result.exit_code == 0, result.output
    assert LogTable(lake).days() == [datetime.now(UTC).date()]


def test_a_history_on_s3_is_that_of_a_folder_byte_for_byte(
    root: str, make_settings: MakeSettings, redis_url: str, tmp_path: Path
) -> None:
    now = datetime(2026, 3, 9, tzinfo=UTC)
    small = {"users": 60, "merchants": 20, "transactions_per_day": 200, "history_start": date(2026, 3, 1)}
    written = []
    for number, url in enumerate((str(tmp_path / "folder"), root)):
        settings = make_settings(home=tmp_path / f"home-{number}", lake_url=url, duckdb_threads=1, **small)
        lake = open_lake(settings)
        dataset, source = fix_dataset(settings, lake, now)
        days = dataset.days(now)
        ingest_rates(lake, source, days)
        ingest_transactions(lake, source, days, settings.base_currency)
        ingest_labels(lake, source, days)
        write_user_tiles(settings, lake, days)
        write_merchant_tiles(settings, lake, days)
        write_label_tiles(settings, lake, days)
        write_user_features(settings, lake, days)
        write_merchant_features(settings, lake, days)
        write_medians(lake, days)
        in_force = spans(days, [], settings.online_ttl_days)
        write_training_set(settings, lake, days, in_force, in_force)
        stream = RedisStream(redis_url, f"{STREAM}-{number}")
        consumer = Consumer(
            "redis", stream, LogTable(lake, "one"), clock=machine_clock, failed=lambda *_: None, commit_us=0
        )
        send(stream, records(300))
        consumer.step(1)
        consumer.close()
        assert LogTable(lake).merge(DAY) == 300
        findings = evaluate(settings, lake, tables.TRAINING_SET, days[-2:], days[-1])
        assert all(finding.passed for finding in findings if finding.severity == "error")
        paths = lake.every_file(".parquet")
        written.append({lake.name_of(path): lake.open_file(path).read() for path in paths})
        assert json.loads(lake.document("dataset.json") or b"")["first_day"] == "2026-03-01"
    folder, store = written
    assert list(folder) == list(store)
    assert len(folder) > 8 * 8
    assert [name for name, content in folder.items() if store[name] != content] == []


def test_a_partition_that_was_removed_from_the_store_is_no_empty_day(root: str, make_settings: MakeSettings) -> None:
    days = days_between(date(2026, 3, 1), date(2026, 3, 3))
    settings = make_settings(lake_url=root, users=40, merchants=10, transactions_per_day=60, history_start=days[0])
    lake, lost, last = open_lake(settings), days[-2], days[-1:]
    _, source = fix_dataset(settings, lake, datetime(2026, 3, 4, tzinfo=UTC))
    ingest_transactions(lake, source, days, settings.base_currency)
    ingest_labels(lake, source, days)
    for write in (write_user_tiles, write_merchant_tiles, write_label_tiles, write_user_features):
        write(settings, lake, days)
    stages: dict[str, Callable[[], object]] = {
        tables.RAW_TRANSACTIONS: lambda: write_user_tiles(settings, lake, last),
        tables.USER_TILES: lambda: write_user_features(settings, lake, last),
        tables.LABEL_TILES: lambda: write_merchant_features(settings, lake, last),
    }
    for table, stage in stages.items():
        kept = lake.open(table, lost).read()
        before = {path: lake.open_file(path).read() for path in lake.every_file(".parquet") if str(last[0]) in path}
        # by somebody else, while this process goes on
        Lake(root).remove([lake.path(table, lost)])
        asset = table.split("/")[0]
        with pytest.raises(GapError, match=f"^{asset} was never built for {lost} under {root}"):
            stage()
        assert {path: lake.open_file(path).read() for path in before} == before, "nothing was written"
        Lake(root).write_bytes(lake.path(table, lost), kept)
    write_user_features(settings, lake, last)
    assert {path: lake.open_file(path).read() for path in before} == before
