"""A champion on fifty features and a challenger on fifty-one, side by side on the same payments: one worker reads what
both need in one wave, and each model sees its own vector. Real Redis and the real online store; at the end a real
service, with PostgreSQL, through a release's whole life."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psycopg
import pyarrow as pa
import pytest
import redis
from fault_kit import Plant
from service_kit import FEATURE_VALUE, MERCHANTS, USERS, fill_online_store, load_view, publish_small_model, small_model
from test_service_identity import NOON, Worker, body
from typer.testing import CliRunner

from fraud_platform.audit.day import replay_decisions
from fraud_platform.cli.release import app
from fraud_platform.decision.arms import Challenger
from fraud_platform.decision.serving_model import OtherFeaturesError, ServingModel, load_to_serve, recorded_values
from fraud_platform.decision.workers import WorkerNote, confirm
from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.inference_log.record import DecisionRecord, Seen, vector_bytes
from fraud_platform.inference_log.search import decisions_of
from fraud_platform.inference_log.spool import read_spool
from fraud_platform.inference_log.table import LogTable
from fraud_platform.lake import open_lake
from fraud_platform.model import release
from fraud_platform.model.bundle import Bundle, BundleError, publish
from fraud_platform.model.ledger import Change, append_change
from fraud_platform.model.release import Reason
from fraud_platform.model.served_sets import retired_sets
from fraud_platform.online.cold_writer import RECORDS, create_like, put_cold_in_force, write_cold
from fraud_platform.online.embedded_postgres import ensure_postgres
from fraud_platform.online.other_views import delete_unread, delete_unread_cold, other_views
from fraud_platform.online.packed import PROJECT, VIEWS, packed_view, views_of
from fraud_platform.online.snapshot_load import SNAPSHOT_TABLES, load_snapshot_direct, pack, put_in_force
from fraud_platform.online.writer import write_packed

pytestmark = [pytest.mark.timeout(300)]

DAY = datetime.fromtimestamp(NOON / 1e6, UTC).date()
NEW = replace(CATALOGUE.features[CATALOGUE.position["user_merchants_30d"]], name="user_merchants_7d", window="7d")
AT = len(CATALOGUE.of("user"))
FIFTY_ONE = Catalogue((*CATALOGUE.of("user"), NEW, *CATALOGUE.features[AT:]))
NEW_VALUE = 33.0


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def load_both(client: redis.Redis) -> None:
    """Each version's platform loads its own views, one after the other."""
    fill_online_store(client)
    load_wider(client)


def load_wider(client: redis.Redis) -> None:
    load_view(client, packed_view("user", FIFTY_ONE), USERS, user_merchants_7d=NEW_VALUE)


@pytest.fixture
def home(tmp_path: Path, client: redis.Redis) -> Path:
    """A champion on fifty, and a challenger that decides by the fifty-first above all."""
    load_both(client)
    publish_small_model(tmp_path, version=1, seed=1)
    _, bundle = small_model(version=2, seed=2, deciding=NEW.name, catalogue=FIFTY_ONE)
    bundle.write(tmp_path / "releases" / bundle.name)
    return tmp_path


def records(home: Path) -> dict[str, DecisionRecord]:
    return {record.request.transaction_id: record for record in read_spool(home, DAY)}


async def decide(worker: Worker, names: list[str]) -> None:
    answers = await asyncio.gather(
        *(
            worker.engine.decide(body(transaction_id=name, user_id=USERS[n % 3], amount=10 + n), "default")
            for n, name in enumerate(names)
        )
    )
    assert {answer.status for answer in answers} == {200}


class Again:
    """Releases loaded anew, which give the score of a record's very vectors."""

    def __init__(self, home: Path) -> None:
        self.models = {n: load_to_serve(home / "releases" / f"fraud-detector-{n}") for n in (1, 2)}

    def differs(self, seen: DecisionRecord | Seen, version: str, score: float | None) -> bool:
        """Whether a recorded score of a model, by its version, is not what it gives again."""
        number = int(version.rpartition("/")[2])
        assert seen.catalogue_hash == (CATALOGUE, FIFTY_ONE)[number - 1].hash
        return score != self.models[number].probability(seen.values)


