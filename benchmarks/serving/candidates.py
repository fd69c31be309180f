"""The servers under test: how each is started, pinned, and measured from outside.

What belongs here: commands, readiness, CPU time of a process tree. What does not: load, what a figure means.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks.serving.world import World
from fraud_platform.features.catalogue import CATALOGUE

START_SECONDS = 120.0
OURS, REFERENCE, FEAST, EMPTY = "this service", "reference pattern", "Feast SDK read", "empty BentoML"
NAMES = (OURS, REFERENCE, FEAST, EMPTY)


@dataclass
class Candidate:
    """A running server."""

    name: str
    port: int
    key: str
    process: "subprocess.Popen[bytes]"
    tls: bool = False

    def processes(self) -> list[psutil.Process]:
        """The one that was started, and what it started."""
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def cpu_seconds(self) -> list[float]:
        """Processor time so far of each of the server's processes, in their order."""
        return [cpu_seconds(process) for process in self.processes()]

    def pin(self, cores: set[int]) -> None:
        """Let the server's threads, and those they start, run on a set of cores alone."""
        for process in self.processes():
            for thread in process.threads():
                os.sched_setaffinity(thread.id, cores)

    def stage_p99_ms(self) -> dict[str, float]:
        """P99 per stage of a decision since the start, by /metrics; between a bucket's bounds it is a straight line."""
        text = httpx.get(f"http://127.0.0.1:{self.port}/metrics", trust_env=False).text
        buckets: dict[str, list[tuple[float, float]]] = {}
        for line in text.splitlines():
            if line.startswith("fraud_stage_seconds_bucket"):
                labels = dict(part.split("=") for part in line[line.index("{") + 1 : line.index("}")].split(","))
                bound = float(labels["le"].strip('"').replace("+Inf", "inf"))
                buckets.setdefault(labels["stage"].strip('"'), []).append((bound, float(line.rsplit(" ", 1)[1])))
        return {stage: _quantile(sorted(counts), 0.99) * 1e3 for stage, counts in buckets.items()}

    def stop(self) -> None:
        """End it and its children."""
        try:
            children = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for child in children:
            if child.is_running():
                child.kill()


def cpu_seconds(process: psutil.Process) -> float:
    """Processor time of a process so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def _quantile(counts: list[tuple[float, float]], share: float) -> float:
    wanted = counts[-1][1] * share
    below, before = 0.0, 0.0
    for bound, count in counts:
        if count >= wanted:
            if bound == float("inf"):
                return below
            return below + (bound - below) * (wanted - before) / max(count - before, 1e-9)
        below, before = bound, count
    return below


def start(
    name: str, world: World, port: int, cores: set[int], *, kind: str | None = None, workers: int = 1
) -> Candidate:
    """Start a candidate on a set of cores and return when it answers. kind: one of NAMES, where its name is another;
    workers: of this service."""
    kind = kind or name
    environment = world.environment() | {"FRAUD_SERVICE_WORKERS": str(workers)}
    binaries = Path(sys.executable).parent
    bento = {
        OURS: "bento.service:FraudDetector",
        FEAST: "benchmarks.serving.feast_read:FeastDetector",
        EMPTY: "benchmarks.serving.empty:Empty",
    }
    key = ""
    if kind == REFERENCE:
        command = [sys.executable, "-m", "uvicorn", "benchmarks.serving.reference:app", "--host", "127.0.0.1",
                   "--port", str(port), "--no-access-log", "--log-level", "warning"]  # fmt: skip
        environment |= {
            "BENCH_FEATURES": json.dumps(list(CATALOGUE.names)),
            "BENCH_REDIS": world.redis_url,
            "BENCH_MODEL": str(world.model_file),
            "BENCH_LOG": str(world.home / "reference.log"),
        }
    else:
        command = [str(binaries / "bentoml"), "serve", bento[kind], "--host", "127.0.0.1", "--port", str(port)]
        # BentoML keeps the metrics' files in its home, where a second server would empty them
        environment |= {"BENTOML_HOME": str(world.home / "bentoml" / str(port)), "BENTOML_DO_NOT_TRACK": "true"}
        Path(environment["BENTOML_HOME"]).mkdir(parents=True, exist_ok=True)
    if kind in (OURS, FEAST):
        key = _key(world)
    process = run(name, command, environment, world, cores)
    return answering(Candidate(name, port, key, process), world)


def run(
    name: str, command: list[str], environment: dict[str, str], world: World, cores: set[int]
) -> "subprocess.Popen[bytes]":
    """Start a server on a set of cores; what it says goes to `<home>/<name>.log`."""
    with _log(name, world).open("wb") as output:
        return subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )  # fmt: skip


def _log(name: str, world: World) -> Path:
    return world.home / f"{name.replace(' ', '-')}.log"


def _key(world: World) -> str:
    made = subprocess.run(
        [sys.executable, "-m", "fraud_platform.cli", "keys", "add", "bench", "--scope", "decide"],
        env=world.environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return made.stdout.strip()


def answering(candidate: Candidate, world: World) -> Candidate:
    """The candidate, once it is ready. Raises RuntimeError with its last words when it does not come to be."""
    deadline, log = time.monotonic() + START_SECONDS, _log(candidate.name, world)
    # a certificate of the benchmark's own gateway is nobody's
    with httpx.Client(timeout=2, trust_env=False, verify=False) as client:
        while True:
            if candidate.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{candidate.name} did not start; its log: {log}\n{log.read_text()[-2000:]}")
            try:
                url = f"{'https' if candidate.tls else 'http'}://127.0.0.1:{candidate.port}/readyz"
                if client.get(url).status_code == 200:
                    return candidate
            except httpx.HTTPError:
                # not listening yet
                pass
            time.sleep(0.2)
