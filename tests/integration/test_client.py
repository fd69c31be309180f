"""The Python client against a service that breaks: an answer in time, from the right level, and nothing lost."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fraud_platform.client import AsyncFraudClient, FallbackRules, FraudClient, PaymentRefused
from fraud_platform.decision.reported import parse_report
from tests.integration.faulty_server import FaultyServer, faulty_server
from tests.integration.service_kit import free_port

DEADLINE = 0.3
SLACK = 0.7
"""What a busy machine may take beyond a deadline."""


class CountingBreaker:
    """Opens at a number of failures in a row; counts what it is told."""

    def __init__(self, limit: int = 10**9) -> None:
        self.limit = limit
        self.row = 0
        self.told: list[bool] = []

    def allow(self) -> bool:
        return self.row < self.limit

    def succeeded(self) -> None:
        self.row = 0
        self.told.append(True)

    def failed(self) -> None:
        self.row += 1
        self.told.append(False)


@pytest.fixture(scope="module")
def shared() -> Iterator[FaultyServer]:
    with faulty_server() as found:
        yield found


@pytest.fixture
def server(shared: FaultyServer) -> FaultyServer:
    fresh = FaultyServer()
    for name, value in vars(fresh).items():
        if name != "port":
            setattr(shared, name, value)
    return shared


def payment(number: int = 1, amount: Any = 42.5, **changes: Any) -> dict[str, Any]:
    return {
        "transaction_id": f"t-{number}", "user_id": "u-1", "merchant_id": "m-1", "amount": amount, "currency": "EUR",
        "country": "DE", "user_country": "DE", "timestamp": datetime(2026, 11, 23, 10, tzinfo=UTC), **changes,
    }  # fmt: skip


def client(server: FaultyServer, **options: Any) -> FraudClient:
    return FraudClient(server.url, **{"deadline": DEADLINE, "breaker": CountingBreaker(), **options})


def until(condition: Any, seconds: float = 5) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_a_decision_of_the_service_is_handed_on_as_it_is(server: FaultyServer) -> None:
    with client(server, api_key="fp_secret") as asking:
        decision = asking.decide(payment(amount=Decimal("42.50")))
    assert decision.decision == "allow"
    assert (decision.score, decision.threshold, decision.model_version) == (0.031225, 0.7, "fraud-detector/7")
    assert (decision.degraded, decision.by_client, decision.served_by["model"]) == (False, None, "champion")
    assert server.predicted[0]["amount"] == 42.5
    assert server.predicted[0]["timestamp"] == "2026-11-23T10:00:00Z"
    assert "authorization: bearer fp_secret" in server.headers[0].lower()


@pytest.mark.parametrize(
    ("fault", "cause"),
    [("black_hole", "timeout"), ("trickle", "timeout"), ("reset", "unreachable"), ("503", "http_503"),
     ("500", "http_500"), ("401", "http_401"), ("garbage", "bad_answer")],
)  # fmt: skip
def test_whatever_breaks_the_answer_comes_in_time_from_the_rules(
    server: FaultyServer, fault: str, cause: str, tmp_path: Path
) -> None:
    server.fault = fault
    breaker = CountingBreaker()
    with client(server, breaker=breaker, outbox=tmp_path) as asking:
        began = time.monotonic()
        decision = asking.decide(payment(amount=20_000))
        took = time.monotonic() - began
    assert took < DEADLINE + SLACK
    assert (decision.decision, decision.reason) == ("flag_for_review", "high_amount_fallback")
    assert (decision.by_client, decision.degraded, decision.score) == (cause, True, None)
    assert decision.served_by == {"user_features": "default", "merchant_features": "default", "model": "rules"}
    assert breaker.told == [False]
    assert len(list(tmp_path.glob("payments-*.jsonl"))) == 1


def test_nobody_listening_is_no_different(tmp_path: Path) -> None:
    asking = FraudClient(f"http://127.0.0.1:{free_port()}", deadline=0.1, breaker=CountingBreaker())
    with asking:
        assert asking.decide(payment()).by_client == "unreachable"
        assert asking.decide(payment(country="BR", amount=1_500)).reason == "cross_country_fallback"


@pytest.mark.parametrize("fault", ["reset", "503", "429"])
def test_a_passing_fault_is_tried_again_with_the_same_body(server: FaultyServer, fault: str) -> None:
    server.fault, server.times = fault, 2
    with client(server, deadline=2.0) as asking:
        assert asking.decide(payment()).by_client is None
    assert len(server.predicted) == 3
    assert server.predicted[0] == server.predicted[2]


def test_what_will_not_pass_is_not_asked_twice(server: FaultyServer) -> None:
    for fault in ("401", "403", "404", "500"):
        server.fault = fault
        server.predicted.clear()
        with client(server) as asking:
            assert asking.decide(payment()).by_client == f"http_{fault}"
        assert len(server.predicted) == 1


def test_a_connection_gone_stale_costs_no_decision(server: FaultyServer) -> None:
    server.fault = "hang_up"
    with client(server, deadline=2.0) as asking:
        for number in range(5):
            assert asking.decide(payment(number)).by_client is None
            time.sleep(0.01)


def test_a_slow_answer_counts_while_it_is_in_time(server: FaultyServer) -> None:
    server.fault, server.delay = "slow", 0.05
    with client(server, deadline=2.0) as asking:
        assert asking.decide(payment()).by_client is None


@pytest.mark.parametrize("status", [400, 409, 413, 415, 422])
def test_a_payment_that_is_wrong_is_refused_and_never_decided_by_rules(
    server: FaultyServer, status: int, tmp_path: Path
) -> None:
    server.fault = str(status)
    breaker = CountingBreaker()
    with client(server, breaker=breaker, outbox=tmp_path) as asking, pytest.raises(PaymentRefused) as refusal:
        asking.decide(payment())
    assert (refusal.value.status, refusal.value.problem["field"]) == (status, "amount")
    assert breaker.told == [True]
    assert not list(tmp_path.iterdir())


def test_an_open_breaker_waits_for_nothing(server: FaultyServer) -> None:
    server.fault = "black_hole"
    with client(server, deadline=0.05, breaker=CountingBreaker(3)) as asking:
        for number in range(3):
            assert asking.decide(payment(number)).by_client == "timeout"
        began = time.monotonic()
        for number in range(100):
            assert asking.decide(payment(number)).by_client == "breaker_open"
        assert time.monotonic() - began < SLACK
    assert len(server.predicted) == 3


def test_limits_and_rates_are_the_caller_s(server: FaultyServer) -> None:
    server.fault = "401"
    options = {"rules": FallbackRules(high_amount=100, cross_country_amount=20), "rates": {"JPY": Decimal("0.0061")}}
    with client(server, **options) as asking:
        assert asking.decide(payment(amount=101)).reason == "high_amount_fallback"
        assert asking.decide(payment(amount=15_000, currency="JPY")).reason == "service_unavailable_fallback"
        assert asking.decide(payment(amount=17_000, currency="JPY")).reason == "high_amount_fallback"
        # no rate: units of the currency count as units of the base currency
        assert asking.decide(payment(amount=15_000, currency="KRW")).reason == "high_amount_fallback"
        # empty optional text is absent: a home country that is not known is no other country
        assert asking.decide(payment(amount=50, user_country=" ", currency="")).reason == "service_unavailable_fallback"
        for wrong in ("ten", None, True, float("nan"), Decimal("Infinity"), -1):
            with pytest.raises(ValueError, match="amount"):
                asking.decide(payment(amount=wrong))
        with pytest.raises(ValueError, match="transaction_id"):
            asking.decide(payment(transaction_id=None))


def test_what_the_rules_decided_is_reported_once_the_service_is_back(server: FaultyServer, tmp_path: Path) -> None:
    server.fault = "503"
    with client(server, outbox=tmp_path, fsync=True, deadline=0.05) as asking:
        for number in range(20):
            asking.decide(payment(number, amount=Decimal("20000.10")))
        assert server.reported == []
        server.fault = "none"
        until(lambda: asking.decide(payment(99)).by_client is None)
        until(lambda: len(server.reported) >= 20)
        until(lambda: not list(tmp_path.iterdir()))
    assert [entry["payment"]["transaction_id"] for entry in server.reported][:20] == [f"t-{n}" for n in range(20)]
    report = parse_report(json.dumps(server.reported[0]).encode(), "EUR")
    assert (report.decision, report.reason, report.cause) == ("flag_for_review", "high_amount_fallback", "http_503")
    assert report.payment.amount_minor == 2_000_010
    assert len({entry["decision_id"] for entry in server.reported}) == len(server.reported)


def test_a_report_that_breaks_off_goes_on_where_it_was(server: FaultyServer, tmp_path: Path) -> None:
    server.fault = "503"
    with client(server, outbox=tmp_path, deadline=0.05) as asking:
        for number in range(3):
            asking.decide(payment(number))
        server.report_status = 503
        with pytest.raises(Exception, match="503"):
            asking.report()
        assert list(tmp_path.glob("*.jsonl"))
        server.report_status = 202
        done = asking.report()
        assert (done.taken, done.rejected) == (3, 0)
        assert asking.report().taken == 0
    assert len(server.reported) == 3


def test_what_the_service_will_never_take_is_put_aside(server: FaultyServer, tmp_path: Path) -> None:
    server.fault, server.report_status = "503", 422
    with client(server, outbox=tmp_path, deadline=0.05) as asking:
        asking.decide(payment())
        done = asking.report()
        assert (done.taken, done.rejected) == (0, 1)
        assert asking.report().rejected == 0
    (aside,) = tmp_path.iterdir()
    assert json.loads(aside.read_text())["payment"]["transaction_id"] == "t-1"


def test_a_report_that_another_decision_stands_before_is_not_sent_again(server: FaultyServer, tmp_path: Path) -> None:
    server.fault, server.report_status = "503", 409
    server.report_body = {"type": "urn:fraud-platform:problem:already-decided"}
    with client(server, outbox=tmp_path, deadline=0.05) as asking:
        asking.decide(payment())
        done = asking.report()
        assert (done.taken, done.rejected) == (1, 0)
    assert list(tmp_path.iterdir()) == []


def test_the_rules_do_not_contradict_what_the_service_or_they_said(server: FaultyServer, tmp_path: Path) -> None:
    with client(server, outbox=tmp_path, deadline=0.05) as asking:
        told = asking.decide(payment(1, amount=Decimal("20000.10")))
        assert told.by_client is None
        server.fault = "503"
        again = asking.decide(payment(1, amount=Decimal("20000.1")))
        assert (again.decision, again.score) == (told.decision, told.score)
        assert again.by_client == "http_503"
        first, second = (asking.decide(payment(2)) for _ in range(2))
        assert first.decision == second.decision
        lines = [line for path in tmp_path.glob("payments-*.jsonl") for line in path.read_text().splitlines()]
        assert len(lines) == 1, "what the rules decided is one decision, and reported once"


def test_a_killed_process_loses_no_decision_and_the_next_one_reports_it(server: FaultyServer, tmp_path: Path) -> None:
    code = f"""
