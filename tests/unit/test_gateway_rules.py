"""The process of the rules: what it answers and keeps, and how what it kept is handed on."""

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fraud_platform.currency import MAX_MINOR
from fraud_platform.decision import wire
from fraud_platform.decision.access import open_access
from fraud_platform.decision.answer import PredictAnswer
from fraud_platform.decision.policy import Policy
from fraud_platform.decision.policy_record import Entry, PolicyRecord, current_file, put_in_force
from fraud_platform.decision.problem import EarlierDecision, Problem
from fraud_platform.decision.reported import parse_gateway_report
from fraud_platform.decision.rules import FallbackRules
from fraud_platform.gateway import reporting
from fraud_platform.gateway.policy_file import PolicyFile
from fraud_platform.gateway.rules_server import RulesServer
from fraud_platform.hosts import Hosts
from fraud_platform.outbox import REJECTED, Outbox

NOW = datetime(2026, 11, 23, 10, 0, 5, tzinfo=UTC)


class Clock:
    """Each look is two seconds after the one before."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 2
        return self.now


def body(**changes: Any) -> bytes:
    fields = {
        "transaction_id": "t-1", "user_id": "u-1", "merchant_id": "m-1", "amount": 42.5, "currency": "EUR",
        "country": "DE", "user_country": "DE", "timestamp": "2026-11-23T10:00:00Z", "note": "line\nbreak", **changes,
    }  # fmt: skip
    return json.dumps(fields, indent=2).encode()


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox", fsync=False)


@pytest.fixture
def server(tmp_path: Path, outbox: Outbox) -> RulesServer:
    access = open_access(tmp_path, loopback=True, tokens=None, failed=lambda _: None)
    policy = PolicyFile(tmp_path, Policy(0.7, 0.4, 3, FallbackRules()), Clock())
    return RulesServer(policy, access, outbox, lambda: NOW, Hosts([]))


@pytest.mark.parametrize("headers", [{b"host": b"attacker.example"}, {b"origin": b"http://attacker.example"}])
async def test_a_web_page_of_somebody_else_is_decided_nothing(
    server: RulesServer, tmp_path: Path, headers: dict[bytes, bytes]
) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": body()}

    scope = {"path": "/v1/predict", "method": "POST", "headers": list(headers.items())}
    await server(scope, receive, send)
    assert sent[0]["status"] == 403
    assert kept(tmp_path) == []


def kept(tmp_path: Path) -> list[bytes]:
    return [line for path in sorted((tmp_path / "outbox").glob("*.jsonl")) for line in path.read_bytes().splitlines()]


def test_an_answer_keeps_the_contract_and_is_kept_for_the_report_first(server: RulesServer, tmp_path: Path) -> None:
    content = server.decide(body(amount=10_000.01), "shop")
    said = msgspec.json.decode(content, type=PredictAnswer)
    assert set(json.loads(content)) == set(PredictAnswer.__struct_fields__) - {"listed"}, "where no list decided"
    assert (said.decision, said.reason) == ("flag_for_review", "high_amount_fallback")
    assert (said.score, said.degraded, said.policy_version, said.threshold) == (None, True, 3, 0.7)
    [line] = kept(tmp_path)
    caller, report = parse_gateway_report(line, "EUR")
    assert caller == "shop"
    assert (report.decision, report.reason, report.cause) == (said.decision, said.reason, "gateway_backup")
    assert report.payment.amount_minor == 1_000_001
    assert report.decided_at == NOW


def test_a_payment_that_comes_again_is_one_decision_and_another_s_is_another(
    server: RulesServer, tmp_path: Path
) -> None:
    answers = [server.decide(body(), caller) for caller in ("shop", "shop", "bank")]
    later = server.decide(body(timestamp="2026-11-23T10:00:04Z", amount=42.50), "shop")
    assert answers[0] == answers[1] == later
    one, other = (parse_gateway_report(line, "EUR")[1].decision_id for line in kept(tmp_path))
    assert one != other


def test_what_was_told_is_told_again_whatever_the_policy_says_now(server: RulesServer, tmp_path: Path) -> None:
    first = server.decide(body(amount=10_000.01), "shop")
    switched = PolicyRecord(
        version=9, since=NOW, threshold=0.6, review_threshold=0.3, rule_high_amount=50, rule_cross_country_amount=40,
        kill_switch="allow_all",
    )  # fmt: skip
    put_in_force(tmp_path, switched)
    assert json.loads(server.decide(body(transaction_id="t-2"), "shop"))["policy_version"] == 9
    assert server.decide(body(amount=10_000.01), "shop") == first


def test_another_payment_under_an_id_that_was_decided_here_is_a_conflict(server: RulesServer) -> None:
    server.decide(body(), "shop")
    with pytest.raises(Problem) as caught:
        server.decide(body(user_id="u-2"), "shop")
    document = caught.value.document
    assert (document.status, document.field) == (409, "user_id")
    assert isinstance(document.earlier, EarlierDecision)
    assert document.earlier.decision == "allow"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"amount": -0.01}, "amount"),
        ({"amount": "12"}, "amount"),
        ({"amount": None}, "amount"),
        ({"transaction_id": ""}, "transaction_id"),
        ({"user_id": "a\u0007"}, "user_id"),
        ({"country": "de"}, "country"),
        ({"timestamp": "yesterday"}, "timestamp"),
    ],
)
def test_what_the_service_would_refuse_is_refused_and_not_kept(
    server: RulesServer, tmp_path: Path, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(Problem) as caught:
        server.decide(body(**changes), "shop")
    assert (caught.value.status, caught.value.document.field) == (422, field)
    assert kept(tmp_path) == []


def test_the_kept_policy_is_followed_lists_kill_switch_and_limits(
    server: RulesServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    numbers = iter(range(100))

    def decided(**changes: Any) -> tuple[str, str, str, int]:
        said = json.loads(server.decide(body(transaction_id=f"t-{next(numbers)}", **changes), "shop"))
        return said["decision"], said["reason"], said["served_by"]["model"], said["policy_version"]

    entry = Entry(kind="user", value="u-9", until=NOW + timedelta(seconds=1), why="stolen")
    over = Entry(kind="user", value="u-8", until=NOW, why="was stolen")
    record = PolicyRecord(
        version=4, since=NOW, threshold=0.6, review_threshold=0.3, rule_high_amount=50, rule_cross_country_amount=40,
        block_list=(entry, over),
    )  # fmt: skip
    assert decided(amount=51) == ("allow", "service_unavailable_fallback", "rules", 3)
    put_in_force(tmp_path, record)
    assert decided(amount=51) == ("flag_for_review", "high_amount_fallback", "rules", 4)
    assert decided(amount=50) == ("allow", "service_unavailable_fallback", "rules", 4)
    assert decided(user_id="u-9") == ("block", "block_list", "list", 4)
    assert decided(user_id="u-8") == ("allow", "service_unavailable_fallback", "rules", 4)
    reports = [parse_gateway_report(line, "EUR")[1] for line in kept(tmp_path)]
    assert [report.decision for report in reports if report.reason == "block_list"] == ["block"]
    current_file(tmp_path).write_text("half")
    assert decided(user_id="u-9")[0] == "block"
    assert "the policy before stays in force" in caplog.text
    put_in_force(tmp_path, msgspec.structs.replace(record, version=5, kill_switch="allow_all"))
    assert decided(user_id="u-9") == ("allow", "kill_switch_allow_all", "kill_switch", 5)


def test_a_batch_is_decided_one_by_one(server: RulesServer, tmp_path: Path) -> None:
    batch = b'{"payments": [%s, {"amount": 1}, %s]}' % (body(), body(transaction_id="t-2", amount=1_001, country="FR"))
    first, second, third = json.loads(server.decide_batch(batch, "shop"))["answers"]
    assert (first["status"], first["answer"]["transaction_id"]) == (200, "t-1")
    assert (second["status"], second["problem"]["field"]) == (422, "transaction_id")
    assert third["answer"]["reason"] == "cross_country_fallback"
    assert len(kept(tmp_path)) == 2
    for wrong, status in ((b"{", 400), (b'{"payments": []}', 422)):
        with pytest.raises(Problem) as caught:
            server.decide_batch(wrong, "shop")
        assert caught.value.status == status


def test_a_full_disk_stops_no_payment(
    server: RulesServer, outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_: bytes) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(outbox, "append", full)
    assert json.loads(server.decide(body(), "shop"))["decision"] == "allow"
    assert "could not be kept for the report: No space left" in caplog.text


def test_the_wire_s_largest_amount_is_the_currency_s() -> None:
    assert wire._MAX_MINOR == MAX_MINOR


def test_the_process_imports_nothing_heavy() -> None:
    code = "import sys, fraud_platform.gateway.rules_server; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    heavy = {"numpy", "pyarrow", "pandas", "redis", "xgboost", "pydantic", "httpx", "bentoml", "jwt", "cryptography"}
    assert set(done.stdout.split()) & heavy == set()


class Service:
    """A service that takes reports, or answers what it is told to."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.taken: list[tuple[str, str | None, bytes]] = []
        told = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(200)

            def do_POST(self) -> None:
                line = self.rfile.read(int(self.headers["content-length"]))
                status = told.statuses.pop(0) if told.statuses else 200
                told.taken.append((self.path, self.headers["authorization"], line))
                self._answer(status)

            def _answer(self, status: int) -> None:
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Stay silent."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


