"""Two versions of the platform on one home: a checkout of a commit beside this one, each run by its own code.

What belongs here: processes of either version, and what payments they are asked. What does not: what is expected.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from service_kit import MERCHANTS, USERS, free_port

from benchmarks.compare.checkouts import ROOT, Checkout

READY_SECONDS = 120
NIGHT = """
import sys
from pathlib import Path
import redis
from service_kit import fill_online_store, publish_small_model
home, url, *releases = sys.argv[1:]
with redis.Redis.from_url(url) as client:
    fill_online_store(client)
for number in releases:
    publish_small_model(Path(home), version=int(number), seed=int(number))
"""
"""Views are loaded, and a model is released where one is named."""


@dataclass
class Version:
    """A checkout at work on a home."""

    checkout: Checkout
    home: Path
    redis_url: str | None
    """None: the home's own embedded server."""
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """That of its processes: its code before this checkout's, and nothing of the user's own settings."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FRAUD_")}
        own = {"FRAUD_HOME": str(self.home), "OMP_NUM_THREADS": "1"}
        if self.redis_url is not None:
            own["FRAUD_REDIS_URL"] = self.redis_url
        folder = self.checkout.folder
        path = {"PYTHONPATH": f"{folder}{os.pathsep}{folder / 'tests' / 'integration'}"}
        return {**kept, **own, **path, "BENTOML_HOME": str(self.home / "bentoml"), **self.extra}

    def run(self, *command: str, seconds: float = 600) -> str:
        """What a command of this version prints, which has to succeed."""
        done = subprocess.run(
            [self.checkout.python, "-P", *command], cwd=self.checkout.folder, env=self.environment,
            capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{self.checkout.name}: {command}\n{done.stdout}\n{done.stderr[-6000:]}"
        return done.stdout

    def night(self, *releases: int) -> None:
        """Load this version's views, as the night does, and release models that this version trained."""
        self.run("-c", NIGHT, str(self.home), str(self.redis_url), *map(str, releases))

    @contextmanager
    def service(self) -> Iterator["Service"]:
        """A service of this version, until the context ends; `Service.wait` returns when it decides."""
        port = free_port()
        log = self.home / f"service-{self.checkout.name}-{port}.log"
        command = [self.checkout.python, "-P", "-m", "bentoml", "serve", "bento.service:FraudDetector"]
        command += ["--working-dir", str(self.checkout.folder), "--host", "127.0.0.1", "--port", str(port)]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=self.checkout.folder, env=self.environment, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False) as http:
                yield Service(http, log, process)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


@dataclass
class Service:
    """A running service."""

    http: httpx.Client
    log: Path
    process: "subprocess.Popen[bytes]"

    def wait(self) -> None:
        """Return when it decides with its Redis."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            assert self.process.poll() is None, self.log.read_text()[-6000:]
            assert time.monotonic() < deadline, self.log.read_text()[-6000:]
            try:
                if self.http.get("/readyz").json()["checks"]["redis"]["ok"]:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)

    def ask(self, payment: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and body of its answer."""
        answer = self.http.post("/v1/predict", json=payment)
        return answer.status_code, answer.json()

    def decide(self, payment: dict[str, Any]) -> dict[str, Any]:
        """Its answer, which has to be a decision."""
        status, answer = self.ask(payment)
        assert status == 200, (answer, self.log.read_text()[-3000:])
        return answer


def payments(name: str, count: int) -> list[dict[str, Any]]:
    """Payments of known users, now."""
    return [
        {
            "transaction_id": f"{name}-{n}", "user_id": USERS[n % len(USERS)], "merchant_id": MERCHANTS[0],
            "amount": 10 + n, "currency": "EUR", "country": "DE", "channel": "online", "device_id": "d-1",
            "user_country": "DE", "timestamp": datetime.now(UTC).isoformat(),
        }
        for n in range(count)
    ]  # fmt: skip


def here() -> Checkout:
    """This checkout, with what is not committed."""
    return Checkout("new", ROOT, Path(sys.executable), "this", "this checkout's")
