"""Dagster's record after the nightly purge: smaller on the disk, and whoever reads it reads what he read before."""

import inspect
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets import run_history
from assets.bootstrap import unbuilt
from assets.job_runs import job_runs_of
from assets.model import VERSION_TAG
from assets.resources import Platform
from assets.retention import retention
from assets.run_history import forget_old_runs, main, old_runs
from assets.schedules import DAILY_ASSETS
from assets.sensing import CAUSE_TAG, FILES_TAG, RETRAIN_TAG, RULES_TAG, new_days, outcomes
from fraud_platform.run.home import DAGSTER_YAML, RETENTION_YAML, open_home
from fraud_platform.settings import Settings
from tests.integration.test_dagster import SMALL, days
from tests.integration.test_dagster import run_history as build

CHATTY = 8
NOW = datetime(2026, 3, 4, 4, tzinfo=UTC)
"""Three days are over."""
LATER = timedelta(days=31)


@dg.op(config_schema={"fails": bool})
def talk(context: dg.OpExecutionContext) -> None:
    for number in range(30):
        context.log.info(f"line {number} of many that nobody reads a month later")
    print("what a step prints")
    if context.op_config["fails"]:
        raise dg.Failure("as it was asked to", allow_retries=False)


@dg.job
def chatty() -> None:
    talk()


def chat(instance: dg.DagsterInstance, *, fails: bool) -> str:
    config = {"ops": {"talk": {"config": {"fails": fails}}}}
    return chatty.execute_in_process(instance=instance, run_config=config, raise_on_error=False).run_id


def asked_for(instance: dg.DagsterInstance, job: str, status: dg.DagsterRunStatus, **tags: str) -> str:
    named = {name.replace("__", "/"): value for name, value in tags.items()}
    return instance.add_run(dg.DagsterRun(job_name=job, tags=named, status=status)).run_id


