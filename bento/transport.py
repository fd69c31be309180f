"""Connections: uvicorn's HTTP protocol with limits and errors of ours, and the short way of a payment.

What belongs here: what can go wrong before a request is one, and which requests are answered here, past ASGI, whose
scope, messages and middlewares cost a fifth of a decision: a payment that came whole in one read. What does not:
routes, limits and errors of the contract (`gateway`), to which everything else goes on.

Everything of uvicorn's inside that this project holds on to is here. uvicorn and httptools are pinned:
`tests/unit/test_seams.py` notices another version, `tests/integration/test_transport.py` other behaviour.
"""

import asyncio
from time import perf_counter
from typing import Any, ClassVar

from httptools import HttpParserCallbackError, HttpParserError, HttpParserInvalidURLError, HttpParserUpgrade
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from bento.gateway import ANSWER_SECONDS, MAX_BODY, OTHER, PREDICT, Decider, check_headers, current_decider, reached
from fraud_platform.decision.answer import Answer
from fraud_platform.decision.problem import Problem, bad_request, timed_out, too_large, unavailable

HEAD_SECONDS = 5.0
"""How long a connection may take for a request's line and headers, the first one's from the connection on."""
MAX_HEAD = 32 * 1024
"""Bytes of them, where they do not come in one read."""

_PATH = PREDICT.encode()
_OF_UPGRADE = frozenset((b"upgrade", b"http2-settings"))
"""Headers, and words of the header Connection, by which another protocol is asked for."""
_NOBODY_WAITS = asyncio.Event()


class _UnderWay:
    """A payment that is being answered: what uvicorn wants to know of its own `RequestResponseCycle`."""

    disconnected = False
    message_event = _NOBODY_WAITS

    def __init__(self, keep_alive: bool) -> None:
        self.keep_alive = keep_alive
        """uvicorn sets it to False when it shuts down."""
        self.response_complete = False


def speak_payments() -> None:
    """Let uvicorn servers of this process speak `PaymentProtocol`: BentoML leaves the choice to uvicorn, and uvicorn to
    this name."""
    auto.AutoHTTPProtocol = PaymentProtocol


