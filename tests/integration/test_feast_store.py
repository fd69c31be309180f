"""Feast and the platform's own reader and writer agree: bytes, named values, snapshots. One file, since `import feast`
takes ten seconds."""

import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import redis
from feast_snapshots import bits, snapshot, write_snapshots

from feature_repo import store as feast_store
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.lake import Lake, open_lake
from fraud_platform.online import layout
from fraud_platform.online.embedded_redis import ensure_redis, stop_redis
from fraud_platform.online.packed import MERCHANT_VECTOR, PROJECT, USER_VECTOR, VIEWS, PackedView
from fraud_platform.online.snapshot_load import IncompleteLoadError, load_snapshot_feast, packed_snapshot, read_loads
from fraud_platform.online.snapshot_record import SnapshotRecord, in_force
from fraud_platform.settings import Settings

if TYPE_CHECKING:
    from feast import FeatureStore

DAY = date(2026, 3, 4)
BEFORE = DAY - timedelta(days=1)
COUNT = 60
SERVED_DB, ORACLE_DB = 1, 2


@dataclass
class Loaded:
    """A lake with two snapshots, both loaded through Feast, the later in force."""

    settings: Settings
    lake: Lake
    store: "FeatureStore"
    client: redis.Redis
    records: dict[str, SnapshotRecord]


