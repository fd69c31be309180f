"""From the spool through a real broker into the lake: every decision once, whatever dies on the way."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pyarrow.parquet as pq
import pytest
import redis
from typer.testing import CliRunner

from assets.inference_log import inference_log
from assets.resources import Platform
from assets.retention import retention
from fraud_platform.cli import app
from fraud_platform.homes import begin_home
from fraud_platform.inference_log.broker import BrokerError, Message, broker_name, open_producer, open_source
from fraud_platform.inference_log.consumer import Consumer
from fraud_platform.inference_log.positions import Positions
from fraud_platform.inference_log.process import drain
from fraud_platform.inference_log.record import encode_record
from fraud_platform.inference_log.redis_stream import RedisStream
from fraud_platform.inference_log.search import decided_since, find_decisions
from fraud_platform.inference_log.shipper import Shipper, waiting_bytes
from fraud_platform.inference_log.spool import SpoolWriter, segments
from fraud_platform.inference_log.standing import log_standing
from fraud_platform.inference_log.table import LogTable
from fraud_platform.lake import Lake, open_lake
from fraud_platform.settings import Settings
from tests.integration.kafka_kit import Kafka, RealKafka, kafka, wanted
from tests.monitoring_kit import log_decisions
from tests.record_kit import DAY, MIDNIGHT, append, record, records

MakeSettings = Callable[..., Settings]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    with kafka(tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest.fixture(params=["redis", "kafka"])
def settings(request: pytest.FixtureRequest, make_settings: MakeSettings, redis_url: str) -> Settings:
    """Settings of either broker, with a topic or stream that nobody has used."""
    name = f"log-{uuid.uuid4().hex[:8]}"
    if request.param == "redis":
        return make_settings(redis_url=redis_url, redis_stream=name)
    server = request.getfixturevalue("broker")
    return make_settings(redis_url=redis_url, kafka_bootstrap=server.bootstrap, kafka_topic=name)


class Log:
    """One home's shipper and consumer, driven by hand; `faults` are what they reported."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.lake = open_lake(settings)
        self.table = LogTable(self.lake, "one")
        self.faults: list[str] = []
        self.now = 1_800_000_000_000_000
        self.spool = SpoolWriter(settings.home, "worker-1", segment_bytes=20_000)
        self.shipper = self.new_shipper()
        self.consumer = self.new_consumer()
        self.watcher = open_source(settings)

    def failed(self, stage: str, error: BaseException) -> None:
        self.faults.append(f"{stage}: {error}")

    def new_shipper(self) -> Shipper:
        return Shipper(
            self.settings.home, open_producer(self.settings), self.table, broker_name(self.settings),
            clock=lambda: self.now, failed=self.failed,
        )  # fmt: skip

    def new_consumer(self, table: LogTable | None = None) -> Consumer:
        return Consumer(
            broker_name(self.settings), open_source(self.settings), table or self.table,
            clock=lambda: self.now, failed=self.failed,
        )  # fmt: skip

    def consume(self, consumer: Consumer | None = None) -> None:
        """Read until the broker gives no more, and commit."""
        consumer = consumer or self.consumer
        deadline = time.monotonic() + 30
        while behind := self.behind():
            consumer.step(0.1)
            consumer.commit()
            assert time.monotonic() < deadline, f"{behind} behind"
        consumer.look()

    def behind(self) -> int:
        """Records that the lake does not have."""
        return sum(self.watcher.lag(self.table.committed().offsets(broker_name(self.settings))).values())

    def lake_ids(self, day: date = DAY) -> Counter[str]:
        """How often each decision is in the lake, by its files as they are."""
        paths = self.lake.files("inference_log", "*.parquet", day)
        return Counter(i for path in paths for i in pq.read_table(path, columns=["decision_id"])[0].to_pylist())

    def end(self) -> None:
        self.spool.close()
        self.shipper.close()
        self.consumer.close()
        self.watcher.close()


@pytest.fixture
def log(settings: Settings) -> Iterator[Log]:
    made = Log(settings)
    yield made
    made.end()


