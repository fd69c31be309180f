"""The nginx process: testing a configuration, starting, reloading without losing a request, ending.

What belongs here: the binary, its master and workers. What does not: what the configuration says (`config`), why it
changes (`switch`).
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from fraud_platform.gateway.config import DRAIN_SECONDS, GatewayError

RELOAD_SECONDS = 5.0
"""How long new workers may take to appear after a reload was asked for."""
CONFIGURATION, CANDIDATE, PID = "nginx.conf", "nginx.conf.new", "nginx.pid"


def binary() -> str:
    """Path of nginx. Raises GatewayError where there is none."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise GatewayError("nginx is not installed: `apt-get install nginx`, or your system's equivalent")
    return found


def command(folder: Path, configuration: str = CONFIGURATION) -> list[str]:
    """What runs nginx in the foreground on the configuration in a folder."""
    return [binary(), "-p", str(folder), "-c", str(folder / configuration), "-e", str(folder / "error.log")]


def put(folder: Path, text: str) -> None:
    """Make `text` the configuration in a folder, once nginx has tested it; until a reload it is in force nowhere.

    Raises GatewayError with nginx's own words; the folder then has the configuration it had.
    """
    folder.mkdir(parents=True, exist_ok=True)
    candidate = folder / CANDIDATE
    candidate.write_text(text)
    done = subprocess.run([*command(folder, CANDIDATE), "-t"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise GatewayError(f"nginx rejects the configuration {candidate}: {_last_words(folder, done.stderr)}")
    candidate.replace(folder / CONFIGURATION)


def _last_words(folder: Path, stderr: str) -> str:
    """nginx says a wrong configuration on stderr or in its log, by how far it came."""
    lines = [line for line in stderr.splitlines() if "[emerg]" in line or "[alert]" in line]
    log = folder / "error.log"
    if not lines and log.exists():
        lines = [line for line in log.read_text().splitlines() if "[emerg]" in line]
    return lines[-1] if lines else stderr.strip()


def master(folder: Path) -> psutil.Process | None:
    """The running master process of a folder; None when there is none."""
    try:
        process = psutil.Process(int((folder / PID).read_text()))
        words = " ".join(process.cmdline())
    except (OSError, ValueError, psutil.Error):
        return None
    return process if "nginx: master" in words and str(folder) in words else None


def reload(folder: Path) -> None:
    """Make the running nginx read its configuration again; returns when no old worker is left.

    Old workers take no new connections and finish what they have, for at most DRAIN_SECONDS. Raises GatewayError when
    nothing runs or no new worker appears, in which case the configuration before stays in force.
    """
    process = master(folder)
    if process is None:
        raise GatewayError(f"nginx is not running in {folder}: start it with `fraud-platform gateway start`")
    old = set(process.children())
    process.send_signal(signal.SIGHUP)
    if not _wait(lambda: any(child not in old for child in process.children()), RELOAD_SECONDS):
        raise GatewayError(f"nginx did not load its configuration: {_last_words(folder, '')}")
    if not _wait(lambda: not any(_works(worker) for worker in old), DRAIN_SECONDS + 2):
        raise GatewayError(f"old workers of nginx did not end within {DRAIN_SECONDS} s; see {folder / 'error.log'}")


def _works(worker: psutil.Process) -> bool:
    try:
        return worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def start(folder: Path) -> "subprocess.Popen[bytes]":
    """Start nginx apart from the terminal, so that Ctrl-C does not reach it before its time; `stop` ends it."""
    return subprocess.Popen(command(folder), stdin=subprocess.DEVNULL, start_new_session=True, env=_environment())


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Close the port, let requests under way finish, and end. Takes at most DRAIN_SECONDS and a little."""
    process.send_signal(signal.SIGQUIT)
    try:
        process.wait(DRAIN_SECONDS + 2)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait(5)


def _environment() -> dict[str, str]:
    """Without FRAUD_*: nginx needs none of them, and some are secrets."""
    return {name: value for name, value in os.environ.items() if not name.startswith("FRAUD_")}
