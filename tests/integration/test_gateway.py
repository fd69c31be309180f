"""The gateway as callers meet it: a real nginx before stand-ins of the service, and before the process of the rules."""

import hashlib
import json
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import httpx
import msgspec
import pytest

from fraud_platform.decision.answer import PredictAnswer
from fraud_platform.decision.api_keys import add_key, keys_path
from fraud_platform.gateway import nginx, switch
from fraud_platform.gateway.config import CONNECTIONS, GatewayError, certificate_files
from fraud_platform.gateway.run import prepare
from fraud_platform.model.ledger import read_ledger
from fraud_platform.model.release import Reason
from fraud_platform.settings import Settings
from tests.integration import gateway_kit as kit
from tests.integration.service_kit import free_port

pytestmark = kit.needs_nginx

NOW = datetime(2026, 11, 24, tzinfo=UTC)
WHY = Reason(who="test", why="to see")
PROBLEM = "application/problem+json"
RATE = 500.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="module")
def key(home: Path) -> str:
    return add_key(keys_path(home), "shop", ["decide"], NOW)[0]


@pytest.fixture(scope="module")
def colours(home: Path, key: str) -> Iterator[Settings]:
    """Two blue servers and a green one, all stand-ins. There is a key before the rules' process looks for one."""
    ports = [free_port() for _ in range(6)]
    made = Settings(
        home=home,
        gateway_port=ports[0],
        rules_port=ports[1],
        service_port=ports[5],
        gateway_blue=[f"127.0.0.1:{port}" for port in ports[2:4]],
        gateway_green=[f"127.0.0.1:{ports[4]}"],
        # this machine may be busy, and a late answer is not what is tested
        gateway_timeout_ms=3_000,
        gateway_rate=20_000,
        gateway_address_rate=20_000,
    )
    with (
        kit.standin("blue-1", ports[2]),
        kit.standin("blue-2", ports[3]),
        kit.standin("green", ports[4]),
        kit.rules_process(made),
    ):
        yield made


@pytest.fixture(scope="module")
def shared(colours: Settings, key: str) -> Iterator[kit.Gateway]:
    with kit.running_gateway(colours) as found:
        found.http.headers["authorization"] = f"Bearer {key}"
        yield found


@pytest.fixture
def gateway(shared: kit.Gateway) -> Iterator[kit.Gateway]:
    """The gateway as it starts: blue gets every payment."""
    yield shared
    if switch.weights_in_force(shared.settings) != switch.FIRST:
        switch.switch(shared.settings, "blue", WHY, NOW)


