"""Spark, on two threads of this machine, writes the files that DuckDB writes: the same bytes."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pytest
import redis
from feast_snapshots import snapshot, write_snapshots

from feature_repo import store as feast_store
from fraud_platform.features import snapshots, tables, training_set
from fraud_platform.features.catalogue import VELOCITY_WINDOWS
from fraud_platform.features.gaps import GapError
from fraud_platform.features.in_force import spans
from fraud_platform.ingest.steps import ingest_labels, ingest_rates, ingest_transactions
from fraud_platform.lake import Lake, days_between
from fraud_platform.online.packed import USER_VECTOR, VIEWS
from fraud_platform.online.snapshot_load import load_snapshot_feast
from fraud_platform.settings import Settings
from fraud_platform.simulator.bank import SimulatedBank
from tests.feature_oracle import DAY, HOUR, MINUTE, Row
from tests.feature_worlds import FIRST_DAY, MIDNIGHT, TODAY, crowded_world, derive, ingest_world

pytestmark = pytest.mark.skipif(
    not shutil.which("java"), reason="needs the Debian packages of deploy/system-packages.txt: openjdk-17-jre-headless"
)

ENGINES: tuple[Literal["duckdb", "spark"], ...] = ("duckdb", "spark")
DERIVED = (
    tables.USER_TILES,
    tables.MERCHANT_TILES,
    tables.LABEL_TILES,
    tables.USER_FEATURES,
    tables.MERCHANT_FEATURES,
    tables.FEATURE_MEDIANS,
    tables.TRAINING_SET,
)
SPARK = {
    "spark.ui.enabled": "false",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    # for small data: no hundreds of empty tasks, no long optimization of code that runs once
    "spark.sql.shuffle.partitions": "2",
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
}


def crowded(lake: Lake) -> list[date]:
    """The oracle's edges, values that are missing, sums past 2^53, payments exactly a window apart, and a last day that
    was written before its rows had a caller."""
    rows, labels = crowded_world()
    for n, offset in enumerate((-DAY, 0, MINUTE, 2 * MINUTE, 12 * MINUTE, HOUR, DAY - HOUR)):
        at = MIDNIGHT + offset
        rows.append(Row(f"w{n}", "u0", "m0", 10**11 + 1, at, at, None, None, None, None))
        rows.append(Row(f"v{n}", "nobody", "nowhere", n, at, at, "DE", None, None, "a"))
    ingest_world(lake, rows, labels)
    _decide_some(lake)
    lake.write(tables.RAW_TRANSACTIONS, TODAY, lake.read(tables.RAW_TRANSACTIONS, TODAY).drop_columns(["caller"]))
    return days_between(FIRST_DAY, TODAY)


def _decide_some(lake: Lake) -> None:
    """Make every other payment of the last day one that was decided: some in an epoch that began at noon."""
    table = lake.read(tables.RAW_TRANSACTIONS, TODAY)
    received = table["received_at"].cast(pa.int64()).to_pylist()
    for entity in ("user", "merchant"):
        decided = {
            "effective_time": [at if n % 2 else None for n, at in enumerate(received)],
            "counted_since": [(MIDNIGHT + DAY // 2) * (n % 3 > 0) if n % 2 else None for n in range(len(received))],
        }
        for name, values in decided.items():
            position = table.schema.get_field_index(f"{entity}_{name}")
            table = table.set_column(position, table.schema.field(position), pa.array(values, pa.int64()))
    lake.write(tables.RAW_TRANSACTIONS, TODAY, table)


def simulated(lake: Lake) -> list[date]:
    """Some days of the simulated bank."""
    days = days_between(date(2026, 3, 1), date(2026, 3, 8))
    bank = SimulatedBank(
        seed=3, first_day=days[0], users=150, merchants=25, transactions_per_day=400, base_currency="EUR"
    )
    ingest_rates(lake, bank, days)
    ingest_transactions(lake, bank, days, "EUR")
    ingest_labels(lake, bank, days)
    return days


@dataclass(frozen=True)
class Both:
    """What the engines made of the same raw days, each in a lake of its own."""

    days: list[date]
    duckdb: Lake
    spark: Lake

    def differences(self) -> list[str]:
        """Partitions that are not the same bytes, with the columns whose values are not the same."""
        found = []
        for table in DERIVED:
            assert self.duckdb.days(table) == self.spark.days(table) != []
            for day in self.duckdb.days(table):
                if self.duckdb.open(table, day).read() != self.spark.open(table, day).read():
                    one, other = self.duckdb.read(table, day), self.spark.read(table, day)
                    columns = [name for name in one.column_names if not one[name].equals(other[name])]
                    found.append(f"{table} {day}: {columns}")
        return found


def settings_of(engine: Literal["duckdb", "spark"], lake: Lake) -> Settings:
    home = Path(lake.root).parent
    return Settings(home=home, lake_url=lake.root, engine=engine, spark_master="local[2]", spark_options=SPARK)


def by_both(world: Callable[[Lake], list[date]], root: Path) -> Both:
    duckdb, spark = Lake(str(root / "duckdb")), Lake(str(root / "spark"))
    days = world(duckdb)
    shutil.copytree(duckdb.root, spark.root)
    derive(settings_of("duckdb", duckdb), duckdb, days)
    derive(settings_of("spark", spark), spark, days)
    return Both(days, duckdb, spark)


def rolled(lake: Lake, days: list[date], monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the user snapshots again by Spark, each from the day before it."""
    monkeypatch.setattr(snapshots, "CHUNK_ROWS", -1)
    for day in days:
        snapshots.write_user_features(settings_of("spark", lake), lake, [day])


