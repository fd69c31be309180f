"""A small HTTP server on loopback that answers like the decision service, or breaks in the ways that networks do."""

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

DECIDED = {
    "score": 0.031225, "decision": "allow", "reason": "score_below_threshold", "threshold": 0.7,
    "model_version": "fraud-detector/7", "policy_version": 3, "degraded": False,
    "served_by": {"user_features": "redis", "merchant_features": "redis", "model": "champion"},
}  # fmt: skip


class FaultyServer:
    """One fault at a time, for /v1/predict; /v1/report is taken unless `report_status` says otherwise.

    fault: none, black_hole, reset, slow, trickle, hang_up (closes each connection after its answer, without saying so),
    garbage, or a status as text. times: how many requests it still befalls.
    """

    def __init__(self) -> None:
        self.fault = "none"
        self.times = 10**9
        self.delay = 0.05
        self.report_status = 202
        self.report_body: dict[str, Any] = {"detail": "as asked"}
        self.predicted: list[dict[str, Any]] = []
        self.reported: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.port = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(int(line[15:]) for line in head.lower().splitlines() if line.startswith("content-length:"))
        body = json.loads(await reader.readexactly(length))
        if head.startswith("POST /v1/report"):
            if self.report_status == 202:
                self.reported.append(body)
            await self._write(writer, self.report_status, self.report_body)
            return True
        self.predicted.append(body)
        self.headers.append(head)
        fault = self.fault if self.times > 0 else "none"
        self.times -= 1
        decided = {"transaction_id": body["transaction_id"], **DECIDED}
        if fault == "black_hole":
            await asyncio.sleep(60)
        elif fault == "reset":
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        elif fault == "slow":
            await asyncio.sleep(self.delay)
            await self._write(writer, 200, decided)
        elif fault == "trickle":
            for byte in b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + b"X-Filler: x\r\n" * 1_000:
                writer.write(bytes((byte,)))
                await writer.drain()
                await asyncio.sleep(0.02)
        elif fault == "garbage":
            await self._write(writer, 200, {"unexpected": True})
        elif fault.isdigit():
            await self._write(writer, int(fault), {"status": int(fault), "detail": "as asked", "field": "amount"})
        else:
            await self._write(writer, 200, decided)
            return fault != "hang_up"
        return True

    async def _write(self, writer: asyncio.StreamWriter, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        head = f"HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()


@contextmanager
def faulty_server() -> Iterator[FaultyServer]:
    """A running server, on a thread of its own."""
    found = FaultyServer()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> asyncio.Server:
        server = await asyncio.start_server(found._serve, "127.0.0.1", 0)
        found.port = server.sockets[0].getsockname()[1]
        return server

    async def stop(server: asyncio.Server) -> None:
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    server = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield found
    finally:
        asyncio.run_coroutine_threadsafe(stop(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
