"""Asking every worker to look at the registry: who answers, who is dead, who is late; and the command that asks."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from fraud_platform.cli import app
from fraud_platform.cli.confirm import NOT_CONFIRMED
from fraud_platform.decision.api_keys import add_key, keys_path
from fraud_platform.decision.workers import (
    WorkerNote,
    announce,
    ask,
    asked,
    confirm,
    leave,
    present,
    process_start,
    reload_all,
)
from fraud_platform.homes import begin_home


def note(pid: int, number: int = 0, version: str | None = "fraud-detector/7", error: str | None = None) -> WorkerNote:
    return WorkerNote(pid=pid, model_version=version, asked=number, error=error)


def dead_pid() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_each_request_has_a_higher_number(tmp_path: Path) -> None:
    assert asked(tmp_path) == 0
    numbers = [ask(tmp_path) for _ in range(50)]
    assert numbers == sorted(set(numbers))
    assert asked(tmp_path) == numbers[-1]


def test_the_living_are_present_and_the_dead_are_forgotten(tmp_path: Path) -> None:
    announce(tmp_path, note(os.getpid()))
    announce(tmp_path, note(os.getppid(), version=None))
    announce(tmp_path, note(dead_pid()))
    assert {found.pid for found in present(tmp_path)} == {os.getpid(), os.getppid()}
    assert len(list((tmp_path / "workers").glob("*.json"))) == 2
    leave(tmp_path, os.getppid())
    assert present(tmp_path) == [note(os.getpid())]


def test_a_process_that_got_a_dead_worker_s_id_is_no_worker(tmp_path: Path) -> None:
    announce(tmp_path, replace(note(os.getpid()), started=process_start(os.getpid())))
    assert len(present(tmp_path)) == 1
    announce(tmp_path, replace(note(os.getpid()), started="1"))
    assert present(tmp_path) == []


def test_a_worker_that_ended_and_is_not_missed_yet_is_no_worker(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as ended:
        announce(tmp_path, replace(note(ended.pid), started=process_start(ended.pid)))
        assert len(present(tmp_path)) == 1
        ended.kill()
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        assert present(tmp_path) == []


def test_a_change_is_confirmed_when_every_worker_follows_it_and_not_before(tmp_path: Path) -> None:
    announce(tmp_path, replace(note(os.getpid()), policy=1))
    announce(tmp_path, replace(note(os.getppid()), policy=2))
    found = confirm(tmp_path, lambda worker: worker.policy == 2, 0.2)
    assert ([one.pid for one in found.following], [one.pid for one in found.late]) == ([os.getppid()], [os.getpid()])
    assert found.seconds >= 0.2
    timer = threading.Timer(0.3, announce, (tmp_path, replace(note(os.getpid()), policy=2)))
    timer.start()
    found = confirm(tmp_path, lambda worker: worker.policy == 2, 10)
    timer.join()
    assert (len(found.following), found.late) == (2, [])
    assert 0.2 < found.seconds < 5


@pytest.mark.parametrize(("words", "code"), [
    (("policy", "kill-switch", "rules_only", "--why", "x"), NOT_CONFIRMED),
    (("keys", "add", "shop", "--scope", "decide"), 0),
    (("keys", "revoke", "KEY"), NOT_CONFIRMED),
])  # fmt: skip
def test_where_no_worker_runs_a_command_says_that_none_confirms(
    tmp_path: Path, words: tuple[str, ...], code: int
) -> None:
    begin_home(tmp_path)
    _, kept = add_key(keys_path(tmp_path), "other", ["decide"], datetime.now(UTC))
    done = CliRunner().invoke(
        app, [kept.id if word == "KEY" else word for word in words], env={"FRAUD_HOME": str(tmp_path)}
    )
    assert done.exit_code == code, done.output
    assert "is kept" in done.output
    assert "no worker of this home runs on this machine, so none confirms it" in done.stderr


async def test_a_reload_waits_until_every_worker_has_looked(tmp_path: Path) -> None:
    announce(tmp_path, note(os.getpid()))

    async def worker() -> None:
        while asked(tmp_path) == 0:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        announce(tmp_path, note(os.getpid(), asked(tmp_path), "fraud-detector/8"))

    answer, _ = await asyncio.gather(reload_all(tmp_path, 5), worker())
    (found,) = answer.workers
    assert (found.pid, found.model_version, found.looked, found.error) == (os.getpid(), "fraud-detector/8", True, None)


async def test_a_worker_that_does_not_look_is_told_of_after_the_wait(tmp_path: Path) -> None:
    announce(tmp_path, note(os.getpid()))
    (found,) = (await reload_all(tmp_path, 0.1)).workers
    assert (found.looked, found.model_version) == (False, "fraud-detector/7")


@contextmanager
def admin(status: int, content: dict[str, Any], seen: list[str]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(f"{self.path} {self.headers.get('authorization')}")
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def reload(url: str, home: Path, *more: str) -> tuple[int, str]:
    environment = {"COLUMNS": "160", "NO_COLOR": "1", "FRAUD_HOME": str(home), "FRAUD_API_KEY": "fp_secret"}
    done = CliRunner().invoke(app, ["reload", "--url", url, *more], env=environment)
    return done.exit_code, done.output


def test_the_command_shows_every_worker_and_fails_where_one_did_not_follow(tmp_path: Path) -> None:
    good = {"pid": 11, "model_version": "fraud-detector/8", "looked": True, "error": None}
    bad = {"pid": 12, "model_version": "fraud-detector/7", "looked": True, "error": "model file is corrupt"}
    seen: list[str] = []
    with admin(200, {"workers": [good]}, seen) as url:
        assert reload(url, tmp_path)[0] == 0
    assert seen == ["/v1/admin/reload Bearer fp_secret"]
    with admin(200, {"workers": [good, bad]}, seen) as url:
        code, text = reload(url, tmp_path)
    assert code == 1
    with admin(200, {"workers": [good, bad]}, seen) as url:
        code, told = reload(url, tmp_path, "--json")
    assert (code, json.loads(told)) == (1, {"workers": [good, bad]})
    assert "fraud-detector/8" in text
    assert "model file is corrupt" in text
    assert "fp_secret" not in text
    with admin(200, {"workers": []}, seen) as url:
        assert reload(url, tmp_path)[0] == 1


def test_a_refusal_and_a_silence_are_said(tmp_path: Path) -> None:
    with admin(403, {"detail": "this needs a key with the scope admin"}, []) as url:
        code, text = reload(url, tmp_path)
    assert (code, "this needs a key with the scope admin" in text) == (1, True)
    code, text = reload(url, tmp_path)
    assert (code, "no service answers" in text) == (1, True)


def test_the_key_in_the_settings_is_not_shown(tmp_path: Path) -> None:
    environment = {"COLUMNS": "160", "NO_COLOR": "1", "FRAUD_HOME": str(tmp_path), "FRAUD_API_KEY": "fp_secret"}
    assert "fp_secret" not in CliRunner().invoke(app, ["settings"], env=environment).output
