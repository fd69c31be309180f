"""A day that was never built is no empty day: whoever reads a range of days refuses the gap and says how to mend it."""

import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.features.gaps import GROUND, GapError, daily_tables, refuse_gaps, unbuilt
from fraud_platform.features.in_force import spans
from fraud_platform.features.label_rules import label_rules
from fraud_platform.features.snapshots import write_merchant_features, write_user_features
from fraud_platform.features.tiles import write_label_tiles, write_user_tiles
from fraud_platform.features.training_set import write_training_set
from fraud_platform.history import build_history
from fraud_platform.lake import Lake, days_between, open_lake
from fraud_platform.model.data import labels_before
from fraud_platform.online.warm import attempts
from fraud_platform.settings import Settings

FIRST, LAST = date(2026, 3, 1), date(2026, 3, 6)
NOW = datetime(2026, 3, 7, 4, tzinfo=UTC)
LOST = date(2026, 3, 5)
DAYS = days_between(FIRST, LAST)


def settings_of(home: Path) -> Settings:
    return Settings(home=home, users=60, merchants=12, transactions_per_day=80, history_start=FIRST)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("built")
    settings = settings_of(home)
    build_history(settings, open_lake(settings), NOW)
    return home


@pytest.fixture
def home(built: Path, tmp_path: Path) -> Settings:
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    return settings_of(tmp_path)


def _training(settings: Settings, lake: Lake) -> None:
    known = spans(lake.days(tables.USER_FEATURES), [], settings.online_ttl_days)
    write_training_set(settings, lake, [LAST], known, known)


STAGES: dict[str, tuple[Callable[[Settings, Lake], object], list[str]]] = {
    "user tiles": (lambda s, lake: write_user_tiles(s, lake, [LAST]), [tables.RAW_TRANSACTIONS]),
    "user features": (lambda s, lake: write_user_features(s, lake, [LAST]), [tables.USER_TILES]),
    "merchant features": (
        lambda s, lake: write_merchant_features(s, lake, [LAST]),
        [tables.MERCHANT_TILES, tables.LABEL_TILES],
    ),
    "training set": (
        _training,
        [tables.RAW_TRANSACTIONS, tables.USER_FEATURES, tables.MERCHANT_FEATURES, tables.FEATURE_MEDIANS],
    ),
    "velocity": (lambda s, lake: attempts(s, lake, LAST), [tables.RAW_TRANSACTIONS]),
    "labels": (lambda s, lake: labels_before(lake, LAST + timedelta(days=1), label_rules(s)), [tables.FRAUD_LABELS]),
}


@pytest.mark.parametrize(
    ("stage", "table"), [(stage, table) for stage, (_, inputs) in STAGES.items() for table in inputs]
)
def test_a_stage_refuses_a_day_that_was_never_built_and_takes_an_empty_one(
    home: Settings, stage: str, table: str
) -> None:
    lake, (work, _) = open_lake(home), STAGES[stage]
    rows = lake.read(table, LOST)
    Path(lake.path(table, LOST)).unlink()

    with pytest.raises(GapError) as refused:
        work(home, lake)

    asset = table.split("/")[0]
    assert str(refused.value).startswith(f"{asset} was never built for {LOST} under ")
    assert f"--select '{asset}' --partition-range {LOST}...{LOST}" in str(refused.value)
    if table != tables.FEATURE_MEDIANS:
        lake.write(table, LOST, rows.slice(0, 0))
        work(home, lake)


def test_labels_of_a_payment_before_the_gap_are_not_counted_without_what_was_said_in_it(home: Settings) -> None:
    lake = open_lake(home)
    arriving = lake.read(tables.FRAUD_LABELS, LAST)
    some = lake.read(tables.RAW_TRANSACTIONS, FIRST).to_pylist()[0]
    label = {
        **dict.fromkeys(arriving.column_names),
        "caller": some["caller"],
        "transaction_id": some["transaction_id"],
        "transaction_date": FIRST,
        "state": "confirmed",
        "arrived_at": datetime(2026, 3, 6, 1, tzinfo=UTC),
        "source": "feedback",
        "revision": 1,
    }
    lake.write(tables.FRAUD_LABELS, LAST, type(arriving).from_pylist([label], arriving.schema))
    Path(lake.path(tables.FRAUD_LABELS, LOST)).unlink()

    with pytest.raises(GapError, match=f"fraud_labels was never built for {LOST} "):
        write_label_tiles(home, lake, [LAST])


def test_before_the_history_begins_nothing_is_missing(home: Settings) -> None:
    lake = open_lake(home)
    for table in daily_tables(CATALOGUE):
        refuse_gaps(lake, table, days_between(FIRST - timedelta(days=90), LAST))


def test_the_first_day_of_the_history_is_missed_as_any_other(home: Settings) -> None:
    lake = open_lake(home)
    Path(lake.path(tables.LABEL_TILES, FIRST)).unlink()
    with pytest.raises(GapError, match=f"label_tiles was never built for {FIRST} "):
        write_merchant_features(home, lake, [LAST])


def test_a_history_is_built_again_from_the_first_gap_on(home: Settings) -> None:
    lake = open_lake(home)
    assert unbuilt(lake, DAYS) == []
    for table in daily_tables(CATALOGUE):
        path = Path(lake.path(table, LOST))
        kept = path.rename(path.with_suffix(".kept"))
        [part] = unbuilt(lake, DAYS)
        assert (part.days[0], part.days[-1]) == (LOST, DAYS[-1]), table
        # what stands on a set of features is built alone where only that is missing
        ground = table in GROUND
        assert part.tables == (daily_tables(CATALOGUE) if ground else daily_tables(CATALOGUE)[len(GROUND) :])
        kept.rename(path)
    Path(lake.path(tables.LABEL_TILES, LOST)).unlink()
    build_history(home, lake, NOW)
    assert unbuilt(lake, DAYS) == []


def test_another_set_is_built_on_the_same_ground(home: Settings) -> None:
    lake = open_lake(home)
    other = Catalogue(tuple(one for one in CATALOGUE.features if one.name != "user_devices_90d"))
    [part] = unbuilt(lake, DAYS, other)
    assert (part.tables, part.days) == (daily_tables(other)[len(GROUND) :], tuple(DAYS))
    Path(lake.path(tables.LABEL_TILES, LAST)).unlink()
    below, above = unbuilt(lake, DAYS, other)
    assert (below.tables, below.days) == (GROUND, (LAST,))
    assert above == part
