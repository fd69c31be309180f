"""The path of `make run`, headless: killed in the middle, started again, started once more."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import httpx
import psutil
import pytest

from assets.definitions import build_definitions
from assets.partitions import key_range_tags
from fraud_platform.clock import move_clock
from fraud_platform.features import tables
from fraud_platform.lake import days_between, open_lake
from fraud_platform.settings import Settings
from tests.conftest import free_port
from tests.modes_kit import open_to_others

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "fraud_platform.cli"]
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
"""Of the platform's clock: the day decides which bank it is, and so what its first model is like."""
FIRST_DAY = NOW.date() - timedelta(days=30)
LAST_DAY = NOW.date() - timedelta(days=1)
BANK = {
    "users": 800,
    "merchants": 80,
    "transactions_per_day": 1_500,
    "history_start": FIRST_DAY,
    # a short history: the better of trees and logistic regression serves, once it can be told from chance
    "min_holdout_frauds": 10,
    # a search and threads are tested with the model
    "search_trials": 1,
    "training_threads": 1,
}

pytestmark = pytest.mark.timeout(420)


class Platform:
    """One home, driven by its command line as a user would."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.ports = {f"{name}_port": free_port() for name in ("dagster", "service", "mlflow", "log")}
        fields = BANK | self.ports | {"home": home, "clock_file": home / "clock"}
        move_clock(home / "clock", int(NOW.timestamp() * 1_000_000))
        self.settings = Settings(**fields)  # type: ignore[arg-type]
        self.environment = os.environ | {f"FRAUD_{name.upper()}": str(value) for name, value in fields.items()}
        self.environment["COLUMNS"] = "200"  # tables are read here as they are printed on a wide terminal

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> str:
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=400)
        assert process.returncode == 0, output
        return output

    def lake_content(self) -> dict[str, bytes]:
        root = Path(open_lake(self.settings).root)
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("date=*/data.parquet")}

    def release(self) -> str:
        pointer: str = json.loads((self.home / "releases" / "current.json").read_text())["release"]
        return pointer

    def mlflow(self, query: str) -> list[tuple[object, ...]]:
        with sqlite3.connect(f"file:{self.home}/mlflow/mlflow.db?mode=ro", uri=True) as database:
            return database.execute(query).fetchall()


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    started = Platform(tmp_path_factory.mktemp("platform"))
    yield started
    started.run("down")


def wait_for(path: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.2)


def test_killed_in_the_middle_and_started_again_it_decides_payments(platform: Platform) -> None:
    killed = platform.start("up")
    lake = open_lake(platform.settings)
    wait_for(Path(lake.path(tables.USER_TILES, FIRST_DAY)), 120)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()

    output = platform.run("up", "--exit-when-ready")

    assert "Sample payments" in output
    assert output.count("redis, champion") >= 3, output
    assert "fraud-detector-1 decides, " in output
    assert "surely beats chance" in output
    assert platform.release() == "fraud-detector-1"
    assert platform.mlflow("select count(*) from runs where status = 'RUNNING'") == [(0,)]
    # but for the clock, which this test has put there
    assert [each for each in open_to_others(platform.home) if not each.startswith(f"{platform.home}/clock ")] == []


def test_what_was_killed_and_repeated_is_what_an_undisturbed_run_writes(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = Platform(tmp_path)
    for name, value in (BANK | {"home": tmp_path, "clock_file": tmp_path / "clock"}).items():
        monkeypatch.setenv(f"FRAUD_{name.upper()}", str(value))
    job = build_definitions(Settings(), NOW).resolve_job_def("history")
    with dg.DagsterInstance.ephemeral() as instance:
        days = days_between(FIRST_DAY, LAST_DAY)
        assert job.execute_in_process(instance=instance, tags=key_range_tags(days)).success
    content, expected = platform.lake_content(), undisturbed.lake_content()
    assert content.keys() == expected.keys()
    assert [path for path in expected if content[path] != expected[path]] == []


def test_a_second_start_rebuilds_nothing_and_serves_until_it_is_asked_to_end(platform: Platform) -> None:
    before = platform.lake_content()
    process = platform.start("up")
    url = f"http://127.0.0.1:{platform.ports['service_port']}"
    deadline = time.monotonic() + 120
    while True:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                break
        except httpx.TransportError:
            assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    payment = {
        "transaction_id": "e2e-1", "user_id": "nobody", "merchant_id": "nowhere", "amount": 42.5, "currency": "EUR",
        "country": "DE", "timestamp": NOW.isoformat(),
    }  # fmt: skip
    answer = httpx.post(f"{url}/v1/predict", json=payment)
    assert answer.status_code == 200
    assert answer.json()["model_version"] == "fraud-detector/1"
    assert answer.json()["degraded"] is False

    tree = psutil.Process(process.pid).children(recursive=True)
    sockets = [each for child in tree for each in child.net_connections(kind="inet")]
    assert {each.laddr.port for each in sockets if each.status == psutil.CONN_LISTEN} <= set(platform.ports.values())

    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)

    assert process.returncode == 0, output
    assert platform.lake_content() == before
    assert platform.release() == "fraud-detector-1"
    assert platform.mlflow("select count(*) from model_versions") == [(1,)]


def test_a_day_of_it_replays_without_a_difference(platform: Platform) -> None:
    day: date = LAST_DAY
    output = platform.run("replay", "--date", day.isoformat())
    assert " 0 differences" in output
    assert "user_txn_count_1m" in output
