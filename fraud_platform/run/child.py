"""One child process of `up`: started apart from the terminal, recorded in a pid file, ended with all its descendants.

What belongs here: processes and signals. What does not: what the processes are for (`servers`), when they start (`up`).
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from fraud_platform.private import UMASK
from fraud_platform.run import log_keeper
from fraud_platform.run.home import MARK, PROJECT, Home

STORES = ("valkey-server", "redis-server", "postgres")
"""Names of the processes that outlive an `up`."""

GRACE_SECONDS = 12.0
"""How long a process may take to end when asked politely, before it is killed."""

PIPE_BYTES = 1_048_576
"""The most that Linux gives to anybody who asks; 64 KB are usual."""

WRITTEN_SECONDS = 2.0
"""How long the last of what an ended process printed is waited for; what it left running may still print."""


@dataclass
class Child:
    """A command, and its process once started. Output goes to `<home>/log/<name>.log`, or to the terminal.

    log_bytes: about how large that file gets before it becomes `<name>.log.1` and another is begun.
    """

    name: str
    command: Sequence[str]
    home: Home
    environment: Mapping[str, str]
    to_terminal: bool = False
    polite: signal.Signals = signal.SIGTERM
    log_bytes: int = 10_000_000
    started_at: float = 0.0
    _process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)
    _keeper: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)
    _printed: int | None = field(default=None, repr=False)
    """Where its output comes out. Held, so that it waits for another keeper rather than fails where one has died."""

    @property
    def log(self) -> Path:
        """Where its output goes, unless that is the terminal."""
        return self.home.logs / f"{self.name}.log"

    @property
    def exit_code(self) -> int | None:
        """None while it runs or before it was started; negative when a signal ended it."""
        return self._process.poll() if self._process else None

    @property
    def running(self) -> bool:
        """Whether its process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it in a session of its own, so that the terminal's Ctrl-C reaches only `up`."""
        self.started_at = time.monotonic()
        if self.to_terminal:
            self._launch(None)
            return
        if self._process is None and self.log.exists() and self.log.stat().st_size:
            # a second start goes on where the first has ended, an `up` begins a file of its own
            log_keeper.roll(str(self.log))
        # also a process that prints nothing has its file
        self.log.touch(mode=0o600)
        if self._printed is not None:
            os.close(self._printed)
        self._printed, output = os.pipe()
        _widen(output)
        self._keep_log(self._printed)
        try:
            self._launch(output)
        finally:
            os.close(output)

    def _keep_log(self, printed: int) -> None:
        # without the home's mark, it is none of `leftovers`: it ends when the last of them has
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", log_keeper.__file__, str(self.log), str(self.log_bytes)],
            env={},
            stdin=printed,
            start_new_session=True,
            umask=UMASK,
        )

    def look_after_log(self) -> None:
        """Have its output written down again where who did so was killed."""
        if self._printed is not None and self._keeper is not None and self._keeper.poll() and self.running:
            self._keep_log(self._printed)

    def _launch(self, output: int | None) -> None:
        self._process = subprocess.Popen(
            self.command,
            cwd=PROJECT,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output if output is None else subprocess.STDOUT,
            start_new_session=True,
            umask=UMASK,
        )
        record_pid(self.home, self.name, self._process.pid)

    def tail(self, lines: int = 20) -> str:
        """The last lines of its log; of a process that has ended, the last that it printed."""
        if not self.running:
            self.wait_for_log()
        return tail(self.log, lines)

    def wait_for_log(self) -> None:
        """Return when everything it printed is in its log, or something that it left behind may print on."""
        if self._keeper is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._keeper.wait(WRITTEN_SECONDS)

    def stop(self) -> None:
        """End it and its descendants; returns when they are gone."""
        stop_all([self])


def _widen(pipe: int) -> None:
    """Let a server print so much before it has to wait for who writes it down; where the system allows it."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def stop_all(children: Iterable[Child]) -> None:
    """End children side by side with all their descendants; returns when they are gone."""
    started = [child for child in children if child._process is not None]
    roots = [(child._process.pid, child.polite) for child in started if child._process and child.running]
    end_trees(roots)
    for child in started:
        if child._process is not None:
            child._process.wait()
        child.wait_for_log()
        pid_file(child.home, child.name).unlink(missing_ok=True)


def tail(path: Path, lines: int) -> str:
    """The last lines of a text file; what a progress bar overwrote counts as replaced."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 65_536))
        text = file.read().decode(errors="replace")
    shown = [line.rstrip().rsplit("\r", 1)[-1] for line in text.split("\n") if line.strip()]
    return "\n".join(shown[-lines:])


