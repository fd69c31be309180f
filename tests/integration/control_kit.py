"""A control store for tests: a real PostgreSQL of its own, a database of it for each test.

What belongs here: starting, killing, pausing it, and homes that share it. What does not: what is tested.
"""

import os
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
from pydantic import SecretStr

from fraud_platform.control.schema import prepare
from fraud_platform.online.embedded_postgres import ensure_postgres, postgres_pid
from fraud_platform.settings import Settings


@dataclass
class StoreServer:
    """A running PostgreSQL for control stores."""

    settings: Settings
    url: str

    def database(self) -> str:
        """Address of a new, empty database."""
        name = f"control_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url.replace("@/postgres?", f"@/{name}?")

    def store(self) -> str:
        """Address of a new store with its tables."""
        url = self.database()
        prepare(url)
        return url

    @property
    def processes(self) -> list[psutil.Process]:
        pid = postgres_pid(self.settings)
        assert pid is not None
        server = psutil.Process(pid)
        return [server, *server.children(recursive=True)]

    def kill(self) -> None:
        """As a machine that loses its power: nobody is asked."""
        killed = self.processes
        for process in killed:
            process.kill()
        psutil.wait_procs(killed, 10)

    def start(self) -> None:
        assert ensure_postgres(self.settings) == self.url

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Every process of it stops where it stands."""
        stopped = self.processes
        for process in stopped:
            os.kill(process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in stopped:
                os.kill(process.pid, signal.SIGCONT)


@contextmanager
def store_server(home: Path) -> Iterator[StoreServer]:
    """A server of its own under a home."""
    server = StoreServer(Settings(home=home), ensure_postgres(Settings(home=home)))
    try:
        yield server
    finally:
        # nobody needs its data: an orderly end would write a hundred megabytes of them first
        if postgres_pid(server.settings) is not None:
            server.kill()


def shared(home: Path, url: str) -> Settings:
    """Settings of a home that shares a store."""
    return Settings(home=home, control_url=SecretStr(url))
