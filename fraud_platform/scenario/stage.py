"""The processes of a scenario: the stores, the service, the log, and Dagster's part, in a home of its own.

What belongs here: starting, killing and ending them. What does not: when (`play`).
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, time
from time import monotonic, sleep
from typing import Any

import httpx
import psutil

from fraud_platform.clock import move_clock
from fraud_platform.online.embedded_postgres import ensure_postgres, stop_postgres
from fraud_platform.online.embedded_redis import ensure_redis, redis_pid, stop_redis
from fraud_platform.run.child import Child, stop_all
from fraud_platform.run.home import PROJECT, open_home
from fraud_platform.run.servers import LOG, SERVICE, build, servers
from fraud_platform.scenario.story import FIRST_DAY
from fraud_platform.settings import Settings

_READY_SECONDS = 120.0
_ROUND_SECONDS = 20.0


class StageError(RuntimeError):
    """A process did not do its part; the message holds the end of its log."""


class Stage:
    """What `up` starts, without the pages, under a clock that the scenario moves."""

    def __init__(self, settings: Settings) -> None:
        if settings.clock_file is None:
            raise ValueError("a scenario needs a clock that it can move")
        self.settings = settings
        self._clock_file = settings.clock_file
        # the night before the first day
        self.move_clock(int(datetime.combine(FIRST_DAY, time(0, 10), UTC).timestamp() * 1_000_000))
        self._home = open_home(settings)
        self._home.prepare()
        self._round: subprocess.Popen[str] | None = None
        found = servers(settings, self._home)
        self._service, self._log = found[SERVICE].child, found[LOG].child
        self.url = f"http://127.0.0.1:{settings.service_port}"

    def move_clock(self, now_us: int) -> None:
        """Let every process see this moment, UTC microseconds."""
        move_clock(self._clock_file, now_us)

    def build(self) -> None:
        """History, online stores and a first model, as `up` builds them. Raises StageError."""
        self._start_stores()
        made = build(self.settings, self._home)
        made.start()
        try:
            while made.running:
                sleep(0.1)
        finally:
            made.stop()
        if made.exit_code:
            raise StageError(f"the bank's history could not be built:\n{made.tail(40)}")

    def open(self) -> None:
        """Start the stores, the service, the log and Dagster's part; returns when payments are decided.

        Raises StageError.
        """
        self._start_stores()
        for child in (self._log, self._service):
            child.start()
        environment = self._home.environment(self.settings)
        with (self._home.logs / "round.log").open("w") as log:
            self._round = subprocess.Popen(
                [sys.executable, "-m", "assets.round"], cwd=PROJECT, env=environment, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
            )  # fmt: skip
        self.wait(lambda: self.degraded() is not None, self._service)
        missing = self.degraded()
        if missing:
            raise StageError(f"a scenario begins with nothing missing, and there is no {', '.join(missing)}")

    def _start_stores(self) -> None:
        ensure_redis(self.settings)
        ensure_postgres(self.settings)

    def degraded(self) -> list[str] | None:
        """What `/readyz` says is not as it should be; None while nobody answers."""
        try:
            answer = httpx.get(f"{self.url}/readyz", timeout=2, trust_env=False)
        except httpx.TransportError:
            return None
        degraded: list[str] | None = answer.json()["degraded"] if answer.status_code == httpx.codes.OK else None
        return degraded

    def wait(self, condition: Callable[[], bool], child: Child) -> None:
        """Wait until something holds that a child must bring about. Raises StageError."""
        deadline = monotonic() + _READY_SECONDS
        while not condition():
            if not child.running or monotonic() > deadline:
                raise StageError(f"{child.name} did not become ready:\n{child.tail(40)}")
            sleep(0.1)

    def ask_round(self, command: str) -> dict[str, Any]:
        """Have Dagster's part do something, `night` or `look`, at the clock's moment. Raises StageError."""
        if self._round is None or self._round.stdin is None or self._round.stdout is None:
            raise StageError("the stage is not open")
        self._round.stdin.write(command + "\n")
        self._round.stdin.flush()
        line = self._round.stdout.readline()
        if not line:
            log = (self._home.logs / "round.log").read_text()
            raise StageError(f"Dagster's part ended:\n{log[-4_000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def kill_redis(self) -> None:
        """End Redis as a dead machine would."""
        pid = redis_pid(self.settings)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=10)

    def start_redis(self) -> None:
        """Start it again, with what its files hold; returns when the service uses it."""
        ensure_redis(self.settings)
        self.wait(lambda: "redis" not in (self.degraded() or ["redis"]), self._service)

    def kill_log(self) -> None:
        """End the process that carries decisions into the lake."""
        self._log.stop()

    def start_log(self) -> None:
        """Start it again."""
        self._log.start()

    def close(self) -> None:
        """End everything, stores included."""
        if self._round is not None:
            if self._round.stdin is not None:
                self._round.stdin.close()
            try:
                # it ends with its input; what a signal raises in it, a library may swallow
                self._round.wait(_ROUND_SECONDS)
            except subprocess.TimeoutExpired:
                self._round.kill()
                self._round.wait()
        stop_all([self._service, self._log])
        stop_redis(self.settings)
        stop_postgres(self.settings)