class PaymentProtocol(HttpToolsProtocol):
    """uvicorn's protocol, and the short way."""

    _parts: list[bytes] | None = None
    """The body so far of a request that may take the short way."""
    _in_head = False
    """Whether a request has begun whose headers are not all there."""
    _in_body = False
    """Whether its headers are there and its body is not."""
    _head_bytes = 0
    _fixed_of: ClassVar[list[tuple[bytes, bytes]] | None] = None
    """uvicorn's headers of every answer, of which `_fixed` is made."""
    _fixed: ClassVar[bytes] = b""
    _overdue: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request, and not for ever."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._head_is_there()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        """Hold a payment back from ASGI until its body is there."""
        self._in_head, self._in_body = False, True
        if self.parser.should_upgrade():
            # it comes again, without that wish: see `_parse`
            return
        if self._is_payment():
            self._parts = []
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Keep a payment's body."""
        if self._parts is None:
            super().on_body(body)
        else:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """Decide a payment whose body is there."""
        self._in_body = False
        if self._parts is None:
            if not self.parser.should_upgrade():
                super().on_message_complete()
            return
        began = perf_counter()
        body = b"".join(self._parts)
        decider = current_decider()
        try:
            caller = decider.caller(check_headers(self.headers, MAX_BODY, decider), "decide", reached(self.server))
            if len(body) > MAX_BODY:
                raise too_large(MAX_BODY)
        except Problem:
            # the gateway refuses it likewise, and knows how to say so
            self._pass_on()
            super().on_message_complete()
            return
        self._parts = None
        cycle: Any = _UnderWay(self.parser.should_keep_alive())
        self.cycle = cycle
        task = self.loop.create_task(self._answer(cycle, decider, body, caller, began))
        # as with uvicorn's own: it waits for them when it shuts down
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def data_received(self, data: bytes) -> None:
        """Parse what was read; a body that is not all there by then goes the ordinary way, which has a time limit."""
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except HttpParserError as error:
            if isinstance(error, HttpParserCallbackError) and not isinstance(
                error.__context__, HttpParserInvalidURLError | UnicodeDecodeError
            ):
                current_decider().failed("transport", error)
            self._refuse(bad_request("this is not valid HTTP/1.1"))
            return
        if self._parts is not None and not self.transport.is_closing():
            self._pass_on()
        if not self._in_head:
            self._head_is_there()
            if self._in_body and self.cycle.response_complete:
                # who goes on sending what nobody reads would keep the connection for as long as it likes
                self.transport.close()
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD:
            self._refuse(bad_request(f"request line and headers are over {MAX_HEAD} bytes"))
        elif self._overdue is None:
            self._await_head()

    def _parse(self, data: bytes) -> None:
        """Give the parser what was read. Raises HttpParserError.

        A request that asks for another protocol is answered in this one, as RFC 9110 has it: the parser stops behind
        its headers, so it gets them again without the wish, and what follows.
        """
        while True:
            try:
                self.parser.feed_data(data)
                return
            except HttpParserUpgrade as stopped:
                if self.parser.get_method() == b"CONNECT":
                    raise HttpParserError("this is no proxy") from None
                data = self._head_without_upgrade() + data[stopped.args[0] :]

    def _head_without_upgrade(self) -> bytes:
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                words = [word.strip() for word in value.split(b",")]
                value = b", ".join(word for word in words if word.lower() not in _OF_UPGRADE)
            if name not in _OF_UPGRADE and value:
                lines.append(b"%b: %b" % (name, value))
        return b"\r\n".join([*lines, b"", b""])

    def _await_head(self) -> None:
        self._overdue = self.loop.call_later(HEAD_SECONDS, self._give_up_head)

    def _head_is_there(self) -> None:
        self._head_bytes = 0
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None

    def _give_up_head(self) -> None:
        self._overdue = None
        if self._in_head:
            self._refuse(timed_out(f"request line and headers did not arrive within {HEAD_SECONDS:g} s"))
        else:
            # a connection that never asked for anything is told nothing
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        """Answer what is no request, and end the connection."""
        if self.transport.is_closing():
            return
        current_decider().answered(OTHER, problem.status, 0.0)
        if self.cycle is not None and not self.cycle.response_complete and (self._in_head or self.pipeline):
            # what was asked before is answered first, and that answer ends the connection
            self.cycle.keep_alive = False
            return
        self.transport.write(self._response(Answer.of(problem), keep_alive=False))
        self.transport.close()

    def _is_payment(self) -> bool:
        return (
            self.url == _PATH
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and not self.expect_100_continue
            # what was asked before on this connection has to be answered before
            and (self.cycle is None or self.cycle.response_complete)
            and not self.flow.write_paused
        )

    def _pass_on(self) -> None:
        parts, self._parts = self._parts or [], None
        super().on_headers_complete()
        for part in parts:
            super().on_body(part)

    async def _answer(self, cycle: _UnderWay, decider: Decider, body: bytes, caller: str, began: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        overdue = self.loop.call_later(ANSWER_SECONDS, task.cancel)
        try:
            answer = await decider.decide(body, caller)
        except asyncio.CancelledError as error:
            decider.failed("deadline", error)
            answer = Answer.of(unavailable())
        finally:
            overdue.cancel()
        decider.answered(PREDICT, answer.status, perf_counter() - began)
        cycle.response_complete = True
        if self.transport.is_closing():
            return
        self.transport.write(self._response(answer, cycle.keep_alive))
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _response(self, answer: Answer, keep_alive: bool) -> bytes:
        headers = self.server_state.default_headers
        if headers is not PaymentProtocol._fixed_of:
            # uvicorn makes them anew once a second
            PaymentProtocol._fixed_of = headers
            PaymentProtocol._fixed = b"".join([b"%b: %b\r\n" % header for header in headers])
        return b"%b%bcontent-type: %b\r\ncontent-length: %d\r\n%b\r\n%b" % (
            STATUS_LINE[answer.status],
            PaymentProtocol._fixed,
            answer.content_type,
            len(answer.body),
            b"" if keep_alive else b"connection: close\r\n",
            answer.body,
        )