async def test_what_was_kept_is_handed_on_once(
    server: RulesServer, outbox: Outbox, service: Service, tmp_path: Path
) -> None:
    for number in range(3):
        server.decide(body(transaction_id=f"t-{number}"), "shop")
    assert not await reporting.deliver(outbox, "127.0.0.1:1", None)
    assert len(kept(tmp_path)) == 3
    # the second is not taken yet, then the third never will be
    service.statuses = [200, 503]
    with pytest.raises(reporting.NotTakenError, match="503"):
        await reporting.deliver(outbox, service.address, "fp_key")
    service.statuses = [200, 422]
    assert await reporting.deliver(outbox, service.address, "fp_key")
    numbers = [parse_gateway_report(line, "EUR")[1].payment.transaction_id for _, _, line in service.taken]
    assert numbers == ["t-0", "t-1", "t-1", "t-2"]
    assert {(path, key) for path, key, _ in service.taken} == {("/v1/admin/report", "Bearer fp_key")}
    assert [path.name for path in (tmp_path / "outbox").iterdir()] == [REJECTED]
    assert not outbox.waiting


@pytest.mark.parametrize("spelled", ["u-é ", "u-e\u0301", "u\u200b-é"])
def test_no_spelling_evades_a_block_of_the_rules(server: RulesServer, tmp_path: Path, spelled: str) -> None:
    first = PolicyRecord(
        version=4, since=NOW, threshold=0.7, review_threshold=0.4, rule_high_amount=1_000,
        rule_cross_country_amount=100, block_list=(Entry(kind="user", value="u-é", until=None, why="x"),),
    )  # fmt: skip
    put_in_force(tmp_path, first)
    said = json.loads(server.decide(body(user_id=spelled), "shop"))
    assert (said["reason"], said["listed"]) == ("block_list", "user")
    # the same payment as of the id itself
    assert json.loads(server.decide(body(user_id="u-é"), "shop")) == said
    assert parse_gateway_report(kept(tmp_path)[0], "EUR")[1].payment.user_id == "u-é"


def test_a_key_that_stands_twice_is_refused_by_the_rules_too(server: RulesServer) -> None:
    with pytest.raises(Problem) as caught:
        server.decide(body()[:-1] + b', "amount": 1}', "shop")
    assert (caught.value.document.status, caught.value.document.field) == (422, "amount")


def test_the_kill_switch_has_its_own_reason_and_the_report_may_bear_it(server: RulesServer, tmp_path: Path) -> None:
    switched = PolicyRecord(
        version=5, since=NOW, threshold=0.7, review_threshold=0.4, rule_high_amount=1_000,
        rule_cross_country_amount=100, kill_switch="rules_only",
    )  # fmt: skip
    put_in_force(tmp_path, switched)
    said = json.loads(server.decide(body(), "shop"))
    assert (said["decision"], said["reason"], said["served_by"]["model"]) == (
        "allow",
        "kill_switch_rules_only",
        "rules",
    )
    assert parse_gateway_report(kept(tmp_path)[0], "EUR")[1].reason == "kill_switch_rules_only"
