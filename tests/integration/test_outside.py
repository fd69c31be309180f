"""Nobody stops the service from outside: made-up paths, foreign clients, questions for what never was, slow callers.

Against the real service, and the real nginx before it where that is the way in. What a single connection may do is
`test_transport`, what nginx does alone `test_gateway`.
"""

import asyncio
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest
import redis

from fraud_platform.inference_log.record import encode_record
from fraud_platform.inference_log.table import LogTable, rows
from fraud_platform.lake import open_lake
from fraud_platform.settings import Settings
from tests.integration import gateway_kit as kit
from tests.integration.service_kit import fill_online_store, free_port, publish_small_model
from tests.record_kit import record

DAYS = 60
"""Of the log, each a file: what a search has to go through."""


@dataclass
class Outside:
    """A running service."""

    settings: Settings
    port: int
    process: "subprocess.Popen[bytes]"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def series(self) -> set[str]:
        # what was counted shows a few times a second
        time.sleep(0.5)
        text = httpx.get(f"{self.url}/metrics", timeout=10).text
        return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}

    def megabytes(self) -> float:
        return sum(each.memory_info().rss for each in psutil.Process(self.process.pid).children(recursive=True)) / 1e6


@pytest.fixture(scope="module")
def outside(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    home = tmp_path_factory.mktemp("outside")
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
        fill_online_store(client)
    publish_small_model(home, version=7, seed=1)
    port = free_port()
    settings = Settings(
        home=home, redis_url=redis_server, service_port=port, gateway_port=free_port(), rules_port=free_port(),
        gateway_rate=20_000, gateway_address_rate=20_000,
        # this machine may be busy, and a late answer is not what is tested
        gateway_timeout_ms=4_000,
    )  # fmt: skip
    fill_log(settings)
    command = [sys.executable, "-m", "bentoml", "serve", "bento.service:FraudDetector", "--port", str(port)]
    own = {"FRAUD_HOME": str(home), "FRAUD_REDIS_URL": redis_server, "BENTOML_HOME": str(home / "bentoml")}
    log = home / "service.log"
    with log.open("wb") as output:
        server = subprocess.Popen(command, cwd=kit.ROOT, env={**os.environ, **own}, stdout=output, stderr=output)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
            kit.until(lambda: kit.answers(http, "/readyz"), log.read_text, 120)
        yield Outside(settings, port, server)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def fill_log(settings: Settings) -> None:
    table, today = LogTable(open_lake(settings)), datetime.now(UTC)
    for back in range(1, DAYS + 1):
        received = int((today - timedelta(days=back)).timestamp() * 1e6)
        day = [
            record(f"t-{back}-{number}", decision_id=f"{back:016x}{number:016x}", received_at=received)
            for number in range(20)
        ]
        table.commit(rows((one, encode_record(one)) for one in day), {})


@kit.needs_nginx
def test_three_thousand_made_up_paths_make_no_series_and_take_no_memory(outside: Outside) -> None:
    def asked(names: list[str], http: httpx.Client) -> set[int]:
        through = [
            f"POST /v1/{name}/../predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n" for name in names
        ]
        statuses = {int(each[9:12]) for each in kit.pipelined(outside.settings, [each.encode() for each in through])}
        for name in names:
            methods = ("GET", "POST", "DELETE")
            statuses.add(http.request(methods[len(statuses) % 3], f"/{name}").status_code)
            statuses.add(http.get(f"/static_content/{name}").status_code)
        return statuses

    with kit.running_gateway(outside.settings), httpx.Client(base_url=outside.url, timeout=10) as http:
        # every answer that there is to this has its series now
        asked([secrets.token_hex(8) for _ in range(5)], http)
        before, memory = outside.series(), outside.megabytes()
        statuses = asked([secrets.token_hex(8) for _ in range(1_000)], http)
        began = time.monotonic()
        # a stage or a store may show for the first time meanwhile; nothing that was sent does
        assert {each for each in outside.series() - before if "endpoint=" in each or "route=" in each} == set()
        assert time.monotonic() - began < 3
        assert outside.megabytes() < memory + 15
    assert statuses == {404, 415}


def test_the_pages_of_bentoml_are_there_and_nothing_beside_them(outside: Outside) -> None:
    with httpx.Client(base_url=outside.url, timeout=10) as http:
        index = http.get("/")
        assert index.status_code == 200
        for name in ("swagger-ui.css", "swagger-ui-bundle.js", "swagger-initializer.js", "index.css"):
            assert name in index.text
            assert http.get(f"/static_content/{name}").status_code == 200
        for path in ("/metrics", "/schema.json", "/healthz", "/docs.json", "/livez", "/readyz"):
            assert http.get(path).status_code == 200, path
        for path in ("/docs", "/metrics/", "/static_content/", "/static_content", "/v1", "/__is_ready__"):
            missing = http.get(path)
            assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json"), path


JAVA = """
import java.net.URI;
import java.net.http.*;

public class Pay {
    public static void main(String[] words) throws Exception {
        // nothing is set: a client as everybody makes it, which asks for HTTP/2
        HttpClient client = HttpClient.newHttpClient();
        for (int number = 1; number < words.length; number++) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(words[0] + "/v1/predict"))
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(words[number])).build();
            HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.version() + " " + answer.body());
        }
    }
}
"""


@pytest.mark.skipif(shutil.which("javac") is None, reason="needs a JDK, as openjdk-17-jdk-headless: javac")
def test_javas_own_client_gets_its_decisions(outside: Outside, tmp_path: Path) -> None:
    (tmp_path / "Pay.java").write_text(JAVA)
    subprocess.run(["javac", "Pay.java"], cwd=tmp_path, check=True, timeout=60)
    payments = [httpx.Request("POST", "http://x", json=kit.payment(number)).content.decode() for number in range(3)]
    done = subprocess.run(
        ["java", "-cp", str(tmp_path), "Pay", outside.url, *payments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    said = done.stdout.splitlines()
    assert len(said) == 3, done.stdout + done.stderr
    for number, line in enumerate(said):
        assert line.startswith("200 HTTP_1_1 "), line
        assert f'"transaction_id":"t-{number}"' in line


async def test_twenty_who_ask_for_what_never_was_are_told_so_and_hold_nobody_up(outside: Outside) -> None:
    async with httpx.AsyncClient(base_url=outside.url, timeout=10) as http:

        async def asked(number: int) -> tuple[int, float]:
            began = time.monotonic()
            answer = await http.post("/v1/explain", json={"transaction_id": f"never-{number}"})
            return answer.status_code, time.monotonic() - began

        async def pay(number: int) -> tuple[int, bool]:
            await asyncio.sleep(number * 0.02)
            answer = await http.post("/v1/predict", json=kit.payment(user_id="u-2", transaction_id=f"beside-{number}"))
            return answer.status_code, answer.json()["served_by"]["model"] == "champion"

        found, paid = await asyncio.gather(
            asyncio.gather(*(asked(number) for number in range(20))),
            asyncio.gather(*(pay(number) for number in range(50))),
        )
        known = await http.post("/v1/explain", json={"transaction_id": f"t-{DAYS}-7"})
    assert {status for status, _ in found} == {404}, found
    assert {status for status, _ in paid} == {200}
    assert sum(champion for _, champion in paid) >= 45
    # what is in the oldest day is found: its model is not here any more
    assert known.status_code == 410 or known.json()["basis"] == "recorded", known.text


def test_who_sends_headers_slowly_or_not_at_all_is_let_go(outside: Outside) -> None:
    began = time.monotonic()
    with (
        socket.create_connection(("127.0.0.1", outside.port), timeout=20) as idle,
        socket.create_connection(("127.0.0.1", outside.port), timeout=20) as slow,
    ):
        slow.sendall(b"POST /v1/predict HTTP/1.1\r\nhost: here\r\n")
        said = b""
        while more := slow.recv(4_096):
            said += more
        assert idle.recv(1) == b""
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in said
    assert time.monotonic() - began < 15