@pytest.mark.parametrize("computed", [CATALOGUE, FIFTY_ONE], ids=["code of 50", "code of 51"])
async def test_both_models_score_each_payment_by_their_own_vectors_through_loads_promotion_and_roll_back(
    home: Path, redis_url: str, client: redis.Redis, computed: Catalogue
) -> None:
    worker = Worker(home, redis_url, "both", 1, computed)
    await worker.store.open()
    champion = worker.engine.model
    challenger = load_to_serve(home / "releases" / "fraud-detector-2", computed)
    assert champion is not None
    loading, stop = [0], threading.Event()

    def load() -> None:
        while not stop.is_set():
            load_both(client)
            loading[0] += 1

    thread = threading.Thread(target=load)
    thread.start()
    try:
        stages: list[tuple[str, ServingModel, Challenger | None]] = [
            ("shadow", champion, Challenger(challenger, 0.0)),
            ("canary", champion, Challenger(challenger, 0.5)),
            ("promoted", challenger, None),
            ("rolled back", champion, Challenger(challenger, 0.0)),
            ("retired", champion, None),
        ]
        for stage, model, rival in stages:
            worker.engine.model, worker.engine.challenger = model, rival
            await decide(worker, [f"{stage}-{n}" for n in range(60)])
    finally:
        stop.set()
        thread.join()
        await worker.close()
    assert loading[0] > 1
    assert worker.meter.failures == {}

    found = records(home)
    assert len(found) == 5 * 60
    differences, again = 0, Again(home)
    for name, record in found.items():
        assert not record.degraded, name
        differences += again.differs(record, record.model_version, record.score)
        both = [record] if record.other_seen is None else [record, record.other_seen]
        assert (record.other_version is None) == (len(both) == 1), name
        if record.other_version is not None:
            assert record.other_seen is not None
            assert not record.other_seen.degraded
            differences += again.differs(record.other_seen, record.other_version, record.other_score)
        for seen in both:
            assert set(seen.values[:AT].tolist()) == {FEATURE_VALUE}
            if seen.catalogue_hash == FIFTY_ONE.hash:
                assert seen.values[AT] == NEW_VALUE, name
        if len(both) == 2:
            # what is no set's, velocity above all, was read once for both
            wider, fifty = sorted((seen.values for seen in both), key=len, reverse=True)
            np.testing.assert_array_equal(np.delete(wider, AT), fifty)
    assert differences == 0
    arms = {record.arm for name, record in found.items() if name.startswith("canary")}
    assert arms == {"champion", "challenger"}
    assert all(record.other_score is not None for name, record in found.items() if name.startswith("shadow"))
    assert {record.model_version for name, record in found.items() if name.startswith("promoted")} == {
        "fraud-detector/2"
    }


async def test_models_of_one_set_are_read_for_once(home: Path, redis_url: str) -> None:
    publish_small_model(home, version=3, seed=3)
    worker = Worker(home, redis_url, "one", 1)
    await worker.store.open()
    other = load_to_serve(home / "releases" / "fraud-detector-3")
    worker.engine.challenger = Challenger(other, 0.0)
    try:
        assert len(worker.store.sets) == 1
        await decide(worker, ["t"])
    finally:
        await worker.close()
    record = records(home)["t"]
    assert record.other_version == "fraud-detector/3"
    assert record.other_seen is None
    assert record.other_score == other.probability(record.values)


async def test_what_one_set_lacks_falls_back_for_its_model_alone(
    home: Path, redis_url: str, client: redis.Redis
) -> None:
    users, _ = views_of(FIFTY_ONE)
    client.delete(f"fraud:snapshot:{users.name}")
    worker = Worker(home, redis_url, "both", 1)
    await worker.store.open()
    challenger = load_to_serve(home / "releases" / "fraud-detector-2")
    try:
        worker.engine.challenger = Challenger(challenger, 0.0)
        await decide(worker, ["shadow"])
        worker.engine.challenger = Challenger(challenger, 1.0)
        await decide(worker, ["canary"])
    finally:
        await worker.close()
    found = records(home)
    shadow, canary = found["shadow"], found["canary"]
    assert (shadow.degraded, shadow.other_degraded) == (False, True)
    assert (canary.degraded, canary.other_degraded) == (True, False)
    assert canary.served_by.user_features == "default"
    assert canary.served_by.merchant_features == "redis", "a view that both have is read for both"
    assert shadow.other_seen is not None
    assert shadow.other_seen.user_features == "default"
    again = Again(home)
    for record in (shadow, canary):
        assert record.other_seen is not None
        assert not again.differs(record, record.model_version, record.score)
        assert not again.differs(record.other_seen, str(record.other_version), record.other_score)


