"""A model's way through MLflow: registered once, promoted once, whatever is killed in between.

One test walks the whole way, since MLflow takes seconds to start; what needs another history has its own.
"""

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from assets.release_jobs import RELEASE_JOBS
from assets.resources import Platform
from fraud_platform.cli import app
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.features.label_rules import LabelRules
from fraud_platform.homes import begin_home
from fraud_platform.lake import Lake
from fraud_platform.model import registry
from fraud_platform.model.arms import Scores, measure
from fraud_platform.model.bundle import Bundle, BundleError, Scorer, current_release, publish
from fraud_platform.model.candidate import Candidate, write_candidate
from fraud_platform.model.ledger import read_ledger
from fraud_platform.model.registry import (
    EXPERIMENT,
    NoCardError,
    challenge,
    champion_version,
    close_orphan_runs,
    ensure_experiment,
    note_verdict,
    promote,
    read_card,
    resume_promotion,
    show_who_decides,
    tracking_uri,
)
from fraud_platform.model.registry_moved import follow_home
from fraud_platform.model.registry_rebuild import rebuild_registry
from fraud_platform.model.release import Reason
from fraud_platform.model.rollout import Step, take_step
from fraud_platform.model.routing import Routing, read_routing
from fraud_platform.model.steps import judge_candidate, register_candidate, release_if_better, train_candidate
from fraud_platform.recovery.backup import backup, restore
from fraud_platform.settings import Settings
from tests import model_kit as kit

