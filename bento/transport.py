"""The short way of a payment: one that came whole in one read is answered by uvicorn's HTTP protocol itself.

What belongs here: which requests may take that way, and the bytes of their answers. What does not: routes, limits and
errors of the contract (`gateway`): whatever is not an ordinary payment goes on to it as if this file were not there.
ASGI's scope, messages and middlewares cost a fifth of a decision.
"""

import asyncio
from time import perf_counter
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from bento.gateway import (
    ANSWER_SECONDS,
    MAX_BODY,
    PREDICT,
    Decider,
    check_headers,
    current_decider,
    reached,
)
from fraud_platform.decision.answer import Answer
from fraud_platform.decision.problem import Problem, too_large, unavailable

_PATH = PREDICT.encode()
_NOBODY_WAITS = asyncio.Event()


class _UnderWay:
    """A payment that is being answered: what uvicorn wants to know of its own `RequestResponseCycle`."""

    disconnected = False
    message_event = _NOBODY_WAITS

    def __init__(self, keep_alive: bool) -> None:
        self.keep_alive = keep_alive
        """uvicorn sets it to False when it shuts down."""
        self.response_complete = False


class PaymentProtocol(HttpToolsProtocol):
    """uvicorn's protocol, and the short way. uvicorn is pinned, since what is overridden here is its own business."""

    _parts: list[bytes] | None = None
    """The body so far of a request that may take the short way."""

    def on_headers_complete(self) -> None:
        """Hold a payment back from ASGI until its body is there."""
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
        if self._parts is None:
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
        super().data_received(data)
        if self._parts is not None and not self.transport.is_closing():
            self._pass_on()

    def _is_payment(self) -> bool:
        return (
            self.url == _PATH
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and not self.parser.should_upgrade()
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
        fixed = b"".join([b"%b: %b\r\n" % header for header in self.server_state.default_headers])
        return b"%b%bcontent-type: %b\r\ncontent-length: %d\r\n%b\r\n%b" % (
            STATUS_LINE[answer.status],
            fixed,
            answer.content_type,
            len(answer.body),
            b"" if keep_alive else b"connection: close\r\n",
            answer.body,
        )
