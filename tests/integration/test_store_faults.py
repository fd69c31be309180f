"""The online store while its server hangs, dies, forgets or comes back: a real redis-server that the tests mistreat."""

import asyncio
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from service_kit import USERS, fill_online_store, free_port

from fraud_platform.decision.breaker import CircuitBreaker
from fraud_platform.decision.identity import Decisions
from fraud_platform.inference_log.record import DecisionRecord, decode_record, encode_record
from fraud_platform.online import recount as recount_module
from fraud_platform.online import velocity
from fraud_platform.online import wire as wire_module
from fraud_platform.online.embedded_redis import find_redis_server
from fraud_platform.online.ladder import DEFAULT, REDIS, Ladder
from fraud_platform.online.recount import Recount
from fraud_platform.online.store import OnlineFeatures, OnlineStore
from fraud_platform.online.wire import StoreError, Wire
from fraud_platform.schema import Transaction
from tests.record_kit import record
from tests.redis_kit import NO_RETRY, wait_for

DEADLINE = 0.05
HOUR_COUNT = [f.name for f in velocity.CATALOGUE.of("velocity")].index("user_txn_count_1h")


class Server:
    """A redis-server that keeps its data over a kill, as the embedded one does."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        options = {
            "port": self.port, "bind": "127.0.0.1", "save": "", "appendonly": "yes", "appendfsync": "everysec",
            "hash-max-ziplist-value": 256, "dir": self.folder,
        }  # fmt: skip
        command = [
            str(find_redis_server()),
            *(text for name, value in options.items() for text in (f"--{name}", f"{value}")),
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        with self.client as client:
            wait_for(client)

    @property
    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=5, retry=NO_RETRY)

    def send(self, signal_number: int) -> None:
        assert self.process is not None
        self.process.send_signal(signal_number)

    def wait(self) -> None:
        assert self.process is not None
        self.process.wait(20)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "redis"
    folder.mkdir()
    server = Server(folder)
    fill_online_store(server.client)
    # what was written a moment ago may be lost in a kill: end and begin properly once
    server.send(signal.SIGTERM)
    server.wait()
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
async def store(server: Server, tmp_path: Path) -> AsyncIterator[OnlineStore]:
    store = OnlineStore(server.url, ttl_days=3, deadline=DEADLINE, recount=Recount(tmp_path / "recount"))
    await store.open()
    yield store
    await store.close()


def payment(transaction_id: str) -> Transaction:
    now = time.time_ns() // 1_000
    return Transaction(
        transaction_id=transaction_id, user_id=USERS[0], merchant_id="m-1", amount=100, event_time=now,
        received_at=now, country="DE", user_country=None, merchant_category=None, channel=None, device_key=None,
        latitude=None, longitude=None, clock_skew=False,
    )  # fmt: skip


async def read(store: OnlineStore, transaction_id: str, **options: Any) -> OnlineFeatures:
    return await store.read(payment(transaction_id), **{"caller": "c", "claim": b"claim:x", **options})


async def until(happened: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def counted(store: OnlineStore) -> float:
    """Attempts of the last hour, this one not among them."""
    features = await read(store, "looking", write=False, claim=b"")
    return float(features.velocity[HOUR_COUNT]) - 1


@pytest.mark.alone
async def test_a_server_that_hangs_fails_a_read_at_its_deadline_and_loses_no_attempt(
    server: Server, store: OnlineStore
) -> None:
    await read(store, "t-0")
    server.send(signal.SIGSTOP)
    waited = []
    for n in range(1, 6):
        began = time.monotonic()
        with pytest.raises(StoreError):
            await read(store, f"t-{n}")
        waited.append(time.monotonic() - began)
    server.send(signal.SIGCONT)
    assert max(waited) < 3 * DEADLINE
    await until(lambda: store.connected)
    assert await counted(store) == 6


@pytest.mark.alone
async def test_a_killed_server_fails_reads_at_once_and_attempts_of_the_outage_are_counted_when_it_is_back(
    server: Server, store: OnlineStore
) -> None:
    await read(store, "t-0")
    server.kill()
    await until(lambda: not store.connected)
    for n in range(1, 21):
        began = time.monotonic()
        with pytest.raises(StoreError):
            await read(store, f"t-{n}")
        assert time.monotonic() - began < DEADLINE
    server.start()
    await until(lambda: store.connected)
    # t-0 too: the server may have died before it wrote it through
    assert await counted(store) == 21
    again = await read(store, "t-7")
    assert again.duplicate
    assert await counted(store) == 21


async def test_an_attempt_in_the_very_turn_of_a_loss_is_kept_and_counted(server: Server, store: OnlineStore) -> None:
    await read(store, "t-0")
    link = store._server._wire._link
    assert link is not None
    link.abort("lost")
    # whoever keeps the connection has not had its turn yet
    assert not store.connected
    store.count_later(payment("t-1"), caller="c", claim=b"claim:x")
    with pytest.raises(StoreError):
        await read(store, "t-2")
    await until(lambda: store.connected)
    assert await counted(store) == 3


async def test_a_decision_of_the_outage_stands_when_the_server_is_back(server: Server, store: OnlineStore) -> None:
    marks: list[DecisionRecord] = []
    decisions = Decisions(store, lambda: time.time_ns() // 1_000, marks.append, lambda: None)
    settling = asyncio.create_task(decisions.run())
    server.kill()
    await until(lambda: not store.connected)
    told = [record("t-1"), record("t-2")]
    kept, _ = await decisions.settle(told[0], encode_record(told[0]))
    assert kept.unsettled
    decisions.settle_later(told[1])
    with pytest.raises(StoreError):
        await store.find("default", "t-1")
    server.start()
    await until(lambda: store.connected and decisions.unsettled == 0)
    found = [await store.find("default", name) for name in ("t-1", "t-2", "t-3")]
    assert [None if each is None else decode_record(each).decision_id for each in found] == [
        told[0].decision_id, told[1].decision_id, None,
    ]  # fmt: skip
    assert marks == []
    settling.cancel()


async def test_a_record_is_replaced_only_by_who_names_it(server: Server, store: OnlineStore) -> None:
    assert await store.settle("c", "t-1", b"one") == b"one"
    assert await store.settle("c", "t-1", b"two") == b"one"
    assert await store.settle("c", "t-1", b"two", replacing=b"three") == b"one"
    assert await store.settle("c", "t-1", b"two", replacing=b"one") == b"two"
    assert await store.find("c", "t-1") == b"two"


async def test_what_stands_is_told_without_any_feature_being_read(server: Server, store: OnlineStore) -> None:
    paid = payment("t-1")
    first = await store.count(paid, caller="c", claim=b"claim:x")
    assert (first.standing, first.user_effective_time) == (b"", paid.event_time)
    await store.settle("c", "t-1", b"a record")
    assert (await store.count(paid, caller="c", claim=b"claim:x")).standing == b"a record"
    assert await counted(store) == 1


async def test_the_first_claim_stands_and_another_body_counts_nowhere(server: Server, store: OnlineStore) -> None:
    first = await read(store, "t-1", claim=b"claim:one")
    assert 24 * 3600 - 5 <= server.client.ttl("fraud:decision:c:t-1") <= 24 * 3600
    same = await read(store, "t-1", claim=b"claim:one")
    other = await store.read(replace_amount(payment("t-1")), caller="c", claim=b"claim:two")
    assert (first.standing, same.standing, other.standing) == (b"", b"claim:one", b"claim:one")
    assert (first.duplicate, same.duplicate) == (False, True)
    assert await counted(store) == 1
    assert await store.settle("c", "t-1", b"first") == b"first"
    assert await store.settle("c", "t-1", b"second") == b"first"
    assert (await read(store, "t-1", claim=b"claim:two")).standing == b"first"


def replace_amount(transaction: Transaction) -> Transaction:
    return msgspec.structs.replace(transaction, amount=7, user_id=USERS[1])


async def test_a_server_that_lost_its_scripts_gets_them_and_what_it_refused_without_them(
    server: Server, store: OnlineStore
) -> None:
    server.client.script_flush()
    with pytest.raises(StoreError, match="NOSCRIPT"):
        await read(store, "t-1")
    await until(lambda: store.connected)
    assert await counted(store) == 1
    await read(store, "t-1")
    assert await counted(store) == 1


async def test_a_server_that_lost_everything_owns_up_to_it(server: Server, store: OnlineStore) -> None:
    before = await read(store, "t-1")
    server.client.flushall()
    lost = await read(store, "t-2")
    after = await read(store, "t-3")
    assert lost.epoch is None
    assert after.epoch not in (None, before.epoch)
    assert (lost.served_by["user_features"], str(after.velocity[HOUR_COUNT])) == ("default", "nan")


async def test_a_worker_that_died_in_an_outage_makes_the_others_begin_a_new_epoch(
    server: Server, store: OnlineStore, tmp_path: Path
) -> None:
    before = await read(store, "t-1")
    server.kill()
    await until(lambda: not store.connected)
    # as a worker leaves it that is killed while attempts of its own wait
    (tmp_path / "recount").mkdir(exist_ok=True)
    (tmp_path / "recount" / "uncounted-1-dead").touch()
    server.start()
    await until(lambda: store.connected)
    after = await read(store, "t-2")
    assert before.epoch == "test"
    assert after.epoch not in (None, "test")
    assert list((tmp_path / "recount").iterdir()) == []


async def test_more_attempts_than_are_kept_begin_a_new_epoch(
    server: Server, store: OnlineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recount_module, "MOST", 10)
    await read(store, "t-0")
    server.kill()
    await until(lambda: not store.connected)
    for n in range(1, 30):
        store.count_later(payment(f"t-{n}"), caller="c", claim=b"claim:x")
    server.start()
    await until(lambda: store.connected)
    assert (await read(store, "t-99")).epoch not in (None, "test")


@pytest.mark.alone
async def test_the_ladder_never_fails_and_leaves_a_dead_store_alone(server: Server, store: OnlineStore) -> None:
    failures: list[str] = []
    breaker = CircuitBreaker("redis", time.monotonic, pause=0.3)
    ladder = Ladder(store, breaker, lambda rung, _: failures.append(rung))

    async def served(name: str) -> str:
        features = await ladder.read(payment(name), caller="c", write=True, claim=b"claim:x")
        return features.served_by["user_features"]

    assert await served("t-0") == REDIS
    server.send(signal.SIGSTOP)
    began = time.monotonic()
    assert [await served(f"t-{n}") for n in range(1, 101)] == [DEFAULT] * 100
    assert time.monotonic() - began < 8 * 1.5 * DEADLINE
    assert failures == [REDIS] * len(failures)
    assert 5 <= len(failures) <= 7
    server.send(signal.SIGCONT)
    await until(lambda: store.connected)
    await asyncio.sleep(0.35)
    assert await served("t-101") == REDIS
    assert breaker.state == "closed"
    assert await counted(store) == 102


async def test_waves_of_one_turn_go_out_together_and_replies_find_their_askers(redis_url: str) -> None:
    wire = Wire(redis_url, deadline=5)
    await wire.open()
    replies = await asyncio.gather(*(wire.ask(b"ECHO", b"%d" % n) for n in range(5_000)))
    assert replies == [b"%d" % n for n in range(5_000)]
    await wire.close()
    with pytest.raises(StoreError):
        await wire.ask(b"PING")


async def test_a_wire_without_a_server_opens_and_says_so_at_once() -> None:
    wire = Wire(f"redis://127.0.0.1:{free_port()}/0", deadline=0.05)
    await wire.open()
    assert not wire.ready
    with pytest.raises(StoreError, match="no connection"):
        wire.send(b"", 1)
    await wire.close()


async def test_what_a_long_outage_has_left_is_delivered_however_long_that_takes(
    server: Server, store: OnlineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.kill()
    await until(lambda: not store.connected)
    for n in range(12_000):
        store.count_later(payment(f"t-{n}"), caller="c", claim=b"claim:x")
    # shorter than delivering takes: what bounds connecting must not bound that
    monkeypatch.setattr(wire_module, "_CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(recount_module, "AT_RISK_US", 100_000)
    server.start()
    began = time.monotonic()
    await until(lambda: store.connected, 30)
    assert time.monotonic() - began > 0.2
    assert await counted(store) == 12_000
