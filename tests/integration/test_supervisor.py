"""`fraud-platform up` with real processes; small servers stand in for the platform's own, all else is as it is."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
import yaml

from fraud_platform.lake import open_lake
from fraud_platform.online.embedded_postgres import postgres_pid, stop_postgres
from fraud_platform.online.embedded_redis import redis_pid, stop_redis
from fraud_platform.run.child import Child, end_leftovers, leftovers, pid_file, record_pid, recorded_process, tail
from fraud_platform.run.home import RETENTION_YAML, Home, open_home
from fraud_platform.schema import RAW_TRANSACTIONS
from fraud_platform.settings import Settings
from tests.modes_kit import open_to_others

SERVER = """
import http.server, json, socket, subprocess, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, content):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer({})
    def do_POST(self):
        payment = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer({"transaction_id": payment["transaction_id"], "score": 0.25, "decision": "allow",
                     "reason": "score_below_threshold", "served_by": {"user_features": "redis", "model": "champion"}})
    def log_message(self, *args):
        pass
port, *parent = sys.argv[1:]
listener = socket.socket(fileno=0) if parent == ["worker"] else socket.create_server(("127.0.0.1", int(port)))
if parent == ["parent"]:  # as BentoML has it: its socket, and a worker in a session of its own
    command = [sys.executable, __file__, port, "worker"]
    sys.exit(subprocess.Popen(command, stdin=listener.fileno(), start_new_session=True).wait())
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler, bind_and_activate=False)
server.socket = listener
print("I listen on", port, flush=True)
server.serve_forever()
"""

BUILD = """
import pathlib, sys, time
home, mode = pathlib.Path(sys.argv[1]), sys.argv[2]
(home / "build-started").touch()
try:
    if mode == "slow":
        time.sleep(60)
    if mode == "retrains":
        time.sleep(6)
    if mode == "broken":
        sys.exit("the lake is on fire")
except KeyboardInterrupt:
    (home / "build-interrupted").touch()
    sys.exit(130)
(home / "releases").mkdir(exist_ok=True)
release = 2 if mode == "retrains" else 1
(home / "releases" / "current.json").write_text('{"release": "fraud-detector-%d"}' % release)
"""

DRIVER = """
import sys
from datetime import UTC, datetime
from rich.console import Console
from fraud_platform.run import supervisor, up
from fraud_platform.run.child import Child
from fraud_platform.run.servers import FACES, Server
from fraud_platform.settings import Settings

def servers(settings, home):
    def server(name):
        title, setting, path = FACES[name]
        port = getattr(settings, setting)
        command = [sys.executable, "server.py", str(port), *(["parent"] if name == "service" else [])]
        if name == "mlflow" and "mlflow-dies" in sys.argv:
            command = [sys.executable, "-c", "raise SystemExit('no such database')"]
        return Server(title, child(name, command), port, path)
    def child(name, command):
        paths = [FOLDER + "/" + part if part.endswith(".py") else part for part in command]
        return Child(name, paths, home, home.environment(settings))
    sleeper = ["sleep", "600"]
    return {"service": server("service"), "dagster-code": Server("code", child("dagster-code", sleeper)),
            "dagster": server("dagster"), "mlflow": server("mlflow"), "inference-log": server("inference-log"),
            "dagster-daemon": Server("daemon", child("dagster-daemon", sleeper))}

def build(settings, home):
    import signal
    command = [sys.executable, FOLDER + "/build.py", str(home.root), sys.argv[2]]
    return Child("build", command, home, home.environment(settings), polite=signal.SIGINT)

FOLDER = sys.argv[1]
up.servers, up.build = servers, build
if "hurried" in sys.argv:
    supervisor.READY_SECONDS = 5.0
if "samples" not in sys.argv:  # they import Arrow and DuckDB, which takes longer than all the rest here
    up._decide_samples = lambda *_: None
