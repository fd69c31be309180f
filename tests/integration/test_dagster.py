"""Dagster's view: the graph is what it is drawn to be, runs are repeatable, a bad day stops, killed runs are closed."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from assets.bootstrap import PROCESS_TAG, close_dead_runs, unbuilt
from assets.definitions import build_definitions
from assets.partitions import key_range_tags
from assets.resources import Platform
from assets.schedules import DAILY_ASSETS, assets_of, missing
from fraud_platform import quality
from fraud_platform.clock import move_clock
from fraud_platform.dataset import UnfinishedDayError, fix_dataset
from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.features.gaps import GROUND, Unbuilt, daily_tables
from fraud_platform.ingest.steps import ingest_labels, ingest_rates, ingest_transactions
from fraud_platform.lake import day_of, open_lake
from fraud_platform.settings import Settings

GOLDEN = Path(__file__).parents[1] / "golden" / "asset_graph.json"
NOW = datetime(2026, 3, 6, 4, tzinfo=UTC)
FIRST_DAY = date(2026, 3, 1)
SMALL = {"users": 150, "merchants": 30, "transactions_per_day": 200, "history_start": FIRST_DAY}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A small simulated bank of five complete days; runs read its settings from the environment."""
    for name, value in (SMALL | {"home": tmp_path}).items():
        monkeypatch.setenv(f"FRAUD_{name.upper()}", str(value))
    return Settings()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@dataclass
class Built:
    """A bank whose five days were built in one run."""

    settings: Settings
    instance: dg.DagsterInstance
    result: dg.ExecuteInProcessResult


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """The bank of `home`, built once: it takes seconds. A test leaves it as it was."""
    with dg.DagsterInstance.ephemeral() as instance:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (SMALL | {"home": tmp_path_factory.mktemp("built")}).items():
                patch.setenv(f"FRAUD_{name.upper()}", str(value))
            settings = Settings()
            result = run_history(settings, instance, days(1, 5))
        yield Built(settings, instance, result)


def days(first: int, last: int) -> list[date]:
    return [date(2026, 3, day) for day in range(first, last + 1)]


def run_history(settings: Settings, instance: dg.DagsterInstance, wanted: list[date]) -> dg.ExecuteInProcessResult:
    job = build_definitions(settings, NOW).resolve_job_def("history")
    return job.execute_in_process(instance=instance, tags=key_range_tags(wanted), raise_on_error=False)


def content(settings: Settings, wanted: Sequence[date] = ()) -> dict[str, bytes]:
    """Every partition of the lake, or those of some days."""
    root = Path(open_lake(settings).root)
    found = {str(path.relative_to(root)): path for path in root.rglob("*.parquet")}
    return {name: path.read_bytes() for name, path in found.items() if not wanted or day_of(name) in wanted}


def drawn_graph(settings: Settings) -> dict[str, object]:
    repository = build_definitions(settings, NOW).get_repository_def()
    graph = repository.asset_graph
    return {
        key.to_user_string(): {
            "group": node.group_name,
            "kinds": sorted(node.kinds),
            "owners": list(node.owners),
            "partitioned": node.partitions_def is not None,
            "upstream": sorted(parent.to_user_string() for parent in node.parent_keys),
            "checks": {
                check.name: "blocking" if graph.get_check_spec(check).blocking else "warning"
                for check in sorted(node.check_keys, key=lambda check: check.name)
            },
        }
        for key in sorted(graph.get_all_asset_keys())
        for node in [graph.get(key)]
    }


def test_the_asset_graph_is_the_one_that_was_agreed(home: Settings) -> None:
    drawn = drawn_graph(home)
    if os.environ.get("UPDATE_GOLDEN") == "yes":
        GOLDEN.write_text(json.dumps(drawn, indent=2) + "\n")
    assert drawn == json.loads(GOLDEN.read_text()), "UPDATE_GOLDEN=yes accepts the graph as it is now"


def test_jobs_and_schedules_are_there_and_on(home: Settings) -> None:
    defs = build_definitions(home, NOW)
    dg.Definitions.validate_loadable(defs)
    repository = defs.get_repository_def()
    assert {job.name for job in repository.get_all_jobs()} >= {"history", "nightly", "online", "training"}
    states = {schedule.name: schedule.default_status for schedule in repository.schedule_defs}
    names = ("nightly_features", "weekly_training", "weekly_cold_store", "daily_decisions", "daily_retention",
             "daily_watching", "daily_outcomes")  # fmt: skip
    assert states == dict.fromkeys(names, dg.DefaultScheduleStatus.RUNNING)
    sensors = {sensor.name: sensor.default_status for sensor in repository.sensor_defs}
    names = ("drift_retrains", "performance_retrains", "drift_alerts", "performance_alerts", "log_lag_alerts",
             "failed_run_alerts", "warned_run_alerts", "rollout", "matured_labels_retrain", "new_files",
             "label_rules", "packages_the_champion", "job_runs")  # fmt: skip
    assert sensors == dict.fromkeys(names, dg.DefaultSensorStatus.RUNNING)


