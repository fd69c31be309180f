"""Traces as a collector gets them: a real BentoML server, and OTLP over HTTP read with the protocol's own classes."""

import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import redis
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from service_kit import fill_online_store, free_port, publish_small_model
from test_service import ROOT, payment, serve, wait_until_ready

from fraud_platform.inference_log.spool import read_spool

TRACED = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
STAGES = {"read", "request_features", "model", "log"}


class Collector:
    """Takes spans on a loopback port."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = ExportTraceServiceRequest()
                request.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
                for resource in request.resource_spans:
                    for scope in resource.scope_spans:
                        collector.spans.extend(scope.spans)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing: the test's output is pytest's."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1/traces"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def of(self, trace_id: str, count: int, seconds: float = 20) -> list[Span]:
        """The spans of a trace, once there are so many."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = [span for span in self.spans if span.trace_id.hex() == trace_id]
            if len(found) >= count:
                return found
            time.sleep(0.2)
        raise AssertionError(f"{len(self.spans)} spans, none or too few of {trace_id}")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traced")


@pytest.fixture(scope="module")
def service(redis_server: str, collector: Collector, home: Path) -> Iterator[httpx.Client]:
    client = redis.Redis.from_url(redis_server)
    client.flushall()
    fill_online_store(client)
    publish_small_model(home, version=7, seed=1)
    port = free_port()
    command, environment = serve(home, redis_server, port)
    environment |= {"FRAUD_TRACES_URL": collector.url, "FRAUD_TRACES_SHARE": "0", "OTEL_BSP_SCHEDULE_DELAY": "200"}
    log = home / "service.log"
    with log.open("wb") as output:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
            wait_until_ready(http, server, log)
            yield http
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
        client.close()


def attributes(span: Span) -> dict[str, object]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


def test_a_decision_goes_on_with_its_callers_trace(service: httpx.Client, collector: Collector, home: Path) -> None:
    headers = {"traceparent": f"00-{TRACED}-{PARENT}-01", "x-request-id": "r-1"}
    service.post("/v1/predict", json=payment(transaction_id="traced-1"), headers=headers)
    spans = {span.name: span for span in collector.of(TRACED, 1 + len(STAGES))}
    decide = spans.pop("decide")
    assert decide.parent_span_id.hex() == PARENT
    assert set(spans) == STAGES
    for stage in spans.values():
        assert stage.parent_span_id == decide.span_id
        assert decide.start_time_unix_nano - 1e6 <= stage.start_time_unix_nano <= stage.end_time_unix_nano
        assert stage.end_time_unix_nano <= decide.end_time_unix_nano + 1e6
    said = attributes(decide)
    (record,) = (
        each for each in read_spool(home, datetime.now(UTC).date()) if each.request.transaction_id == "traced-1"
    )
    # and nothing of the payment
    assert said == {
        "request_id": "r-1",
        "fraud.decision_id": record.decision_id,
        "fraud.decision": record.decision,
        "fraud.reason": record.reason,
        "fraud.model": "champion",
        "fraud.model_version": "fraud-detector/7",
        "fraud.user_features": "redis",
        "fraud.merchant_features": "redis",
        "fraud.degraded": record.degraded,
        "fraud.repeated": False,
    }


def test_the_next_request_of_a_connection_is_not_of_that_trace(service: httpx.Client, collector: Collector) -> None:
    other, last = "1" * 32, "3" * 32
    for trace_id in (other, None, last):
        headers = {"traceparent": f"00-{trace_id}-{PARENT}-01"} if trace_id else {}
        service.post("/v1/predict", json=payment(transaction_id=f"of-{trace_id}"), headers=headers)
    # spans are sent in order: with the last one's, those of the one between would be there
    collector.of(last, 1 + len(STAGES))
    assert len(collector.of(other, 1 + len(STAGES))) == 1 + len(STAGES)
    # a share of 0: whoever brings no trace is in none
    assert {span.trace_id.hex() for span in collector.spans} <= {TRACED, other, last}


def test_a_collector_that_is_gone_costs_no_decision(service: httpx.Client, collector: Collector) -> None:
    collector.close()
    for number in range(20):
        headers = {"traceparent": f"00-{'2' * 32}-{PARENT}-01"}
        answer = service.post("/v1/predict", json=payment(transaction_id=f"gone-{number}"), headers=headers)
        assert answer.status_code == 200
        assert not answer.json()["degraded"]