sys.exit(up.up(Settings(), Console(width=200), lambda: datetime.now(UTC), "exit" in sys.argv))
"""


class Up:
    """A driver of `up` in a process of its own, with stand-in servers."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder, self.home = settings, folder, open_home(settings)
        self.processes: list[subprocess.Popen[str]] = []
        for name, text in (("server.py", SERVER), ("build.py", BUILD), ("driver.py", DRIVER)):
            (folder / name).write_text(text)

    def start(self, build: str = "quick", *options: str) -> "subprocess.Popen[str]":
        names = ("home", "dagster_port", "service_port", "mlflow_port", "log_port")
        environment = {**os.environ, **{f"FRAUD_{name.upper()}": str(getattr(self.settings, name)) for name in names}}
        output = (self.folder / f"up-{len(self.processes)}.txt").open("w+")
        command = [sys.executable, str(self.folder / "driver.py"), str(self.folder), build, *options]
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self.processes.append(process)
        return process

    def said(self, number: int = -1) -> str:
        index = number % len(self.processes)
        return (self.folder / f"up-{index}.txt").read_text()

    def wait_for(self, text: str, number: int = -1) -> None:
        until(lambda: text in self.said(number), lambda: f"{text!r} in:\n{self.said(number)}")

    def pids(self) -> list[int]:
        return [process.pid for process in leftovers(self.home)]

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        end_leftovers(self.home)
        stop_redis(self.settings)
        stop_postgres(self.settings)