def test_a_range_of_days_is_one_run_with_every_check_and_row_counts(built: Built) -> None:
    instance, result = built.instance, built.result
    assert result.success
    lake = open_lake(built.settings)
    for name in DAILY_ASSETS:
        known = instance.get_materialized_partitions(dg.AssetKey(name))
        assert known == {day.isoformat() for day in days(1, 5)}, name
    evaluations = result.get_asset_check_evaluations()
    history = daily_tables(CATALOGUE)
    expected = {(table, rule) for table in history for rule, _ in quality.rules_of(table, CATALOGUE).names}
    others = ["quarantine", "decisions", "callers", "orphans", "completeness", "read_alike", "null_share", "null_share"]
    assert len(evaluations) == len(expected) + len(others)
    assert set(others) < {evaluation.check_name for evaluation in evaluations}
    assert all(evaluation.passed for evaluation in evaluations)
    latest = instance.get_latest_materialization_event(dg.AssetKey("training_set"))
    assert latest is not None
    assert latest.asset_materialization is not None
    lineage = latest.asset_materialization.metadata["dagster/column_lineage"].value
    assert len(lineage.deps_by_column) == 50
    rows = lake.size(tables.TRAINING_SET, FIRST_DAY)[0]
    assert rows > 100


def test_one_day_at_a_time_and_all_at_once_are_the_same_bytes(
    home: Settings, instance: dg.DagsterInstance, built: Built
) -> None:
    # five at once: what comes after a day changes nothing of it
    at_once = content(built.settings, days(1, 3))
    assert {day_of(name) for name in at_once} == set(days(1, 3))
    assert len(at_once) >= 3 * len(DAILY_ASSETS)
    for day in days(1, 3):
        assert run_history(home, instance, [day]).success
    assert content(home) == at_once
    assert run_history(home, instance, days(2, 2)).success
    assert content(home) == at_once, "a day run again changes nothing"


def test_a_bad_day_does_not_go_on(
    home: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "QUARANTINE_LIMIT", -1.0)

    result = run_history(home, instance, days(1, 1))

    assert not result.success
    lake = open_lake(home)
    assert lake.days(tables.RAW_TRANSACTIONS) == days(1, 1)
    assert lake.days(tables.USER_TILES) == []
    assert lake.days(tables.TRAINING_SET) == []


