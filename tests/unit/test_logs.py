"""A line of the JSON log is one object with the request's id, and nothing else of the request."""

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import logging
from fraud_platform.decision.faults import FaultLog
from fraud_platform.logs import begin_request, set_up_logs
framework = logging.getLogger("framework")
framework.addHandler(logging.StreamHandler())
framework.propagate = False
set_up_logs("json")
framework.warning("started on %s", "loopback")
faults = FaultLog(lambda: 0, lambda stage: None)
begin_request(b'abc-1"\\xff' + b"x" * 100)
try:
    raise ConnectionError("no answer\\nwithin 20 ms")
except ConnectionError as error:
    faults.report("redis", error)
    faults.report("redis", error)
"""


def test_every_line_is_an_object_with_the_requests_id_and_its_error() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True,
                          cwd=Path(__file__).parents[2])  # fmt: skip
    started, failed = (json.loads(line) for line in done.stderr.splitlines())
    assert (started["logger"], started["level"], started["message"]) == ("framework", "warning", "started on loopback")
    assert "request_id" not in started
    assert failed["request_id"] == 'abc-1"\N{REPLACEMENT CHARACTER}' + "x" * 57
    assert failed["error"] == "ConnectionError"
    assert failed["message"] == "redis failed (0 more since the last report)"
    assert failed["traceback"].endswith("ConnectionError: no answer\nwithin 20 ms")
    assert set(failed) == {"time", "level", "logger", "message", "request_id", "error", "traceback"}


UNNAMED = """
import asyncio, logging
from bento.gateway import check_headers
from fraud_platform.logs import set_up_logs
set_up_logs("json")

class Open:
    def admits(self, host, origin):
        return True

async def request(number):
    check_headers([(b"content-type", b"application/json")], 100, Open())
    logging.warning("%d begins", number)
    await asyncio.gather(asyncio.to_thread(logging.warning, "%d in a thread", number))

async def main():
    # one connection, which sends one request after the other
    await request(1)
    await request(2)
    check_headers([(b"content-type", b"application/json"), (b"x-request-id", b"abc-1")], 100, Open())
    logging.warning("3 has one")

asyncio.run(main())
"""


def test_a_request_without_an_id_gets_one_for_all_its_lines() -> None:
    done = subprocess.run([sys.executable, "-c", UNNAMED], capture_output=True, text=True, check=True,
                          cwd=Path(__file__).parents[2])  # fmt: skip
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    named = {line["message"]: line["request_id"] for line in lines}
    assert named["1 begins"] == named["1 in a thread"] != named["2 begins"] == named["2 in a thread"]
    assert named["3 has one"] == "abc-1"
