"""Asking every worker to look at the registry: who answers, who is dead, who is late; and the command that asks."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from fraud_platform.cli import app
from fraud_platform.decision.workers import WorkerNote, announce, ask, asked, leave, present, reload_all


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


def reload(url: str, home: Path) -> tuple[int, str]:
    environment = {"COLUMNS": "160", "NO_COLOR": "1", "FRAUD_HOME": str(home), "FRAUD_API_KEY": "fp_secret"}
    done = CliRunner().invoke(app, ["reload", "--url", url], env=environment)
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