@dataclass
class World:
    """A home that has run for a while."""

    settings: Settings
    instance: dg.DagsterInstance
    first: str
    last: str
    failed: str
    succeeded: str

    @property
    def folder(self) -> Path:
        return open_home(self.settings).dagster

    def rows(self, query: str) -> list[Any]:
        """Asked of the database itself."""
        with closing(sqlite3.connect(self.folder / "history" / "runs" / "index.db")) as database:
            return database.execute(query).fetchall()

    def newest(self) -> dict[tuple[str, str], int]:
        """The newest materialization of each partition of each asset."""
        query = "select asset_key, partition, id from event_logs where dagster_event_type = 'ASSET_MATERIALIZATION'"
        found: dict[tuple[str, str], int] = {}
        for asset, partition, number in self.rows(query):
            found[asset, partition] = max(number, found.get((asset, partition), 0))
        return found

    def run_ids(self) -> set[str]:
        return {run.run_id for run in self.instance.get_runs()}

    def shards(self) -> set[str]:
        return {path.stem for path in (self.folder / "history" / "runs").glob("*.db")} - {"index"}

    def size(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Every day built, the last one once more; talk in between, and runs that sensors asked for."""
    home = tmp_path_factory.mktemp("grown")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (SMALL | {"home": home}).items():
            patch.setenv(f"FRAUD_{name.upper()}", str(value))
        settings = Settings()
        folder = open_home(settings).dagster
        folder.mkdir()
        (folder / "dagster.yaml").write_text(DAGSTER_YAML + RETENTION_YAML)
        patch.setenv("DAGSTER_HOME", str(folder))
        with dg.DagsterInstance.get() as instance:
            first = build(settings, instance, days(1, 3))
            succeeded = [chat(instance, fails=False) for _ in range(CHATTY)][-1]
            failed = chat(instance, fails=True)
            last = build(settings, instance, days(3, 3))
            assert all(run.success for run in (first, last))
            yield World(settings, instance, first.run_id, last.run_id, failed, succeeded)


@pytest.fixture(scope="module")
def asked(world: World) -> dict[str, str]:
    """Runs that sensors asked for, by their request's key; and one of a release, and one that still runs."""
    instance, failed = world.instance, dg.DagsterRunStatus.FAILURE
    asked_for(instance, "training", failed, fraud__retrain="drift-0", fraud__cause="feature_psi")
    return {
        "released": asked_for(instance, "training", failed, fraud__model_version="3"),
        "not released": asked_for(instance, "training", failed, fraud__model_version="2"),
        "drift-1": asked_for(instance, "training", failed, fraud__retrain="drift-1", fraud__cause="feature_psi"),
        "count-1": asked_for(instance, "training", failed, fraud__retrain="count-1", fraud__cause="matured_labels"),
        "files-1": asked_for(instance, "history", failed, fraud__files="files-1"),
        "labels-1": asked_for(instance, "relabel", failed, fraud__label_rules="labels-1"),
        "newest": asked_for(instance, "training", failed),
        "newest of history": asked_for(instance, "history", failed),
        "newest of relabel": asked_for(instance, "relabel", failed),
        "running": asked_for(instance, "watching", dg.DagsterRunStatus.STARTED),
    }


def test_tags_are_the_ones_that_sensors_look_up() -> None:
    assert (RETRAIN_TAG, CAUSE_TAG, FILES_TAG, RULES_TAG, VERSION_TAG) == (
        "fraud/retrain", "fraud/cause", "fraud/files", "fraud/label_rules", "fraud/model_version",
    )  # fmt: skip


def test_young_runs_stay_and_saying_what_would_go_changes_nothing(
    world: World, asked: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    runs, size = world.run_ids(), world.size()
    assert old_runs(world.instance, world.settings, datetime.now(UTC) + timedelta(days=29)) == ([], [])
    forgotten = forget_old_runs(world.instance, world.settings, datetime.now(UTC) + timedelta(days=29))
    assert (forgotten.runs, forgotten.leftovers) == (0, 0)
    gone, kept = old_runs(world.instance, world.settings, datetime.now(UTC) + LATER)
    assert len(gone) + len(kept) == len(runs) - 1, "all but the one that runs"
    assert main([]) == 0
    assert "0 run(s) that ended more than 30 days ago would go" in capsys.readouterr().out
    assert (world.run_ids(), world.size()) == (runs, size)


def test_what_reads_the_record_reads_the_same_and_the_disk_has_its_space_back(
    world: World, asked: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    instance, settings = world.instance, world.settings
    monkeypatch.setattr(run_history, "_FREE_BYTES", 1)  # a home that has grown for long has a million
    (settings.home / "releases" / "fraud-detector-3").mkdir(parents=True)
    # as Dagster deletes runs
    by_hand = chat(instance, fails=False)
    instance.delete_run(by_hand)
    chat(instance, fails=False)  # is the newest success of its job now

    def read() -> dict[str, Any]:
        assets = [dg.AssetKey(name) for name in DAILY_ASSETS]
        return {
            "unbuilt": unbuilt(Platform(settings, NOW), instance),
            "partitions": {key: instance.get_materialized_partitions(key) for key in assets},
            "latest": {key: instance.get_latest_materialization_event(key) for key in assets},
            "jobs": job_runs_of(instance, ["history", "chatty", "training", "relabel"]),
            "outcomes": [
                outcomes(instance, RETRAIN_TAG)("drift-1"), outcomes(instance, RETRAIN_TAG)("count-1"),
                outcomes(instance, FILES_TAG)("files-1"), outcomes(instance, RULES_TAG)("labels-1"),
            ],
            "newest": world.newest(),
            "checks": world.rows(
                "select asset_key, check_name, max(id), run_id, execution_status from asset_check_executions "
                "where execution_status != 'PLANNED' group by asset_key, check_name"
            ),
        }  # fmt: skip

    before, runs, size = read(), world.run_ids(), world.size()
    assert before["unbuilt"] == []
    assert before["outcomes"] == ["failed"] * 4
    assert by_hand in world.shards() - runs
    middle = min(before["newest"].values()) - 1
    behind = list(new_days(instance, "fraud_labels", middle))
    highest = world.rows("select max(id) from event_logs")[0][0]

    forgotten = forget_old_runs(instance, settings, datetime.now(UTC) + LATER)

    assert read() == before
    # of a day that was built again, the newest is there to be seen
    newest = {day: number for number, day in behind}
    assert list(new_days(instance, "fraud_labels", middle)) == [(number, day) for day, number in newest.items()]
    assert list(newest) == days(1, 3)
    left = world.run_ids()
    assert left.isdisjoint({world.first, asked["not released"], world.succeeded})
    assert left >= {world.last, world.failed, *(run for name, run in asked.items() if name != "not released")}
    assert forgotten.runs == len(runs - left)
    assert forgotten.leftovers == 1
    assert world.shards() <= left
    assert not [path for path in (world.folder / "storage").iterdir() if path.name in runs - left]
    assert world.rows(f"select distinct dagster_event_type from event_logs where run_id = '{world.first}'") == [
        ("ASSET_MATERIALIZATION",)
    ]
    assert forgotten.bytes == (size, world.size())
    assert world.size() < size / 2
    assert world.rows("pragma freelist_count") == [(0,)]
    assert forgotten.busy == ()

    # a sensor's cursor stands before what comes next
    instance.report_runless_asset_event(dg.AssetMaterialization("fraud_labels", partition="2026-03-03"))
    assert world.rows("select max(id) from event_logs")[0][0] > highest
    assert [day for _, day in new_days(instance, "fraud_labels", behind[-1][0])] == [days(3, 3)[0]]
    again = forget_old_runs(instance, settings, datetime.now(UTC) + LATER)
    assert (again.runs, again.leftovers) == (0, 0)


PAGE = """
query { assetOrError(assetKey: {path: ["training_set"]}) { ... on Asset {
    assetMaterializations(limit: 20) { partition runId runOrError { __typename } metadataEntries { label } }
} } }
"""


def test_the_page_of_an_asset_shows_partitions_whose_run_is_gone(world: World, asked: dict[str, str]) -> None:
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import EmptyWorkspaceTarget
    from dagster_graphql.test.utils import execute_dagster_graphql

    forget_old_runs(world.instance, world.settings, datetime.now(UTC) + LATER)
    with WorkspaceProcessContext(world.instance, EmptyWorkspaceTarget()) as process:
        answer = execute_dagster_graphql(process.create_request_context(), PAGE)
    assert not answer.errors
    shown = answer.data["assetOrError"]["assetMaterializations"]
    runs = {each["partition"]: each["runOrError"]["__typename"] for each in shown}
    assert runs == dict.fromkeys([f"2026-03-0{n}" for n in range(1, 3)], "RunNotFoundError") | {"2026-03-03": "Run"}
    assert all(each["metadataEntries"] for each in shown)


def test_a_database_that_others_hold_is_left_for_the_next_time(
    world: World, monkeypatch: pytest.MonkeyPatch, asked: dict[str, str]
) -> None:
    database = world.folder / "history" / "runs.db"
    monkeypatch.setattr(run_history, "_BUSY_SECONDS", 0.05)
    monkeypatch.setattr(run_history, "_FREE_SHARE", -1)
    monkeypatch.setattr(run_history, "_FREE_BYTES", -1)
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert "runs.db keeps 0.0 MB of free pages until the next time: database is locked" in str(
            run_history._shrink(database)
        )
        other.execute("ROLLBACK")
    assert run_history._shrink(database) is None


def test_the_nightly_job_does_it(world: World, asked: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUD_DAGSTER_RUN_DAYS", "1")
    platform = Platform(Settings(), NOW)
    result = retention.execute_in_process(instance=world.instance, resources={"platform": platform})
    assert result.success
    said = [entry.user_message for entry in world.instance.all_logs(result.run_id)]
    assert any("run(s) as old are needed" in line for line in said)


def test_a_home_without_dagster_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUD_HOME", str(tmp_path))
    assert main(["--yes"]) == 3
    assert list(tmp_path.iterdir()) == []


def test_dagster_is_as_its_seam_takes_it() -> None:
    from dagster._core.storage.event_log.schema import (
        AssetCheckExecutionsTable,
        AssetEventTagsTable,
        SqlEventLogStorageTable,
    )
    from dagster_webserver import cli

    tables = {table.name: {*table.c.keys()} for table in (
        SqlEventLogStorageTable, AssetEventTagsTable, AssetCheckExecutionsTable,
    )}  # fmt: skip
    assert {"id", "run_id", "asset_key", "partition", "dagster_event_type"} <= tables["event_logs"]
    assert {"event_id"} <= tables["asset_event_tags"]
    assert {"id", "run_id", "asset_key", "check_name", "partition", "execution_status"} <= tables[
        "asset_check_executions"
    ]
    assert "app = create_app_from_workspace_process_context(" in inspect.getsource(cli)
