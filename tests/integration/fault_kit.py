"""The whole serving side of one home with real processes, each of which a test may kill, pause, starve or cut off."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pyarrow.parquet as pq
from service_kit import free_port, publish_small_model
from test_store_faults import Server

from benchmarks.serving.load import Order, Result
from benchmarks.serving.world import World, fill
from fraud_platform.inference_log.process import drain
from fraud_platform.inference_log.table import LogTable
from fraud_platform.lake import open_lake
from fraud_platform.online.embedded_postgres import ensure_postgres, postgres_pid, stop_postgres
from fraud_platform.online.packed import VIEWS
from fraud_platform.online.snapshot_load import SNAPSHOT_TABLES, load_cold
from fraud_platform.settings import Settings

ROOT = Path(__file__).parents[2]
USERS, MERCHANTS = 300, 10
SOAK = bool(os.environ.get("FRAUD_TEST_SOAK"))


class Proxy:
    """TCP between the service and Redis. mode: pass, black_hole (takes all, gives nothing), reset, slow (200 ms)."""

    def __init__(self, target: int) -> None:
        self.mode = "pass"
        self._target = target
        self.port = free_port()
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(10)

    def become(self, mode: str) -> None:
        """Change the mode; a reset also ends the connections there are."""
        self.mode = mode
        if mode == "reset":
            self._loop.call_soon_threadsafe(self._abort_all)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", self.port))
        started.set()
        self._loop.run_forever()

    def _abort_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "reset":
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer), return_exceptions=True)
        for one in (writer, far_writer):
            self._writers.discard(one)
            one.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                if self.mode == "black_hole":
                    continue
                if self.mode == "slow":
                    await asyncio.sleep(0.2)
                writer.write(data)
                await writer.drain()
        finally:
            writer.transport.abort()


def _mount(folder: Path) -> str:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1g" if SOAK else "size=16m", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr.strip()


class Plant:
    """Service, Redis behind a proxy, PostgreSQL, the log's process and a load generator."""

    def __init__(self, home: Path, **environment: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self.no_disk = _mount(home / "inference_log")
        """Why the spool has no small disk of its own; empty where it has."""
        self.healthy_p99 = 0.0
        (home / "redis-data").mkdir()
        self.redis = Server(home / "redis-data")
        self.proxy = Proxy(self.redis.port)
        self.settings = Settings(home=home, redis_url=f"redis://127.0.0.1:{self.proxy.port}/0", log_port=free_port())
        world = World(home, self.redis.port, USERS, MERCHANTS)
        fill(world)
        lake = open_lake(self.settings)
        day = lake.days(SNAPSHOT_TABLES["user"])[-1]
        for view in VIEWS:
            load_cold(self.settings, lake, view, day, now=lambda: time.time_ns() // 1_000)
        publish_small_model(home, version=1, seed=1)
        self.port = free_port()
        own = {
            "FRAUD_HOME": str(home), "FRAUD_REDIS_URL": self.settings.redis_url or "", "BENTOML_HOME": str(home / "b"),
            "FRAUD_LOG_PORT": str(self.settings.log_port), "FRAUD_SERVICE_WORKERS": "2", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        self._environment = {**os.environ, **own, **environment}
        self.log = home / "service.log"
        self.service = self._start(
            "bentoml", "serve", "bento.service:FraudDetector", "--port", str(self.port), log=self.log
        )
        self.shipper: subprocess.Popen[bytes] | None = None
        self.start_shipper()
        self._generator = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving.load"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self._first = 0
        self._lock = threading.Lock()
        self.accepted: list[str] = []
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=5, trust_env=False)
        self.wait(lambda: self.ready()["degraded"] == [], 120)
        self.workers = self.worker_pids()

    def _start(self, *command: str, log: Path) -> "subprocess.Popen[bytes]":
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", *command], cwd=ROOT, env=self._environment, stdout=output, stderr=output
            )

    def start_shipper(self) -> None:
        """Start the log's process."""
        self.shipper = self._start("fraud_platform.cli", "inference-log", "run", log=self.home / "log.log")

    def ready(self) -> dict[str, Any]:
        """What /readyz says; everything degraded while nobody answers."""
        try:
            answer: dict[str, Any] = self.http.get("/readyz").json()
        except httpx.HTTPError as error:
            assert self.service.poll() is None, self.log.read_text()[-3000:]
            return {"degraded": [str(error)]}
        return answer

    def metric(self, name: str) -> float:
        """A metric's value by its line's beginning, summed over labels."""
        lines = self.http.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def memory_mb(self) -> float:
        """What the workers hold together, resident."""
        return sum(psutil.Process(pid).memory_info().rss for pid in self.worker_pids()) / 2**20

    def worker_pids(self) -> set[int]:
        """Pids of the service's workers, by their notes."""
        return {int(path.stem) for path in (self.home / "workers").glob("*.json") if psutil.pid_exists(int(path.stem))}

    def load(self, seconds: float, rate: float) -> "threading.Thread":
        """Begin a load; `result` waits for its end."""
        order = Order(
            port=self.port, rate=rate, seconds=seconds, connections=16, seed=self._first, users=USERS,
            merchants=MERCHANTS, first=self._first, keep=True,
        )  # fmt: skip
        self._first += int(rate * seconds)
        self._results: list[Result] = []

        def talk() -> None:
            assert self._generator.stdin is not None
            assert self._generator.stdout is not None
            self._generator.stdin.write(json.dumps(asdict(order)) + "\n")
            self._generator.stdin.flush()
            self._results.append(Result(**json.loads(self._generator.stdout.readline())))

        thread = threading.Thread(target=talk)
        thread.start()
        return thread

    def result(self, load: threading.Thread) -> Result:
        """What came of a load; its decisions are remembered."""
        load.join()
        (result,) = self._results
        self.accepted += result.accepted
        return result

    def wait(self, condition: Any, seconds: float = 30) -> None:
        """Wait until something holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{self.ready()}\n{self.log.read_text()[-3000:]}"
            time.sleep(0.1)

    def ask(self, client: httpx.Client | None = None) -> httpx.Response:
        """The answer to one payment more, which is accepted where it is 200."""
        with self._lock:
            self._first += 1
            transaction_id = f"b-{self._first - 1}"
        body = {
            "transaction_id": transaction_id, "user_id": "user-1", "merchant_id": "m-1", "amount": 10,
            "country": "DE", "timestamp": datetime.now(UTC).isoformat(),
        }  # fmt: skip
        answer = (client or self.http).post("/v1/predict", json=body)
        if answer.status_code == 200:
            self.accepted.append(transaction_id)
        return answer

    def serves(self, source: str) -> bool:
        """Whether payments are served from here now, whichever worker they reach: each connection may reach another."""
        for _ in range(12):
            with httpx.Client(base_url=self.http.base_url, timeout=5, trust_env=False) as client:
                answer = self.ask(client)
            assert answer.status_code == 200
            if answer.json()["served_by"]["user_features"] != source:
                return False
        return True

    def kill_postgres(self) -> None:
        """End PostgreSQL at once, its backends too."""
        pid = postgres_pid(self.settings)
        assert pid is not None
        children = psutil.Process(pid).children()
        for process in (psutil.Process(pid), *children):
            process.kill()

    def start_postgres(self) -> None:
        """Start it again."""
        ensure_postgres(self.settings)

    def lake_counts(self) -> Counter[str]:
        """How often each transaction is in the lake, once everything has arrived."""
        assert drain(self.settings, 60), "what waits in the spool or the broker does not arrive"
        lake = open_lake(self.settings)
        today = datetime.now(UTC).date()
        paths = [p for day in (today - timedelta(days=1), today) for p in lake.files("inference_log", "*.parquet", day)]
        columns = [pq.read_table(path, columns=["transaction_id"])[0].to_pylist() for path in paths]
        assert LogTable(lake).days()
        return Counter(transaction for column in columns for transaction in column)

    def end(self) -> None:
        """End everything."""
        self._generator.kill()
        self._generator.wait()
        for process in (self.service, self.shipper):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in (self.service, self.shipper):
            if process is not None:
                process.wait(40)
        self.http.close()
        self.proxy.close()
        if self.redis.process is not None and self.redis.process.poll() is None:
            self.redis.kill()
        stop_postgres(self.settings)
        if not self.no_disk:
            subprocess.run(["umount", "--lazy", str(self.home / "inference_log")], check=True)
