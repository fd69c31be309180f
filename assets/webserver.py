"""Dagster's webserver behind a door: `python -m assets.webserver`, with `dagster-webserver`'s own options.

What belongs here: which requests reach Dagster. What does not: Dagster. It asks nobody who he is and takes mutations
from any web page: by a link, by a form, over a WebSocket. Where its own command is used by hand (`make dagster`),
nothing stands before it.
"""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from assets.dagster_seam import run_webserver
from fraud_platform.hosts import Hosts
from fraud_platform.private import keep_private
from fraud_platform.settings import Settings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Door:
    """ASGI middleware before Dagster's application."""

    def __init__(self, app: App, hosts: Hosts) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass on what comes from this machine's own pages, or from no page."""
        wrong = self._wrong(scope) if scope["type"] in ("http", "websocket") else None
        if wrong is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": wrong})
        else:
            body = json.dumps({"errors": [{"message": wrong}]}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    def _wrong(self, scope: Message) -> str | None:
        """Why it is not passed on."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        host = headers.get(b"host", b"")
        if not self._hosts.knows(host):
            return "the Host header does not name this server: add the name to FRAUD_ALLOWED_HOSTS"
        if not self._hosts.welcomes(headers.get(b"origin", b""), host):
            return "requests from pages of another origin are refused"
        if scope["type"] == "http" and scope["path"].rstrip("/").endswith("/graphql"):
            # what a link, an image or a form can send needs no Origin everywhere; Dagster's own pages send JSON
            if scope["method"] == "POST":
                media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
                return None if media_type == b"application/json" else "send GraphQL as application/json"
            return "send GraphQL by POST" if scope["query_string"] else None
        return None


def main() -> None:
    """Dagster's command, its application behind the door."""
    keep_private()
    hosts = Hosts(Settings().allowed_hosts)
    run_webserver(lambda app: Door(app, hosts))


if __name__ == "__main__":
    main()