async def test_a_payment_under_way_while_the_sets_change_is_decided_by_what_was_read_for_it(
    home: Path, redis_url: str
) -> None:
    worker = Worker(home, redis_url, "swapped", 1)
    await worker.store.open()
    champion, challenger = worker.engine.model, load_to_serve(home / "releases" / "fraud-detector-2")
    try:
        for number in range(30):
            asked = asyncio.create_task(decide(worker, [f"swapped-{number}"]))
            for _ in range(number % 6):
                await asyncio.sleep(0)
            worker.engine.model = challenger if number % 2 else champion
            worker.engine.challenger = Challenger(challenger, 0.0) if number % 3 else None
            await asked
    finally:
        await worker.close()
    assert worker.meter.failures == {}
    again = Again(home)
    for record in records(home).values():
        assert record.score is not None
        assert not again.differs(record, record.model_version, record.score)


async def test_a_service_of_each_set_decides_beside_the_other_on_one_redis(
    home: Path, redis_url: str, client: redis.Redis
) -> None:
    fifty, wider = Worker(home, redis_url, "fifty", 1), Worker(home, redis_url, "wider", 2, FIFTY_ONE)
    for worker in (fifty, wider):
        await worker.store.open()
    try:
        for n in range(20):
            (fill_online_store if n % 2 else load_wider)(client)
            await decide(fifty, [f"fifty-{n}"])
            await decide(wider, [f"wider-{n}"])
    finally:
        for worker in (fifty, wider):
            await worker.close()
    for name, record in records(home).items():
        assert not record.degraded, name
        width, of = (50, CATALOGUE) if name.startswith("fifty") else (51, FIFTY_ONE)
        assert (len(record.values), record.catalogue_hash) == (width, of.hash)
        assert set(record.values[:AT].tolist()) == {FEATURE_VALUE}


async def test_a_decision_is_explained_by_any_service_that_has_the_release(home: Path, redis_url: str) -> None:
    fifty, wider = Worker(home, redis_url, "fifty", 1), Worker(home, redis_url, "wider", 2, FIFTY_ONE)
    for worker in (fifty, wider):
        await worker.store.open()
    try:
        await decide(fifty, ["of-fifty"])
        await decide(wider, ["of-wider"])
        told = {
            (name, who): await worker.engine.explain(json.dumps({"transaction_id": name}).encode(), "default")
            for name in ("of-fifty", "of-wider")
            for who, worker in (("fifty", fifty), ("wider", wider))
        }
        what_if = await wider.engine.explain(body(transaction_id="what-if"), "default")
    finally:
        for worker in (fifty, wider):
            await worker.close()
    assert {answer.status for answer in (*told.values(), what_if)} == {200}
    for name in ("of-fifty", "of-wider"):
        assert told[name, "fifty"].body == told[name, "wider"].body
    named = {one["feature"] for one in json.loads(told["of-wider", "fifty"].body)["contributions"]}
    assert NEW.name in named


def former(record: DecisionRecord) -> DecisionRecord:
    """As a service decided by a model of fifty that built the vectors of its own, wider set alone."""
    values = np.insert(record.values, AT, np.float32(NEW_VALUE))
    return msgspec.structs.replace(record, schema_version=3, catalogue_hash=FIFTY_ONE.hash, vector=vector_bytes(values))


