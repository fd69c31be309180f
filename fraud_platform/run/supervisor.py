"""The supervisor: builds, starts the servers in the right order, waits until they are ready, watches them, ends them.

What belongs here: the order of things. What does not: commands (`servers`), processes (`child`), printing (`screen`).
"""

import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import httpx
from rich.console import Console
from rich.live import Live
from rich.table import Table

from fraud_platform.run.child import Child, end_leftovers, end_trees, leftovers, stop_all
from fraud_platform.run.home import Home
from fraud_platform.run.screen import Line, status_table, trouble
from fraud_platform.run.servers import CODE, DAEMON, DAGSTER, LOG, MLFLOW, SERVICE, Server
from fraud_platform.run.signals import StopRequest

READY_SECONDS = 300.0
RESTART_SECONDS, MOST_DOUBLINGS = 3.0, 6
"""After which a server that ended is started again: 3 s, 6 s, … at most 3 minutes."""

FIRST = (SERVICE, LOG, CODE, DAGSTER)
"""What a platform that is ready has: payments are decided and logged, and the lineage can be opened."""

LATER = (MLFLOW, DAEMON)
"""What joins afterwards, one by one: MLflow's import alone would hold up the others by half. The daemon launches
scheduled runs, which have to find the build done."""


class StartError(RuntimeError):
    """Something that has to run does not; `log` is the end of what it wrote."""

    def __init__(self, message: str, log: str) -> None:
        super().__init__(message)
        self.log = log


@dataclass
class Supervisor:
    """The processes of one home while they are brought up and watched."""

    home: Home
    servers: dict[str, Server]
    build: Child
    console: Console
    stop: StopRequest
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each server took until ready; absent until then."""
    built: bool = False
    build_failed: bool = False
    _restarts: Counter[str] = field(default_factory=Counter)
    _restart_at: dict[str, float] = field(default_factory=dict)

    @property
    def children(self) -> list[Child]:
        """Everything that may have to be ended."""
        return [self.build, *(server.child for server in self.servers.values())]

    def bring_up(self, current: bool) -> None:
        """Return when everything is built, payments are decided and Dagster is open. Raises StartError, or Stopped.

        current: nothing is missing, so there is nothing to build.
        """
        release = self._release()
        self.built = current
        if release is None:
            self._build_first()
            self._start([SERVICE, LOG])
        else:
            # the servers start, on the release in force, beside the build of what is missing
            if not current:
                self.build.start()
            self._start(FIRST)
        self._wait_for(FIRST, release)

    def complete(self) -> None:
        """Start what joins afterwards, and return when it is ready. Raises StartError, or Stopped."""
        for name in LATER:
            self._start([name])
            self._wait_for((name,), self._release())

    def _wait_for(self, names: Sequence[str], release: str | None) -> None:
        with httpx.Client() as client, Live(self._table(), console=self.console, refresh_per_second=4) as live:
            while not (self._all_ready(client, names) and self.built):
                self._follow_build(release)
                live.update(self._table())
                late = [name for name in names if name not in self.seconds and self._is_late(name)]
                if late and self.built:
                    raise StartError(f"{', '.join(late)} not ready in time", self.servers[late[0]].child.tail())
                self.stop.sleep(0.15)
            live.update(self._table())

    def watch(self, keep: Callable[[], object]) -> None:
        """Report whoever ends and start it again, each time after a longer pause, until Stopped.

        keep: called about once a second, for what runs beside the servers.
        """
        while True:
            for name, server in self.servers.items():
                if server.child.running:
                    server.child.look_after_log()
                    continue
                if name not in self._restart_at:
                    title = (
                        f"{server.title} has ended (exit code {server.child.exit_code}); its log: {server.child.log}"
                    )
                    self.console.print(trouble(title, server.child.tail()))
                    pause = RESTART_SECONDS * 2 ** min(self._restarts[name], MOST_DOUBLINGS)
                    self._restart_at[name] = time.monotonic() + pause
                elif time.monotonic() >= self._restart_at[name]:
                    del self._restart_at[name]
                    self._restarts[name] += 1
                    server.start()
            keep()
            self.stop.sleep(0.5)

    def end(self) -> None:
        """End every child, and whoever has outlived one; a second Ctrl-C makes it short."""
        try:
            stop_all(self.children)
            end_leftovers(self.home)
        except KeyboardInterrupt:
            end_trees([(process.pid, signal.SIGKILL) for process in leftovers(self.home)], grace=1)

    def _build_first(self) -> None:
        """Build with its progress on the terminal; Dagster is up meanwhile, so that it can be watched."""
        self._start([CODE, DAGSTER])
        self.console.print(f"Building the platform. Watch it in Dagster: {self.servers[DAGSTER].url}")
        self.build.to_terminal = True
        self.build.start()
        while self.build.running:
            self.stop.sleep(0.2)
        if self.build.exit_code:
            raise StartError(f"the build failed (exit code {self.build.exit_code})", "See its output above.")
        self.built = True

    def _follow_build(self, before: str | None) -> None:
        """Notice the end of a build that runs beside the servers, and what it means for them."""
        if self.built or self.build.running:
            return
        self.built = True
        self.build_failed = bool(self.build.exit_code)
        service = self.servers[SERVICE]
        if self._release() != before or not service.child.running:
            service.child.stop()
            self.seconds.pop(SERVICE, None)
            self._start([SERVICE])

    def _is_late(self, name: str) -> bool:
        # the service starts anew on the model of a build that took long
        return time.monotonic() - self.servers[name].child.started_at > READY_SECONDS

    def _start(self, names: Sequence[str]) -> None:
        for name in names:
            self.servers[name].start()

    def _all_ready(self, client: httpx.Client, names: Sequence[str]) -> bool:
        for name in names:
            server, child = self.servers[name], self.servers[name].child
            if child.exit_code is not None and not (name == SERVICE and not self.built):
                raise StartError(f"{server.title} ended while starting (exit code {child.exit_code})", child.tail())
            if name not in self.seconds and server.ready(client):
                self.seconds[name] = time.monotonic() - child.started_at
        return self.seconds.keys() >= set(names)

    def _release(self) -> str | None:
        path = self.home.current_release
        return str(json.loads(path.read_text())["release"]) if path.exists() else None

    def _table(self) -> Table:
        lines = []
        if not self.built:
            last = self.build.tail(1)
            lines.append(Line("build", f"running {last}" if last else "running"))
        elif self.build_failed:
            lines.append(Line("build", f"ended with exit code {self.build.exit_code}"))
        for name, server in self.servers.items():
            if name in self.seconds:
                state = "running" if server.port is None else "ready"
            elif server.child.running:
                state = "starting"
            else:
                state = "waiting"
            lines.append(Line(server.title, state, self.seconds.get(name), server.url))
        return status_table(lines)
