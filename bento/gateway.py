"""The HTTP side of the contract, as one ASGI middleware in front of BentoML's own routing.

What belongs here: routes, methods, media types, body limits, deadlines, and that every error is a problem document.
What does not: what a decision is. It stands before BentoML's own middlewares, which cost more than a decision does and
keep a histogram for every path they see: `/metrics` and the pages of BentoML pass through, by name, and nothing else.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from time import perf_counter
from typing import Any, Protocol

from bentoml import get_current_service

from bento.bentoml_seam import static_pages
from bento.openapi import document
from bento.traces import TRACE_PARENT
from fraud_platform.decision.answer import Answer
from fraud_platform.decision.api_keys import Scope
from fraud_platform.decision.problem import (
    Problem,
    foreign_page,
    malformed,
    method_not_allowed,
    not_found,
    timed_out,
    too_large,
    unavailable,
    unsupported_media,
)
from fraud_platform.logs import begin_request

Message = MutableMapping[str, Any]
Connection = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Connection, Receive, Send], Awaitable[None]]

MAX_BODY = 64 * 1024
MAX_BATCH = 512 * 1024
BODY_SECONDS = 1.0
ANSWER_SECONDS = 2.0
"""Backstop against a Redis that hangs; together with BODY_SECONDS below BentoML's own timeout."""

PREDICT = "/v1/predict"

_POSTS: dict[str, tuple[str, Scope]] = {
    PREDICT: ("decide", "decide"),
    "/v1/predict/batch": ("decide_batch", "decide"),
    "/v1/explain": ("explain", "explain"),
    "/v1/feedback": ("feedback", "feedback"),
    "/v1/report": ("report", "decide"),
    "/v1/admin/reload": ("reload", "admin"),
    "/v1/admin/policy": ("policy", "admin"),
    "/v1/admin/report": ("report_for", "admin"),
}
"""The method of the runtime that answers a route, and what a key must allow."""
_PROBES = frozenset(("/livez", "/readyz"))
"""Asked by whoever balances load, by whatever name; they say nothing of a payment."""
_GETS = frozenset(("/livez", "/readyz", "/docs.json"))
_PAGES = frozenset(("/", "/metrics", "/healthz", "/schema.json", *static_pages()))
"""What BentoML itself answers: the pages of its index with their files, and metrics. By whole names, so that no caller
makes a label."""
OTHER = "other"
"""The route in metrics of whatever is none: a name of our own for what anybody may send."""
_LIMITS = {"/v1/predict/batch": MAX_BATCH}
"""Bytes of a body, where that is more than MAX_BODY."""
_SLOW = {"/v1/admin/reload": 4.8, "/v1/admin/policy": 4.8}
"""Seconds for routes that may take longer than a decision."""


class Decider(Protocol):
    """What the middleware needs of the service's instance; `bento.runtime.Runtime` has it."""

    def admits(self, host: bytes, origin: bytes) -> bool: ...
    def caller(self, authorization: bytes | None, scope: Scope, reached: str) -> str: ...
    async def decide(self, body: bytes, caller: str) -> Answer: ...
    async def decide_batch(self, body: bytes, caller: str) -> Answer: ...
    async def explain(self, body: bytes, caller: str) -> Answer: ...
    async def feedback(self, body: bytes, caller: str) -> Answer: ...
    async def report(self, body: bytes, caller: str) -> Answer: ...
    async def report_for(self, body: bytes, caller: str) -> Answer: ...
    async def reload(self, body: bytes, caller: str) -> Answer: ...
    async def policy(self, body: bytes, caller: str) -> Answer: ...
    async def readiness(self) -> Answer: ...
    def answered(self, route: str, status: int, seconds: float) -> None: ...
    def failed(self, stage: str, error: BaseException) -> None: ...


def current_decider() -> Decider:
    """The service's runtime in this worker."""
    runtime: Decider = get_current_service().runtime
    return runtime


class _GoneError(Exception):
    """The caller hung up before the body was complete."""