@pytest.fixture(scope="module")
def loaded(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    url = redis_server.removesuffix("/0") + f"/{SERVED_DB}"
    settings = Settings(home=tmp_path_factory.mktemp("feast") / "home", redis_url=url)
    lake = open_lake(settings)
    write_snapshots(lake, BEFORE, COUNT)
    write_snapshots(lake, DAY, COUNT, first=10)
    now = iter(range(1_000, 10_000))
    with redis.Redis.from_url(url) as client:
        client.flushall()
        for view in VIEWS:
            record = load_snapshot_feast(settings, lake, view, BEFORE, now=lambda: next(now))
            # as if it had been killed between record and ledger: the next load makes up for it
            ledger = Path(lake.root, "online_loads", view.name, f"{record.loaded_at:020d}.json")
            ledger.unlink()
        records = {view.name: load_snapshot_feast(settings, lake, view, DAY, now=lambda: next(now)) for view in VIEWS}
        yield Loaded(settings, lake, feast_store.open_store(settings), client, records)


def entity_id(view: PackedView, number: int) -> str:
    return f"{view.entity}-{number}é"


def online(loaded: Loaded, view: PackedView, features: Any, numbers: range) -> dict[str, list[Any]]:
    rows = [{view.join_key: entity_id(view, number)} for number in numbers]
    response: dict[str, list[Any]] = loaded.store.get_online_features(features=features, entity_rows=rows).to_dict()
    return response


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_named_values_read_online_equal_the_snapshot_bit_for_bit(loaded: Loaded, view: PackedView) -> None:
    numbers = range(10, 10 + COUNT)
    found = online(loaded, view, [f"{view.entity}_features:{name}" for name in view.names], numbers)
    expected = snapshot(view, DAY, COUNT, first=10)
    assert found[view.join_key] == expected[view.join_key].to_pylist()
    nulls = 0
    for name in view.names:
        column = expected[name].to_pylist()
        assert bits(found[name]) == bits(column), name
        nulls += column.count(None)
    assert 0 < nulls < COUNT * len(view.names) / 2


def test_the_feature_service_names_all_batch_features_of_both_entities(loaded: Loaded) -> None:
    service = loaded.store.get_feature_service("fraud_detector")
    assert service.tags == {"catalogue_hash": CATALOGUE.hash}
    rows = [{"user_id": entity_id(USER_VECTOR, n), "merchant_id": entity_id(MERCHANT_VECTOR, n + 1)} for n in (12, 40)]
    found = loaded.store.get_online_features(features=service, entity_rows=rows, full_feature_names=True).to_dict()
    assert len(found) == 2 + len(CATALOGUE.of("user")) + len(CATALOGUE.of("merchant"))
    for view, shift in ((USER_VECTOR, 0), (MERCHANT_VECTOR, 1)):
        expected = snapshot(view, DAY, COUNT, first=10).to_pylist()
        for name in view.names:
            wanted = [expected[number - 10 + shift][name] for number in (12, 40)]
            assert bits(found[f"{view.entity}_features__{name}"]) == bits(wanted)
    with pytest.raises(ValueError, match="full_feature_names=True"):
        loaded.store.get_online_features(features=service, entity_rows=rows)


def test_what_lies_beside_the_array_reads_back_too(loaded: Loaded) -> None:
    names = [name for name, _ in USER_VECTOR.extras]
    found = online(loaded, USER_VECTOR, [f"user_vector:{name}" for name in names], range(10, 10 + COUNT))
    for name in names:
        assert found[name] == snapshot(USER_VECTOR, DAY, COUNT, first=10)[name].to_pylist()


def test_an_unknown_user_has_nulls_only(loaded: Loaded) -> None:
    found = online(loaded, USER_VECTOR, [f"user_features:{name}" for name in USER_VECTOR.names], range(900, 901))
    assert all(found[name] == [None] for name in USER_VECTOR.names)


def test_a_user_gone_from_the_snapshot_keeps_the_old_row_under_the_old_timestamp(loaded: Loaded) -> None:
    key = layout.entity_key(PROJECT, "user_id", entity_id(USER_VECTOR, 3))
    stamp = layout.timestamp(loaded.client.hget(key, layout.timestamp_field("user_vector")) or b"")
    assert stamp < loaded.records["user_vector"].snapshot_at
    response = loaded.store.get_online_features(
        features=["user_vector:last_seen_us"],
        entity_rows=[{"user_id": entity_id(USER_VECTOR, 3)}, {"user_id": entity_id(USER_VECTOR, 13)}],
    )
    stamps = [at.ToMicroseconds() for at in response.proto.results[-1].event_timestamps]
    assert stamps[0] == stamp
    assert abs(stamps[1] - loaded.records["user_vector"].snapshot_at) <= 1, "Feast passes instants through a double"


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_redis_holds_what_feast_itself_would_have_written(loaded: Loaded, view: PackedView) -> None:
    from feast.infra.online_stores.redis import RedisOnlineStore
    from feast.utils import _convert_arrow_to_proto
    from feast.value_type import ValueType

    config = loaded.store.config.model_copy()
    config._online_store = loaded.store.config.online_store.model_copy(
        update={
            "connection_string": loaded.store.config.online_store.connection_string.replace(
                f"db={SERVED_DB}", f"db={ORACLE_DB}"
            )
        }
    )
    rows = packed_snapshot(loaded.lake, view, DAY)
    feature_view = loaded.store.get_feature_view(view.name)
    protos = _convert_arrow_to_proto(rows.combine_chunks(), feature_view, {view.join_key: ValueType.STRING})
    RedisOnlineStore().online_write_batch(config, feature_view, protos, None)
    options = loaded.client.connection_pool.connection_kwargs
    with redis.Redis(host=options["host"], port=options["port"], db=ORACLE_DB) as oracle:
        keys = list(oracle.scan_iter(match=b"\x01*" + view.join_key.encode() + b"*"))
        assert len(keys) == COUNT
        for key in keys:
            assert loaded.client.hgetall(key) == oracle.hgetall(key)
            assert abs(loaded.client.pttl(key) - oracle.pttl(key)) < 120_000


def test_keys_fields_and_values_equal_feasts_own_functions() -> None:
    from feast.infra.online_stores.helpers import _mmh3, _redis_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import FloatList, Int64List, StringList, Value
    from google.protobuf.timestamp_pb2 import Timestamp

    for name in ("", "u", "Zoë", "x" * 300):
        key = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=name)])
        assert layout.entity_key("shop", "user_id", name) == _redis_key("shop", key, 3)
    for view in VIEWS:
        for feature, _ in view.features:
            assert layout.field(view.name, feature) == _mmh3(f"{view.name}:{feature}")
    for width in (0, 1, 31, 32, 5_000):
        numbers = np.random.default_rng(width).normal(size=width).astype(np.float32)
        value = Value(float_list_val=FloatList(val=numbers.tolist())).SerializeToString()
        assert layout.floats(value).tolist() == numbers.tolist()
    for integers in ([], [0], [-1, 2**63 - 1, -(2**63), 300]):
        assert layout.int64s(Value(int64_list_val=Int64List(val=integers)).SerializeToString()) == integers
        assert [layout.int64(Value(int64_val=number).SerializeToString()) for number in integers] == integers
    for texts in ([], [""], ["DE", "é" * 200]):
        assert layout.strings(Value(string_list_val=StringList(val=texts)).SerializeToString()) == texts
    for microseconds in (0, 1, 1_772_668_799_999_999, -1):
        stamp = Timestamp()
        stamp.FromMicroseconds(microseconds)
        assert layout.encode_timestamp(microseconds) == stamp.SerializeToString()
        assert layout.timestamp(stamp.SerializeToString()) == microseconds


def test_each_load_is_recorded_and_kept_in_the_ledger_also_after_a_kill(loaded: Loaded) -> None:
    for view in VIEWS:
        record = loaded.records[view.name]
        assert in_force(loaded.client, view) == record
        assert (record.snapshot, record.rows) == (DAY, COUNT)
        loads = read_loads(loaded.lake, view)
        assert [day for _, day in loads] == [BEFORE, DAY]
        assert loads[-1][0] == record.visible_from > record.loaded_at > loads[0][0]


