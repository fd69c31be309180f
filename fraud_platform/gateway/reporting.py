"""Handing on what the rules decided, once a decision service answers again.

What belongs here: when and where lines of the outbox are sent. What does not: the outbox, what the service makes of a
line (`decision.reported`).
"""

import asyncio
import http.client
import logging
from collections.abc import Sequence

from fraud_platform.decision.problem import is_kept
from fraud_platform.outbox import Outbox

logger = logging.getLogger("fraud_platform.gateway")

CAUSE = "gateway_backup"
"""Why no service decided, in the record."""
ROUTE = "/v1/admin/report"
EVERY_SECONDS = 1.0
PATIENCE_SECONDS = 2.0
_REFUSED = frozenset((400, 409, 413, 415, 422))
"""The line itself is wrong: asking again does not help."""


class NotTakenError(Exception):
    """No service takes reports at this moment."""


async def report_for_ever(outbox: Outbox, services: Sequence[str], key: str | None) -> None:
    """Every second, send what waits. services: host:port, the first that answers takes it. key: of scope admin."""
    while True:
        await asyncio.sleep(EVERY_SECONDS)
        if not outbox.waiting:
            continue
        for service in services:
            try:
                if await deliver(outbox, service, key):
                    break
            except (NotTakenError, OSError, http.client.HTTPException) as error:
                logger.warning("decisions by the rules wait to be reported: %s", error or type(error).__name__)


async def deliver(outbox: Outbox, service: str, key: str | None) -> bool:
    """Send what waits to one service; False where it does not answer at all.

    Raises NotTakenError, OSError, HTTPException where it stops taking lines midway; the rest is kept.
    """
    host, _, port = service.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE_SECONDS)

    async def send(kept: bytes) -> bool:
        return await asyncio.to_thread(_send, connection, kept, key)

    try:
        if not await asyncio.to_thread(_answers, connection):
            return False
        await outbox.deliver(send)
        return True
    finally:
        connection.close()


def _answers(connection: http.client.HTTPConnection) -> bool:
    try:
        connection.request("GET", "/livez")
        response = connection.getresponse()
        response.read()
        return response.status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False


def _send(connection: http.client.HTTPConnection, kept: bytes, key: str | None) -> bool:
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    connection.request("POST", ROUTE, kept, headers)
    response = connection.getresponse()
    said = response.read()
    if response.status == http.client.OK or is_kept(said):
        return True
    if response.status in _REFUSED:
        logger.error("a decision by the rules was not taken: %s", said.decode(errors="replace"))
        return False
    raise NotTakenError(f"the service answers {response.status} to a report")
