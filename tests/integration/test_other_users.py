"""What another user of the machine meets: modes of everything, and where the suite runs as root, a real other user."""

import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from fraud_platform.online.embedded_postgres import ensure_postgres, postgres_folder, stop_postgres
from fraud_platform.online.embedded_redis import ensure_redis, redis_socket, stop_redis
from fraud_platform.run.home import open_home
from fraud_platform.settings import Settings
from tests.modes_kit import open_to_others, shut

NOBODY = 65_534


def as_another_user(act: Callable[[], object]) -> str:
    """The name of the error that another user gets, empty for none. Where the suite is not root: PermissionError, of
    what the modes say, which the callers check too."""
    if os.geteuid() != 0:
        return "PermissionError"
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            act()
            os.write(write, b"")
        except BaseException as error:  # noqa: BLE001 - told to the parent, which is the test
            os.write(write, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read, "rb") as said:
        return said.read().decode()


def knock(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


@pytest.fixture(params=["home", "long" * 25])
def world(request: pytest.FixtureRequest, make_settings: Callable[..., Settings], tmp_path: Path) -> Iterator[Settings]:
    """Both embedded stores in a home as an earlier version left it: readable for everybody."""
    # pytest's own folders are shut, which is not what is tested
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == tmp_path.owner() and folder != Path("/"):
            folder.chmod(stat.S_IMODE(folder.stat().st_mode) | 0o055)
    home = tmp_path / request.param
    home.mkdir(mode=0o755)
    settings = make_settings(home=home)
    old = os.umask(0o022)
    try:
        ensure_redis(settings)
        ensure_postgres(settings)
        yield settings
    finally:
        os.umask(old)
        stop_redis(settings)
        stop_postgres(settings)


def test_nobody_else_may_look_into_a_home_or_reach_its_stores(world: Settings) -> None:
    assert shut(world.home)
    assert as_another_user(lambda: list(world.home.iterdir())) == "PermissionError"
    host = Path(ensure_postgres(world).rpartition("host=")[2])
    for path in (host / ".s.PGSQL.5432", redis_socket(world)):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
        assert any(shut(folder) for folder in path.parents)
        assert as_another_user(lambda path=path: knock(path)) == "PermissionError"  # type: ignore[misc]
    assert stat.S_IMODE(postgres_folder(world).stat().st_mode) == 0o700
    with psycopg.connect(ensure_postgres(world)) as connection:
        connection.execute("CREATE TABLE mine (id int)")
        connection.execute("CHECKPOINT")
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)


def test_postgres_works_on_in_a_shut_home_over_a_crash_and_a_stop(world: Settings) -> None:
    with psycopg.connect(ensure_postgres(world), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
        connection.execute("CREATE DATABASE other")
    assert stop_postgres(world) is True
    with psycopg.connect(ensure_postgres(world)) as connection:
        assert connection.execute("SELECT one FROM kept").fetchone() == (1,)
        connection.execute("CHECKPOINT")
    assert shut(world.home)


def test_a_prepared_home_has_nothing_for_others(settings: Settings) -> None:
    old = os.umask(0o077)
    try:
        open_home(settings).prepare()
    finally:
        os.umask(old)
    assert open_to_others(settings.home) == []