def test_a_materialization_that_wrote_nothing_puts_nothing_in_force(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_snapshots(loaded.lake, DAY + timedelta(days=1), 3)
    source = loaded.settings.home.absolute() / "feast" / "online_source" / "user_vector.parquet"
    before = Path(source).read_bytes()
    monkeypatch.setattr(feast_store, "materialize", lambda *_: None)
    with pytest.raises(IncompleteLoadError, match=r"user-\dé of snapshot 2026-03-05"):
        load_snapshot_feast(loaded.settings, loaded.lake, USER_VECTOR, DAY + timedelta(days=1), now=lambda: 20_000)
    Path(source).write_bytes(before)
    assert in_force(loaded.client, USER_VECTOR) == loaded.records["user_vector"]
    assert len(read_loads(loaded.lake, USER_VECTOR)) == 2


def test_only_the_snapshot_in_force_lies_in_feasts_source(loaded: Loaded) -> None:
    import pyarrow.parquet as pq

    for view in VIEWS:
        source = pq.read_table(loaded.store.get_feature_view(view.name).batch_source.path)
        assert source.num_rows == COUNT
        assert source["snapshot_at"].unique().to_pylist() == [
            datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC) + timedelta(days=1, microseconds=-1)
        ]


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_historical_retrieval_gives_the_snapshot_before_each_instant(loaded: Loaded, view: PackedView) -> None:
    midnight = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC)
    asked = [
        (entity_id(view, 15), midnight + timedelta(days=1, hours=3), DAY),
        (entity_id(view, 15), midnight + timedelta(hours=3), BEFORE),
        (entity_id(view, 3), midnight + timedelta(days=1, hours=3), BEFORE),
        (entity_id(view, 3), midnight + timedelta(days=9), None),
    ]
    entities = pd.DataFrame([(name, at) for name, at, _ in asked], columns=[view.join_key, "event_timestamp"])
    features = [f"{view.entity}_snapshot:{name}" for name in view.names]
    found = loaded.store.get_historical_features(entity_df=entities, features=features).to_arrow().to_pylist()
    by_question = {(row[view.join_key], row["event_timestamp"]): row for row in found}
    snapshots = {DAY: snapshot(view, DAY, COUNT, first=10), BEFORE: snapshot(view, BEFORE, COUNT)}
    for name, at, day in asked:
        rows = [row for row in snapshots[day].to_pylist() if row[view.join_key] == name] if day else [{}]
        answer = by_question[name, at]
        assert bits([answer[f] for f in view.names]) == bits([rows[0].get(f) for f in view.names]), (name, at)


def test_every_batch_feature_is_described_in_one_view_and_named_in_one(loaded: Loaded) -> None:
    batch = [*CATALOGUE.of("user"), *CATALOGUE.of("merchant")]
    offline = [view for view in loaded.store.list_feature_views() if not view.online]
    described = [field for view in offline for field in view.features]
    assert [(field.name, field.description, field.tags["unit"], field.tags["window"]) for field in described] == [
        (feature.name, feature.meaning, feature.unit, feature.window)
        for view in offline
        for feature in CATALOGUE.of(view.name.removesuffix("_snapshot"))
    ]
    assert sorted(field.name for field in described) == sorted(feature.name for feature in batch)
    named = [field.name for view in loaded.store.list_on_demand_feature_views() for field in view.features]
    assert sorted(named) == sorted(feature.name for feature in batch)
    packed = {view.name: view for view in loaded.store.list_feature_views() if view.online}
    assert packed.keys() == {view.name for view in VIEWS}
    for view in VIEWS:
        assert sorted(field.name for field in packed[view.name].features) == sorted(name for name, _ in view.features)
        assert packed[view.name].ttl == timedelta(days=loaded.settings.online_ttl_days)
    assert all(view.tags["catalogue_hash"] == CATALOGUE.hash for view in loaded.store.list_feature_views())