def until(condition: Callable[[], object], what: Callable[[], str] = lambda: "", seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.fixture
def up(settings: Settings, tmp_path: Path) -> Iterator[Up]:
    rows = [
        {
            "transaction_id": f"t{n}", "caller": "default", "user_id": f"u{n}", "merchant_id": "m", "currency": "EUR",
            "amount_minor": 100 * n, "amount": 100 * n, "country": "DE", "clock_skew": False,
            "timestamp": datetime(2026, 1, 1, tzinfo=UTC), "received_at": datetime(2026, 1, 1, tzinfo=UTC),
            "event_time": datetime(2026, 1, 1, tzinfo=UTC),
            "is_duplicate": False,
        }
        for n in range(1, 11)
    ]  # fmt: skip
    open_lake(settings).write("raw_transactions", date(2026, 1, 1), pa.Table.from_pylist(rows, RAW_TRANSACTIONS))
    (settings.home / "dagster").mkdir()  # nothing here runs Dagster: creating its instance would take longer than all
    started = Up(settings, tmp_path)
    yield started
    started.end()


def test_a_run_decides_and_says_where_everything_is_and_a_failed_later_build_does_no_harm(
    up: Up,
) -> None:
    planted = set(open_to_others(up.home.root)) - {str(up.home.root)}
    process = up.start("quick", "exit", "samples")
    assert process.wait(40) == 0, up.said()
    assert set(open_to_others(up.home.root)) <= planted
    said = up.said()
    for story in ("an ordinary payment", "a card is tested", "and then used", "large, abroad, new device"):
        assert story in said
    assert said.count("score_below_threshold") == 8
    for port in (up.settings.dagster_port, up.settings.service_port, up.settings.mlflow_port):
        assert f"http://127.0.0.1:{port}" in said
    assert str(up.home.logs) in said
    assert "I listen on" in (up.home.logs / "mlflow.log").read_text()
    assert up.pids() == []
    assert redis_pid(up.settings) is not None
    assert "fraud-platform down" in said

    assert up.start("broken", "exit", "samples").wait(40) == 1  # a later build: the model in force goes on deciding
    assert "decides by the model it had" in up.said()
    assert "the lake is on fire" in up.said()
    assert up.said().count("score_below_threshold") == 8


def test_the_service_has_its_time_to_start_after_a_build_that_took_longer(up: Up) -> None:
    assert up.start("quick", "exit").wait(40) == 0, up.said()
    assert up.start("retrains", "exit", "hurried").wait(60) == 0, up.said()


def test_ctrl_c_ends_every_process_and_the_second_run_says_that_it_runs_already(up: Up) -> None:
    process = up.start()
    up.wait_for("Ctrl-C ends it")
    pids = up.pids()
    assert len(pids) >= 7  # five servers, the worker in its own session, up itself
    assert up.start().wait(20) == 0
    assert "already running" in up.said()
    assert str(up.settings.service_port) in up.said()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0, up.said(0)
    assert not any(alive(pid) for pid in pids)
    assert list(up.home.run.glob("*.pid")) == []


def test_ctrl_c_during_the_build_lets_the_build_end_cleanly(up: Up) -> None:
    process = up.start("slow")
    until((up.home.root / "build-started").exists, up.said)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0, up.said()
    assert (up.home.root / "build-interrupted").exists()
    assert up.pids() == []


def test_a_killed_up_leaves_nothing_in_the_way_of_the_next_one(up: Up) -> None:
    process = up.start()
    up.wait_for("Ctrl-C ends it")
    left = [pid for pid in up.pids() if pid != process.pid]
    process.kill()
    process.wait()
    assert all(alive(pid) for pid in left)
    assert up.start("quick", "exit").wait(40) == 0, up.said()
    assert "left behind" in up.said()
    assert not any(alive(pid) for pid in left)


def test_a_server_that_cannot_start_ends_the_start_and_shows_why(up: Up) -> None:
    process = up.start("quick", "mlflow-dies")
    assert process.wait(40) == 1
    assert "MLflow ended while starting (exit code 1)" in up.said()
    assert "no such database" in up.said()
    assert up.pids() == []


def test_a_failed_first_build_is_the_end(up: Up) -> None:
    assert up.start("broken").wait(40) == 1
    assert "the lake is on fire" in up.said()
    assert "the build failed (exit code 1)" in up.said()
    assert up.pids() == []


def test_a_port_in_use_is_named_by_its_setting_before_anything_starts(up: Up) -> None:
    with socket.create_server(("127.0.0.1", up.settings.mlflow_port)):
        assert up.start().wait(20) == 1
    assert "FRAUD_MLFLOW_PORT" in up.said()
    assert f"process {os.getpid()}" in up.said()
    assert not (up.home.root / "build-started").exists()
    assert redis_pid(up.settings) is None


def test_what_dies_is_reported_and_started_again_and_down_ends_it_all(up: Up) -> None:
    process = up.start()
    up.wait_for("Ctrl-C ends it")
    pids = up.pids()
    mlflow = recorded_process(pid_file(up.home, "mlflow"))
    assert mlflow is not None
    mlflow.kill()
    up.wait_for("MLflow has ended (exit code -9)")
    up.wait_for("I listen on")
    redis = redis_pid(up.settings)
    assert redis is not None
    os.kill(redis, signal.SIGKILL)
    up.wait_for("Redis was down and runs again")
    assert redis_pid(up.settings) not in (None, redis)
    postgres = postgres_pid(up.settings)
    assert postgres is not None
    os.kill(postgres, signal.SIGKILL)
    up.wait_for("PostgreSQL was down and runs again")
    until(lambda: recorded_process(pid_file(up.home, "mlflow")) not in (None, mlflow))
    assert process.poll() is None
    pids += up.pids()
    environment = {**os.environ, "FRAUD_HOME": str(up.settings.home)}
    command = [sys.executable, "-m", "fraud_platform.cli", "down"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=40, check=True).stdout
    assert "Stopped Redis" in said
    assert "Stopped PostgreSQL" in said
    assert process.wait(10) == 0
    assert not any(alive(pid) for pid in pids)
    assert redis_pid(up.settings) is None


def test_a_killed_service_s_workers_are_not_in_the_way_of_the_next_one(up: Up) -> None:
    process = up.start()
    up.wait_for("Ctrl-C ends it")

    def kill_the_parent() -> psutil.Process:
        parent = recorded_process(pid_file(up.home, "service"))
        assert parent is not None
        (worker,) = parent.children()
        parent.kill()
        return worker

    def listens_again() -> bool:
        return (up.home.logs / "service.log").read_text().count("I listen on") == 2

    first = kill_the_parent()
    up.wait_for("decision service has ended (exit code -9)")
    assert alive(first.pid), "which is what keeps the port"
    until(listens_again, (up.home.logs / "service.log").read_text)
    assert not alive(first.pid)
    assert up.said().count("has ended") == 1, "the second one could listen"

    second = kill_the_parent()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0, up.said()
    assert not alive(second.pid)


def test_a_pid_file_is_believed_only_for_the_process_it_was_written_for(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.dagster.mkdir()
    home.prepare()
    record_pid(home, "me", os.getpid())
    path = pid_file(home, "me")
    found = recorded_process(path)
    assert found is not None
    assert found.pid == os.getpid()
    path.write_text(json.dumps({"pid": os.getpid(), "created": psutil.Process().create_time() - 60}))
    assert recorded_process(path) is None
    path.write_text("not a pid file")
    assert recorded_process(path) is None


def test_a_process_that_ignores_requests_to_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    home.dagster.mkdir()
    home.prepare()
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    child = Child("deaf", [sys.executable, "-c", deaf], home, dict(os.environ))
    child.start()
    until(lambda: "deaf" in child.tail())
    monkeypatch.setattr("fraud_platform.run.child.end_trees.__defaults__", (0.4,))
    child.stop()
    assert child.exit_code == -signal.SIGKILL


def test_a_progress_bar_s_tail_is_its_last_state(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\nbuild 10%\rbuild 50%\rbuild 90%\n\n")
    assert tail(log, 1) == "build 90%"
    assert tail(log, 5) == "one\nbuild 90%"
    assert tail(tmp_path / "absent", 3) == ""


def test_dagster_s_instance_is_complete_or_absent_and_an_existing_one_is_left_alone(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    (home.root / "dagster.new" / "half").mkdir(parents=True)  # a start was killed here
    home.prepare()
    for database in ("history/runs.db", "history/runs/index.db", "schedules/schedules.db"):
        with sqlite3.connect(home.dagster / database) as connection:
            assert connection.execute("select count(*) from alembic_version").fetchone() == (1,)
    assert not (home.root / "dagster.new").exists()
    assert yaml.safe_load((home.dagster / "dagster.yaml").read_text())["retention"]["schedule"]


@pytest.mark.parametrize("mine", ["", "# my own\n", "telemetry: {enabled: false} # mine\n\n\n", "nux: {enabled: true}"])
def test_an_instance_file_without_retention_gets_one_below_what_its_owner_wrote(tmp_path: Path, mine: str) -> None:
    home = Home(tmp_path)
    home.dagster.mkdir()
    path = home.dagster / "dagster.yaml"
    path.write_text(mine)
    said = home.prepare()
    assert said is not None
    assert said.startswith(f"{path} has a `retention` of ticks now")
    assert path.read_text().startswith(mine.rstrip())
    expected = (yaml.safe_load(mine) or {}) | yaml.safe_load(RETENTION_YAML)
    assert yaml.safe_load(path.read_text()) == expected
    assert expected["retention"]["sensor"]["purge_after_days"]["skipped"] == 1
    assert home.prepare() is None


@pytest.mark.parametrize(
    ("mine", "said"),
    [
        ("retention: {}\n", None),
        ("retention:\n  schedule: {purge_after_days: 7}\n", None),
        ("telemetry:\n  enabled: false\n...\n", "add one as a new home has it"),
        ("telemetry:\n  note: |+\n    text\n\n\n", "would mean something else"),
        ("- a list\n", "add one as a new home has it"),
        ("telemetry: {enabled\n", "add one as a new home has it"),
    ],
)
def test_an_instance_file_is_left_alone_where_it_has_one_or_cannot_take_one(
    tmp_path: Path, mine: str, said: str | None
) -> None:
    home = Home(tmp_path)
    home.dagster.mkdir()
    path = home.dagster / "dagster.yaml"
    path.write_text(mine)
    told = home.prepare()
    assert path.read_text() == mine
    assert (told is None) if said is None else (told is not None and said in told)


TALKER = """
import signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: print("still heard", flush=True))
for number in range(int(sys.argv[1])):
    print(f"{number:06} " + "x" * 60, flush=number % 100 == 0)
print("all said", flush=True)
time.sleep(600)
"""


def test_what_a_server_prints_is_kept_in_files_of_bounded_size(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.dagster.mkdir()
    home.prepare()
    child = Child("talker", [sys.executable, "-c", TALKER, "100000"], home, dict(os.environ), log_bytes=1_000_000)
    child.start()
    try:
        until(lambda: "all said" in child.tail())
        files = [home.logs / name for name in ("talker.log.4", "talker.log.3", "talker.log.2", "talker.log.1")]
        assert {path.name for path in home.logs.iterdir()} == {"talker.log", *(path.name for path in files)}
        assert all(1_000_000 <= path.stat().st_size < 1_000_068 for path in files)
        lines = [line for path in [*files, child.log] for line in path.read_text().splitlines()]
        assert lines.pop() == "all said"
        first = int(lines[0][:6])
        assert lines == [f"{number:06} " + "x" * 60 for number in range(first, 100_000)]
        assert first < 50_000

        # who writes it down is killed: the server is not, and another goes on
        assert child._keeper is not None
        child._keeper.kill()
        child._keeper.wait()
        assert child._process is not None
        child._process.send_signal(signal.SIGUSR1)
        child.look_after_log()
        until(lambda: "still heard" in child.tail())
        assert child.running
    finally:
        child.stop()
    assert child._keeper.wait(5) == 0, "it ends with whom it listens to"
    assert open_to_others(home.logs) == []


def test_a_second_start_goes_on_in_the_file_of_the_first_and_another_up_begins_its_own(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.dagster.mkdir()
    home.prepare()
    child = Child("speaker", ["echo", "one"], home, dict(os.environ))
    for _ in range(2):
        child.start()
        until(lambda: not child.running)
        child.wait_for_log()
    assert child.log.read_text() == "one\none\n"
    following = Child("speaker", ["echo", "two"], home, dict(os.environ))
    following.start()
    until(lambda: not following.running)
    assert following.tail() == "two", "the last word of a process that ended is waited for"
    assert (home.logs / "speaker.log.1").read_text() == "one\none\n"