NAME = "fraud-detector"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a candidate and an empty MLflow database: making them takes seconds, copying them none."""
    home = tmp_path_factory.mktemp("template")
    lake = Lake(str(home / "lake"))
    kit.write_history(lake)
    settings = Settings(home=home, **kit.TRAINING)
    train_candidate(lake, settings, kit.NOW)
    assert champion_version(settings) is None
    return home


@pytest.fixture
def mine(template: Path, tmp_path: Path) -> Iterator[Settings]:
    home = tmp_path / "home"
    shutil.copytree(template, home)
    yield Settings(home=home, **kit.TRAINING)
    import mlflow

    while mlflow.active_run():
        mlflow.end_run()


def client(settings: Settings) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri(settings), tracking_uri(settings))


def lake_of(settings: Settings) -> Lake:
    return Lake(settings.lake)


def trained(settings: Settings) -> Candidate:
    return train_candidate(lake_of(settings), settings, kit.NOW)


def aliases(settings: Settings) -> dict[str, int]:
    model = client(settings).get_registered_model(NAME)
    return {alias: int(version) for alias, version in model.aliases.items()}


def versions(settings: Settings) -> list[int]:
    return sorted(int(version.version) for version in client(settings).search_model_versions(f"name = '{NAME}'"))


def stronger(candidate: Candidate, settings: Settings, name: str) -> Candidate:
    """A candidate of the same split that saw the holdout, so that it surely wins."""
    from fraud_platform.model.data import load_holdout
    from fraud_platform.model.train import DEFAULTS, grow

    holdout = load_holdout(lake_of(settings), candidate.record.split, LabelRules())
    grown = grow(holdout, DEFAULTS, settings, kit.MEDIANS, rounds=100)
    model = bytes(grown.booster.save_raw("ubj"))
    bundle = replace(candidate.bundle, model=model, model_sha256=hashlib.sha256(model).hexdigest())
    folder = candidate.folder.with_name(name)
    return write_candidate(folder, replace(candidate.record, fingerprint=name), bundle, candidate.plots, CATALOGUE)


def test_a_first_candidate_becomes_champion_and_a_better_one_challenger(mine: Settings) -> None:
    import mlflow

    candidate = trained(mine)
    registered = register_candidate(mine, candidate, "dagster-1")
    assert (registered.version, registered.reused) == (1, False)
    assert aliases(mine) == {"candidate": 1}

    # everything that has to be found again is in MLflow
    run = client(mine).get_run(registered.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == pytest.approx(candidate.metrics)
    assert run.data.params["parameter.max_depth"] == str(candidate.record.search.parameters["max_depth"])
    version = client(mine).get_model_version(NAME, "1")
    assert version.tags["fingerprint"] == candidate.fingerprint
    assert version.tags["dagster_run_id"] == run.data.tags["dagster_run_id"] == "dagster-1"
    assert version.tags["catalogue_hash"] == CATALOGUE.hash
    assert candidate.record.data["training_set"]["sha256"] in version.tags["data.training_set"]
    names = {file.path for file in client(mine).list_artifacts(run.info.run_id)}
    assert {"plots", "report.md", f"{NAME}-1"} <= names
    path = f"{NAME}-1/card.md"
    logged = Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=path))
    assert "It was not judged yet." in logged.read_text()
    assert read_card(mine, 1) == logged.read_text()
    with pytest.raises(NoCardError, match="version 9 has no card; there are the versions 1"):
        read_card(mine, 9)
    # once it is judged, the card says so, and the version leads to it
    shown = note_verdict(mine, candidate, registered, judge_candidate(lake_of(mine), mine, candidate))
    assert "It passed, against chance" in shown
    assert read_card(mine, 1) == shown
    assert "| Dagster run | dagster-1 |" in shown
    judged = client(mine).get_model_version(NAME, "1")
    assert judged.tags["card"] == path
    assert judged.description.startswith("[Model card](#/experiments/")
    stored = {path.suffix for path in mine.home.rglob("*") if path.is_file()}
    assert not stored & {".pkl", ".pickle", ".joblib", ".cloudpickle"}, "nothing that would have to be unpickled"
    assert run.data.tags["model_version"] == "1"
    experiment = client(mine).get_experiment_by_name(EXPERIMENT)
    assert experiment.artifact_location.startswith((mine.home / "mlflow" / "artifacts").as_uri())

    # the model as MLflow loads it is the model that serves
    mlflow.set_tracking_uri(tracking_uri(mine))
    loaded = mlflow.xgboost.load_model(f"models:/{NAME}@candidate")
    vectors = np.random.default_rng(1).normal(size=(20, len(CATALOGUE.names))).astype(np.float32)
    margins = loaded.inplace_predict(vectors, predict_type="margin")
    np.testing.assert_array_equal(margins, Scorer(candidate.bundle).margins(vectors))
    signature = mlflow.models.get_model_info(f"models:/{NAME}/1").signature
    assert signature.inputs.input_names() == list(CATALOGUE.names)

    # the same training again adds nothing
    again = register_candidate(mine, candidate, "dagster-2")
    assert (again.version, again.mlflow_run_id, again.reused) == (1, registered.mlflow_run_id, True)
    assert versions(mine) == [1]
    assert len(own_runs(mine)) == 1
    trials = client(mine).search_runs(
        [experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{registered.mlflow_run_id}'"
    )
    reached = sorted(one.data.metrics["mean_average_precision"] for one in trials)
    assert reached == pytest.approx(sorted(trial.mean for trial in candidate.record.search.trials))
    assert {one.info.status for one in trials} == {"FINISHED"}

    # the first model beats chance
    promotion = release_if_better(lake_of(mine), mine, candidate, registered, who="weekly", now=kit.NOW)
    assert promotion.verdict.promote
    assert promotion.release == current_release(mine.home)
    assert (current_release(mine.home) / "card.md").read_text() == shown
    bundle = Bundle.load(current_release(mine.home))
    assert (bundle.version, bundle.mlflow_run_id, bundle.dagster_run_id) == (1, run.info.run_id, "dagster-1")
    assert aliases(mine) == {"champion": 1}
    assert champion_version(mine) == 1
    [entry] = read_ledger(mine.home)
    assert (entry["from"], entry["to"], entry["who"]) == (None, f"{NAME}-1", "weekly")
    assert "surely beats chance" in entry["why"]

    # all of it again changes nothing
    register_candidate(mine, candidate, "dagster-3")
    assert release_if_better(lake_of(mine), mine, candidate, again, who="weekly", now=kit.NOW).release == (
        promotion.release
    )
    assert aliases(mine) == {"champion": 1}
    assert read_ledger(mine.home) == [entry]

    # an equal candidate stays one, a better one becomes challenger
    equal = write_candidate(
        candidate.folder.with_name("equal"),
        replace(candidate.record, fingerprint="equal"),
        candidate.bundle,
        candidate.plots,
        CATALOGUE,
    )
    second = register_candidate(mine, equal)
    refused = release_if_better(lake_of(mine), mine, equal, second, who="weekly", now=kit.NOW)
    assert (refused.verdict.promote, refused.release) == (False, None)
    assert aliases(mine) == {"champion": 1, "candidate": 2}
    assert current_release(mine.home).name == f"{NAME}-1"

    better = stronger(candidate, mine, "better")
    third = register_candidate(mine, better)
    accepted = release_if_better(lake_of(mine), mine, better, third, who="weekly", now=kit.NOW)
    assert accepted.verdict.promote
    assert (accepted.release, accepted.challenger) == (None, f"{NAME}-3")
    assert current_release(mine.home).name == f"{NAME}-1", "the champion decides on"
    assert aliases(mine) == {"champion": 1, "challenger": 3, "candidate": 3}
    routing = read_routing(mine.home)
    assert (routing.release, routing.challenger, routing.stage, routing.weight) == (
        f"{NAME}-1", f"{NAME}-3", "shadow", 0.0
    )  # fmt: skip
    assert Bundle.load(mine.home / "releases" / f"{NAME}-3").version == 3

    # at the end of its way it takes over, and nobody challenges it
    promote(mine, third.version, who="rollout", why="all shown", now=kit.NOW)
    assert read_routing(mine.home) == Routing(release=f"{NAME}-3")
    assert aliases(mine) == {"champion": 3}
    champions = [(e["from"], e["to"]) for e in read_ledger(mine.home) if e["what"] == "champion"]
    assert champions == [(None, f"{NAME}-1"), (f"{NAME}-1", f"{NAME}-3")]

    # a champion that was trained on the holdout's days cannot be compared
    champion = Bundle.load(current_release(mine.home))
    champion.data["split"]["training_cut"] = "2026-12-31"
    champion.write(current_release(mine.home))
    verdict = release_if_better(lake_of(mine), mine, equal, second, who="weekly", now=kit.NOW).verdict
    assert not verdict.promote
    assert "after the holdout's start" in verdict.reasons[0]


def own_runs(settings: Settings) -> list[Any]:
    """Runs of candidates, without those of their trials."""
    experiment = client(settings).get_experiment_by_name(EXPERIMENT)
    runs = client(settings).search_runs([experiment.experiment_id])
    return [run for run in runs if "mlflow.parentRunId" not in run.data.tags]


class KilledError(BaseException):
    """Stands for the end of the process: nothing may catch it."""


def test_a_promotion_killed_at_any_step_is_completed_with_its_own_reason(
    mine: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    candidate = trained(mine)
    first = register_candidate(mine, candidate)
    promote(mine, first.version, who="setup", why="start", now=kit.NOW)
    steps: list[tuple[Any, str]] = [
        (registry, "publish"),
        (MlflowClient, "set_registered_model_alias"),
        (MlflowClient, "delete_registered_model_alias"),
        (registry, "append_change"),
    ]
    for number, (owner, name) in enumerate(steps):
        successor = write_candidate(
            candidate.folder.with_name(name),
            replace(candidate.record, fingerprint=name),
            candidate.bundle,
            {},
            CATALOGUE,
        )
        version = register_candidate(mine, successor).version

        def die(*_: Any, **__: Any) -> None:
            raise KilledError

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, die)
            with pytest.raises(KilledError):
                promote(mine, version, who="weekly", why=f"killed at {name}", now=kit.NOW)
        assert resume_promotion(mine) == current_release(mine.home)
        assert resume_promotion(mine) is None
        assert current_release(mine.home).name == f"{NAME}-{version}"
        assert aliases(mine) == {"champion": version}
        ledger = read_ledger(mine.home)
        assert len(ledger) == 2 + number
        assert (ledger[-1]["to"], ledger[-1]["why"]) == (f"{NAME}-{version}", f"killed at {name}")


def test_what_a_killed_registration_left_behind_is_closed_and_removed(
    mine: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    from fraud_platform.model.bundle import Bundle as Written

    assert close_orphan_runs(mine, lambda _: False) == []
    candidate = trained(mine)
    experiment = ensure_experiment(mine)
    assert ensure_experiment(mine) == experiment
    mlflow.set_tracking_uri(tracking_uri(mine))

    # as dagster-mlflow does: the run is opened and tagged by the resource, and nobody ends it
    run = mlflow.start_run(experiment_id=experiment, tags={"dagster_run_id": "gone"})
    with monkeypatch.context() as patch:

        def die(*_: Any) -> None:
            raise KilledError

        patch.setattr(Written, "write", die)
        with pytest.raises(KilledError):
            register_candidate(mine, candidate, "gone")
    assert versions(mine) == [1]
    by_hand = client(mine).create_run(experiment)

    assert close_orphan_runs(mine, lambda dagster_run: dagster_run == "gone") == []
    assert close_orphan_runs(mine, lambda _: False) == [run.info.run_id]
    assert client(mine).get_run(run.info.run_id).info.status == "KILLED"
    assert client(mine).get_run(by_hand.info.run_id).info.status == "RUNNING"
    assert versions(mine) == []
    mlflow.end_run("KILLED")

    # the next registration works inside a run that somebody else opened, and leaves its end to them
    with mlflow.start_run(experiment_id=experiment) as opened:
        registered = register_candidate(mine, candidate, "next")
        assert mlflow.active_run().info.run_id == registered.mlflow_run_id == opened.info.run_id
    assert versions(mine) == [registered.version]
    assert close_orphan_runs(mine, lambda _: False) == []


def test_an_interrupted_promotion_that_no_longer_fits_the_code_does_not_block_the_next(
    mine: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = trained(mine)
    version = register_candidate(mine, candidate).version

    def die(*_: Any) -> None:
        raise KilledError

    def outdated(*_: Any) -> None:
        raise BundleError("trained on another catalogue")

    with monkeypatch.context() as patch:
        patch.setattr(registry, "publish", die)
        with pytest.raises(KilledError):
            promote(mine, version, who="weekly", why="x", now=kit.NOW)
    with monkeypatch.context() as patch:
        patch.setattr(registry, "publish", outdated)
        assert resume_promotion(mine) is None
        with pytest.raises(BundleError, match="another catalogue"):
            promote(mine, version, who="weekly", why="x", now=kit.NOW)
    assert promote(mine, version, who="weekly", why="y", now=kit.NOW) == current_release(mine.home)
    assert [entry["why"] for entry in read_ledger(mine.home)] == ["y"]
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def released_twice(settings: Settings) -> Candidate:
    """Versions 1 and 3 were released, and MLflow knows both; 3 decides."""
    candidate = trained(settings)
    for number in (1, 3):
        folder = settings.home / "built" / str(number)
        replace(candidate.bundle, version=number, mlflow_run_id="gone").write(folder)
        publish(settings.home, folder)
    assert rebuild_registry(settings) == [1, 3]
    return candidate


def by_the_sensor(settings: Settings) -> None:
    none = np.empty(0)
    evidence = measure(Scores(none, none, none, none.astype(bool), none, none), 0.5, 2.0)
    step = Step("roll_back", 0.0, ["it blocks too much"])
    assert take_step(settings, read_routing(settings.home), evidence, step, "sensor", kit.NOW)


def by_the_command(settings: Settings) -> None:
    begin_home(settings.home)
    words = ["release", "rollback", "--why", "complaints", "--wait", "0"]
    done = CliRunner().invoke(app, words, env={"FRAUD_HOME": str(settings.home)})
    assert done.exit_code == 0, done.output


def by_a_job(name: str) -> Callable[[Settings], None]:
    def run(settings: Settings) -> None:
        (job,) = (each for each in RELEASE_JOBS if each.name == name)
        (op,) = job.nodes
        config = {"ops": {op.name: {"config": {"who": "ana", "why": "complaints"}}}}
        assert job.execute_in_process(config, resources={"platform": Platform(settings, kit.NOW)}).success

    return run


@pytest.mark.parametrize("take_out", [by_the_sensor, by_the_command, by_a_job("roll_back_challenger")])
def test_mlflow_shows_no_challenger_once_it_was_taken_out(mine: Settings, take_out: Callable[[Settings], None]) -> None:
    released_twice(mine)
    challenge(mine, 1, Reason(who="ana", why="tried again"), kit.NOW)
    assert aliases(mine) == {"champion": 3, "challenger": 1}
    take_out(mine)
    assert read_routing(mine.home).challenger is None
    assert aliases(mine) == {"champion": 3}


@pytest.mark.parametrize("return_to_it", [by_the_command, by_a_job("return_to_champion_before")])
def test_mlflow_shows_the_champion_that_was_returned_to(
    mine: Settings, return_to_it: Callable[[Settings], None]
) -> None:
    released_twice(mine)
    for version in (3, 1):
        promote(mine, version, who="ana", why="one after the other", now=kit.NOW)
    assert aliases(mine) == {"champion": 1}
    return_to_it(mine)
    assert read_routing(mine.home).release == f"{NAME}-3"
    assert aliases(mine) == {"champion": 3}


def test_a_challenger_is_taken_out_while_mlflow_is_broken(mine: Settings, caplog: pytest.LogCaptureFixture) -> None:
    released_twice(mine)
    challenge(mine, 1, Reason(who="ana", why="tried again"), kit.NOW)
    with closing(sqlite3.connect(mine.home / "mlflow" / "mlflow.db", isolation_level=None)) as database:
        database.execute("ALTER TABLE registered_model_aliases RENAME TO away")
        by_the_sensor(mine)
        assert read_routing(mine.home).challenger is None
        assert "MLflow may show another champion or challenger" in caplog.text
        database.execute("ALTER TABLE away RENAME TO registered_model_aliases")
    assert aliases(mine) == {"champion": 3, "challenger": 1}
    show_who_decides(mine)
    assert aliases(mine) == {"champion": 3}


def test_a_home_without_mlflow_gets_none_by_a_roll_back(tmp_path: Path) -> None:
    show_who_decides(Settings(home=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_lost_registry_is_rebuilt_from_the_releases_under_their_old_numbers(mine: Settings) -> None:
    candidate = released_twice(mine)
    assert (versions(mine), aliases(mine)) == ([1, 3], {"champion": 3})
    # what was released can be returned to, and the next training gets a number that no release has
    assert promote(mine, 1, who="test", why="drill", now=kit.NOW).name == f"{NAME}-1"
    assert register_candidate(mine, replace_fingerprint(candidate), None).version == 4
    assert rebuild_registry(mine) == []


def test_a_moved_home_and_one_restored_elsewhere_find_their_models_and_touch_no_other(
    mine: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With MLflow's own client, as people use it by hand, too."""
    import mlflow

    candidate = trained(mine)
    version = register_candidate(mine, candidate, "before").version
    promote(mine, version, who="test", why="start", now=kit.NOW)
    backup(mine, tmp_path / "backup", kit.NOW)
    old = mine.home
    folder = tmp_path / "another place"
    old.rename(folder)
    moved = mine.model_copy(update={"home": folder})
    linked = tmp_path / "link"
    linked.symlink_to(folder)
    restored = mine.model_copy(update={"home": tmp_path / "restored"})
    restore(restored, tmp_path / "backup")
    copied = mine.model_copy(update={"home": tmp_path / "copied"})
    shutil.copytree(folder, copied.home)

    for settings in (moved, restored, copied):
        caplog.clear()
        assert read_from_registry(settings, version) == candidate.bundle.model
        assert [record.message for record in caplog.records if "The home has moved" in record.message] == [
            f"The home has moved: MLflow finds its artifacts in {settings.home}/mlflow/artifacts now, and no longer "
            f"under {(old / 'mlflow' / 'artifacts').as_uri()}."
        ]
        assert follow_home(settings.home) is None
    assert follow_home(linked) is None, "another name of the same folder is no other place"
    # what is written from now on is written there, and nowhere else
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    another = replace_fingerprint(trained(copied))
    following = register_candidate(copied, another).version
    assert promote(copied, following, who="test", why="a copy", now=kit.NOW).parent == copied.home / "releases"
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before
    assert not old.exists()
    for settings in (moved, restored, copied):
        mlflow.set_tracking_uri(tracking_uri(settings))
        addresses = [run.info.artifact_uri for run in client(settings).search_runs(["1"])]
        assert addresses
        assert all(each.startswith((settings.home / "mlflow" / "artifacts").as_uri() + "/") for each in addresses)


