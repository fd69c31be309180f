"""The short way of a payment: the same bytes as by the gateway, whatever a connection does meanwhile."""

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

import bento.gateway
from bento import transport
from bento.gateway import MAX_BODY, Gateway
from bento.transport import PaymentProtocol
from fraud_platform.decision.answer import Answer
from fraud_platform.decision.problem import unauthorized

KEY = b"Bearer good"


@dataclass
class EchoDecider:
    """Answers a payment by its body; the body says how long that takes."""

    decided: list[bytes] = field(default_factory=list)
    answers: list[tuple[str, int]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def admits(self, host: bytes, origin: bytes) -> bool:
        return host in (b"here", b"") and not origin

    def caller(self, authorization: bytes | None, scope: str, reached: str) -> str:
        if authorization != KEY:
            raise unauthorized("the key is unknown")
        assert (scope, reached) == ("decide", "127.0.0.1")
        return "acquirer"

    async def decide(self, body: bytes, caller: str) -> Answer:
        await asyncio.sleep(json.loads(body)["wait"])
        self.decided.append(body)
        return Answer(200, json.dumps({"decision": "allow", "of": json.loads(body)["id"], "caller": caller}).encode())

    def answered(self, route: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        self.answers.append((route, status))

    def failed(self, stage: str, error: BaseException) -> None:
        self.failures.append(stage)


@dataclass
class Server:
    """A running server and what reached ASGI."""

    port: int
    decider: EchoDecider
    by_asgi: list[str]
    uvicorn: uvicorn.Server

    async def exchange(self, *parts: bytes, pause: float = 0.0, answers: int = 1) -> list[bytes]:
        """Answers to what is sent in these parts over one connection, without their dates."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)
        found = [await answer(reader) for _ in range(answers)]
        writer.close()
        return found


async def answer(reader: asyncio.StreamReader) -> bytes:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    length = re.search(rb"content-length: (\d+)", head)
    assert length is not None
    return re.sub(rb"date: [^\r]+", b"date: any", head) + await reader.readexactly(int(length[1]))


def request(number: int = 1, *, wait: float = 0.0, headers: dict[str, str] | None = None, **changes: Any) -> bytes:
    body = json.dumps({"id": number, "wait": wait, **changes}).encode()
    fields = {
        "host": "here",
        "authorization": KEY.decode(),
        "content-type": "application/json",
        "content-length": str(len(body)),
        **(headers or {}),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST /v1/predict HTTP/1.1\r\n{lines}\r\n".encode() + body


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    decider = EchoDecider()
    monkeypatch.setattr(bento.gateway, "get_current_service", lambda: SimpleNamespace(runtime=decider))
    by_asgi: list[str] = []
    gateway = Gateway(None)  # type: ignore[arg-type]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        by_asgi.append(scope["path"])
        await gateway(scope, receive, send)

    # the very class that bento/service.py puts in uvicorn's place
    config = uvicorn.Config(app, port=0, http=PaymentProtocol, lifespan="off", log_level="error", server_header=False)
    running = uvicorn.Server(config)
    task = asyncio.create_task(running.serve())
    while not running.started:
        await asyncio.sleep(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    yield Server(port, decider, by_asgi, running)
    running.should_exit = True
    await asyncio.wait_for(task, 20)


async def test_a_payment_that_came_whole_goes_past_asgi_and_gets_the_gateways_bytes(server: Server) -> None:
    (short,) = await server.exchange(request())
    assert (server.by_asgi, server.decider.answers) == ([], [("/v1/predict", 200)])
    whole = request()
    (ordinary,) = await server.exchange(whole[:-3], whole[-3:], pause=0.05)
    assert server.by_asgi == ["/v1/predict"]
    assert short == ordinary
    assert short.startswith(b"HTTP/1.1 200 OK\r\n")
    assert short.endswith(b'{"decision": "allow", "of": 1, "caller": "acquirer"}')


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"headers": {"authorization": "Bearer bad"}}, 401),
        ({"headers": {"content-type": "text/plain"}}, 415),
        ({"headers": {"host": "attacker.example"}}, 403),
        ({"headers": {"origin": "http://attacker.example"}}, 403),
        ({"headers": {"content-encoding": "gzip"}}, 415),
        ({"more": "x" * MAX_BODY}, 413),
    ],
)
async def test_whatever_the_gateway_refuses_is_refused_by_the_gateway(
    server: Server, changes: dict[str, Any], status: int
) -> None:
    (refused,) = await server.exchange(request(**changes))
    assert refused.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/problem+json" in refused
    assert b"connection: close" in refused
    assert server.by_asgi == ["/v1/predict"]
    assert server.decider.decided == []
    assert server.decider.answers == [("/v1/predict", status)]


async def test_other_routes_and_methods_are_the_gateways(server: Server) -> None:
    (live,) = await server.exchange(b"GET /livez HTTP/1.1\r\nhost: here\r\n\r\n")
    assert live.endswith(b'{"live":true}')
    (refused,) = await server.exchange(b"PUT /v1/predict HTTP/1.1\r\nhost: here\r\ncontent-length: 0\r\n\r\n")
    assert refused.startswith(b"HTTP/1.1 405 ")
    assert server.by_asgi == ["/livez", "/v1/predict"]


@pytest.mark.parametrize("seed", range(6))
async def test_answers_keep_the_order_of_requests_however_they_are_cut_into_reads(server: Server, seed: int) -> None:
    rng = random.Random(seed)
    stream = b"".join(request(number, wait=rng.choice([0, 0, 0.02])) for number in range(12))
    cuts = sorted(rng.sample(range(1, len(stream)), rng.choice([0, 3, 30])))
    parts = [stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    found = await server.exchange(*parts, pause=rng.choice([0.0, 0.002]), answers=12)
    assert [json.loads(each.partition(b"\r\n\r\n")[2])["of"] for each in found] == list(range(12))
    assert len(server.decider.decided) == 12


async def test_a_caller_who_wants_no_more_is_let_go(server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request(headers={"connection": "close"}))
    assert b"connection: close\r\n" in await answer(reader)
    assert await reader.read() == b""
    writer.close()


async def test_a_payment_whose_caller_hangs_up_is_decided_all_the_same(server: Server) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request(wait=0.1))
    await writer.drain()
    await asyncio.sleep(0.03)
    writer.transport.abort()
    await asyncio.sleep(0.2)
    assert len(server.decider.decided) == 1
    assert len(await server.exchange(request(2))) == 1


async def test_a_decision_that_never_comes_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "ANSWER_SECONDS", 0.05)
    (given_up,) = await server.exchange(request(wait=30))
    assert given_up.startswith(b"HTTP/1.1 503 ")
    assert server.decider.failures == ["deadline"]
    assert server.decider.answers == [("/v1/predict", 503)]


async def test_a_body_that_does_not_come_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bento.gateway, "BODY_SECONDS", 0.05)
    (given_up,) = await server.exchange(request()[:-1])
    assert given_up.startswith(b"HTTP/1.1 408 ")


async def test_what_is_under_way_when_the_server_ends_is_answered(server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request(wait=0.3))
    await asyncio.sleep(0.1)
    server.uvicorn.should_exit = True
    answered = await answer(reader)
    assert answered.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close\r\n" in answered
    writer.close()


UPGRADES = {
    "h2c, as Java's client asks for it": {
        "connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAEAAEAAAAIAAAABAAMAAABk",
    },
    "websocket": {"connection": "keep-alive, Upgrade", "upgrade": "websocket", "sec-websocket-version": "13"},
    "whatever": {"connection": "upgrade", "upgrade": "tea/1.0"},
}  # fmt: skip


@pytest.mark.parametrize("headers", UPGRADES.values(), ids=UPGRADES)
@pytest.mark.parametrize("cut", [None, 30, 180, -20, -1])
async def test_who_asks_for_another_protocol_is_answered_in_this_one(
    server: Server, headers: dict[str, str], cut: int | None
) -> None:
    wish = request(1, headers=headers)
    parts = [wish] if cut is None else [wish[:cut], wish[cut:]]
    # and the connection is good for more
    found = await server.exchange(*parts, request(2), request(3, headers=headers), pause=0.02, answers=3)
    plain = await server.exchange(request(1), request(2), request(3), answers=3)
    assert found == plain
    assert [json.loads(body)["id"] for body in server.decider.decided] == [1, 2, 3] * 2


async def test_wishes_for_another_protocol_may_come_many_in_a_row(server: Server) -> None:
    wishes = [request(number, headers=headers) for number, headers in enumerate([*UPGRADES.values()] * 4)]
    found = await server.exchange(b"".join(wishes), answers=12)
    assert [json.loads(each.partition(b"\r\n\r\n")[2])["of"] for each in found] == list(range(12))


async def test_a_handshake_of_a_websocket_is_an_ordinary_request(server: Server) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in UPGRADES["websocket"].items())
    asked = f"GET {{}} HTTP/1.1\r\nhost: here\r\n{lines}sec-websocket-key: dGhlIHNhbXBsZQ==\r\n\r\n"
    live, missing = await server.exchange(*(asked.format(path).encode() for path in ("/livez", "/chat")), answers=2)
    assert live.startswith(b"HTTP/1.1 200 ")
    assert missing.startswith(b"HTTP/1.1 404 ")


UNSOUND = {
    "no HTTP": b"hello\r\n\r\n",
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "a method nobody has": b"BREW /v1/predict HTTP/1.1\r\nhost: here\r\n\r\n",
    "a control character in a header": b"GET /livez HTTP/1.1\r\nhost: he\x00re\r\n\r\n",
    "a path that is none": b"GET http://[x/livez HTTP/1.1\r\nhost: here\r\n\r\n",
    "bytes beyond ASCII in the path": b"GET /liv\xc3\xa9z HTTP/1.1\r\nhost: here\r\n\r\n",
    "two lengths": b"POST /v1/predict HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
    "length and chunks": b"POST /v1/predict HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
    "chunks that are none": (
        b"POST /v1/predict HTTP/1.1\r\ncontent-type: application/json\r\nauthorization: Bearer good\r\n"
        b"transfer-encoding: chunked\r\n\r\nzz\r\n"
    ),
    "a proxy is wanted": b"CONNECT example.org:443 HTTP/1.1\r\nhost: example.org:443\r\n\r\n",
    "headers without end": b"GET /livez HTTP/1.1\r\nx: " + b"x" * 33_000,
}


@pytest.mark.parametrize("sent", UNSOUND.values(), ids=UNSOUND)
async def test_what_is_no_request_is_told_so_in_a_problem_document(
    server: Server, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(sent)
    said = await answer(reader)
    assert said.startswith(b"HTTP/1.1 400 "), said
    assert b"content-type: application/problem+json\r\n" in said
    assert b"connection: close\r\n" in said
    assert json.loads(said.partition(b"\r\n\r\n")[2])["type"] == "urn:fraud-platform:problem:bad-request"
    # not said twice, and the connection is over
    assert await reader.read() == b""
    writer.close()
    assert server.decider.answers == [("other", 400)]
    # anybody can send this as often as they like: it is counted and not logged
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []
    assert server.decider.failures == []


async def test_what_was_asked_before_something_unsound_is_answered_first(server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request(1, wait=0.2) + b"hello\r\n\r\n")
    said = await answer(reader)
    assert said.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close\r\n" in said
    assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize("begun", [b"", b"POST /v1/predict HTTP/1.1\r\nhost: here\r\n"], ids=["nothing", "slowly"])
@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
async def test_headers_that_do_not_come_end_the_connection(
    server: Server, monkeypatch: pytest.MonkeyPatch, begun: bytes, used: bool
) -> None:
    monkeypatch.setattr(transport, "HEAD_SECONDS", 0.4)
    began = asyncio.get_running_loop().time()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    if used:
        writer.write(request())
        assert (await answer(reader)).startswith(b"HTTP/1.1 200 ")
    writer.write(begun)

    async def trickle() -> None:
        while begun:
            await asyncio.sleep(0.05)
            writer.write(b"x: x\r\n")

    trickling = asyncio.create_task(trickle())
    said = await asyncio.wait_for(reader.read(), 10)
    trickling.cancel()
    writer.close()
    took = asyncio.get_running_loop().time() - began
    if begun:
        assert said.startswith(b"HTTP/1.1 408 ")
        assert b"content-type: application/problem+json\r\n" in said
    else:
        assert said == b""
    # an idle connection that was used is uvicorn's to end, after 5 s
    assert 0.3 < took < (8 if used and not begun else 3)


async def test_many_small_headers_end_at_a_limit(server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /livez HTTP/1.1\r\n")
    for number in range(33):
        writer.write(b"x-%d: %b\r\n" % (number, b"x" * 1_000))
        await writer.drain()
        await asyncio.sleep(0.002)
    said = await answer(reader)
    writer.close()
    assert said.startswith(b"HTTP/1.1 400 ")
    assert b"over 32768 bytes" in said


async def test_a_body_after_its_answer_ends_the_connection(server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"POST /nowhere HTTP/1.1\r\nhost: here\r\ncontent-length: 9\r\n\r\n")
    assert (await answer(reader)).startswith(b"HTTP/1.1 404 ")
    writer.write(b"x")
    assert await asyncio.wait_for(reader.read(), 2) == b""
    writer.close()


async def test_whoever_makes_up_paths_makes_no_label(server: Server) -> None:
    paths = [
        "/v1/a/../predict",
        "/v1/predict/",
        "/metrics/",
        "/static_content/none.js",
        "//v1/predict",
        "/%2e%2e/livez",
    ]
    asked = [f"POST {path} HTTP/1.1\r\nhost: here\r\ncontent-length: 0\r\n\r\n".encode() for path in paths]
    found = await server.exchange(*asked, answers=len(asked))
    assert all(each.startswith(b"HTTP/1.1 404 ") and b"application/problem+json" in each for each in found)
    assert server.decider.answers == [("other", 404)] * len(paths)
