"""How log lines look: for people, or a JSON object a line for whatever collects them.

What belongs here: the two formats and the request's id. What does not: what is logged, and never anything of a payment
(`tests/unit/test_decision_privacy.py`).
"""

import json
import logging
import secrets
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from itertools import count
from typing import Literal

LogFormat = Literal["plain", "json"]

_REQUEST: ContextVar[bytes | int] = ContextVar("request", default=b"")
"""The X-Request-ID as its caller sent it, else the request's number in this process; empty outside a request."""
_LONGEST = 64
_numbers = count(1)
_PROCESS = secrets.token_hex(4)


def begin_request(sent: bytes) -> None:
    """From here on what is logged is of this request. sent: its X-Request-ID; empty: it gets an id of our own."""
    _REQUEST.set(sent or next(_numbers))


def request_id() -> str:
    """The id of the request that is being answered; empty outside one. Ours are made here, for those few that log."""
    request = _REQUEST.get()
    return f"{_PROCESS}-{request}" if isinstance(request, int) else request[:_LONGEST].decode("ascii", "replace")


class JsonLines(logging.Formatter):
    """One object a line: time, level, logger, message; request_id in a request, error and traceback of an error."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if identifier := request_id():
            line["request_id"] = identifier
        if record.exc_info and record.exc_info[0]:
            line["error"] = record.exc_info[0].__qualname__
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up_logs(log_format: LogFormat) -> None:
    """Let this process log in a format; plain leaves everything as the framework has it."""
    if log_format == "plain":
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    # what frameworks have hung up for themselves would say it twice, in their own format
    for name in ("", *logging.root.manager.loggerDict):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.root.addHandler(handler)
