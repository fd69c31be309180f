"""How soon the process of the rules decides, counted from its start, and what memory it holds then.

What belongs here: `python -m benchmarks.rules_server`, the process as the gateway starts it, in a home of its own. What
does not: nginx before it.
"""

import json
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import psutil

from fraud_platform.decision.policy_record import first_policy
from fraud_platform.gateway.run import rules_command
from fraud_platform.settings import Settings

STARTS = 5
PAYMENTS = 1_000
PAYMENT = {
    "transaction_id": "t-1", "user_id": "u-1", "merchant_id": "m-1", "amount": 42.5, "country": "DE",
    "timestamp": "2026-11-23T10:00:00Z",
}  # fmt: skip


def start(home: Path) -> tuple[float, float, float]:
    """Seconds until the first decision, processor seconds until then, MiB after PAYMENTS decisions."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    settings = Settings(home=home, rules_port=port)
    command = rules_command(settings, first_policy(settings, datetime.now(UTC)))
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/predict", json.dumps(PAYMENT).encode())
    began = time.monotonic()
    process = subprocess.Popen(command)
    try:
        while True:
            try:
                urllib.request.urlopen(request).close()
                break
            except urllib.error.URLError:
                time.sleep(0.005)
        seconds = time.monotonic() - began
        watched = psutil.Process(process.pid)
        used = watched.cpu_times()
        for _ in range(PAYMENTS):
            urllib.request.urlopen(request).close()
        return seconds, used.user + used.system, watched.memory_info().rss / 2**20
    finally:
        process.terminate()
        process.wait(20)


def main() -> None:
    """Print medians over STARTS starts."""
    with tempfile.TemporaryDirectory() as home:
        found = [start(Path(home)) for _ in range(STARTS)]
    seconds, cpu, memory = (statistics.median(values) for values in zip(*found, strict=True))
    print(f"first decision {seconds:.2f} s after the start, {cpu:.2f} s of processor time, {memory:.0f} MiB")


if __name__ == "__main__":
    main()