class Gateway:
    """ASGI middleware that answers the routes of the contract."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._openapi: bytes | None = None

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Answer a route of the contract, pass a page of BentoML's on, or say that there is no such thing."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, method = scope["path"], scope["method"]
        if path not in _POSTS and path not in _PROBES:
            try:
                named = dict(scope["headers"])
                check_page(named.get(b"host", b""), named.get(b"origin", b""), current_decider())
            except Problem as problem:
                await _send_problem(send, problem)
                return
        if path in _POSTS:
            if method == "POST":
                await self._answer_post(path, scope, receive, send)
            else:
                await _send_problem(send, method_not_allowed(f"{path} takes POST"), (b"allow", b"POST"))
        elif path not in _GETS and path not in _PAGES:
            current_decider().answered(OTHER, 404, 0.0)
            await _send_problem(send, not_found("no such route"))
        elif method not in ("GET", "HEAD"):
            await _send_problem(send, method_not_allowed(f"{path} takes GET"), (b"allow", b"GET, HEAD"))
        elif path in _GETS:
            await self._answer_get(path, method, send)
        else:
            await self._app(scope, receive, send)

    async def _answer_post(self, path: str, scope: Connection, receive: Receive, send: Send) -> None:
        decider = current_decider()
        began = perf_counter()
        name, needed = _POSTS[path]
        try:
            limit = _LIMITS.get(path, MAX_BODY)
            authorization = check_headers(scope["headers"], limit, decider)
            caller = decider.caller(authorization, needed, reached(scope.get("server")))
            async with asyncio.timeout(BODY_SECONDS):
                body = await _read(receive, limit)
        except Problem as problem:
            await _refuse(send, decider, path, problem, began)
            return
        except TimeoutError:
            await _refuse(send, decider, path, timed_out(f"within {BODY_SECONDS} s"), began)
            return
        except _GoneError:
            return
        work: Callable[[bytes, str], Awaitable[Answer]] = getattr(decider, name)
        try:
            async with asyncio.timeout(_SLOW.get(path, ANSWER_SECONDS)):
                answer = await work(body, caller)
        except TimeoutError as error:
            decider.failed("deadline", error)
            answer = Answer.of(unavailable())
        decider.answered(path, answer.status, perf_counter() - began)
        await _send(send, answer)

    async def _answer_get(self, path: str, method: str, send: Send) -> None:
        if path == "/livez":
            answer = Answer(200, b'{"live":true}')
        elif path == "/readyz":
            answer = await get_current_service().runtime.readiness()
        else:
            if self._openapi is None:
                self._openapi = document(get_current_service().bento_service.openapi_spec.asdict())
            answer = Answer(200, self._openapi)
        await _send(send, answer, head=method == "HEAD")


async def _refuse(send: Send, decider: Decider, path: str, problem: Problem, began: float) -> None:
    """The rest of the body is not read: the connection cannot be used again."""
    decider.answered(path, problem.status, perf_counter() - began)
    await _send_problem(send, problem, (b"connection", b"close"))


def reached(server: tuple[str, int | None] | None) -> str:
    """The address of this machine that a connection came to; a Unix socket has none, and is as local."""
    return server[0] if server and server[1] is not None else "localhost"


def check_page(host: bytes, origin: bytes, decider: Decider) -> None:
    """Raises Problem for what a browser sends for a page of somebody else."""
    if not decider.admits(host, origin):
        raise foreign_page("the Host or Origin header does not name this service: see FRAUD_ALLOWED_HOSTS")


def check_headers(headers: list[tuple[bytes, bytes]], limit: int, decider: Decider) -> bytes | None:
    """Hold headers against what is read, at most `limit` bytes; returns the Authorization header. Raises Problem.

    From here on what is logged of the request bears its id, and its trace goes on from its traceparent.
    """
    media_type, authorization, request_id, trace_parent = b"", None, b"", b""
    host = origin = b""
    for name, value in headers:
        if name == b"host":
            host = value
        elif name == b"authorization":
            authorization = value
        elif name == b"origin":
            origin = value
        elif name == b"x-request-id":
            request_id = value
        elif name == b"traceparent":
            trace_parent = value
        elif name == b"content-type":
            media_type = value.partition(b";")[0].strip().lower()
        elif name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise unsupported_media("compressed bodies are not accepted")
        elif name == b"content-length":
            if not value.isdigit():
                raise malformed("Content-Length is not a number")
            if int(value[:20]) > limit:
                raise too_large(limit)
    check_page(host, origin, decider)
    if media_type != b"application/json":
        raise unsupported_media("Content-Type must be application/json")
    # also where there is none: a connection's requests share a context
    begin_request(request_id)
    TRACE_PARENT.set(trace_parent)
    return authorization


async def _read(receive: Receive, limit: int) -> bytes:
    body: bytes = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _GoneError
        body += message.get("body", b"")
        if len(body) > limit:
            raise too_large(limit)
        if not message.get("more_body", False):
            return body


async def _send(send: Send, answer: Answer, *headers: tuple[bytes, bytes], head: bool = False) -> None:
    length = b"%d" % len(answer.body)
    fixed = [(b"content-type", answer.content_type), (b"content-length", length), *headers]
    if answer.retry_after is not None:
        fixed.append((b"retry-after", b"%d" % answer.retry_after))
    await send({"type": "http.response.start", "status": answer.status, "headers": fixed})
    await send({"type": "http.response.body", "body": b"" if head else answer.body})


async def _send_problem(send: Send, problem: Problem, *headers: tuple[bytes, bytes]) -> None:
    await _send(send, Answer.of(problem), *headers)