def test_every_decision_reaches_the_lake_once_and_comes_back_as_it_was(log: Log) -> None:
    written = records(500)
    append(log.spool, *written)
    log.shipper.step()
    log.consume()
    assert list(log.table.records(DAY)) == written
    assert log.lake_ids() == Counter(r.decision_id for r in written)
    rows = log.table.read(DAY, ["user_id", "amount", "decision", "vector", "received_at"]).to_pylist()
    assert rows[7] == {
        "user_id": "u-1", "amount": 4250, "decision": "allow", "vector": [0.0] * 50,
        "received_at": datetime.fromtimestamp((MIDNIGHT + 7_000) / 1e6, UTC),
    }  # fmt: skip
    assert log.consumer.look() == 0


def test_a_shipper_that_forgot_where_it_was_sends_again_and_nothing_counts_twice(log: Log) -> None:
    append(log.spool, *records(300))
    log.shipper.step()
    log.consume()
    (log.settings.home / "inference_log" / "shipped.json").unlink()
    append(log.spool, *records(10, first=300))
    again = log.new_shipper()
    assert again.step() == 310
    log.consume()
    again.close()
    assert log.consumer.repeats == 300
    assert log.lake_ids() == Counter(r.decision_id for r in records(310))


def test_a_shipper_that_starts_again_goes_on_where_it_was(log: Log) -> None:
    append(log.spool, *records(40))
    log.shipper.step()
    append(log.spool, *records(2, first=40))
    again = log.new_shipper()
    assert again.step() == 2
    again.close()


class KilledError(Exception):
    """Stands for the death of the process at this point."""


