"""What stands around the service while its width is measured: the gateway, a noisy neighbour, the memory of processes.

What belongs here: starting and reading these. What does not: the service itself (`benchmarks.serving`), the order of
measurements (`__main__`).
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.serving.bench import Bench, free_port, lower
from benchmarks.serving.candidates import Candidate, answering, run
from bento.bentoml_seam import WORKER_MODULE
from fraud_platform.gateway import nginx
from fraud_platform.gateway.config import GatewayError

GATEWAY = "gateway"
_PARTS = {"rss": ("Rss",), "pss": ("Pss",), "private": ("Private_Clean", "Private_Dirty"),
          "shared": ("Shared_Clean", "Shared_Dirty")}  # fmt: skip


class Gateway:
    """The real gateway before one instance (its colour blue) and before two (green)."""

    def __init__(self, bench: Bench, first: Candidate, second: Candidate, cores: set[int]) -> None:
        addresses = [f"127.0.0.1:{each.port}" for each in (first, second)]
        self._environment = bench.world.environment() | {
            "FRAUD_GATEWAY_PORT": str(free_port()),
            "FRAUD_RULES_PORT": str(free_port()),
            "FRAUD_GATEWAY_BLUE": json.dumps(addresses[:1]),
            "FRAUD_GATEWAY_GREEN": json.dumps(addresses),
            "FRAUD_GATEWAY_RATE": "1000000",
            "FRAUD_GATEWAY_ADDRESS_RATE": "1000000",
            # what is measured is how long the service takes, not the detour to the next
            "FRAUD_GATEWAY_TIMEOUT_MS": "2000",
        }
        words = [sys.executable, "-m", "fraud_platform.cli", "gateway"]
        self._command = words
        process = run(GATEWAY, [*words, "start"], self._environment, bench.world, cores)
        port = int(self._environment["FRAUD_GATEWAY_PORT"])
        made = Candidate(GATEWAY, port, first.key, process, tls=True)
        # first of all: it is ended also when it does not come to answer
        bench.candidates[GATEWAY] = made
        answering(made, bench.world)

    def before(self, instances: int) -> None:
        """Give every payment to so many instances, 1 or 2. Raises CalledProcessError."""
        words = [*self._command, "switch", {1: "blue", 2: "green"}[instances], "--why", "benchmark"]
        subprocess.run(words, env=self._environment, check=True, capture_output=True)


def has_nginx() -> bool:
    """Whether there is an nginx to be the gateway."""
    try:
        nginx.binary()
    except GatewayError:
        return False
    return True


@contextmanager
def neighbour(cores: set[int], nice: int) -> Iterator[None]:
    """A process that uses all it gets of a core, at a niceness, while the block runs."""
    burner = subprocess.Popen(
        [sys.executable, "-c", "while True: pass"],
        preexec_fn=lambda: lower(cores, nice),
    )
    try:
        yield
    finally:
        burner.kill()
        burner.wait()


def memory(candidate: Candidate) -> list[dict[str, float]]:
    """Per worker of the service, MB of resident memory; pss counts a page that n processes share as a n-th."""
    workers = [each for each in candidate.processes() if WORKER_MODULE in " ".join(each.cmdline())]
    return [_memory(worker) for worker in workers]


def _memory(process: psutil.Process) -> dict[str, float]:
    lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return {name: sum(kilobytes[field] for field in fields) / 1e3 for name, fields in _PARTS.items()}
