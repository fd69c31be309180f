"""Old snapshots keep the rows that payments asked for: training set and replay get from them what they got before."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from assets.resources import Platform
from assets.retention import retention
from fraud_platform.features import tables
from fraud_platform.features.in_force import nightly_visible_from
from fraud_platform.features.pruning import PrunedSnapshotError, kept_for, prunable, prune, refuse_pruned
from fraud_platform.features.training_set import write_training_set
from fraud_platform.inference_log.table import LogTable
from fraud_platform.lake import Lake, MissingPartition
from fraud_platform.online.packed import MERCHANT_VECTOR, USER_VECTOR
from fraud_platform.online.snapshot_load import load_snapshot_feast
from fraud_platform.replay import replay_day, spans_of
from fraud_platform.settings import Settings
from tests.feature_oracle import DAY, HOUR, Row
from tests.feature_worlds import MIDNIGHT, TODAY, write_world

YESTERDAY, BEFORE = TODAY - timedelta(days=1), TODAY - timedelta(days=2)
KEYS = {tables.USER_FEATURES: "user_id", tables.MERCHANT_FEATURES: "merchant_id"}


def rows() -> list[Row]:
    """Thirty users and merchants of the last fortnight, of whom some pay today before the night's load, some after."""
    found = [
        Row(f"t{n}", f"u{n % 30}", f"m{n % 30}", 1_000 + n, at, at, "DE", "DE", "online", "a")
        for n in range(300)
        for at in [MIDNIGHT - 14 * DAY + n * (13 * DAY // 300)]
    ]
    for n, hour in enumerate((0, 1, 2, 9, 9, 23)):
        at = MIDNIGHT + hour * HOUR
        found.append(Row(f"today{n}", f"u{n}", f"m{10 + n}", 500, at, at, "FR", "DE", "pos", "b"))
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = Settings(home=tmp_path_factory.mktemp("whole"))
    write_world(settings, Lake(settings.lake), rows(), [])
    return settings


@pytest.fixture
def world(built: Settings, tmp_path: Path) -> tuple[Settings, Lake]:
    """A copy of the world, all of whose snapshots are pruned."""
    settings = Settings(home=tmp_path / "home")
    shutil.copytree(built.home, settings.home)
    lake = Lake(settings.lake)
    for table, view in ((tables.USER_FEATURES, USER_VECTOR), (tables.MERCHANT_FEATURES, MERCHANT_VECTOR)):
        for day in lake.days(table):
            prune(lake, table, KEYS[table], day, spans_of(settings, lake, view))
    return settings, lake


def names(lake: Lake, table: str) -> list[list[str]]:
    return [lake.read(table, day)[KEYS[table]].to_pylist() for day in lake.days(table)]


def test_a_pruned_snapshot_keeps_who_paid_while_it_was_in_force(built: Settings, world: tuple[Settings, Lake]) -> None:
    _, lake = world
    whole = Lake(built.lake)
    assert [len(each) for each in names(whole, tables.USER_FEATURES)] == [30, 30]
    # the day before's gave way at two in the morning, when the third payment of today met its successor
    assert names(lake, tables.USER_FEATURES)[1] == ["u2", "u3", "u4", "u5"]
    assert names(lake, tables.MERCHANT_FEATURES)[1] == ["m12", "m13", "m14", "m15"]
    asked_before = {row.user for row in rows() if row.received >= MIDNIGHT - 22 * HOUR} - {"u2", "u3", "u4", "u5"}
    assert {"u0", "u1"} <= asked_before
    assert asked_before <= set(names(lake, tables.USER_FEATURES)[0])
    for table, key in KEYS.items():
        for day in lake.days(table):
            kept, all_of_it = lake.read(table, day), whole.read(table, day)
            assert kept.equals(all_of_it.filter(pc.is_in(all_of_it[key], value_set=pa.array(kept[key].to_pylist()))))


def test_the_training_set_of_pruned_snapshots_is_the_same_bytes(built: Settings, world: tuple[Settings, Lake]) -> None:
    settings, lake = world
    lake.remove(lake.files(tables.TRAINING_SET, "*.parquet"))
    write_training_set(
        settings, lake, [TODAY], spans_of(settings, lake, USER_VECTOR), spans_of(settings, lake, MERCHANT_VECTOR)
    )
    assert lake.open(tables.TRAINING_SET, TODAY).read() == Lake(built.lake).open(tables.TRAINING_SET, TODAY).read()


def test_a_replay_of_pruned_snapshots_differs_in_nothing(world: tuple[Settings, Lake], redis_url: str) -> None:
    report = replay_day(*world, TODAY, redis_url)
    assert (report.rows, report.differences) == (6, 0)


def test_other_payments_than_it_was_kept_for_are_refused(world: tuple[Settings, Lake]) -> None:
    settings, lake = world
    raw = lake.read(tables.RAW_TRANSACTIONS, TODAY)
    user = raw.column_names.index("user_id")
    late = raw.slice(5, 1).set_column(user, raw.schema.field(user), pa.array(["u29"]))
    lake.write(tables.RAW_TRANSACTIONS, TODAY, pa.concat_tables([raw, late]).combine_chunks())
    spans = [spans_of(settings, lake, view) for view in (USER_VECTOR, MERCHANT_VECTOR)]
    with pytest.raises(PrunedSnapshotError, match=rf"user_features/.* of {YESTERDAY} .* {TODAY}.*materialize it again"):
        write_training_set(settings, lake, [TODAY], *spans)


def test_a_pruned_snapshot_is_not_loaded(world: tuple[Settings, Lake], redis_url: str) -> None:
    settings, lake = world
    settings = settings.model_copy(update={"redis_url": redis_url})
    with pytest.raises(PrunedSnapshotError, match="materialize it again"):
        load_snapshot_feast(settings, lake, USER_VECTOR, YESTERDAY, now=lambda: MIDNIGHT)
    with pytest.raises(MissingPartition):
        refuse_pruned(lake, tables.USER_FEATURES, TODAY)


def test_only_what_is_long_out_of_force_is_pruned_and_never_the_newest(built: Settings) -> None:
    lake, table = Lake(built.lake), tables.USER_FEATURES
    spans = spans_of(built, lake, USER_VECTOR)
    ended = nightly_visible_from(YESTERDAY)
    assert prunable(lake, table, spans, ended + 7 * DAY, 7) == []
    assert prunable(lake, table, spans, ended + 7 * DAY + 1, 7) == [BEFORE]
    assert prunable(lake, table, spans, ended + 300 * DAY, 7) == [BEFORE]


def test_the_nightly_job_prunes_once(built: Settings, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    shutil.copytree(built.home, settings.home)
    platform = Platform(settings, datetime.combine(TODAY + timedelta(days=30), datetime.min.time(), UTC))
    sizes = []
    for _ in range(2):
        assert retention.execute_in_process(resources={"platform": platform}).success
        sizes.append([platform.lake.size(table, day)[0] for table in KEYS for day in platform.lake.days(table)])
        assert [kept_for(platform.lake, table, day) is None for table in KEYS for day in (BEFORE, YESTERDAY)] == [
            *(False, True),
            *(False, True),
        ]
    assert sizes[0] == sizes[1]
    assert sizes[0][0] < 30 == sizes[0][1]
    assert LogTable(platform.lake).days() == []
