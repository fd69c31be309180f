"""A real server of S3's protocol on loopback, moto's, that tells what it was asked.

What belongs here: serving, its log of requests, the environment that leads there. What does not: what is tested on it.
"""

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import boto3
import pytest
import s3fs
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "lake"


@dataclass
class S3:
    """A running server; `asked` is every request that it has answered: method, path and query."""

    url: str
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def put(self, objects: dict[str, bytes]) -> None:
        """Lay objects into the bucket beside the protocol, which takes milliseconds for each."""
        backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
        for key, content in objects.items():
            backend.put_object(BUCKET, key, content)

    @contextmanager
    def counting(self) -> Iterator[Counter[str]]:
        """Requests within the block by kind: LIST, or the HTTP method."""
        before, counted = len(self.asked), Counter[str]()
        yield counted
        for method, _, query in self.asked[before:]:
            counted["LIST" if "list-type=2" in query else method] += 1


class _Quiet(WSGIRequestHandler):
    """Writes no line per request: a test reads `asked`."""

    protocol_version = "HTTP/1.1"

    def log_request(self, *_: object) -> None: ...


@contextmanager
def s3_server() -> Iterator[S3]:
    """Serve one empty bucket, and lead this process and those it starts there by the usual variables."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

    moto = DomainDispatcherApplication(create_backend_app)
    one_at_a_time = threading.Lock()

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        # moto compares, then writes: as one step only by itself, as S3 does it
        with one_at_a_time:
            body = list(moto(environ, start_response))
        server.asked.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("QUERY_STRING", "")))
        return body

    http = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=_Quiet)
    server = S3(f"http://127.0.0.1:{http.server_port}")
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        variables = {"ENDPOINT_URL": server.url, "ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test"}
        for name, value in (variables | {"DEFAULT_REGION": "us-east-1"}).items():
            patch.setenv(f"AWS_{name}", value)
        s3fs.S3FileSystem.clear_instance_cache()
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield server
        s3fs.S3FileSystem.clear_instance_cache()
    http.shutdown()
    thread.join()