def test_the_nightly_schedule_asks_for_every_day_that_is_missing(
    home: Settings, instance: dg.DagsterInstance, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tick(settings: Settings, instance: dg.DagsterInstance, now: datetime) -> dg.RunRequest | None:
        schedule = build_definitions(settings, NOW).get_repository_def().get_schedule_def("nightly_features")
        context = dg.build_schedule_context(instance, scheduled_execution_time=now)
        requests = schedule.evaluate_tick(context).run_requests
        return requests[0] if requests else None

    request = tick(home, instance, NOW)
    assert request is not None
    assert request.tags["dagster/asset_partition_range_start"] == "2026-03-01"
    assert request.tags["dagster/asset_partition_range_end"] == "2026-03-05"
    monkeypatch.setenv("FRAUD_HOME", str(built.settings.home))
    assert tick(built.settings, built.instance, NOW) is None
    tomorrow = tick(built.settings, built.instance, NOW + timedelta(days=1))
    assert tomorrow is not None
    assert tomorrow.tags["dagster/asset_partition_range_start"] == "2026-03-06"


def test_what_is_missing_in_the_lake_or_in_dagster_is_built_again(
    home: Settings, instance: dg.DagsterInstance, built: Built
) -> None:
    every = daily_tables(CATALOGUE)
    assert unbuilt(Platform(home, NOW), instance) == [Unbuilt(every, tuple(days(1, 5)))]
    platform = Platform(built.settings, NOW)
    assert unbuilt(platform, built.instance) == []
    # another Dagster knows nothing of days that the lake has
    assert unbuilt(platform, instance) == [Unbuilt(every, tuple(days(1, 5)))]
    path = Path(platform.lake.path(tables.TRAINING_SET, days(4, 4)[0]))
    away = path.rename(path.with_name("away"))
    try:
        assert unbuilt(platform, built.instance) == [Unbuilt(every[len(GROUND) :], tuple(days(4, 5)))]
    finally:
        away.rename(path)


def test_a_feature_more_is_built_on_what_is_there(home: Settings, instance: dg.DagsterInstance, built: Built) -> None:
    """Another set's tables are built beside the first's, of which they take all but the feature that is new."""
    shutil.copytree(built.settings.lake, home.lake)
    week = replace(CATALOGUE.features[11], name="user_merchants_7d", window="7d")
    larger = Catalogue((*CATALOGUE.of("user"), week, *CATALOGUE.features[17:]))
    lake, every = open_lake(home), daily_tables(larger)
    [part] = missing(Platform(home, NOW, larger))
    assert part == Unbuilt(every[len(GROUND) :], tuple(days(1, 5)))
    job = build_definitions(home, NOW, larger).resolve_job_def("history")
    selected = [dg.AssetKey(name) for name in assets_of(part.tables)]
    result = job.execute_in_process(
        instance=instance, tags=key_range_tags(part.days), asset_selection=selected, raise_on_error=False
    )
    assert result.success
    assert {check.check_name: check.passed for check in result.get_asset_check_evaluations()}["schema"]
    said = {}
    for name in ("user_features", "merchant_features", "training_set"):
        [record] = instance.fetch_materializations(dg.AssetKey(name), limit=1).records
        assert record.asset_materialization is not None
        metadata = record.asset_materialization.metadata
        said[name] = [metadata[key].value for key in ("features_computed", "computed", "features_reused")]
    assert said == {
        "user_features": [1, "user_merchants_7d", 17],
        "merchant_features": [0, "", 10],
        "training_set": [1, "user_merchants_7d", 50],
    }
    assert missing(Platform(home, NOW, larger)) == missing(Platform(home, NOW)) == []
    own = tables.tables_of(larger)
    for day in days(2, 5):
        old, new = (lake.read(table, day) for table in (tables.TRAINING_SET, own.training_set))
        assert new.select(old.column_names).equals(old)
        assert new["user_merchants_7d"].null_count == 0


def test_an_unfinished_day_is_refused_whoever_asks(
    home: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    move_clock(tmp_path / "clock", int(datetime(2026, 3, 6, 14, tzinfo=UTC).timestamp() * 1e6))
    monkeypatch.setenv("FRAUD_CLOCK_FILE", str(tmp_path / "clock"))
    # Dagster's partitions go by the machine's clock, so today is no partition to it, and a run is launched all the same
    job = build_definitions(home, NOW + timedelta(days=1)).resolve_job_def("history")
    result = job.execute_in_process(instance=instance, tags=key_range_tags(days(5, 6)), raise_on_error=False)

    assert not result.success
    said = [e.event_specific_data.error_display_string for e in result.all_events if e.is_step_failure]  # type: ignore[union-attr]
    assert any("2026-03-06 is not over: it is 2026-03-06 14:00 UTC. Ask for days up to 2026-03-05" in s for s in said)
    assert open_lake(home).days(tables.RAW_TRANSACTIONS) == []
    _, source = fix_dataset(home, open_lake(home), datetime(2026, 3, 6, 14, tzinfo=UTC))
    with pytest.raises(UnfinishedDayError, match="2026-03-06 is not over"):
        ingest_rates(open_lake(home), source, days(6, 6))
    with pytest.raises(UnfinishedDayError, match="2026-03-06 is not over"):
        ingest_transactions(open_lake(home), source, days(5, 6), home.base_currency)
    with pytest.raises(UnfinishedDayError, match="2026-03-06 is not over"):
        ingest_labels(open_lake(home), source, days(6, 6))


def test_a_run_whose_process_was_killed_is_closed(instance: dg.DagsterInstance) -> None:
    @dg.job
    def work() -> None: ...

    dead = instance.create_run_for_job(work, tags={PROCESS_TAG: "4194304:1"}, status=dg.DagsterRunStatus.STARTED)
    alive = instance.create_run_for_job(work, status=dg.DagsterRunStatus.STARTED)

    assert close_dead_runs(instance) == 1

    states = {run.run_id: run.status for run in instance.get_runs()}
    assert states == {dead.run_id: dg.DagsterRunStatus.FAILURE, alive.run_id: dg.DagsterRunStatus.STARTED}
