"""A simulated bank's payments as its callers would send them, over HTTP, in the order in which they happened.

What belongs here: requests and what came back. What does not: when a day is (`play`).
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import httpx
import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from fraud_platform.currency import exponent
from fraud_platform.simulator.bank import SimulatedBank

_AT_ONCE = 8
_SECONDS = 10.0
_OPTIONAL = ("country", "user_country", "merchant_category", "channel", "device_id", "latitude", "longitude")

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Answered:
    """A payment and what the service said of it; `answer` None where that was no decision."""

    transaction_id: str
    answer: dict[str, Any] | None


def payments_by_hour(bank: SimulatedBank, day: date) -> Iterator[list[bytes]]:
    """24 lists of request bodies: the payments that reach the bank in each hour of a UTC day, in their order."""
    ((_, rows),) = bank.transactions([day])
    hours = pc.hour(rows.column("received_at"))
    for hour in range(24):
        yield _bodies(rows.filter(pc.equal(hours, hour)))


def _bodies(rows: pa.Table) -> list[bytes]:
    return [_body(row) for row in rows.to_pylist()]


def _body(row: dict[str, Any]) -> bytes:
    currency = row["currency"]
    amount = Decimal(row["amount_minor"]).scaleb(-exponent(currency))
    payment = {
        "transaction_id": row["transaction_id"],
        "user_id": row["user_id"],
        "merchant_id": row["merchant_id"],
        "amount": msgspec.Raw(str(amount).encode()),
        "currency": currency,
        "timestamp": row["timestamp"].isoformat(),
        **{name: row[name] for name in _OPTIONAL if row[name] is not None},
    }
    return _encode(payment)


def send(url: str, bodies: Sequence[bytes]) -> list[Answered]:
    """Send payments, a few at once, each as soon as one before it is answered."""
    return asyncio.run(_send(url, bodies))


async def _send(url: str, bodies: Sequence[bytes]) -> list[Answered]:
    turns = asyncio.Semaphore(_AT_ONCE)
    limits = httpx.Limits(max_connections=_AT_ONCE)
    async with httpx.AsyncClient(base_url=url, timeout=_SECONDS, trust_env=False, limits=limits) as client:

        async def one(body: bytes) -> Answered:
            identifier = msgspec.json.decode(body)["transaction_id"]
            try:
                answer = await client.post("/v1/predict", content=body, headers={"content-type": "application/json"})
            except httpx.TransportError:
                return Answered(identifier, None)
            finally:
                turns.release()
            return Answered(identifier, answer.json() if answer.status_code == httpx.codes.OK else None)

        tasks = []
        for body in bodies:
            # in order: each waits for its turn before it is a task
            await turns.acquire()
            tasks.append(asyncio.create_task(one(body)))
        return list(await asyncio.gather(*tasks))