async def test_a_record_of_a_wider_vector_is_read_where_that_set_is_known_and_nowhere_else(
    home: Path, redis_url: str
) -> None:
    worker = Worker(home, redis_url, "fifty", 1)
    await worker.store.open()
    try:
        await decide(worker, ["t"])
    finally:
        await worker.close()
    record = records(home)["t"]
    model = load_to_serve(home / "releases" / "fraud-detector-1")
    own = model.builder.catalogue
    np.testing.assert_array_equal(recorded_values(former(record), model.features, own, FIFTY_ONE), record.values)
    with pytest.raises(OtherFeaturesError, match=FIFTY_ONE.hash):
        recorded_values(former(record), model.features, own)


async def test_without_its_views_the_wider_set_stands_on_its_defaults_and_the_fifty_go_on(
    home: Path, redis_url: str, client: redis.Redis
) -> None:
    user_view, _ = views_of(FIFTY_ONE)
    client.delete(f"fraud:snapshot:{user_view.name}")
    fifty, wider = Worker(home, redis_url, "fifty", 1), Worker(home, redis_url, "wider", 2, FIFTY_ONE)
    for worker in (fifty, wider):
        await worker.store.open()
    try:
        await decide(fifty, ["fifty"])
        await decide(wider, ["wider"])
    finally:
        for worker in (fifty, wider):
            await worker.close()
    found = records(home)
    assert not found["fifty"].degraded
    assert found["wider"].served_by.user_features == "default"
    assert found["wider"].served_by.merchant_features == "redis"


def test_a_service_of_fifty_refuses_a_wider_model_that_does_not_state_its_set(home: Path) -> None:
    document = home / "releases" / "fraud-detector-2" / "bundle.json"
    stated = json.loads(document.read_text())
    del stated["definitions"]
    document.write_text(json.dumps(stated))
    (document.parent / "SHA256SUMS").unlink()
    with pytest.raises(BundleError, match=r"not computed here \(\['user_merchants_7d'\]\)"):
        Bundle.load(document.parent)


def test_an_entity_s_row_holds_both_sets_and_costs_their_sum(home: Path, client: redis.Redis) -> None:
    keys = [key for key in client.scan_iter() if b"user_id" in key]
    assert len(keys) == len(USERS)
    both: Any = sum(client.memory_usage(key) for key in keys)
    client.flushall()
    fill_online_store(client)
    alone: Any = sum(client.memory_usage(key) for key in keys)
    assert 0 < both - alone < 1.2 * alone
    assert client.dbsize() >= len(USERS) + len(MERCHANTS)


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    """A service of fifty with two workers, Redis and PostgreSQL, whose champion is the first release of its home."""
    made = Plant(tmp_path_factory.mktemp("served") / "home")
    try:
        append_change(made.home, Change(at=datetime.now(UTC), who="a test", why="first", to="fraud-detector-1"))
        made.wait(lambda: len(made.worker_pids()) == 2)
        yield made
    finally:
        made.end()


class Loads(threading.Thread):
    """Loads both sets' views over and over, in both stores, each as its own platform does."""

    def __init__(self, plant: Plant) -> None:
        super().__init__()
        self._settings = plant.settings
        self._redis_url = f"redis://127.0.0.1:{plant.redis.port}/0"
        lake = open_lake(plant.settings)
        self._lake, self.day = lake, lake.days(SNAPSHOT_TABLES["user"])[-1]
        rows = lake.read(SNAPSHOT_TABLES["user"], self.day)
        wider = rows.append_column(NEW.name, pa.array([NEW_VALUE] * rows.num_rows, pa.float32()))
        self.view = packed_view("user", FIFTY_ONE)
        self._wider = pack(wider, self.view)
        self.count = 0
        self.stop = threading.Event()
        self.failed: list[BaseException] = []

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                self.once()
                self.count += 1
        except BaseException as error:
            self.failed.append(error)
            raise

    def once(self) -> None:
        medians: list[float | None] = [FEATURE_VALUE] * len(self.view.names)
        with redis.Redis.from_url(self._redis_url) as client:
            for view in VIEWS:
                load_snapshot_direct(client, self._lake, view, self.day, now=now, ttl_seconds=86_400)
            write_packed(client, PROJECT, self.view, self._wider, ttl_seconds=86_400)
            record = put_in_force(
                client, self.view, self.day, medians, self._wider.num_rows, now(), now, b"",
                catalogue_hash=FIFTY_ONE.hash,
            )  # fmt: skip
        with psycopg.connect(ensure_postgres(self._settings), autocommit=True) as connection:
            create_like(connection, PROJECT, self.view)
            write_cold(connection, PROJECT, self.view, self._wider)
            put_cold_in_force(connection, record)