def problem(response: httpx.Response, status: int, kind: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == PROBLEM
    document = response.json()
    assert document["status"] == status
    assert document["type"] == f"urn:fraud-platform:problem:{kind}"
    assert document["detail"]


def handshake(port: int, version: ssl.TLSVersion) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    # without this it is this client that refuses the older ones
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.set_alpn_protocols(["h2", "http/1.1"])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain, context.wrap_socket(plain) as tls:
        assert tls.selected_alpn_protocol() == "h2"
        return tls.version()


def test_tls_1_2_and_1_3_are_spoken_and_1_1_is_refused_by_the_gateway(gateway: kit.Gateway) -> None:
    port = gateway.settings.gateway_port
    assert handshake(port, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    assert handshake(port, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    with (
        pytest.warns(DeprecationWarning, match="TLSv1_1"),
        pytest.raises(ssl.SSLError, match=r"(?i)alert.protocol.version"),
    ):
        handshake(port, ssl.TLSVersion.TLSv1_1)
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"https://localhost:{port}/livez")
    problem(httpx.get(f"http://localhost:{port}/livez"), 400, "bad-request")
    assert gateway.http.get("/livez").headers["strict-transport-security"] == "max-age=31536000"


def test_a_request_id_is_passed_on_and_returned_or_made(gateway: kit.Gateway) -> None:
    given = gateway.http.post("/v1/predict", json=kit.payment(), headers={"X-Request-Id": "shop-17.a_b"})
    assert given.headers["x-request-id"] == given.json()["headers"]["x-request-id"] == "shop-17.a_b"
    for wrong in ({}, {"X-Request-Id": "a b"}, {"X-Request-Id": "x" * 65}):
        made = gateway.http.post("/v1/predict", json=kit.payment(), headers=wrong)
        assert len(made.headers["x-request-id"]) == 32
        assert made.headers["x-request-id"] == made.json()["headers"]["x-request-id"]
    kit.until(lambda: any(line["request_id"] == "shop-17.a_b" for line in gateway.log()), lambda: str(gateway.log()))
    assert "Bearer" not in (gateway.folder / "access.log").read_text()


def test_the_service_learns_who_asks_from_where(gateway: kit.Gateway, key: str) -> None:
    headers = gateway.http.post("/v1/predict", json=kit.payment(), headers={"X-Forwarded-For": "10.1.2.3"}).json()[
        "headers"
    ]
    assert headers["authorization"] == f"Bearer {key}"
    assert headers["x-forwarded-for"] == "127.0.0.1"


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/v1/admin/reload",
        "/v1/admin/report",
        "/",
        "/v1/predict/",
        "/v1//admin/reload",
        "/%76%31/admin/reload",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_is_not_for_callers_is_not_there(gateway: kit.Gateway, path: str, method: str) -> None:
    problem(gateway.http.request(method, path), 404, "not-found")


@pytest.mark.parametrize(
    "path", ["/v1/explain", "/v1/feedback", "/v1/report", "/v1/predict/batch", "/docs.json", "/readyz"]
)
def test_what_is_for_callers_reaches_the_service(gateway: kit.Gateway, path: str) -> None:
    assert gateway.http.post(path, json={}).json()["path"] == path


@pytest.mark.parametrize(
    ("wanted", "path"),
    [
        ("/v1/predict", "/v1/zq81/../predict"),
        ("/v1/predict", "/v1/./predict"),
        ("/v1/predict", "//v1///predict"),
        ("/v1/predict", "/%76%31/predict"),
        ("/v1/predict", "/v1/predict?zq82=1"),
        ("/v1/predict", "/v1/predict#zq83"),
        ("/v1/predict/batch", "/zq84/../v1/predict/batch"),
        ("/v1/explain", "/v1/zq85/../explain?a=b"),
        ("/v1/feedback", "/v1/zq86/%2e%2e/feedback"),
        ("/v1/report", "/v1/report/zq87/.."),
        ("/docs.json", "/zq88/../docs.json"),
        ("/readyz", "/readyz?zq89"),
    ],
)
def test_the_service_is_asked_for_routes_and_not_for_what_callers_write(
    gateway: kit.Gateway, wanted: str, path: str
) -> None:
    request = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{{}}".encode()
    [found] = kit.pipelined(gateway.settings, [request])
    if found.startswith(b"HTTP/1.1 404"):
        # as nginx has it, a folder is another path than what lies in it
        assert path.endswith("..")
        return
    assert json.loads(found.partition(b"\r\n\r\n")[2])["path"] == wanted
    assert json.loads(found.partition(b"\r\n\r\n")[2])["query"] == ""


def test_what_anybody_makes_up_is_not_written_into_the_log(gateway: kit.Gateway) -> None:
    made_up = [("GET", "/zq91/%0a"), ("BREW", "/v1/predict"), ("POST", "/v1/predict?zq93")]
    requests = [f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nx-request-id: zq9\r\n\r\n"
                for method, path in made_up]  # fmt: skip
    kit.pipelined(gateway.settings, [request.encode() for request in requests])

    def lines() -> list[str]:
        return [line["request"] for line in gateway.log() if line["request_id"] == "zq9"]

    kit.until(lambda: len(lines()) == 3, lambda: str(lines()))
    assert lines() == ["GET other", "OTHER /v1/predict", "POST /v1/predict"]


@pytest.mark.parametrize(
    "line",
    [
        "CONNECT elsewhere:443 HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "PRI * HTTP/2.0",
        "zq94 /v1/predict HTTP/1.1",
        "GET /\0zq95 HTTP/1.1",
        "GET /zq96 HTTP/zq",
        "GET /zq97/../.. HTTP/1.1",
        "zq98",
        f"GET /{'x' * 9_000} HTTP/1.1",
    ],
)
def test_a_request_line_that_cannot_be_read_is_a_bad_request_and_not_in_the_log(
    gateway: kit.Gateway, line: str
) -> None:
    [found] = kit.pipelined(gateway.settings, [f"{line}\r\nhost: localhost\r\n\r\n".encode()])
    head, _, told = found.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in head
    assert json.loads(told)["type"] == "urn:fraud-platform:problem:bad-request"
    assert "zq9" not in (gateway.folder / "error.log").read_text()
    problem(gateway.http.get("/bad_request"), 404, "not-found")


@pytest.mark.parametrize(
    ("path", "limit"), [("/v1/predict", 65_536), ("/v1/explain", 65_536), ("/v1/predict/batch", 524_288)]
)
def test_a_body_over_the_limit_is_refused(gateway: kit.Gateway, path: str, limit: int) -> None:
    assert gateway.http.post(path, content=b"x" * limit).json()["length"] == limit
    problem(gateway.http.post(path, content=b"x" * (limit + 1)), 413, "body-too-large")
    # without a length in front, too
    problem(gateway.http.post(path, content=iter([b"x" * limit, b"x"])), 413, "body-too-large")


def test_headers_over_the_limit_are_refused_and_a_body_that_does_not_come_ends_its_connection(
    gateway: kit.Gateway,
) -> None:
    problem(gateway.http.get("/livez", headers={"X-Long": "x" * 9_000}), 400, "bad-request")

    def half() -> Iterator[bytes]:
        yield b"{"
        time.sleep(2.5)
        yield b"}"

    began = time.monotonic()
    with pytest.raises(httpx.TransportError):
        gateway.http.post("/v1/predict", content=half())
    assert time.monotonic() - began < 10


def test_one_key_s_rate_is_limited_and_another_key_s_is_not(colours: Settings) -> None:
    port = free_port()
    with kit.running_gateway(
        colours.model_copy(update={"home": colours.home / "limited", "gateway_port": port, "gateway_rate": 5})
    ) as gateway:

        def asked(key: str | None) -> list[httpx.Response]:
            headers = {"authorization": f"Bearer {key}"} if key else {}
            return [gateway.http.post("/v1/predict", json=kit.payment(), headers=headers) for _ in range(8)]

        one, another = (credential(number, 60).decode() for number in (1, 2))
        for key in (one, None):
            found = asked(key)
            assert found[0].status_code == found[1].status_code == 200
            limited = [response for response in found if response.status_code != 200]
            assert limited
            for response in limited:
                problem(response, 429, "rate-limited")
                assert response.headers["retry-after"] == "1"
                assert response.headers["x-request-id"]
        assert asked(another)[0].status_code == 200
        # what is too short for a key counts as none
        assert asked("short")[0].status_code == 429
        time.sleep(1.1)
        assert asked(one)[0].status_code == 200


def test_whoever_changes_keys_is_limited_by_address(colours: Settings) -> None:
    limits = {"home": colours.home / "address", "gateway_port": free_port(), "gateway_address_rate": 5}
    with kit.running_gateway(colours.model_copy(update=limits)) as gateway:
        statuses = [
            gateway.http.post(
                "/v1/predict", json=kit.payment(), headers={"authorization": f"Bearer {number}"}
            ).status_code
            for number in range(12)
        ]
    assert statuses[0] == 200
    assert 429 in statuses


def credential(number: int, length: int) -> bytes:
    return hashlib.shake_256(b"%d" % number).hexdigest(length // 2).encode()


def test_made_up_keys_that_fill_the_limits_memory_lock_nobody_out(colours: Settings) -> None:
    """Of 1,000 bytes each, 8,000 filled the 16 MB there are and left no room for keys of another size."""

    def request(authorization: bytes) -> bytes:
        fields = b"host: localhost\r\ncontent-length: 2\r\nauthorization: Bearer " + authorization
        return b"POST /v1/predict HTTP/1.1\r\n" + fields + b"\r\n\r\n{}"

    def small(text: str) -> str:
        assert "zone=callers:16m" in text
        return text.replace("zone=callers:16m", "zone=callers:64k")

    limits = {"home": colours.home / "flood", "gateway_port": free_port()}
    with kit.running_gateway(colours.model_copy(update=limits), small) as gateway:
        for begin in range(0, 2_000, 250):
            flood = [request(credential(number, 1_000)) for number in range(begin, begin + 250)]
            newcomers = [request(credential(-begin - length, length)) for length in (70, 300, 700, 3_000)]
            found = [answer[9:12] for answer in kit.pipelined(gateway.settings, [*flood, *newcomers])]
            assert set(found) == {b"200"}, f"after {begin}: {found[-4:]}"


def test_whoever_is_limited_by_address_takes_no_room_of_keys(colours: Settings) -> None:
    limits = {"home": colours.home / "first", "gateway_port": free_port(), "gateway_address_rate": 50}
    with kit.running_gateway(colours.model_copy(update=limits)) as gateway:
        text = (gateway.folder / "nginx.conf").read_text()
        for location in re.findall(r"location = /v1/\S+ {(.*?)}", text, re.DOTALL):
            assert re.findall("zone=([a-z]+)", location) == ["addresses", "callers"]
        # a key's limit counts requests that came through the address's alone
        key = credential(1, 60)
        requests = [b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\nauthorization: " + key
                    + b"\r\n\r\n{}"] * 200  # fmt: skip
        statuses = [answer[9:12] for answer in kit.pipelined(gateway.settings, requests)]
    assert statuses[0] == b"200"
    assert statuses.count(b"429") > 100


class Slow:
    """Requests of one address whose bodies come byte by byte."""

    def __init__(self, settings: Settings, address: str) -> None:
        self._settings, self._address = settings, address
        self.open: list[ssl.SSLSocket] = []

    def begin(self, count: int, path: str) -> None:
        context = ssl.create_default_context(cafile=str(certificate_files(self._settings)[0]))
        for _ in range(count):
            plain = socket.create_connection(
                ("127.0.0.1", self._settings.gateway_port), timeout=10, source_address=(self._address, 0)
            )
            tls = context.wrap_socket(plain, server_hostname="localhost")
            tls.sendall(f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 60000\r\n\r\n{{".encode())
            tls.setblocking(False)
            self.open.append(tls)

    def go_on(self, seconds: float) -> list[bytes]:
        """A byte of every body each 0.3 s; what was answered meanwhile. What nginx ended is no longer open."""
        told, ends = [], time.monotonic() + seconds
        while self.open and time.monotonic() < ends:
            for tls in list(self.open):
                try:
                    with suppress(ssl.SSLWantReadError):
                        answer = tls.recv(65_536)
                        if not answer:
                            raise ConnectionResetError
                        told.append(answer)
                    tls.sendall(b" ")
                except OSError:
                    self.open.remove(tls)
                    tls.close()
            time.sleep(0.3)
        return told

    def answers(self, count: int) -> set[bytes]:
        """The status lines' beginnings of so many answers, once they are there."""
        told: list[bytes] = []

        def are_there() -> bool:
            told.extend(self.go_on(0.1))
            return len(told) == count

        kit.until(are_there, lambda: f"{len(told)} of {count}")
        return {answer[:13] for answer in told}

    def __enter__(self) -> "Slow":
        return self

    def __exit__(self, *_: object) -> None:
        for tls in self.open:
            tls.close()


def payment_from(gateway: kit.Gateway, address: str) -> int:
    """The status of a payment that comes from this address."""
    context = ssl.create_default_context(cafile=str(certificate_files(gateway.settings)[0]))
    transport = httpx.HTTPTransport(verify=context, local_address=address)
    with httpx.Client(transport=transport, base_url=gateway.http.base_url) as http:
        return http.post("/v1/predict", json=kit.payment()).status_code


def test_slow_bodies_of_one_address_hold_no_more_than_its_connections(colours: Settings) -> None:
    """There are 128 connections in all, of which an address may hold 16, and 2 with batches."""

    def few(text: str) -> str:
        # on a busy machine a byte may be late, which is not what is tested
        changes = {f"worker_connections {CONNECTIONS};": "worker_connections 128;",
                   "client_body_timeout 1s;": "client_body_timeout 10s;",
                   "lingering_timeout 1s;": "lingering_timeout 10s;"}  # fmt: skip
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        return text

    limits = {"home": colours.home / "slow", "gateway_port": free_port(), "gateway_address_connections": 16}
    settings = colours.model_copy(update={**limits, "gateway_workers": 1})
    with kit.running_gateway(settings, few) as gateway, Slow(settings, "127.0.0.1") as slow:
        slow.begin(16, "/v1/predict")
        assert slow.go_on(1) == []
        refused = gateway.http.post("/v1/predict", json=kit.payment())
        problem(refused, 429, "rate-limited")
        assert "of an address 16 at once" in refused.json()["detail"]
        assert refused.headers["retry-after"] == "1"
        slow.begin(60, "/v1/predict")
        assert slow.answers(60) == {b"HTTP/1.1 429 "}
        assert payment_from(gateway, "127.0.0.2") == 200
        # those that were refused are not kept for what else they send
        kit.until(lambda: slow.go_on(0.3) == [] and len(slow.open) == 16, lambda: str(len(slow.open)), 15)
        slow.open.pop().close()
        kit.until(lambda: payment_from(gateway, "127.0.0.1") == 200, lambda: "the place is not given back")
        with Slow(settings, "127.0.0.3") as batches:
            batches.begin(3, "/v1/predict/batch")
            assert batches.answers(1) == {b"HTTP/1.1 429 "}
            assert payment_from(gateway, "127.0.0.3") == 200


def test_a_slow_body_that_nobody_reads_ends_its_connection(gateway: kit.Gateway) -> None:
    with Slow(gateway.settings, "127.0.0.1") as slow:
        slow.begin(1, "/livez")
        slow.begin(1, "/nowhere")
        assert slow.answers(2) == {b"HTTP/1.1 200 ", b"HTTP/1.1 404 "}
        kit.until(lambda: slow.go_on(0.3) == [] and not slow.open, lambda: "they are kept", 15)


def test_a_server_that_is_killed_costs_no_caller_anything(gateway: kit.Gateway, key: str) -> None:
    settings, port = gateway.settings, free_port()
    with kit.standin("third", port) as third:
        more = settings.model_copy(
            update={
                "home": settings.home / "ejection",
                "gateway_port": free_port(),
                "gateway_blue": [*settings.gateway_blue, f"127.0.0.1:{port}"],
            }
        )
        with kit.running_gateway(more):
            under_way = kit.load(more, RATE, 4, key)
            time.sleep(1.5)
            third.kill()
            found = kit.result(under_way)
    assert found["statuses"] == {"200": 4 * RATE}, found
    assert found["lost"] == []
    assert found["names"]["third"] > 100
    assert set(found["names"]) == {"blue-1", "blue-2", "third"}


def test_a_server_that_hangs_is_passed_over(colours: Settings) -> None:
    quick = {"home": colours.home / "hang", "gateway_port": free_port(), "gateway_timeout_ms": 300}
    with kit.running_gateway(colours.model_copy(update=quick)) as gateway:
        began = time.monotonic()
        answer = gateway.http.post("/v1/predict", json=kit.payment(user_id="slow"))
        assert time.monotonic() - began < 3
    # every stand-in hangs on this payment, so it comes to the rules' process, which asks for a key
    problem(answer, 401, "unauthorized")


def test_when_every_server_is_gone_the_rules_decide_and_then_the_service_again(colours: Settings, key: str) -> None:
    port = free_port()
    alone = colours.model_copy(
        update={"home": colours.home / "alone", "gateway_port": free_port(), "gateway_blue": [f"127.0.0.1:{port}"]}
    )
    headers = {"authorization": f"Bearer {key}"}
    with kit.running_gateway(alone) as gateway:

        def decided(**changes: object) -> httpx.Response:
            return gateway.http.post("/v1/predict", json=kit.payment(**changes), headers=headers)  # type: ignore[arg-type]

        for _ in range(5):
            answer = decided()
            assert answer.status_code == 200
            said = msgspec.json.decode(answer.content, type=PredictAnswer)
            assert set(answer.json()) == {*PredictAnswer.__struct_fields__} - {"listed"}
            assert (said.decision, said.reason, said.degraded) == ("allow", "service_unavailable_fallback", True)
            assert said.served_by.model == "rules"
        assert decided(number=2, amount=10_001).json()["reason"] == "high_amount_fallback"
        assert decided(number=3, amount=1_001, user_country="FR").json()["reason"] == "cross_country_fallback"
        problem(decided(amount=10_001), 409, "transaction-conflict")
        problem(decided(amount=-1), 422, "invalid-request")
        problem(decided(transaction_id=""), 422, "invalid-request")
        problem(gateway.http.post("/v1/predict", json=kit.payment()), 401, "unauthorized")
        unanswered = gateway.http.post("/v1/explain", json={}, headers=headers)
        problem(unanswered, 503, "unavailable")
        assert unanswered.headers["retry-after"] == "1"
        assert gateway.http.get("/readyz").json()["degraded"] == ["service"]
        with kit.standin("back", port):
            kit.until(lambda: decided().json().get("name") == "back", lambda: decided().text)


def test_a_switch_under_load_loses_nothing(gateway: kit.Gateway, key: str) -> None:
    settings, before = gateway.settings, len(read_ledger(gateway.settings.home))
    under_way = kit.load(settings, RATE, 8, key)
    time.sleep(1.5)
    switch.switch(settings, "green", WHY, NOW)
    switch.reload(settings)
    switch.split(settings, "blue", 50, WHY, NOW)
    found = kit.result(under_way)
    assert found["statuses"] == {"200": 8 * RATE}, found
    assert found["lost"] == []
    assert min(found["names"].values()) > 50
    lines = [(line["what"], line["from"], line["to"]) for line in read_ledger(settings.home)[before:]]
    assert lines == [
        ("gateway", {"blue": 100}, {"green": 100}),
        ("gateway", {"green": 100}, {"blue": 50, "green": 50}),
    ]


def asked(gateway: kit.Gateway, times: int) -> dict[str, int]:
    names = [gateway.http.post("/v1/predict", json=kit.payment()).json()["name"] for _ in range(times)]
    return {name: names.count(name) for name in set(names)}


def test_after_a_switch_the_other_colour_gets_nothing_and_a_roll_back_undoes_it(gateway: kit.Gateway) -> None:
    switch.switch(gateway.settings, "green", WHY, NOW)
    assert asked(gateway, 20) == {"green": 20}
    assert switch.roll_back(gateway.settings, WHY, NOW) == {"blue": 100}
    assert set(asked(gateway, 20)) == {"blue-1", "blue-2"}


def test_a_split_gives_its_share(gateway: kit.Gateway) -> None:
    switch.split(gateway.settings, "green", 20, WHY, NOW)
    # two blue servers of weight 80 each, one green of 20
    shares = asked(gateway, 200)
    assert 12 <= shares["green"] <= 36
    with pytest.raises(GatewayError, match="1 to 99"):
        switch.split(gateway.settings, "green", 100, WHY, NOW)


def test_a_drained_colour_gets_nothing_and_without_any_the_rules_decide(gateway: kit.Gateway) -> None:
    switch.split(gateway.settings, "green", 50, WHY, NOW)
    switch.drain(gateway.settings, "blue", WHY, NOW)
    assert asked(gateway, 10) == {"green": 10}
    switch.drain(gateway.settings, "green", WHY, NOW)
    answer = gateway.http.post("/v1/predict", json=kit.payment())
    assert answer.json()["served_by"]["model"] == "rules"
    problem(gateway.http.post("/v1/explain", json={}), 503, "unavailable")


@pytest.mark.parametrize("how", ["dead", "lacking"])
def test_a_colour_that_is_not_ready_gets_nothing(gateway: kit.Gateway, how: str) -> None:
    port, lines = free_port(), len(read_ledger(gateway.settings.home))
    other = gateway.settings.model_copy(update={"gateway_green": [f"127.0.0.1:{port}"]})
    written = (gateway.folder / "nginx.conf").read_text()
    if how == "dead":
        with pytest.raises(GatewayError, match="does not answer /readyz"):
            switch.switch(other, "green", WHY, NOW)
    else:
        with kit.standin("green", port, "model"), pytest.raises(GatewayError, match="lacks model, which the others"):
            switch.switch(other, "green", WHY, NOW)
    assert len(read_ledger(gateway.settings.home)) == lines
    assert (gateway.folder / "nginx.conf").read_text() == written


def test_a_change_that_fails_at_the_reload_is_put_back_and_noted(
    gateway: kit.Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    reload: Callable[[Path], None] = nginx.reload
    failing = iter([GatewayError("nginx did not take it")])

    def once(where: Path) -> None:
        for error in failing:
            raise error
        reload(where)

    monkeypatch.setattr(nginx, "reload", once)
    with pytest.raises(GatewayError, match="did not take it"):
        switch.switch(gateway.settings, "green", WHY, NOW)
    assert switch.weights_in_force(gateway.settings) == {"blue": 100}
    assert "# green" not in (gateway.folder / "nginx.conf").read_text()
    assert set(asked(gateway, 10)) == {"blue-1", "blue-2"}
    assert [line["to"] for line in read_ledger(gateway.settings.home)[-2:]] == [{"green": 100}, {"blue": 100}]
    assert read_ledger(gateway.settings.home)[-1]["why"] == "the change before failed: nginx did not take it"


def test_nginx_refuses_a_wrong_configuration_in_its_own_words_and_the_old_one_stays(gateway: kit.Gateway) -> None:
    before = (gateway.folder / "nginx.conf").read_text()
    with pytest.raises(GatewayError, match='unknown directive "nonsense"'):
        nginx.put(gateway.folder, before + "\nnonsense on;\n")
    assert (gateway.folder / "nginx.conf").read_text() == before


def test_without_a_running_gateway_nothing_is_changed(tmp_path: Path) -> None:
    with pytest.raises(GatewayError, match="gateway start"):
        switch.switch(Settings(home=tmp_path), "green", WHY, NOW)
    assert read_ledger(tmp_path) == []


def test_a_gateway_that_is_reached_from_elsewhere_needs_keys_first(tmp_path: Path) -> None:
    with pytest.raises(GatewayError, match="there is no API key yet"):
        prepare(Settings(home=tmp_path, gateway_host="0.0.0.0", gateway_port=free_port()), NOW)
