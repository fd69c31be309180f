"""Two services in two homes with one control store, under load: each change is in force in both within a second, and
they go on while the store is killed, paused and started again. `make soak`'s variable makes it 500 requests a second.

The tests are one story, told in order.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis
from control_kit import StoreServer, shared, store_server
from fault_kit import SOAK
from service_kit import USERS, fill_online_store, free_port, publish_small_model

from benchmarks.serving.load import Order, Result
from fraud_platform.control.schema import prepare
from fraud_platform.control.store import ControlStore
from fraud_platform.decision.policy_record import read_policy
from fraud_platform.model.ledger import read_ledger
from fraud_platform.settings import Settings

ROOT = Path(__file__).parents[2]
READY_SECONDS = 120
RATE = 250.0 if SOAK else 40.0
"""Payments a second for each service."""
IN_FORCE_SECONDS = 1.0 if SOAK else 2.0
"""Beside other tests the machine is not the services' own."""

pytestmark = [pytest.mark.timeout(600)]


class Home:
    """A home and its service."""

    def __init__(self, home: Path, control: str, redis_url: str, port: int) -> None:
        self.settings: Settings = shared(home, control)
        self.home, self.port = home, port
        self.environment = {
            **os.environ, "FRAUD_HOME": str(home), "FRAUD_REDIS_URL": redis_url, "FRAUD_CONTROL_URL": control,
            "BENTOML_HOME": str(home / "bentoml"), "OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1",
        }  # fmt: skip
        home.mkdir(parents=True)
        publish_small_model(home, version=7, seed=1)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False)
        self.log = home / "service.log"

    def start(self) -> None:
        command = [sys.executable, "-m", "bentoml", "serve", "bento.service:FraudDetector", "--port", str(self.port)]
        with self.log.open("ab") as output:
            self.server = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=output, stderr=output)

    def ready(self) -> httpx.Response | None:
        """What /readyz says; None while nobody answers."""
        assert self.server.poll() is None, self.log.read_text()[-3000:]
        try:
            return self.http.get("/readyz")
        except httpx.TransportError:
            return None

    def wait(self, status: int = 200) -> dict[str, Any]:
        until = time.monotonic() + READY_SECONDS
        while (answer := self.ready()) is None or answer.status_code != status or "control" not in answer.text:
            assert time.monotonic() < until, self.log.read_text()[-3000:]
            time.sleep(0.1)
        body: dict[str, Any] = answer.json()
        return body

    def wait_for_control(self, *, answers: bool) -> None:
        until = time.monotonic() + 30
        while (seen := self.ready()) is None or seen.json()["checks"]["control"]["ok"] is not answers:
            assert time.monotonic() < until, self.log.read_text()[-3000:]
            time.sleep(0.05)

    def decided(self, http: httpx.Client, name: str) -> dict[str, Any]:
        payment = {
            "transaction_id": name, "user_id": USERS[0], "merchant_id": "m-1", "amount": 42.5, "currency": "EUR",
            "country": "DE", "timestamp": datetime.now(UTC).isoformat(),
        }  # fmt: skip
        response = http.post("/v1/predict", json=payment)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def change(self, **fields: Any) -> int:
        """By HTTP; the version in force then."""
        response = self.http.post("/v1/admin/policy", json={"why": "a test"} | fields)
        assert response.status_code == 200, response.text
        return int(response.json()["version"])

    def command(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "fraud_platform.cli", *words], env=self.environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    def end(self) -> None:
        self.server.send_signal(signal.SIGTERM)
        self.server.wait(30)


@dataclass
class World:
    """Two homes with services and their store."""

    store: StoreServer
    owner: str
    """Address of the control store for its owner."""
    homes: tuple[Home, Home]
    redis_url: str


