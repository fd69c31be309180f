"""A decision stands, against real processes: reports, floods, a Redis that is paused, a worker that sleeps.

What belongs here: two workers, their Redis, the gateway and the rules behind it, mistreated from outside. What does
not: which decision stands (`unit/test_decision_standing.py`).
"""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import redis
from service_kit import USERS, fill_online_store, free_port, publish_small_model
from test_store_faults import Server

from fraud_platform.decision.api_keys import add_key, keys_path
from fraud_platform.decision.policy_record import Entry, PolicyRecord, keep, put_in_force
from fraud_platform.inference_log.process import drain
from fraud_platform.inference_log.record import DecisionRecord, decode_record
from fraud_platform.inference_log.table import LogTable
from fraud_platform.lake import open_lake
from fraud_platform.online.decision_key import decision_key
from fraud_platform.settings import Settings
from tests.integration import gateway_kit as kit

pytestmark = kit.needs_nginx
CAPACITY = 40


@dataclass
class Bank:
    """What is attacked, and keys of two callers and of people."""

    settings: Settings
    environment: dict[str, str]
    redis: Server
    url: str
    keys: dict[str, str]

    def ask(self, body: dict[str, Any], caller: str = "shop", path: str = "/v1/predict") -> Any:
        """An answer, by a connection of its own: each may reach another worker."""
        headers = {"authorization": f"Bearer {self.keys[caller]}"}
        with plain_client(self.url) as http:
            return http.post(path, json=body, headers=headers)

    def decided(self, body: dict[str, Any], caller: str = "shop") -> str:
        answer = self.ask(body, caller)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["decision"])

    def stored(self, transaction_id: str, caller: str = "shop") -> DecisionRecord:
        """The decision as Redis has it."""
        payload = self.redis.client.get(decision_key(caller, transaction_id))
        assert isinstance(payload, bytes)
        return decode_record(payload)

    def told(self) -> dict[str, list[DecisionRecord]]:
        """Every decision in the lake by transaction, once all of the spool has arrived."""
        assert drain(self.settings, 60)
        log = LogTable(open_lake(self.settings))
        found: dict[str, list[DecisionRecord]] = {}
        for day in log.days():
            for record in log.records(day, told=True):
                found.setdefault(record.request.transaction_id, []).append(record)
        return found

    def stands(self) -> dict[str, DecisionRecord]:
        """The decisions that stand in the lake."""
        log = LogTable(open_lake(self.settings))
        return {record.request.transaction_id: record for day in log.days() for record in log.records(day)}


def plain_client(url: str) -> httpx.Client:
    """Without TLS, whose authorities take longer to load than a decision to make."""
    return httpx.Client(base_url=url, timeout=20, trust_env=False, verify=False)


def payment(**changes: Any) -> dict[str, Any]:
    return {
        "transaction_id": uuid.uuid4().hex, "user_id": USERS[0], "merchant_id": "m-1", "amount": 5.0, "currency": "EUR",
        "country": "DE", "timestamp": datetime.now(UTC).isoformat(), **changes,
    }  # fmt: skip


def blocked() -> dict[str, Any]:
    """A payment that the block list blocks while any worker is asked."""
    return payment(user_id="thief")


def a_report(body: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "decision_id": uuid.uuid4().hex, "decided_at": datetime.now(UTC).isoformat(), "decision": "allow",
        "reason": "service_unavailable_fallback", "cause": "timeout", "payment": body, **changes,
    }  # fmt: skip


