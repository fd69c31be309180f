"""The policy as a running service follows it: a real BentoML server of two workers, under load while it changes."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from service_kit import USERS, fill_online_store, free_port, publish_small_model

from fraud_platform.decision.api_keys import add_key, keys_path
from fraud_platform.decision.policy import decide
from fraud_platform.decision.policy_change import change_policy, parse_change
from fraud_platform.decision.policy_record import current_file, read_policy
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.homes import MARK
from fraud_platform.inference_log.spool import read_spool
from fraud_platform.model.ledger import read_ledger
from fraud_platform.settings import Settings

ROOT = Path(__file__).parents[2]
READY_SECONDS = 120
IN_FORCE_SECONDS = 2.0
WORKERS = 2


@dataclass
class Service:
    """A running server and keys for it."""

    url: str
    home: Path
    deciding: dict[str, str]
    administering: dict[str, str]

    def predict(self, http: httpx.Client, number: int | str, **changes: Any) -> httpx.Response:
        return http.post("/v1/predict", json=payment(number) | changes, headers=self.deciding)

    def change(self, **fields: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/admin/policy", json={"why": "a test"} | fields, headers=self.administering)

    def metric(self, name: str) -> float:
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return float(next(line.rsplit(" ", 1)[1] for line in lines if line.startswith(f"{name} ")))


def payment(number: int | str) -> dict[str, Any]:
    return {
        "transaction_id": f"p-{number}", "user_id": USERS[0], "merchant_id": "m-1", "amount": 42.5, "currency": "EUR",
        "country": "DE", "timestamp": datetime.now(UTC).isoformat(),
    }  # fmt: skip


@pytest.fixture(scope="module")
def service(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    home = tmp_path_factory.mktemp("policy")
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
        fill_online_store(client)
    publish_small_model(home, version=7, seed=1)
    keys = [add_key(keys_path(home), name, [scope], datetime.now(UTC))[0] for name, scope in SCOPES.items()]
    deciding, administering = ({"authorization": f"Bearer {key}"} for key in keys)
    port = free_port()
    command = [sys.executable, "-m", "bentoml", "serve", "bento.service:FraudDetector", "--port", str(port)]
    environment = {
        **os.environ, "FRAUD_HOME": str(home), "FRAUD_REDIS_URL": redis_server, "BENTOML_HOME": str(home / "bentoml"),
        "FRAUD_SERVICE_WORKERS": str(WORKERS),
    }  # fmt: skip
    log = home / "service.log"
    with log.open("wb") as output:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + READY_SECONDS
        while len(list((home / "workers").glob("*.json"))) < WORKERS or not answers(f"{url}/readyz"):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield Service(url, home, deciding, administering)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


SCOPES: dict[str, Any] = {"shop": "decide", "operations": "admin"}


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


@dataclass
class Load:
    """Payments one after the other on connections of their own, each as (sent at, answered at, status, answer)."""

    service: Service
    seen: list[tuple[float, float, int, dict[str, Any]]] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    ending: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Load":
        self.threads = [threading.Thread(target=self._send, args=(name,)) for name in range(4)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        for thread in self.threads:
            thread.join(30)

    def _send(self, name: int) -> None:
        number = 0
        while not self.ending.is_set():
            # a new connection each twenty: whichever worker takes it
            with httpx.Client(base_url=self.service.url, timeout=10) as http:
                for _ in range(20):
                    number += 1
                    at = time.monotonic()
                    try:
                        response = self.service.predict(http, f"load-{name}-{number}")
                        self.seen.append((at, time.monotonic(), response.status_code, response.json()))
                    except (httpx.HTTPError, ValueError) as error:
                        self.failures.append(error)
                    time.sleep(0.005)


def test_every_change_is_in_force_within_two_seconds_and_no_payment_is_lost(service: Service) -> None:
    settings = Settings(home=service.home)
    changes: list[tuple[float, float, int]] = []
    """When each was asked for and made, and its version."""

    def by_file(**fields: Any) -> None:
        asked_at = time.monotonic()
        change = parse_change(json.dumps({"why": "by hand"} | fields).encode())
        record = change_policy(settings, change, "by hand", datetime.now(UTC))
        changes.append((asked_at, time.monotonic(), record.version))
        time.sleep(IN_FORCE_SECONDS + 0.5)

    def by_http(**fields: Any) -> None:
        asked_at = time.monotonic()
        response = service.change(**fields)
        assert response.status_code == 200, response.text
        changes.append((asked_at, time.monotonic(), response.json()["version"]))
        time.sleep(IN_FORCE_SECONDS + 0.5)

    me = {"kind": "user", "value": USERS[0]}
    with Load(service) as load:
        time.sleep(1)
        by_file(kill_switch="rules_only")
        by_http(kill_switch="allow_all")
        by_file(kill_switch="off", block_list_add=[me])
        by_http(block_list_remove=[me], allow_list_add=[me])
        by_http(allow_list_remove=[me], threshold=0.02, review_threshold=0.01)

    assert load.failures == []
    assert {status for _, _, status, _ in load.seen} == {200}
    expected = {
        1: {"score_below_threshold", "score_in_review_band", "score_above_threshold"},
        2: {"kill_switch_rules_only"},
        3: {"kill_switch_allow_all"},
        4: {"block_list"},
        5: {"allow_list"},
        6: {"score_above_threshold"},
    }
    assert [version for _, _, version in changes] == [2, 3, 4, 5, 6]
    for _, _, _, answer in load.seen:
        assert answer["reason"] in expected[answer["policy_version"]]
    ends = [asked_at for asked_at, _, _ in changes[1:]] + [time.monotonic()]
    for (_, made_at, version), end in zip(changes, ends, strict=True):
        settled = [each[3] for each in load.seen if made_at + IN_FORCE_SECONDS < each[0] and each[1] < end]
        assert len(settled) > 5
        assert {answer["policy_version"] for answer in settled} == {version}
    assert {answer["served_by"]["model"] for _, _, _, answer in load.seen} == {
        "champion",
        "rules",
        "kill_switch",
        "list",
    }
    assert service.metric("fraud_policy_version") == 6
    assert service.metric("fraud_kill_switch") == 0

    lines = [line for line in read_ledger(service.home) if line["what"] == "policy"]
    assert [(line["who"], line["to"]["version"]) for line in lines] == [
        ("first use", 1), ("by hand", 2), ("operations", 3), ("by hand", 4), ("operations", 5), ("operations", 6),
    ]  # fmt: skip
    replayed(service)


def replayed(service: Service) -> None:
    """Each decision follows from its record and the version that it names."""
    days = (datetime.now(UTC).date() - timedelta(days=back) for back in (1, 0))
    records = [record for day in days for record in read_spool(service.home, day)]
    kept = {version: read_policy(service.home, version) for version in {record.policy_version for record in records}}
    assert kept.keys() == {1, 2, 3, 4, 5, 6}
    for record in records:
        version = kept[record.policy_version]
        assert version
        again = decide(version.compiled(), record.score, record.request, record.amount, 2, record.received_at)
        assert again == (record.decision, record.reason)
        assert (record.threshold, record.review_threshold) == (version.threshold, version.review_threshold)


def test_only_an_admin_changes_the_policy_and_wrong_changes_are_named(service: Service) -> None:
    before = read_policy(service.home)
    assert before
    body = {"why": "x", "kill_switch": "allow_all"}
    url = f"{service.url}/v1/admin/policy"
    assert httpx.post(url, json=body).status_code == 401
    assert httpx.post(url, json=body, headers=service.deciding).status_code == 403
    for wrong, status, named in (
        ({"kill_switch": "on"}, 422, "kill_switch"),
        ({"review_threshold": 0.9}, 422, "review_threshold"),
        ({"why": ""}, 422, "why"),
        ({"treshold": 0.5}, 422, None),
        ({}, 422, None),
        ({"threshold": 0.5, "expected_version": before.version + 1}, 409, "expected_version"),
    ):
        response = service.change(**wrong)
        problem = response.json()
        assert (response.status_code, problem["status"], problem.get("field")) == (status, status, named), wrong
        assert response.headers["content-type"] == "application/problem+json"
    assert read_policy(service.home) == before


NAME = "Zoë-Kart"
SPELLINGS = {
    "trailing space": f"{NAME} ",
    "decomposed": unicodedata.normalize("NFD", NAME),
    "zero width": "Z\u200boë-Kart",
}


def test_no_spelling_evades_a_block(service: Service) -> None:
    """Nor, where the lists are set so, another case."""
    with httpx.Client(base_url=service.url, timeout=10) as http:

        def decided(number: str, **who: str) -> list[tuple[str, str | None]]:
            time.sleep(IN_FORCE_SECONDS)
            # both workers, whichever takes a connection
            answers = [service.predict(http, f"{number}-{n}", **who).json() for n in range(4)]
            return sorted({(answer["reason"], answer.get("listed")) for answer in answers})

        kinds = ("user", "merchant", "device")
        assert service.change(block_list_add=[{"kind": kind, "value": NAME} for kind in kinds]).status_code == 200
        time.sleep(IN_FORCE_SECONDS)
        for kind in kinds:
            for way, spelled in SPELLINGS.items():
                answer = service.predict(http, f"{kind} {way}", **{f"{kind}_id": spelled}).json()
                assert (answer["reason"], answer["listed"]) == ("block_list", kind), way
        shouted = {"user_id": NAME.upper(), "merchant_id": NAME.upper()}
        assert decided("exact", **shouted) == [("score_above_threshold", None)]
        assert service.change(list_matching="case").json()["list_matching"] == "case"
        assert decided("case", **shouted) == [("block_list", "user")]


def test_velocity_counts_one_user_however_the_id_is_written(service: Service) -> None:
    users = ["Frédéric", unicodedata.normalize("NFD", "Frédéric"), " Fré\u200bdéric", "FRÉDÉRIC"]
    with httpx.Client(base_url=service.url, timeout=10) as http:
        for number, user in enumerate(users):
            answer = service.predict(http, f"velocity-{number} ", user_id=user)
            assert answer.json()["transaction_id"] == f"p-velocity-{number}"
        # a retry in another spelling is the same payment
        again = service.predict(http, "\u2060velocity-0", user_id=users[1])
    assert again.status_code == 200
    days = (datetime.now(UTC).date() - timedelta(days=back) for back in (1, 0))
    records = {record.request.transaction_id: record for day in days for record in read_spool(service.home, day)}
    position = CATALOGUE.names.index("user_txn_count_1h")
    counted = [records[f"p-velocity-{number}"].values[position] for number in range(4)]
    # with the payment itself; another case is another user
    assert counted == [1, 2, 3, 1]


@pytest.mark.parametrize(
    ("path", "body", "key"),
    [
        ("/v1/predict", b'{"user_id": "a", "amount": 1, "user_id": "b"}', "user_id"),
        ("/v1/report", b'{"decision": "allow", "payment": {"amount": 1, "amount": 2}}', "amount"),
        ("/v1/predict/batch", b'{"payments": [{}], "payments": [{}]}', "payments"),
        ("/v1/admin/policy", b'{"why": "x", "kill_switch": "off", "kill_switch": "allow_all"}', "kill_switch"),
        ("/v1/admin/report", b'{"caller": "a", "caller": "b"}', "caller"),
    ],
)
def test_a_key_that_stands_twice_is_refused_by_name_on_every_route(
    service: Service, path: str, body: bytes, key: str
) -> None:
    who = service.administering if "admin" in path else service.deciding
    headers = {"content-type": "application/json", **who}
    whole = {
        "/v1/predict": json.dumps(payment("twice")).encode(),
        "/v1/report": json.dumps(
            {
                "decision_id": "0" * 32, "decided_at": datetime.now(UTC).isoformat(), "cause": "timeout",
                "reason": "service_unavailable_fallback",
            }
        ).encode(),
        "/v1/admin/report": json.dumps(
            {
                "decision_id": "0" * 32, "decided_at": datetime.now(UTC).isoformat(), "cause": "timeout",
                "decision": "allow", "reason": "service_unavailable_fallback", "payment": {},
            }
        ).encode(),
    }.get(path)  # fmt: skip
    content = body if whole is None else whole[:-1] + b", " + body[1:]
    response = httpx.post(f"{service.url}{path}", content=content, headers=headers)
    problem = response.json()
    assert (response.status_code, problem["field"], problem["detail"]) == (422, key, "stands twice in one object")
    assert response.headers["content-type"] == "application/problem+json"


def test_in_a_batch_a_key_that_stands_twice_concerns_its_payment_alone(service: Service) -> None:
    good, wrong = (json.dumps(payment(f"batch-{name}")) for name in ("good", "wrong"))
    content = f'{{"payments": [{good}, {wrong[:-1]}, "amount": 1}}]}}'.encode()
    headers = {"content-type": "application/json", **service.deciding}
    answers = httpx.post(f"{service.url}/v1/predict/batch", content=content, headers=headers).json()["answers"]
    assert [answer["status"] for answer in answers] == [200, 422]
    assert answers[1]["problem"]["field"] == "amount"


def test_a_broken_file_leaves_the_policy_in_force_and_is_counted(service: Service) -> None:
    path = current_file(service.home)
    good = path.read_bytes()
    with httpx.Client(base_url=service.url, timeout=10) as http:
        before = service.predict(http, "before-broken").json()["policy_version"]
        path.write_bytes(good[: len(good) // 2])
        try:
            deadline = time.monotonic() + 20
            while 'fraud_failures_total{stage="policy"}' not in http.get("/metrics").text:
                assert time.monotonic() < deadline
                time.sleep(0.2)
            answer = service.predict(http, "while-broken")
            assert (answer.status_code, answer.json()["policy_version"]) == (200, before)
            assert service.change(threshold=0.5).status_code == 503
        finally:
            path.write_bytes(good)
        changed = service.change(kill_switch="rules_only").json()["version"]
        time.sleep(IN_FORCE_SECONDS)
        answers = [service.predict(http, f"after-broken-{n}").json()["policy_version"] for n in range(5)]
        assert set(answers) == {changed}
        policy = http.get("/readyz").json()["checks"]["policy"]
        assert policy == {"ok": False, "version": changed, "kill_switch": "rules_only"}
        assert service.metric("fraud_kill_switch") == 1


def command(service: Service, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "FRAUD_HOME": str(service.home), "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-m", "fraud_platform.cli", *arguments], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def answered(service: Service, name: str) -> list[httpx.Response]:
    """Payments on connections of their own: each worker gets some."""
    found = []
    for number in range(20):
        with httpx.Client(base_url=service.url, timeout=10) as http:
            found.append(service.predict(http, f"{name}-{number}"))
    return found


def test_a_service_that_starts_begins_a_home(service: Service) -> None:
    assert (service.home / MARK).exists()


def test_a_command_says_that_a_change_is_in_force_once_every_worker_decides_by_it(service: Service) -> None:
    done = command(service, "policy", "kill-switch", "allow_all", "--why", "a test")
    answers = answered(service, "confirmed")
    assert done.returncode == 0, done.stderr
    said = re.fullmatch(r"policy (\d+) is in force in 2 of 2 workers after (\d\.\d) s\n", done.stdout)
    assert said, done.stdout
    assert {answer.json()["policy_version"] for answer in answers} == {int(said[1])}
    assert float(said[2]) < IN_FORCE_SECONDS
    again = command(service, "policy", "kill-switch", "allow_all", "--why", "again", "--json")
    told = json.loads(again.stdout)
    assert (told["version"], told["changed"], told["in_force"]) == (int(said[1]), False, True)
    assert sorted(worker["pid"] for worker in told["workers"]) == sorted(pids(service))


def pids(service: Service) -> list[int]:
    return [int(path.stem) for path in (service.home / "workers").glob("*.json")]


def test_a_worker_that_is_stopped_is_counted_and_named(service: Service) -> None:
    stopped = pids(service)[0]
    os.kill(stopped, signal.SIGSTOP)
    try:
        late = command(service, "policy", "kill-switch", "rules_only", "--why", "a test", "--wait", "2")
        assert late.returncode == 4, late.stdout
        assert "is kept" in late.stdout
        assert f"is in force in 1 of 2 workers after 2.0 s; worker {stopped} has not confirmed" in late.stderr
        told = json.loads(
            command(service, "policy", "kill-switch", "off", "--why", "a test", "--wait", "1", "--json").stdout
        )
        assert told["in_force"] is False
        assert [worker["pid"] for worker in told["workers"] if not worker["in_force"]] == [stopped]
    finally:
        os.kill(stopped, signal.SIGCONT)
    done = command(service, "policy", "set", "--threshold", "0.7", "--why", "a test")
    assert "2 of 2 workers" in done.stdout


def test_a_revoked_key_is_worthless_once_the_command_says_so(service: Service) -> None:
    made = command(service, "keys", "add", "passing", "--scope", "decide")
    key = made.stdout.strip()
    assert "is in force in 2 of 2 workers" in made.stderr
    passing = replace(service, deciding={"authorization": f"Bearer {key}"})
    assert {answer.status_code for answer in answered(passing, "before")} == {200}
    done = command(service, "keys", "revoke", key.split("_")[1])
    assert {answer.status_code for answer in answered(passing, "after")} == {401}
    assert "is in force in 2 of 2 workers" in done.stdout
