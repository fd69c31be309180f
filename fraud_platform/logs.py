"""How log lines look: for people, or a JSON object a line for whatever collects them.

What belongs here: the two formats and the request's id. What does not: what is logged, and never anything of a payment
(`tests/unit/test_decision_privacy.py`).
"""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

LogFormat = Literal["plain", "json"]

REQUEST_ID: ContextVar[bytes] = ContextVar("request_id", default=b"")
"""The X-Request-ID of the request that is being answered, as its caller sent it; empty where it sent none."""
_LONGEST = 64


class JsonLines(logging.Formatter):
    """One object a line: time, level, logger, message; request_id and error with its traceback where there are any."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        request_id = REQUEST_ID.get()[:_LONGEST].decode("ascii", "replace")
        if request_id:
            line["request_id"] = request_id
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