def pid_file(home: Home, name: str) -> Path:
    """Where the process id of a child is recorded."""
    return home.run / f"{name}.pid"


def record_pid(home: Home, name: str, pid: int) -> None:
    """Record a process with its creation time, by which a later start knows that a pid was not given away since."""
    path = pid_file(home, name)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"pid": pid, "created": psutil.Process(pid).create_time()}))
    temporary.replace(path)


def recorded_process(path: Path) -> psutil.Process | None:
    """The live process of a pid file; None when it has ended, its pid is another's now, or the file is no pid file."""
    try:
        record = json.loads(path.read_text())
        process = psutil.Process(record["pid"])
        same = abs(process.create_time() - record["created"]) < 0.05
        return process if same and _lives(process) else None
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None


def leftovers(home: Home) -> list[psutil.Process]:
    """Live processes of this home that an `up` started and has not ended: by pid file, or by their mark.

    The embedded Redis and PostgreSQL are none of them: they are meant to stay.
    """
    found = {process.pid: process for path in home.run.glob("*.pid") if (process := recorded_process(path))}
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(home.root) and not process.name().startswith(STORES):
                found[process.pid] = process
        except psutil.Error:  # another user's, or gone meanwhile
            continue
    mine = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [process for pid, process in found.items() if pid not in mine and _lives(process)]


def end_leftovers(home: Home) -> int:
    """End what a killed `up` left behind, and forget it; returns how many processes that were."""
    left = leftovers(home)
    end_trees([(process.pid, signal.SIGTERM) for process in left])
    for path in home.run.glob("*.pid"):
        path.unlink(missing_ok=True)
    return len(left)


def end_listeners(home: Home, port: int) -> None:
    """End processes of this home that listen on a port, such as workers of BentoML, which outlive a killed parent."""
    end_trees([(process.pid, signal.SIGTERM) for process in leftovers(home) if _listens(process, port)])


def _listens(process: psutil.Process, port: int) -> bool:
    try:
        found = process.net_connections(kind="tcp")
    except psutil.Error:
        return False
    return any(each.status == psutil.CONN_LISTEN and each.laddr[1:] == (port,) for each in found)


def end_trees(roots: Sequence[tuple[int, signal.Signals]], grace: float = GRACE_SECONDS) -> None:
    """End processes and all their descendants: the roots politely, then whoever is left, at last by SIGKILL.

    Descendants are listed first: BentoML puts its workers into sessions of their own, so that no signal to a process
    group would reach them once their parent is gone.
    """
    everybody: dict[int, psutil.Process] = {}
    for pid, _ in roots:
        try:
            root = psutil.Process(pid)
            for process in [root, *root.children(recursive=True)]:
                if not process.name().startswith(STORES):
                    everybody[process.pid] = process
        except psutil.NoSuchProcess:
            continue
    processes = list(everybody.values())
    for pid, polite in roots:
        if pid in everybody:
            _signal_group(everybody[pid], polite)
    _wait([everybody[pid] for pid, _ in roots if pid in everybody], grace)
    for process in processes:
        _signal(process, signal.SIGTERM)
    _wait(processes, grace / 4)
    for process in processes:
        _signal(process, signal.SIGKILL)
    _wait(processes, grace)


def _signal_group(process: psutil.Process, number: signal.Signals) -> None:
    """Ctrl-C goes to the whole group, as a terminal sends it; a request to end goes to the process that leads."""
    try:
        if number == signal.SIGINT and os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
    except (ProcessLookupError, psutil.NoSuchProcess):
        return


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    if _lives(process):
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            return


def _lives(process: psutil.Process) -> bool:
    """A zombie has ended: where nobody reaps the children of others, it stays in the table for good."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _wait(processes: Sequence[psutil.Process], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(_lives(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