import os, sys
from pathlib import Path
from fraud_platform.client import FraudClient
class Open:
    allow = lambda self: False
client = FraudClient({server.url!r}, outbox=Path({str(tmp_path)!r}), breaker=Open())
for number in range(5):
    client.decide({{"transaction_id": f"t-{{number}}", "amount": 1, "country": "DE"}})
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    (left,) = tmp_path.glob("payments-*.jsonl")
    left.write_bytes(left.read_bytes() + b'{"half')
    with client(server, outbox=tmp_path) as asking:
        asking.decide(payment())
        until(lambda: not list(tmp_path.iterdir()))
    assert [entry["payment"]["transaction_id"] for entry in server.reported] == [f"t-{n}" for n in range(5)]


def test_the_file_of_a_living_process_is_left_to_it(server: FaultyServer, tmp_path: Path) -> None:
    server.fault = "503"
    with client(server, outbox=tmp_path, deadline=0.05) as one, client(server, outbox=tmp_path, deadline=0.05) as other:
        one.decide(payment(1))
        other.decide(payment(2))
        assert one.report().taken == 1
        assert other.report().taken == 1
    assert {entry["payment"]["transaction_id"] for entry in server.reported} == {"t-1", "t-2"}


def test_a_full_disk_does_not_stop_a_payment(
    server: FaultyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.fault = "401"
    folder = tmp_path / "outbox"
    folder.write_text("a file where the folder should be")
    with client(server, outbox=folder) as asking:
        assert asking.decide(payment()).decision == "allow"
    assert "could not be kept" in caplog.text


def test_threads_share_one_client(server: FaultyServer) -> None:
    with client(server, deadline=5.0) as asking, ThreadPoolExecutor(8) as pool:
        decided = list(pool.map(lambda number: asking.decide(payment(number)), range(80)))
    assert {decision.by_client for decision in decided} == {None}
    assert {decision.transaction_id for decision in decided} == {f"t-{n}" for n in range(80)}


def test_a_forked_process_asks_over_connections_of_its_own(server: FaultyServer) -> None:
    with client(server, deadline=5.0) as asking:
        asking.decide(payment(1))
        child = os.fork()
        if child == 0:
            os._exit(0 if asking.decide(payment(2)).by_client is None else 1)
        assert asking.decide(payment(3)).by_client is None
        assert os.waitpid(child, 0)[1] == 0


async def test_the_client_for_an_event_loop_decides_many_at_once_in_one_deadline(server: FaultyServer) -> None:
    server.fault, server.delay = "black_hole", 0.0
    async with AsyncFraudClient(server.url, deadline=DEADLINE, breaker=CountingBreaker()) as asking:
        began = time.monotonic()
        decided = await asyncio.gather(*(asking.decide(payment(number)) for number in range(50)))
        assert time.monotonic() - began < DEADLINE + SLACK
        assert {decision.by_client for decision in decided} == {"timeout"}


async def test_a_caller_that_gives_up_frees_the_breaker(server: FaultyServer) -> None:
    server.fault = "black_hole"
    breaker = CountingBreaker()
    async with AsyncFraudClient(server.url, deadline=5.0, breaker=breaker) as asking:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asking.decide(payment()), 0.05)
    assert breaker.told == [False]


def test_closing_leaves_no_thread(server: FaultyServer) -> None:
    before = threading.active_count()
    with client(server) as asking:
        asking.decide(payment())
    assert threading.active_count() == before
    with client(server):
        pass


def test_importing_the_client_brings_nothing_heavy() -> None:
    code = """
import sys, time
began = time.perf_counter()
import fraud_platform.client
print(time.perf_counter() - began, *{name.split(".")[0] for name in sys.modules})
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    seconds, *modules = done.stdout.split()
    heavy = {"numpy", "pandas", "pyarrow", "feast", "xgboost", "numba", "duckdb", "redis", "pydantic", "pycountry",
             "bentoml", "dagster", "mlflow", "psycopg", "confluent_kafka", "fsspec", "scipy", "sklearn"}  # fmt: skip
    assert set(modules) & heavy == set()
    assert float(seconds) < 5  # 0.3 s on a quiet machine, httpx's own