def now() -> int:
    return time.time_ns() // 1_000


def test_a_real_service_serves_two_sets_through_shadow_canary_promotion_roll_back_and_retirement(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, home, reason = made_wider(plant), plant.home, Reason(who="a test", why="to see it")
    champion, challenger = "fraud-detector-1", "fraud-detector-2"

    def at() -> datetime:
        return datetime.now(UTC)

    def promote() -> None:
        publish(home, made)
        append_change(home, Change(at=at(), who="a test", why="promoted", to=challenger))

    def retired() -> None:
        release.retire(home, challenger, reason, at())
        loads.stop.set()
        loads.join()
        gone = {other.view.name for other in other_views(retired_sets(home))}
        assert gone == {loads.view.name}
        with redis.Redis.from_url(f"redis://127.0.0.1:{plant.redis.port}/0") as client:
            assert delete_unread(client, 3, now(), gone) == [loads.view.name]
        with psycopg.connect(ensure_postgres(plant.settings), autocommit=True) as connection:
            assert delete_unread_cold(connection, 3, now(), gone) == [loads.view.name]

    stages: list[tuple[str, Any, str, str | None]] = [
        ("shadow", lambda: release.challenge(home, made, reason, at()), champion, challenger),
        ("canary", lambda: release.ramp(home, challenger, 0.5, reason, at()), champion, challenger),
        ("promoted", promote, challenger, None),
        ("back", lambda: release.return_to(home, release.champion_before(home), reason, at()), champion, None),
        ("again", lambda: release.challenge(home, made, reason, at(), again=True), champion, challenger),
        ("out", lambda: release.roll_back(home, challenger, reason, at()), champion, None),
        ("retired", retired, champion, None),
    ]
    loads = Loads(plant)
    loads.once()
    loads.start()
    spans: dict[str, tuple[int, int]] = {}
    try:
        for name, change, decides, beside in stages:
            # it comes while payments do
            load = plant.load(2.5, 60)
            change()

            wait_until_followed(plant, decides, beside)
            # the weight of a challenger is taken within a second
            time.sleep(1.0 if name == "canary" else 0.0)
            began = now()
            result = plant.result(load)
            assert (result.causes, result.refused, result.answered) == ({}, 0, result.sent), name
            plant.result(plant.load(1, 60))
            spans[name] = began, now()
            if name == "shadow":
                assert plant.ready()["checks"]["snapshots"][loads.view.name] == loads.day.isoformat()
                assert shown(monkeypatch, plant)["views"] == [
                    {
                        "view": loads.view.name, "set_hash": FIFTY_ONE.hash, "snapshot": None, "rows": 0,
                        "redis_bytes": 0, "in_force": loads.day.isoformat(),
                    }
                ]  # fmt: skip
    finally:
        loads.stop.set()
        loads.join()
    assert not loads.failed
    assert loads.count > 5
    assert shown(monkeypatch, plant)["views"] == []
    assert plant.metric('fraud_failures_total{stage="predict"}') == 0, plant.log.read_text()[-3000:]
    assert plant.metric("fraud_rows_refused_total") == 0

    lake = open_lake(plant.settings)
    found = list(decisions_of(home, LogTable(lake), at().date()))
    by_stage = {
        name: [record for record in found if began <= record.received_at <= ended]
        for name, (began, ended) in spans.items()
    }
    # where the machine stalls for longer than a payment's budget, no model is asked
    arms = {
        name: {(record.model_version, record.other_version) for record in those if record.score is not None}
        for name, those in by_stage.items()
    }
    one, two = "fraud-detector/1", "fraud-detector/2"
    assert arms == {
        "shadow": {(one, two)}, "canary": {(one, two), (two, one)}, "promoted": {(two, None)}, "back": {(one, None)},
        "again": {(one, two)}, "out": {(one, None)}, "retired": {(one, None)},
    }  # fmt: skip
    sets = {one: CATALOGUE.hash, two: FIFTY_ONE.hash}
    for record in found:
        if record.score is not None:
            assert record.catalogue_hash == sets[record.model_version]
            assert record.other_catalogue_hash == (sets[record.other_version] if record.other_version else None)
    whole = [record for record in found if not record.degraded]
    # enough to say something of; that each payment was answered is held above, however busy the machine
    assert len(whole) > len(found) / 2
    for record in whole:
        # one wave brought both
        assert not record.other_degraded
        for seen in filter(None, (record, record.other_seen)):
            if seen.catalogue_hash == FIFTY_ONE.hash:
                assert seen.values[AT] == NEW_VALUE
    report = replay_decisions(plant.settings, lake, at().date())
    assert (report.decisions, report.decisions_differing, report.not_kept) == (len(found), 0, {}), report.examples
    scored_by_both = sum(record.other_score is not None for record in found)
    assert scored_by_both > 300


def made_wider(plant: Plant) -> Path:
    """The folder of a bundle on fifty-one features."""
    _, bundle = small_model(version=2, seed=2, deciding=NEW.name, catalogue=FIFTY_ONE)
    bundle.write(plant.home / "made-2")
    return plant.home / "made-2"


def wait_until_followed(plant: Plant, champion: str, challenger: str | None) -> None:
    def follows(note: WorkerNote) -> bool:
        return ((note.model_version or "").replace("/", "-"), note.challenger) == (champion, challenger)

    confirmed = confirm(plant.home, follows, 20)
    assert (len(confirmed.following), confirmed.late) == (2, [])


def test_what_may_not_be_read_of_the_challenger_s_view_comes_from_the_next_rung_for_it_alone(plant: Plant) -> None:
    home, reason = plant.home, Reason(who="a test", why="to see it")
    release.challenge(home, made_wider(plant), reason, datetime.now(UTC), again=True)
    wait_until_followed(plant, "fraud-detector-1", "fraud-detector-2")
    loads = Loads(plant)
    loads.once()
    lake = open_lake(plant.settings)

    def stands_on(rung: str) -> None:
        """The champion on Redis and the challenger on a rung, once a machine that stalls lets both; on a better one
        never."""
        until = time.monotonic() + 30
        while True:
            told = plant.ask().json()
            days = {datetime.fromtimestamp(at, UTC).date() for at in (time.time(), time.time() - 60)}
            (record,) = [
                each
                for day in days
                for each in decisions_of(home, LogTable(lake), day)
                if each.request.transaction_id == told["transaction_id"]
            ]
            assert record.other_seen is not None
            got = record.served_by.user_features, record.other_seen.user_features
            if got == ("redis", rung):
                assert told["degraded"] is record.degraded is False
                assert record.other_degraded is (rung != "redis")
                assert record.other_seen.merchant_features == "redis"
                return
            assert time.monotonic() < until, got
            time.sleep(0.2)

    try:
        stands_on("redis")
        with redis.Redis.from_url(f"redis://127.0.0.1:{plant.redis.port}/0") as client:
            client.set(f"fraud:snapshot:{loads.view.name}", b"{")
        stands_on("postgres")
        assert loads.view.name in plant.ready()["checks"]["snapshots"]["refused"]
        with psycopg.connect(ensure_postgres(plant.settings), autocommit=True) as connection:
            connection.execute(f"UPDATE {RECORDS} SET record = %s WHERE view = %s", (b"{", loads.view.name))
        stands_on("default")
        loads.once()
        stands_on("redis")
    finally:
        release.roll_back(home, "fraud-detector-2", reason, datetime.now(UTC))


def shown(monkeypatch: pytest.MonkeyPatch, plant: Plant) -> Any:
    """What `release status` says of a home."""
    monkeypatch.setenv("FRAUD_HOME", str(plant.home))
    monkeypatch.setenv("FRAUD_REDIS_URL", str(plant.settings.redis_url))
    result = CliRunner().invoke(app, ["status", "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)