@pytest.fixture(scope="module")
def edges(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return by_both(crowded, tmp_path_factory.mktemp("edges"))


def test_both_engines_write_the_same_bytes_of_every_edge(edges: Both) -> None:
    assert edges.differences() == []
    assert set(edges.spark.read(tables.TRAINING_SET, TODAY)["caller"].to_pylist()) == {"default"}


def test_both_engines_write_the_same_bytes_of_simulated_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = by_both(simulated, tmp_path)
    assert both.differences() == []
    rolled(both.spark, both.days[-3:-1], monkeypatch)
    assert both.differences() == []
    assert both.spark.days(tables.USER_WINDOWS) == both.days[-3:-1]


def test_spark_takes_a_day_that_was_never_built_for_no_empty_one(edges: Both, tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "gap"))
    shutil.copytree(edges.spark.root, lake.root)
    settings, lost, last = settings_of("spark", lake), edges.days[-3], edges.days[-1:]
    for table, write in (
        (tables.USER_TILES, snapshots.write_user_features),
        (tables.LABEL_TILES, snapshots.write_merchant_features),
    ):
        path = Path(lake.path(table, lost))
        rows = lake.read(table, lost)
        path.unlink()
        with pytest.raises(GapError, match=f"^{table.split('/')[0]} was never built for {lost} under {lake.root}"):
            write(settings, lake, last)
        lake.write(table, lost, rows.slice(0, 0))
    snapshots.write_merchant_features(settings, lake, last)


def test_a_window_longer_by_a_microsecond_is_noticed(edges: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    longer = {name: window + 1 for name, window in VELOCITY_WINDOWS.items()}
    monkeypatch.setattr(training_set, "VELOCITY_WINDOWS", longer)
    in_force = spans(edges.days[-3:-1], [], Settings().online_ttl_days)
    training_set.write_training_set(settings_of("spark", edges.spark), edges.spark, edges.days[-1:], in_force, in_force)
    [difference] = edges.differences()
    assert difference.startswith(tables.TRAINING_SET)
    assert "user_txn_count_1m" in difference
    assert "user_txn_count_24h" in difference


def test_feast_materializes_and_answers_history_by_spark_as_by_duckdb(redis_server: str, tmp_path: Path) -> None:
    days = days_between(date(2026, 3, 3), date(2026, 3, 4))
    lake = Lake(str(tmp_path / "lake"))
    for day in days:
        write_snapshots(lake, day, 20)
    users = snapshot(USER_VECTOR, days[0], 20)[USER_VECTOR.join_key].to_pylist()
    asked = [datetime(2026, 3, 4, 3, tzinfo=UTC), datetime(2026, 3, 5, 3, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)]
    names = [f"user_snapshot:{name}" for name in USER_VECTOR.names]
    held: dict[str, Any] = {}
    history: dict[str, Any] = {}
    # the same home: the settings may change their mind
    for engine in ENGINES:
        settings = settings_of(engine, lake).model_copy(update={"redis_url": redis_server})
        with redis.Redis.from_url(redis_server) as client:
            client.flushdb()
            ticks = iter(range(1_000, 2_000))
            for view in VIEWS:
                load_snapshot_feast(settings, lake, view, days[-1], now=lambda ticks=ticks: next(ticks), force=True)
            held[engine] = {key: client.hgetall(key) for key in client.scan_iter(_type="hash")}
        store = feast_store.open_store(settings)
        assert store.config.offline_store.type == engine
        entities = pd.DataFrame([(user, at) for at in asked for user in users], columns=["user_id", "event_timestamp"])
        found = store.get_historical_features(entity_df=entities, features=names).to_arrow()
        # Feast's Spark store forgets the zone, which is UTC
        instants = found["event_timestamp"].cast(pa.timestamp("us"))
        found = found.set_column(found.column_names.index("event_timestamp"), "event_timestamp", instants)
        order = [("user_id", "ascending"), ("event_timestamp", "ascending")]
        history[engine] = found.select(["user_id", "event_timestamp", *USER_VECTOR.names]).sort_by(order)
    assert len(held["spark"]) >= 40
    assert held["spark"] == held["duckdb"]
    assert history["spark"].num_rows == 60
    assert history["spark"].to_pylist() == history["duckdb"].to_pylist()
