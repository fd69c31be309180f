"""`fraud-platform status` and `fraud-platform down`: looking at a home from another terminal, and ending it.

What belongs here: what works on a platform that this process did not start. What does not: starting (`up`).
"""

import os
import signal
import time

import httpx
from rich.console import Console

from fraud_platform.online.embedded_postgres import postgres_pid, stop_postgres
from fraud_platform.online.embedded_redis import embedded_url, redis_pid, stop_redis
from fraud_platform.run.child import end_leftovers
from fraud_platform.run.home import Home, open_home
from fraud_platform.run.lock import runner
from fraud_platform.run.screen import Line
from fraud_platform.run.servers import addresses
from fraud_platform.settings import Settings

END_SECONDS = 40.0


def server_lines(settings: Settings) -> list[Line]:
    """The servers that people open, as they answer right now."""
    lines = []
    with httpx.Client(timeout=2) as client:
        for title, url, path in addresses(settings):
            try:
                code = client.get(url + path).status_code
                state = "ready" if code == httpx.codes.OK else f"starting (HTTP {code})"
            except httpx.HTTPError:
                state = "down"
            lines.append(Line(title, state, url=url))
    return lines


def is_up(lines: list[Line]) -> bool:
    """Whether everything of `status` runs and every server is ready."""
    return not any(line.state.startswith(("down", "starting")) for line in lines)


def status(settings: Settings) -> list[Line]:
    """What runs of a home's platform; its servers where `up` does."""
    home = open_home(settings)
    held_by = runner(home)
    lines = [Line("fraud-platform up", f"running as process {held_by}" if held_by else "down")]
    if held_by:
        lines += server_lines(settings)
    if settings.redis_url is None:
        pid = redis_pid(settings)
        lines.append(Line("Redis", f"running as process {pid}" if pid else "down", url=embedded_url(settings)))
    else:
        lines.append(Line("Redis", "running elsewhere (FRAUD_REDIS_URL)"))
    if settings.postgres_url is None:
        pid = postgres_pid(settings)
        lines.append(Line("PostgreSQL", f"running as process {pid}" if pid else "down"))
    else:
        lines.append(Line("PostgreSQL", "running elsewhere (FRAUD_POSTGRES_URL)"))
    return lines


def down(settings: Settings, console: Console) -> int:
    """End everything of this home, its embedded Redis and PostgreSQL included; returns 0."""
    home = open_home(settings)
    held_by = runner(home)
    if held_by:
        console.print(f"Ending `fraud-platform up` (process {held_by}) …")
        _end_runner(home, held_by)
    ended = end_leftovers(home)
    if ended:
        console.print(f"Ended {ended} processes that an earlier run left behind.")
    stopped = stop_redis(settings)
    if stopped:
        console.print("Stopped Redis.")
    stopped_postgres = stop_postgres(settings)
    if stopped_postgres:
        console.print("Stopped PostgreSQL.")
    if not (held_by or ended or stopped or stopped_postgres):
        console.print(f"Nothing of {home.root} was running.")
    return 0


def _end_runner(home: Home, pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    deadline = time.monotonic() + END_SECONDS
    while runner(home) == pid and time.monotonic() < deadline:
        time.sleep(0.1)
