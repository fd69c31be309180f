"""A server that answers what it is told to, for what is the gateway's own doing: `python -m … NAME PORT [MISSING]`.

It says its name and the headers that reached it; it decides nothing. A body with "slow" in it waits for a second.
"""

import asyncio
import json
import sys
from typing import Any

import uvicorn


class Standin:
    """The ASGI application. missing: what its readiness says it lacks."""

    def __init__(self, name: str, missing: list[str]) -> None:
        self.name = name
        self.missing = missing

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if b"slow" in body:
            await asyncio.sleep(1)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        path, query = scope["raw_path"].decode(), scope["query_string"].decode()
        answer = {"name": self.name, "path": path, "query": query, "length": len(body), "headers": headers}
        content = json.dumps({**answer, "degraded": self.missing}).encode()
        length = (b"content-length", b"%d" % len(content))
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": content})


if __name__ == "__main__":
    uvicorn.run(
        Standin(sys.argv[1], sys.argv[3:]), port=int(sys.argv[2]), lifespan="off", access_log=False, log_level="warning"
    )