@contextmanager
def process(home: Path, environment: dict[str, str], name: str, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    with (home / f"{name}.log").open("ab") as log:
        command = [sys.executable, "-m", *words]
        running = subprocess.Popen(command, cwd=kit.ROOT, env={**os.environ, **environment}, stdout=log, stderr=log)
    try:
        yield running
    finally:
        if running.poll() is None:
            running.send_signal(signal.SIGTERM)
        running.wait(30)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    home = tmp_path_factory.mktemp("stands")
    (home / "redis-data").mkdir()
    server = Server(home / "redis-data")
    fill_online_store(server.client)
    publish_small_model(home, version=7, seed=1)
    now = datetime.now(UTC)
    record = PolicyRecord(
        version=1, since=now - timedelta(hours=1), threshold=0.6, review_threshold=0.3, rule_high_amount=10_000,
        rule_cross_country_amount=1_000,
        block_list=(Entry(kind="user", value="thief", until=None, why="a test"),),
    )  # fmt: skip
    keep(home, record)
    put_in_force(home, record)
    names: dict[str, list[Any]] = {"shop": ["decide"], "issuer": ["decide"], "people": ["admin", "explain"]}
    keys = {name: add_key(keys_path(home), name, scopes, now)[0] for name, scopes in names.items()}
    ports = [free_port() for _ in range(4)]
    environment = {
        "FRAUD_HOME": str(home), "FRAUD_REDIS_URL": server.url, "BENTOML_HOME": str(home / "bentoml"),
        "FRAUD_GATEWAY_PORT": str(ports[0]), "FRAUD_RULES_PORT": str(ports[1]), "FRAUD_API_KEY": keys["people"],
        "FRAUD_GATEWAY_BLUE": json.dumps([f"127.0.0.1:{ports[2]}"]), "FRAUD_LOG_PORT": str(ports[3]),
        "FRAUD_GATEWAY_TIMEOUT_MS": "700", "FRAUD_GATEWAY_RATE": "20000", "FRAUD_CAPACITY": str(CAPACITY),
        "FRAUD_SERVICE_WORKERS": "2", "OMP_NUM_THREADS": "1",
        # on a busy machine a payment is late, and that is another reason to leave the model out
        "FRAUD_BUDGET_MS": "1000",
    }  # fmt: skip
    settings = Settings(home=home, redis_url=server.url, gateway_port=ports[0], log_port=ports[3])
    url = f"http://127.0.0.1:{ports[2]}"
    serve = ["bentoml", "serve", "bento.service:FraudDetector", "--port", str(ports[2])]
    try:
        with process(home, environment, "service", *serve):
            with httpx.Client(base_url=url) as http:
                kit.until(lambda: kit.answers(http, "/readyz"), (home / "service.log").read_text, 120)
                kit.until(lambda: len(workers(home)) == 2, (home / "service.log").read_text, 60)
            with process(home, environment, "gateway", "fraud_platform.cli", "gateway", "start"):
                kit.until((home / "gateway" / "nginx.pid").exists, (home / "gateway.log").read_text, 60)
                with kit.client(settings) as http:
                    kit.until(lambda: kit.answers(http, "/readyz"), (home / "gateway.log").read_text)
                yield Bank(settings, environment, server, url, keys)
    finally:
        server.kill()


def workers(home: Path) -> set[int]:
    return {int(path.stem) for path in (home / "workers").glob("*.json") if psutil.pid_exists(int(path.stem))}


def test_a_key_that_may_decide_cannot_turn_a_block_into_an_allow(bank: Bank) -> None:
    body = blocked()
    assert bank.decided(body) == "block"
    refused = bank.ask(a_report(body), path="/v1/report")
    assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (409, "already-decided")
    assert refused.json()["earlier"]["decision"] == "block"
    assert [bank.decided(body) for _ in range(8)] == ["block"] * 8
    # nor before anybody was asked: the list was in force
    fresh = blocked() | {"amount": 900_000.0}
    refused = bank.ask(a_report(fresh), path="/v1/report")
    assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (409, "contradicts-policy")
    assert bank.decided(fresh) == "block"
    old = bank.ask(a_report(payment(), decided_at="1970-01-01T00:00:00Z"), path="/v1/report")
    assert (old.status_code, old.json()["field"]) == (422, "decided_at")
    # another body under a decided id leaves the first its answer
    known = payment()
    first = bank.ask(known).json()
    assert bank.ask(a_report(known | {"amount": 6.0}), path="/v1/report").status_code == 409
    assert bank.ask(known).json() == first
    # a caller's report is about its own payment alone
    assert bank.ask(a_report(payment(transaction_id=body["transaction_id"])), "issuer", "/v1/report").status_code == 200
    assert bank.decided(body) == "block"


@pytest.mark.alone
def test_whoever_floods_a_worker_does_not_unmake_a_decision(bank: Bank) -> None:
    bodies = [blocked() for _ in range(5)]
    assert {bank.decided(body) for body in bodies} == {"block"}
    # by the list, which the rules know too, and by the score, which they do not
    scored = next(
        body for body in (payment(amount=float(n)) for n in range(100, 3_000, 100)) if _is_blocked(bank, body)
    )
    told: Counter[str] = Counter()
    for gateway in (False, True):
        with ThreadPoolExecutor(8) as pool:
            stop = time.monotonic() + 4
            floods = [pool.submit(_flood, bank, stop, gateway) for _ in range(3)]
            headers = {"authorization": f"Bearer {bank.keys['shop']}"}
            with kit.client(bank.settings) as secure, plain_client(bank.url) as plain:
                http = secure if gateway else plain
                while time.monotonic() < stop:
                    answer = http.post("/v1/predict", json=scored, headers=headers)
                    told[f"{answer.status_code}: {answer.json().get('decision')}"] += 1
            shed = sum(flood.result() for flood in floods)
        assert shed > 0, "the flood was none"
    assert set(told) == {"200: block"}, told
    assert told.total() > 20
    assert bank.stored(scored["transaction_id"]).decision == "block"
    for body in bodies:
        assert bank.decided(body) == "block"


def _is_blocked(bank: Bank, body: dict[str, Any]) -> bool:
    answer = bank.ask(body).json()
    return bool(answer["decision"] == "block" and answer["reason"] == "score_above_threshold")


def _flood(bank: Bank, stop: float, gateway: bool) -> int:
    """Batches of 100 one after the other; how many payments went without a model, or without an answer."""
    shed = 0
    headers = {"authorization": f"Bearer {bank.keys['shop']}"}
    with kit.client(bank.settings) as secure, plain_client(bank.url) as plain:
        http = secure if gateway else plain
        while True:
            batch = {"payments": [payment(merchant_id=f"m-{n}") for n in range(100)]}
            answer = http.post("/v1/predict/batch", json=batch, headers=headers)
            if answer.status_code != 200:
                shed += 100
            else:
                answers = (item.get("answer", {}) for item in answer.json()["answers"])
                shed += sum(each.get("served_by", {}).get("model") != "champion" for each in answers)
            if time.monotonic() > stop:
                return shed


@pytest.mark.alone
def test_a_flood_of_one_caller_leaves_another_its_share(bank: Bank) -> None:
    stop = time.monotonic() + 3
    with ThreadPoolExecutor(4) as pool:
        floods = [pool.submit(_flood, bank, stop, False) for _ in range(3)]
        served = Counter(bank.ask(payment(), "issuer").json()["served_by"]["model"] for _ in range(40))
        shed = sum(flood.result() for flood in floods)
    assert shed > 0
    assert served == {"champion": 40}


def test_a_redis_that_is_paused_does_not_change_what_was_said(bank: Bank) -> None:
    """Two workers, a store that answers nobody for two seconds, payments decided before, in and after it."""
    before = [payment(amount=float(n)) for n in range(100, 1_600, 100)]
    # asked by connections of their own, so that each of the two workers has met them
    first = {body["transaction_id"]: {bank.decided(body) for _ in range(12)} for body in before}
    assert all(len(decisions) == 1 for decisions in first.values())
    within = [payment(amount=float(n), merchant_id="m-1") for n in range(100, 1_600, 100)]
    told: dict[str, set[str]] = {body["transaction_id"]: set() for body in within}
    bank.redis.send(signal.SIGSTOP)
    try:
        paused = {body["transaction_id"]: {bank.decided(body) for _ in range(3)} for body in before}
        for _ in range(2):
            for body in within:
                told[body["transaction_id"]].add(bank.decided(body))
    finally:
        bank.redis.send(signal.SIGCONT)
    assert paused == first
    kit.until(lambda: _unsettled(bank) == 0, lambda: f"{_unsettled(bank)} wait")
    after = {body["transaction_id"]: {bank.decided(body) for _ in range(8)} for body in within}
    assert all(len(decisions) == 1 for decisions in after.values()), "every worker says the same"
    lake, stands = bank.told(), bank.stands()
    for transaction, decisions in told.items():
        stored = bank.stored(transaction)
        assert after[transaction] == {stored.decision} == {stands[transaction].decision}
        assert stored.decision_id == stands[transaction].decision_id
        assert decisions <= {record.decision for record in lake[transaction]}
        assert sum(record.superseded_by is None for record in lake[transaction]) == 1
    for body in before:
        assert {stands[body["transaction_id"]].decision} == first[body["transaction_id"]]


def _unsettled(bank: Bank) -> float:
    lines = httpx.get(f"{bank.url}/metrics", trust_env=False).text.splitlines()
    found = [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("fraud_decisions_unsettled")]
    assert found
    # a gauge is shown every 0.2 s
    time.sleep(0.25)
    return sum(found)


def test_workers_that_sleep_behind_the_gateway_leave_one_decision_and_all_that_was_told(bank: Bank) -> None:
    """For three seconds no worker runs: the gateway's rules answer, while the payments lie in the workers' sockets."""
    bodies = [payment(amount=float(n)) for n in (150, 700, 1_400, 20_000, 30_000)]
    pids = workers(bank.settings.home)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        headers = {"authorization": f"Bearer {bank.keys['shop']}"}
        with kit.client(bank.settings) as http:
            answers = [http.post("/v1/predict", json=body, headers=headers) for body in bodies]
        time.sleep(max(0.0, 3 - (time.monotonic() - began)))
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    told = [answer.json() for answer in answers]
    assert {answer["served_by"]["model"] for answer in told} == {"rules"}
    outbox = bank.settings.home / "gateway" / "outbox"
    kit.until(lambda: not list(outbox.iterdir()), lambda: str(list(outbox.iterdir())))
    after = [{bank.decided(body) for _ in range(8)} for body in bodies]
    lake, stands = bank.told(), bank.stands()
    for body, answer, decisions in zip(bodies, told, after, strict=True):
        name = body["transaction_id"]
        assert decisions == {stands[name].decision} == {bank.stored(name).decision}
        assert answer["decision"] in {record.decision for record in lake[name]}
        by_rules = [record for record in lake[name] if record.served_by.model == "rules"]
        assert by_rules, "what the caller was told is in the lake"
        marks = {record.decision_id: record.superseded_by for record in lake[name]}
        assert [one for one, by in marks.items() if by is None] == [stands[name].decision_id]
        assert {by for by in marks.values() if by is not None} <= {stands[name].decision_id}


def test_what_a_killed_worker_told_without_redis_stands_when_another_begins(bank: Bank) -> None:
    body = payment(amount=777.0)
    bank.redis.send(signal.SIGSTOP)
    try:
        told = bank.decided(body)
        for pid in workers(bank.settings.home):
            os.kill(pid, signal.SIGKILL)
    finally:
        bank.redis.send(signal.SIGCONT)
    with plain_client(bank.url) as http:
        kit.until(lambda: len(workers(bank.settings.home)) == 2 and kit.answers(http, "/readyz"), lambda: "", 60)

    def stored() -> bool:
        payload = bank.redis.client.get(decision_key("shop", body["transaction_id"]))
        return isinstance(payload, bytes) and not payload.startswith(b"claim:")

    kit.until(stored, lambda: "nobody settled what the dead worker told")
    assert {bank.decided(body) for _ in range(8)} == {told} == {bank.stored(body["transaction_id"]).decision}


def test_a_retry_may_refresh_its_timestamp_and_a_conflict_shows_what_stands(bank: Bank) -> None:
    body = payment()
    first = bank.ask(body).json()
    later = body | {"timestamp": (datetime.now(UTC) + timedelta(seconds=9)).isoformat(), "channel": "pos"}
    assert bank.ask(later).json() == first
    conflict = bank.ask(body | {"merchant_id": "m-2"})
    assert (conflict.status_code, conflict.json()["field"]) == (409, "merchant_id")
    shown = conflict.json()["earlier"]
    assert (shown["decision"], shown["reason"]) == (first["decision"], first["reason"])
    assert redis.Redis.from_url(bank.redis.url).ping()