def read_from_registry(settings: Settings, version: int) -> bytes:
    """A version's model as its bundle has it, after MLflow has loaded the same."""
    import mlflow

    with registry._downloaded(settings, registry.open_client(settings), version) as folder:
        model = Bundle.load(folder).model
    mlflow.set_tracking_uri(tracking_uri(settings))
    loaded = mlflow.xgboost.load_model(f"models:/{NAME}/{version}")
    assert bytes(loaded.save_raw("ubj")) == model
    assert "was not judged" in read_card(settings, version)
    return model


def test_an_experiment_that_lies_elsewhere_on_purpose_and_a_home_without_one_are_left_alone(tmp_path: Path) -> None:
    assert follow_home(tmp_path) is None
    (tmp_path / "mlflow").mkdir()
    with closing(sqlite3.connect(tmp_path / "mlflow" / "mlflow.db")) as database:
        assert follow_home(tmp_path) is None
        # of an MLflow that knew no logged models yet
        database.execute("create table experiments (name, artifact_location)")
        database.execute("create table runs (artifact_uri)")
        database.execute("insert into experiments values (?, 's3://bank/models')", (NAME,))
        database.commit()
        assert follow_home(tmp_path) is None
        database.execute("update experiments set artifact_location = 'file:///old/mlflow/artifacts'")
        database.execute(
            "insert into runs values ('file:///old/mlflow/artifacts/1'), ('file:///old/mlflow/artifacts2')"
        )
        database.commit()
        assert follow_home(tmp_path) is not None
        new = (tmp_path / "mlflow" / "artifacts").as_uri()
        assert database.execute("select artifact_uri from runs").fetchall() == [
            (f"{new}/1",), ("file:///old/mlflow/artifacts2",)
        ]  # fmt: skip


def replace_fingerprint(candidate: Candidate) -> Candidate:
    """The same candidate as another training would have named it."""
    return write_candidate(
        candidate.folder.with_name("another"), replace(candidate.record, fingerprint="another"), candidate.bundle,
        candidate.plots, CATALOGUE)  # fmt: skip
