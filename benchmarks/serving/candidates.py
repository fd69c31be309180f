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

    def cpu_seconds(self) -> float:
        """Processor time of the server's processes so far."""
        root = psutil.Process(self.process.pid)
        times = [process.cpu_times() for process in [root, *root.children(recursive=True)]]
        return sum(each.user + each.system for each in times)

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


def start(name: str, world: World, port: int, cores: set[int]) -> Candidate:
    """Start a candidate on a set of cores and return when it answers."""
    environment = world.environment()
    binaries = Path(sys.executable).parent
    bento = {
        OURS: "bento.service:FraudDetector",
        FEAST: "benchmarks.serving.feast_read:FeastDetector",
        EMPTY: "benchmarks.serving.empty:Empty",
    }
    key = ""
    if name == REFERENCE:
        command = [sys.executable, "-m", "uvicorn", "benchmarks.serving.reference:app", "--host", "127.0.0.1",
                   "--port", str(port), "--no-access-log", "--log-level", "warning"]  # fmt: skip
        environment |= {
            "BENCH_FEATURES": json.dumps(list(CATALOGUE.names)),
            "BENCH_REDIS": world.redis_url,
            "BENCH_MODEL": str(world.model_file),
            "BENCH_LOG": str(world.home / "reference.log"),
        }
    else:
        command = [str(binaries / "bentoml"), "serve", bento[name], "--host", "127.0.0.1", "--port", str(port)]
        # BentoML keeps the metrics' files in its home, where a second server would empty them
        environment |= {"BENTOML_HOME": str(world.home / "bentoml" / str(port)), "BENTOML_DO_NOT_TRACK": "true"}
        Path(environment["BENTOML_HOME"]).mkdir(parents=True, exist_ok=True)
    if name in (OURS, FEAST):
        key = _key(world)
    log = world.home / f"{name.replace(' ', '-')}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )  # fmt: skip
    made = Candidate(name, port, key, process)
    _wait(made, log)
    return made


def _key(world: World) -> str:
    made = subprocess.run(
        [sys.executable, "-m", "fraud_platform.cli", "keys", "add", "bench", "--scope", "decide"],
        env=world.environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return made.stdout.strip()


def _wait(candidate: Candidate, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    with httpx.Client(timeout=2, trust_env=False) as client:
        while True:
            if candidate.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{candidate.name} did not start; its log: {log}\n{log.read_text()[-2000:]}")
            try:
                if client.get(f"http://127.0.0.1:{candidate.port}/readyz").status_code == 200:
                    return
            except httpx.HTTPError:
                # not listening yet
                pass
            time.sleep(0.2)