@pytest.fixture(scope="module")
def world(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("control")
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
        fill_online_store(client)
    with store_server(folder / "store") as store, ExitStack() as ending:
        owner = store.database()
        with psycopg.connect(owner, autocommit=True) as connection:
            connection.execute("CREATE ROLE service LOGIN")
        prepare(owner, ("service",))
        control = owner.replace("postgres@", "service@")
        made = [Home(folder / name, control, redis_server, free_port()) for name in ("one", "two")]
        for home in made:
            home.start()
            ending.callback(home.end)
        for home in made:
            home.wait()
            home.wait_for_control(answers=True)
        yield World(store, owner, (made[0], made[1]), redis_server)


@dataclass
class Traffic:
    """Load on both services, and a payment every few milliseconds whose policy is noted: (sent at, version)."""

    world: World
    seconds: float
    seen: dict[int, list[tuple[float, int]]] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    def __enter__(self) -> "Traffic":
        self.ending = threading.Event()
        self.began = time.monotonic()
        self.threads = [
            threading.Thread(target=work, args=(number,)) for number in (0, 1) for work in (self._load, self._probe)
        ]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(max(0.0, self.began + self.seconds - time.monotonic()))
        self.ending.set()
        for thread in self.threads:
            thread.join(self.seconds + 60)

    def _load(self, number: int) -> None:
        first = 10_000_000 * (1 + number) + time.time_ns() % 1_000_000
        order = Order(
            port=self.world.homes[number].port, rate=RATE, seconds=self.seconds, connections=8, seed=number, users=100,
            merchants=10, first=first,
        )  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.serving.load"], cwd=ROOT, input=json.dumps(asdict(order)) + "\n",
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        self.results.append(Result(**json.loads(done.stdout)))

    def _probe(self, number: int) -> None:
        home, seen = self.world.homes[number], self.seen.setdefault(number, [])
        with httpx.Client(base_url=home.http.base_url, timeout=10, trust_env=False) as http:
            while not self.ending.is_set():
                at = time.monotonic()
                try:
                    answer = home.decided(http, f"probe-{number}-{at}")
                    seen.append((at, answer["policy_version"]))
                except (httpx.HTTPError, AssertionError) as error:
                    self.failures.append(error)
                time.sleep(0.02)

    def check(self, changes: list[tuple[float, float, int]]) -> None:
        """Each change, as (asked for at, made at, version), was in force everywhere in time, and none failed."""
        assert self.failures == []
        assert [(result.errors, result.refused) for result in self.results] == [(0, 0), (0, 0)]
        assert all(result.answered == result.sent > 0 for result in self.results)
        ends = [asked_at for asked_at, _, _ in changes[1:]] + [time.monotonic()]
        for (_, made_at, version), end in zip(changes, ends, strict=True):
            for number, seen in self.seen.items():
                after = [found for at, found in seen if made_at + IN_FORCE_SECONDS < at < end - 0.2]
                assert len(after) > 3, "the next change came too soon to tell"
                assert set(after) == {version}, (number, version)


def test_both_begin_with_one_policy(world: World) -> None:
    one, two = world.homes
    assert read_policy(one.home) == read_policy(two.home)
    lines = [[line for line in read_ledger(home.home) if line["what"] == "policy"] for home in world.homes]
    assert lines[0] == lines[1]
    assert len(lines[0]) == 1


def test_a_command_in_one_home_says_that_the_workers_of_both_follow(world: World) -> None:
    one, two = world.homes
    done = one.command("policy", "kill-switch", "rules_only", "--why", "a test", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["version"], told["in_force"]) == (2, True)
    assert sorted("home" in worker for worker in told["workers"]) == [False, True]
    for home in world.homes:
        answer = home.decided(home.http, "after the switch")
        assert (answer["policy_version"], answer["reason"]) == (2, "kill_switch_rules_only")
    status = two.command("control", "status", "--json")
    assert status.returncode == 0, status.stderr
    found = json.loads(status.stdout)
    assert (found["policy"], found["policy_here"], found["changes"]) == (2, 2, 2)
    assert [worker["policy"] for worker in found["workers"]] == [2, 2]
    joined = two.command("control", "join", "--json")
    assert joined.returncode == 0, joined.stderr
    assert json.loads(joined.stdout) == {"done": []}
    history = two.command("policy", "history", "--json")
    assert [line["version"] for line in json.loads(history.stdout)] == [1, 2]


def test_a_worker_of_the_other_home_that_is_stopped_is_named(world: World) -> None:
    one, two = world.homes
    (pid,) = [int(path.stem) for path in (two.home / "workers").glob("*.json")]
    os.kill(pid, signal.SIGSTOP)
    try:
        done = one.command("policy", "set", "--threshold", "0.66", "--why", "a test", "--wait", "2")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert done.returncode == 4, done.stdout
    assert "is in force in 1 of 2 workers" in done.stderr
    assert f"worker {pid} of " in done.stderr
    assert str(two.home) in done.stderr


def test_every_change_is_in_force_in_both_under_load_and_through_the_store_s_death_and_pause(world: World) -> None:
    one, two = world.homes
    changes: list[tuple[float, float, int]] = []

    def changed(home: Home, **fields: Any) -> None:
        asked_at = time.monotonic()
        version = home.change(**fields)
        changes.append((asked_at, time.monotonic(), version))
        time.sleep(IN_FORCE_SECONDS + 0.7)

    me = {"kind": "user", "value": USERS[0]}
    with Traffic(world, 5 * (IN_FORCE_SECONDS + 0.7) + (30 if SOAK else 20)) as traffic:
        changed(one, kill_switch="off")
        changed(two, block_list_add=[me])
        world.store.kill()
        for home in world.homes:
            home.wait_for_control(answers=False)
        refused = two.http.post("/v1/admin/policy", json={"why": "a test", "threshold": 0.5})
        assert refused.status_code == 503
        assert {home.decided(home.http, "store away")["reason"] for home in world.homes} == {"block_list"}
        world.store.start()
        for home in world.homes:
            home.wait_for_control(answers=True)
        changed(two, block_list_remove=[me], kill_switch="allow_all")
        with world.store.paused():
            time.sleep(1)
            answers = [home.decided(home.http, "store paused") for home in world.homes]
            assert {answer["policy_version"] for answer in answers} == {changes[-1][2]}
        changed(one, threshold=0.6)
        changed(two, kill_switch="off")
    traffic.check(changes)

    with ControlStore.opened(world.owner) as store:
        stored = [change.document["version"] for change in store.since("policy", 0)]
    assert stored == list(range(1, changes[-1][2] + 1)), "nothing that was acknowledged is lost"
    lines = [[line for line in read_ledger(home.home) if line["what"] == "policy"] for home in world.homes]
    assert lines[0] == lines[1]
    assert [line["to"]["version"] for line in lines[0]] == stored


def test_without_the_store_a_service_starts_from_its_copy_and_without_a_copy_it_is_not_ready(
    world: World, tmp_path: Path
) -> None:
    one, two = world.homes
    version = one.change(kill_switch="rules_only")
    two.wait_for_control(answers=True)
    deadline = time.monotonic() + 10
    while (record := read_policy(two.home)) is None or record.version != version:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    two.end()
    new = Home(tmp_path / "new", two.environment["FRAUD_CONTROL_URL"], world.redis_url, free_port())
    world.store.kill()
    two.start()
    new.start()
    try:
        assert "control" in two.wait()["degraded"]
        answer = two.decided(two.http, "from the copy")
        assert (answer["policy_version"], answer["reason"]) == (version, "kill_switch_rules_only")
        assert new.wait(503)["ready"] is False
        assert read_policy(new.home) is None
        world.store.start()
        new.wait(200)
        assert new.decided(new.http, "the store is back")["policy_version"] == version
        assert read_policy(new.home) == read_policy(one.home)
    finally:
        new.end()