def test_applying_again_changes_nothing_and_imports_no_feast(loaded: Loaded) -> None:
    registry = loaded.settings.home / "feast" / "registry.db"
    before = registry.read_bytes()
    assert feast_store.apply(loaded.settings) is False
    code = (
        "import sys; from pathlib import Path; from feature_repo.store import apply; "
        "from fraud_platform.settings import Settings; "
        "print(apply(Settings(home=Path(sys.argv[1]))), 'feast' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(loaded.settings.home)]
    environment = os.environ | {"PYTHONPATH": str(feast_store.REPO.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    assert registry.read_bytes() == before
    longer = loaded.settings.model_copy(update={"online_ttl_days": 9})
    assert feast_store._fingerprint(longer) != feast_store._fingerprint(loaded.settings)


def test_a_killed_write_leaves_the_old_registry(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = loaded.settings.home / "feast" / "registry.db"
    before = registry.read_bytes()

    def full_disk(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        loaded.store.registry.commit()
    assert registry.read_bytes() == before
    assert [path.name for path in registry.parent.glob("*.tmp")] == []


def test_a_view_without_packed_layout_is_refused_by_the_engine(loaded: Loaded) -> None:
    from feast.infra.common.materialization_job import MaterializationTask

    engine = loaded.store._get_provider().batch_engine
    start, end = datetime(2026, 3, 4, tzinfo=UTC), datetime(2026, 3, 5, tzinfo=UTC)
    task = MaterializationTask(PROJECT, loaded.store.get_feature_view("user_snapshot"), start, end)
    (job,) = engine.materialize(loaded.store.registry, task)
    assert "user_snapshot has no packed layout" in str(job.error())


def test_a_day_of_which_the_source_has_no_row_is_named(loaded: Loaded, caplog: pytest.LogCaptureFixture) -> None:
    from feast.infra.common.materialization_job import MaterializationTask

    engine = loaded.store._get_provider().batch_engine
    start, end = datetime(2020, 3, 4, tzinfo=UTC), datetime(2020, 3, 5, tzinfo=UTC)
    task = MaterializationTask(PROJECT, loaded.store.get_feature_view("user_vector"), start, end)
    (job,) = engine.materialize(loaded.store.registry, task)
    assert job.error() is None
    assert "user_vector: nothing was written, since its source has no row from 2020-03-04 00:00:00" in caplog.text


def test_an_unset_environment_is_named(loaded: Loaded) -> None:
    from feast.repo_config import RegistryConfig

    from fraud_platform.online.feast_seam import AtomicFileRegistryStore

    with pytest.raises(ValueError, match=r"python -m feature_repo\.store"):
        AtomicFileRegistryStore(RegistryConfig(path="${FRAUD_HOME}/feast/registry.db"), Path())


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://127.0.0.1:6390/0", "127.0.0.1:6390,db=0"),
        ("redis://cache", "cache:6379,db=0"),
        ("unix:///my%20home/redis.sock?db=2", 'localhost:0,db=2,unix_socket_path="/my home/redis.sock"'),
        ("rediss://me:p%40ss@cache:7000/3", 'cache:7000,db=3,ssl=true,username="me",password="p@ss"'),
    ],
)
def test_a_redis_address_is_written_as_feast_reads_it(url: str, expected: str) -> None:
    from feast.infra.online_stores.redis import RedisOnlineStore

    assert feast_store.connection_string(url) == expected
    nodes, options = RedisOnlineStore._parse_connection_string(expected)
    ours = redis.Redis.from_url(url).connection_pool.connection_kwargs
    if "path" in ours:
        assert options["unix_socket_path"] == ours["path"]
    else:
        assert (nodes[0]["host"], int(nodes[0]["port"])) == (ours["host"], ours.get("port", 6379))
    assert options.get("password") == ours.get("password")
    assert options.get("username") == ours.get("username")


def test_feast_reaches_the_embedded_redis(settings: Settings) -> None:
    from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig

    url = ensure_redis(settings)
    try:
        store = RedisOnlineStoreConfig(connection_string=feast_store.connection_string(url))
        with RedisOnlineStore()._get_client(store) as of_feast, redis.Redis.from_url(url) as ours:
            ours.set("shared", "yes")
            assert of_feast.get("shared") == b"yes"
    finally:
        stop_redis(settings)


@pytest.mark.parametrize("url", ["unix:///a,b/redis.sock", "redis://:a,b@cache:6379/0", "nonsense"])
def test_a_redis_address_that_feast_cannot_express_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="Feast"):
        feast_store.connection_string(url)


def test_feast_is_as_its_seam_takes_it() -> None:
    from feast.infra.compute_engines.base import ComputeEngine
    from feast.infra.compute_engines.local.compute import LocalComputeEngine
    from feast.infra.online_stores.postgres_online_store.postgres import PostgreSQLOnlineStore
    from feast.infra.online_stores.redis import RedisOnlineStore
    from feast.infra.registry.file import FileRegistryStore

    def parameters(method: object) -> list[str]:
        assert callable(method)
        return [*inspect.signature(method).parameters]

    assert parameters(LocalComputeEngine._materialize_one) == ["self", "registry", "task", "kwargs"]
    assert "self._materialize_one(" in inspect.getsource(ComputeEngine.materialize)
    assert parameters(FileRegistryStore._write_registry) == ["self", "registry_proto"]
    assert "self._filepath" in inspect.getsource(FileRegistryStore.__init__)
    assert parameters(RedisOnlineStore._get_client) == ["self", "online_store_config"]
    assert parameters(PostgreSQLOnlineStore._get_conn) == ["self", "config", "autocommit"]