def test_a_consumer_that_dies_between_data_and_offsets_leaves_nothing_twice(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(log.spool, *records(100), *records(50, first=500, decision="block"))
    log.shipper.step()

    def die(*_: object) -> None:
        raise KilledError

    dying = log.new_consumer()
    with monkeypatch.context() as patch:
        patch.setattr(Positions, "finish", die)
        with pytest.raises(KilledError):
            log.consume(dying)
    dying._source.close()
    assert log.lake_ids()  # the data was there
    assert log.table.committed().number == 0
    append(log.spool, *records(20, first=100))
    log.shipper.step()
    log.consume()
    assert log.lake_ids() == Counter(r.decision_id for r in [*records(120), *records(50, first=500)])


def test_a_consumer_that_dies_before_it_commits_reads_it_again(log: Log) -> None:
    append(log.spool, *records(100))
    log.shipper.step()
    dying = log.new_consumer()
    while not dying._waiting:
        dying.step(0.1)
    dying._source.close()
    log.consume()
    assert log.lake_ids() == Counter(r.decision_id for r in records(100))


def test_what_is_behind_is_known(log: Log) -> None:
    append(log.spool, *records(30))
    assert waiting_bytes(log.settings.home) > 30 * 200
    log.shipper.step()
    assert waiting_bytes(log.settings.home) == log.shipper.waiting_bytes == 0
    assert log_standing(log.settings).lag == 30
    log.consume()
    standing = log_standing(log.settings)
    assert (standing.lag, standing.days) == (0, [DAY])


def test_people_see_who_reads_what_and_whether_that_is_enough(log: Log) -> None:
    begin_home(log.settings.home)
    append(log.spool, *records(30))
    log.shipper.step()
    names = ("home", "redis_url", "redis_stream", "kafka_bootstrap", "kafka_topic")
    environment = {f"FRAUD_{name.upper()}": str(getattr(log.settings, name) or "") for name in names}

    def status() -> str:
        result = CliRunner().invoke(app, ["inference-log", "status", "--seconds", "0.1"], env=environment)
        assert result.exit_code == 0, result.output
        return " ".join(result.output.split())

    assert f"{broker_name(log.settings)}, records that the lake does not have 30" in status()
    words = ["inference-log", "status", "--seconds", "0", "--json"]
    told = json.loads(CliRunner().invoke(app, words, env=environment).stdout)
    assert (told["broker"], told["lag_records"], told["days"]) == (broker_name(log.settings), 30, [])
    if not log.settings.kafka_bootstrap:
        return
    assert told["partitions"][0]["read_by"] is None
    assert status().endswith("nobody reads")
    log.consume()
    owner = log.table.positions.writer
    assert f"0 0 +0 {owner}" in status()
    assert status().endswith("consumers: 1 nothing: the consumers keep up")


def test_a_segment_is_cut_only_when_the_lake_has_all_of_it(log: Log) -> None:
    append(log.spool, *records(100))
    before = segments(log.settings.home)
    assert len(before) > 2
    log.shipper.step()
    log.now += 20_000_000
    log.shipper.step()
    assert segments(log.settings.home) == before  # shipped, and not in the lake
    log.consume()
    log.now += 20_000_000
    log.shipper.step()
    assert segments(log.settings.home) == before[-1:]  # the last is open
    log.spool.close()
    log.now += 20_000_000
    log.shipper.step()
    assert segments(log.settings.home) == []
    assert log.shipper.cut == len(before)
    assert list(log.table.records(DAY)) == records(100)


def test_what_a_killed_worker_left_is_shipped_and_cut_its_torn_frame_too(log: Log) -> None:
    code = (
        "import os, sys, pathlib; from tests.record_kit import append, records;"
        "from fraud_platform.inference_log.spool import SpoolWriter, segments;"
        "home = pathlib.Path(sys.argv[1]); append(SpoolWriter(home, 'killed'), *records(5));"
        "path = segments(home)[-1]; file = path.open('ab'); file.write(b'\\x40\\0\\0\\0half a frame'); file.flush();"
        "os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(log.settings.home)], check=False)
    assert killed.returncode == -signal.SIGKILL
    log.shipper.step()
    log.consume()
    log.now += 20_000_000
    log.shipper.step()
    assert list(log.table.records(DAY)) == records(5)
    assert segments(log.settings.home) == []
    assert log.faults == []


def test_a_damaged_segment_is_kept_for_people_and_said(log: Log) -> None:
    append(log.spool, *records(10))
    log.spool.close()
    (path,) = segments(log.settings.home)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    log.shipper.step()
    log.consume()
    log.now += 20_000_000
    log.shipper.step()
    held = sum(log.lake_ids().values())
    assert 0 < held < 10
    assert path.with_suffix(".damaged").read_bytes() == content
    assert any("cannot be read" in fault for fault in log.faults)


def test_what_is_no_record_is_kept_beside_the_log(log: Log) -> None:
    producer = open_producer(log.settings)
    producer.send([Message(b"u", b"not a record"), Message(b"u", encode_record(record()))])
    producer.close()
    log.consume()
    assert sum(log.lake_ids().values()) == 1
    (path,) = log.lake.files("inference_log_rejected", "*.parquet")
    assert pq.read_table(path)["payload"].to_pylist() == [b"not a record"]
    assert len(log.faults) == 1


def test_days_lie_apart_and_merging_keeps_every_decision_once(log: Log) -> None:
    tomorrow = records(30, first=86_400_000 - 10)
    for start in range(0, 30, 10):
        append(log.spool, *tomorrow[start : start + 10])
        log.shipper.step()
        log.consume()
    next_day = DAY + timedelta(days=1)
    assert log.table.days() == [DAY, next_day]
    assert log.table.unmerged(before=next_day) == [DAY]
    assert log.table.merge(next_day) == 20
    assert len(log.lake.files("inference_log", "*.parquet", next_day)) == 1
    # a merge that was killed before it removed the parts
    parts = {path: Path(path).read_bytes() for path in log.lake.files("inference_log", "*.parquet", DAY)}
    log.table.merge(DAY)
    for path, content in parts.items():
        Path(path).write_bytes(content)
    assert list(log.table.records(DAY)) == tomorrow[:10]
    log.table.merge(DAY)
    assert log.lake_ids() == Counter(r.decision_id for r in tomorrow[:10])
    # late for a day that is merged
    late = record("late", decision_id="f" * 32)
    append(log.spool, late, tomorrow[0])
    log.shipper.step()
    log.consume()
    log.table.merge(DAY)
    assert {r.decision_id for r in log.table.records(DAY)} == {
        late.decision_id,
        *(r.decision_id for r in tomorrow[:10]),
    }
    assert sum(log.lake_ids().values()) == 11


def test_a_decision_is_found_wherever_it_is_and_the_latest_counts(log: Log) -> None:
    home, table = log.settings.home, log.table
    earlier = record("t-1", decision_id="1" * 32)
    append(log.spool, earlier, *records(50, first=100))
    log.shipper.step()
    log.consume()
    log.spool.close()
    log.now += 20_000_000
    log.shipper.step()
    assert segments(home) == []
    wanted = [("default", "t-1"), ("somebody", "t-1"), ("default", "t-149"), ("default", "unknown")]
    assert find_decisions(home, table, wanted, until=DAY, days=3)[wanted[0]] == earlier
    table.merge(DAY)
    found = find_decisions(home, table, wanted, until=DAY, days=3)
    assert found == {wanted[0]: earlier, wanted[2]: records(1, first=149)[0]}
    assert find_decisions(home, table, wanted, until=DAY + timedelta(days=3), days=3) == {}
    later = record("t-1", decision_id="2" * 32, received_at=MIDNIGHT + 90_000_000_000)
    append(log.spool, later)
    # each by the latest day that has it, one in the spool and one in the lake
    found = find_decisions(home, table, wanted, until=later.day, days=3)
    assert found == {wanted[0]: later, wanted[2]: records(1, first=149)[0]}
    assert decided_since(home, table, DAY - timedelta(days=1))
    assert decided_since(home, table, DAY)
    assert not decided_since(home, table, later.day)


def test_what_another_region_decided_is_no_loss_here(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    log_decisions(lake, records(3, region="west"))
    table, before = LogTable(lake), DAY - timedelta(days=1)
    assert not decided_since(tmp_path, table, before)
    assert decided_since(tmp_path, table, before, "west")
    assert not decided_since(tmp_path, table, before, "east")


def test_old_days_are_deleted_and_the_rest_stays(log: Log) -> None:
    for days in (0, 1, 2):
        append(log.spool, record(decision_id=f"{days:032x}", received_at=MIDNIGHT + days * 86_400_000_000))
    log.shipper.step()
    log.consume()
    today = DAY + timedelta(days=91)
    assert log.table.expired(today, 90) == [DAY]
    log.table.delete([DAY])
    assert log.table.days() == [DAY + timedelta(days=1), DAY + timedelta(days=2)]


def test_dagster_has_a_day_of_decisions_merged_and_held_against_its_rules(log: Log) -> None:
    append(log.spool, *records(40))
    asset = inference_log(dg.DailyPartitionsDefinition(start_date="2026-11-01", end_date="2027-01-01"))
    resources = {"platform": Platform(log.settings, datetime(2026, 11, 24, 1, tzinfo=UTC))}
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([asset], instance=instance, resources=resources, partition_key=DAY.isoformat())
    assert result.success
    passed = {evaluation.check_name: evaluation.passed for evaluation in result.get_asset_check_evaluations()}
    assert passed.pop("freshness")
    assert passed == dict.fromkeys(("schema", "nulls", "duplicates", "ranges", "delivered"), True)
    assert [Path(path).name for path in log.lake.files("inference_log", "*", DAY)] == ["data.parquet"]
    assert list(log.table.records(DAY)) == records(40)


def test_retention_deletes_by_its_setting(log: Log) -> None:
    for days in (0, 5):
        append(log.spool, record(decision_id=f"{days:032x}", received_at=MIDNIGHT + days * 86_400_000_000))
    assert drain(log.settings, 30)
    platform = Platform(log.settings, datetime(2026, 11, 23, 4, tzinfo=UTC) + timedelta(days=91))
    assert retention.execute_in_process(resources={"platform": platform}).success
    assert log.table.days() == [DAY + timedelta(days=5)]


def test_draining_does_what_nobody_else_does(log: Log) -> None:
    append(log.spool, *records(10))
    assert drain(log.settings, 30)
    assert log.lake_ids() == Counter(r.decision_id for r in records(10))


def told(metrics: str, lag: int) -> bool:
    """Whether a process shows this lag, of all that it reads."""
    lines = [line for line in metrics.splitlines() if line.startswith("fraud_log_lag_records{")]
    return bool(lines) and sum(float(line.split()[1]) for line in lines) == lag


def test_the_process_carries_decisions_and_tells_its_lag_until_it_is_asked_to_end(log: Log) -> None:
    import httpx

    names = ("home", "redis_url", "redis_stream", "kafka_bootstrap", "kafka_topic", "log_port")
    fields = {name: getattr(log.settings, name) for name in names}
    environment = {**os.environ, **{f"FRAUD_{name.upper()}": str(v) for name, v in fields.items() if v is not None}}
    command = [sys.executable, "-m", "fraud_platform.cli", "inference-log", "run"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        append(log.spool, *records(25))
        deadline = time.monotonic() + 40
        while sum(log.lake_ids().values()) < 25:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        metrics = ""
        while "fraud_log_lake_rows 25.0" not in metrics or not told(metrics, 0):
            assert time.monotonic() < deadline, metrics
            metrics = httpx.get(f"http://127.0.0.1:{log.settings.log_port}/metrics").text
            time.sleep(0.1)
        append(log.spool, *records(5, first=25))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        if process.poll() is None:
            process.kill()
    assert waiting_bytes(log.settings.home) == 0
    log.consume()
    assert log.lake_ids() == Counter(r.decision_id for r in records(30))


def test_records_that_the_broker_lost_are_sent_again(make_settings: MakeSettings, redis_url: str) -> None:
    log = Log(make_settings(redis_url=redis_url, redis_stream="lossy"))
    append(log.spool, *records(50))
    log.spool.close()
    log.shipper.step()
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    log.now += 90_000_000
    log.consumer.step(0.01)  # sees the end of the broker, which has nothing
    for _ in range(2):
        log.now += 20_000_000
        log.shipper.step()
    assert log.shipper.resent > 0
    log.consume()
    assert log.lake_ids() == Counter(r.decision_id for r in records(50))
    log.end()


def test_a_stream_that_the_lake_does_not_empty_takes_no_more(redis_url: str) -> None:
    stream = RedisStream(redis_url, "narrow", most=10)
    stream.send([Message(b"u", b"x")] * 8)
    with pytest.raises(BrokerError, match="narrow"):
        stream.send([Message(b"u", b"x")] * 3)
    assert stream.lag({}) == {"0": 8}
    batch = stream.read(100, 0.1)
    stream.committed(batch.offsets)
    stream.send([Message(b"u", b"x")] * 3)
    stream.close()


def test_a_broker_that_is_away_is_an_error_that_names_it_and_the_spool_keeps_all(make_settings: MakeSettings) -> None:
    log = Log(make_settings(redis_url="redis://127.0.0.1:1/0"))
    append(log.spool, *records(5))
    with pytest.raises(BrokerError):
        log.shipper.step()
    with pytest.raises(BrokerError):
        log.consumer.step(0.1)
    assert waiting_bytes(log.settings.home) > 0
    log.spool.close()


@pytest.mark.skipif(wanted() != "real", reason="a mock cluster cannot be killed and keep its records: make test-kafka")
@pytest.mark.parametrize("fault", ["killed", "paused"])
def test_a_real_kafka_that_is_away_for_a_while_loses_nothing(
    make_settings: MakeSettings, tmp_path: Path, fault: str
) -> None:
    folder = tmp_path / "kafka"
    folder.mkdir()
    server = RealKafka(folder)
    log = Log(make_settings(kafka_bootstrap=server.bootstrap, kafka_topic="away"))
    try:
        append(log.spool, *records(300))
        log.shipper.step()
        log.consume()
        append(log.spool, *records(300, first=300))
        if fault == "killed":
            server.kill()
        else:
            server.pause()
        with pytest.raises(BrokerError):
            log.shipper.step()
        assert waiting_bytes(log.settings.home) > 0
        if fault == "killed":
            server.start()
        else:
            server.go_on()
        deadline = time.monotonic() + 60
        while waiting_bytes(log.settings.home):
            assert time.monotonic() < deadline
            try:
                log.shipper.step()
            except BrokerError:
                # the client finds the broker again within seconds
                time.sleep(0.5)
        log.consume()
        assert log.lake_ids() == Counter(r.decision_id for r in records(600))
    finally:
        log.end()
        server.kill()
