"""What a web page of somebody else can send to Dagster and MLflow on this machine: real servers, as a browser asks."""

import base64
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import free_port

ROOT = Path(__file__).parents[2]
SECONDS = 120
MUTATION = "mutation { setAutoMaterializePaused(paused: true) }"
"""Of no consequence, and Dagster does it for whoever asks."""
EVIL = "http://attacker.example"


def started(command: list[str], environment: dict[str, str], url: str, log: Path) -> "subprocess.Popen[bytes]":
    with log.open("wb") as output:
        server = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, stdout=output, stderr=output)
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return server
        except httpx.TransportError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


@pytest.fixture(scope="module")
def dagster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder, port = tmp_path_factory.mktemp("dagster"), free_port()
    command = [sys.executable, "-m", "assets.webserver", "--empty-workspace", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    environment = {"DAGSTER_HOME": str(folder), "FRAUD_HOME": str(folder), "FRAUD_ALLOWED_HOSTS": '["dagster.bank"]'}
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    server = started(command, environment, f"{url}/server_info", folder / "log")
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        yield client
    server.terminate()
    server.wait(30)


def paused(dagster: httpx.Client) -> bool:
    answer = dagster.post("/graphql", json={"query": "{ instance { autoMaterializePaused } }"}).json()
    return bool(answer["data"]["instance"]["autoMaterializePaused"])


def test_dagster_s_own_pages_ask_and_change(dagster: httpx.Client) -> None:
    own = {"origin": str(dagster.base_url).rstrip("/")}
    assert dagster.post("/graphql", json={"query": MUTATION}, headers=own).json()["data"]
    assert paused(dagster)
    dagster.post("/graphql", json={"query": MUTATION.replace("true", "false")}, headers=own)
    assert not paused(dagster)
    assert dagster.get("/", headers={"accept": "text/html"}).status_code == 200
    assert dagster.get("/server_info", headers={"host": "dagster.bank"}).status_code == 200


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("GET", {"params": {"query": MUTATION}}),
        ("HEAD", {"params": {"query": MUTATION}}),
        ("POST", {"content": f'{{"query": "{MUTATION}"}}', "headers": {"content-type": "text/plain"}}),
        ("POST", {"data": {"query": MUTATION}}),
        ("POST", {"content": MUTATION, "headers": {"content-type": "application/graphql"}}),
        ("POST", {"json": {"query": MUTATION}, "headers": {"origin": EVIL}}),
        ("POST", {"json": {"query": MUTATION}, "headers": {"origin": "null"}}),
        ("POST", {"json": {"query": MUTATION}, "headers": {"origin": "http://localhost:8888"}}),
        ("POST", {"json": {"query": MUTATION}, "headers": {"host": "attacker.example:3000"}}),
        ("POST", {"params": {"query": MUTATION}, "headers": {"origin": EVIL}}),
        ("GET", {"headers": {"host": "attacker.example"}}),
    ],
)
def test_pages_of_others_change_nothing_in_dagster(
    dagster: httpx.Client, method: str, request_: dict[str, Any]
) -> None:
    assert dagster.request(method, "/graphql", **request_).status_code == 403
    assert not paused(dagster)


@pytest.mark.parametrize(("origin", "status"), [(None, b"101"), ("own", b"101"), (EVIL, b"403"), ("null", b"403")])
def test_a_websocket_is_opened_to_its_own_pages_alone(dagster: httpx.Client, origin: str | None, status: bytes) -> None:
    port = dagster.base_url.port
    lines = [
        "GET /graphql HTTP/1.1", f"Host: 127.0.0.1:{port}", "Connection: Upgrade", "Upgrade: websocket",
        "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {base64.b64encode(b'0123456789abcdef').decode()}",
        "Sec-WebSocket-Protocol: graphql-ws",
    ]  # fmt: skip
    if origin is not None:
        lines.append(f"Origin: {f'http://127.0.0.1:{port}' if origin == 'own' else origin}")
    with socket.create_connection(("127.0.0.1", port or 0), timeout=30) as client:
        client.sendall("\r\n".join([*lines, "", ""]).encode())
        assert client.recv(1_024).split(b" ")[1] == status


def test_mlflow_answers_to_its_own_names_and_pages(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {"FRAUD_HOME": str(tmp_path / "home"), "FRAUD_MLFLOW_PORT": str(port)}
    command = [sys.executable, "-m", "fraud_platform.run.mlflow_server"]
    server = started(command, environment, f"{url}/health", tmp_path / "log")
    search = "/api/2.0/mlflow/experiments/search"
    try:
        with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
            for host in ("attacker.example", "10.attacker.example", f"192.168.attacker.example:{port}"):
                assert client.post(search, json={"max_results": 1}, headers={"host": host}).status_code == 403, host
            evil = client.post(search, json={"max_results": 1}, headers={"origin": EVIL})
            assert evil.status_code == 403
            assert client.post(search, json={"max_results": 1}).status_code == 200
            assert (
                client.post(search, json={"max_results": 1}, headers={"host": f"localhost:{port}"}).status_code == 200
            )
    finally:
        server.terminate()
        server.wait(30)
    assert (tmp_path / "home").stat().st_mode & 0o077 == 0
