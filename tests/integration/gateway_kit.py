"""What the gateway's tests stand on: a real nginx, the process of the rules, stand-ins for the service, a load."""

import io
import json
import re
import select
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from fraud_platform.decision.policy_record import first_policy
from fraud_platform.gateway import nginx
from fraud_platform.gateway.config import certificate_files, folder
from fraud_platform.gateway.run import prepare, rules_command
from fraud_platform.settings import Settings

ROOT = Path(__file__).parents[2]
needs_nginx = pytest.mark.skipif(
    shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin") is None,
    reason="needs the Debian packages of deploy/system-packages.txt: nginx",
)


@dataclass
class Gateway:
    """A running nginx and a client that trusts its certificate."""

    settings: Settings
    http: httpx.Client

    @property
    def folder(self) -> Path:
        return folder(self.settings)

    def log(self) -> list[dict[str, Any]]:
        """The access log, which is flushed every second."""
        return [json.loads(line) for line in (self.folder / "access.log").read_text().splitlines()]


@contextmanager
def running_gateway(settings: Settings, change: Callable[[str], str] = str) -> Iterator[Gateway]:
    """change: made to the configuration before nginx starts."""
    prepare(settings, datetime.now(UTC))
    nginx.put(folder(settings), change((folder(settings) / nginx.CONFIGURATION).read_text()))
    process = nginx.start(folder(settings))
    try:
        with client(settings) as http:
            until(lambda: answers(http, "/livez"), (folder(settings) / "error.log").read_text)
            yield Gateway(settings, http)
    finally:
        nginx.stop(process)


def client(settings: Settings, **options: Any) -> httpx.Client:
    certificate, _ = certificate_files(settings)
    context = ssl.create_default_context(cafile=str(certificate))
    return httpx.Client(base_url=f"https://localhost:{settings.gateway_port}", verify=context, timeout=10, **options)


@contextmanager
def started(command: list[str], port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that listens on a port when this goes on, ended afterwards."""
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
            until(lambda: answers(http, "/livez"), lambda: f"{command} does not answer on {port}")
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(20)


def standin(name: str, port: int, *missing: str) -> Any:
    return started([sys.executable, "-m", "tests.integration.gateway_standin", name, str(port), *missing], port)


def rules_process(settings: Settings) -> Any:
    return started(rules_command(settings, first_policy(settings, datetime.now(UTC))), settings.rules_port)


def load(settings: Settings, rate: float, seconds: float, key: str) -> "subprocess.Popen[str]":
    certificate, _ = certificate_files(settings)
    words = [str(settings.gateway_port), str(rate), str(seconds), str(certificate), key]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.integration.gateway_load", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def result(process: "subprocess.Popen[str]") -> dict[str, Any]:
    said, _ = process.communicate(timeout=60)
    found: dict[str, Any] = json.loads(said)
    return found


def answers(http: httpx.Client, path: str) -> bool:
    try:
        return http.get(path).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def until(condition: Callable[[], bool], why: Callable[[], str], seconds: float = 30) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, why()
        time.sleep(0.02)


class _Conversation(io.RawIOBase):
    """What comes over a connection while what is to be sent goes out: by one thread, since one SSL socket does not bear
    a reader and a writer at once."""

    def __init__(self, tls: ssl.SSLSocket, to_send: bytes) -> None:
        self._tls, self._left = tls, memoryview(to_send)
        tls.setblocking(False)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        ends = time.monotonic() + 30
        while time.monotonic() < ends:
            with suppress(ssl.SSLWantWriteError, ssl.SSLWantReadError):
                if self._left:
                    self._left = self._left[self._tls.send(self._left[:16_384]) :]
            with suppress(ssl.SSLWantWriteError, ssl.SSLWantReadError):
                return self._tls.recv_into(buffer)
            select.select([self._tls], [self._tls] if self._left else [], [], 0.1)
        raise TimeoutError("no answer in 30 s")


def pipelined(settings: Settings, requests: list[bytes]) -> list[bytes]:
    """The answers, head and body, to requests as they are written here, sent at once over one connection.

    An HTTP client would mend them first, and takes longer over it than nginx.
    """
    certificate, _ = certificate_files(settings)
    context = ssl.create_default_context(cafile=str(certificate))
    with (
        socket.create_connection(("localhost", settings.gateway_port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
        io.BufferedReader(_Conversation(tls, b"".join(requests))) as file,
    ):
        answers = []
        for _ in requests:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                line = file.readline()
                assert line, f"the connection ended after {len(answers)} answers"
                head += line
            length = re.search(rb"(?i)content-length: (\d+)", head)
            assert length, head
            answers.append(head + file.read(int(length[1])))
    return answers


def payment(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A payment as `/v1/predict` takes it."""
    return {
        "transaction_id": f"t-{number}", "user_id": "u-1", "merchant_id": "m-1", "amount": 42.5, "currency": "EUR",
        "country": "DE", "user_country": "DE", "timestamp": datetime.now(UTC).isoformat(), **changes,
    }  # fmt: skip
