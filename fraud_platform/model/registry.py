"""MLflow: experiment, runs, versions of the registered model and their aliases, and promotion into force.

What belongs here: everything that speaks to MLflow. What does not: whether to promote (`gate`). MLflow takes five
seconds to import, so functions import it, after `open_client` has switched its telemetry off.
"""

import logging
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fraud_platform.model import linear_flavour, release
from fraud_platform.model.bundle import (
    CARD_FILE,
    MODEL_FILE,
    MODEL_NAME,
    Bundle,
    BundleError,
    card_beside,
    exclusive,
    publish,
    releases,
    replace_file,
)
from fraud_platform.model.candidate import PLOTS_FOLDER, Candidate
from fraud_platform.model.card import card_markdown
from fraud_platform.model.card_shelf import show_card
from fraud_platform.model.following import refuse_following
from fraud_platform.model.gate import Verdict
from fraud_platform.model.kinds import XGBOOST
from fraud_platform.model.ledger import Change, append_change
from fraud_platform.model.registry_moved import follow_home
from fraud_platform.model.release import Reason
from fraud_platform.model.report import report_markdown
from fraud_platform.model.routing import Routing, read_routing
from fraud_platform.settings import Settings

_log = logging.getLogger(__name__)

EXPERIMENT = MODEL_NAME
CHAMPION, CHALLENGER, CANDIDATE = "champion", "challenger", "candidate"
"""Aliases: what decides, what is on its way to that, and the newest that was registered."""
FINGERPRINT_TAG = "fingerprint"
"""Set last: a version without it was left behind by a killed registration."""
DAGSTER_RUN_TAG = "dagster_run_id"
MODEL_VERSION_TAG = "model_version"
GATE_TAG = "gate"
KIND_TAG = "kind"


@dataclass(frozen=True)
class Registered:
    """A version of the registered model."""

    version: int
    mlflow_run_id: str
    reused: bool
    """The same training was registered before, so nothing was added."""


@dataclass(frozen=True, kw_only=True)
class _Intent:
    """A promotion that was decided; it lies in a file until it is complete."""

    version: int
    who: str
    why: str
    at: datetime


def tracking_uri(settings: Settings) -> str:
    """Address of the embedded tracking store and registry."""
    return f"sqlite:///{_database(settings)}"


def ensure_experiment(settings: Settings) -> str:
    """Id of the experiment, created where it is missing with its artifacts under the home."""
    client = open_client(settings)
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        artifacts = _database(settings).parent / "artifacts"
        try:
            return str(client.create_experiment(EXPERIMENT, artifact_location=artifacts.as_uri()))
        except MlflowException:
            # another process may have created it meanwhile; anything else is an error
            experiment = client.get_experiment_by_name(EXPERIMENT)
            if experiment is None:
                raise
    return str(experiment.experiment_id)


def log_and_register(settings: Settings, candidate: Candidate, dagster_run_id: str | None) -> Registered:
    """Log a candidate into the active MLflow run, or one of its own, and register it as a new version.

    A candidate whose fingerprint has a version is not registered again. The version gets the alias `candidate`, unless
    it is already the champion.
    """
    client = open_client(settings)
    with exclusive(_database(settings).parent / "register.lock"):
        _delete_unfinished_versions(client)
        existing = client.search_model_versions(
            f"name = '{MODEL_NAME}' and tags.{FINGERPRINT_TAG} = '{candidate.fingerprint}'"
        )
        if existing:
            registered = Registered(int(existing[0].version), str(existing[0].run_id), True)
        else:
            with _run(settings, candidate.fingerprint) as run_id:
                version = _register(client, candidate, run_id, dagster_run_id)
            registered = Registered(version, run_id, False)
        if champion_version(settings) != registered.version:
            client.set_registered_model_alias(MODEL_NAME, CANDIDATE, str(registered.version))
    return registered


def note_verdict(settings: Settings, candidate: Candidate, registered: Registered, verdict: Verdict) -> str:
    """Show the gate's verdict on the version and its run, and in the version's card, which is returned."""
    client = open_client(settings)
    for name, value in {
        GATE_TAG: "passed" if verdict.promote else "failed",
        f"{GATE_TAG}.rival": verdict.rival,
        f"{GATE_TAG}.reasons": "; ".join(verdict.reasons),
    }.items():
        client.set_model_version_tag(MODEL_NAME, str(registered.version), name, value)
        client.set_tag(registered.mlflow_run_id, name, value)
    run_id = registered.mlflow_run_id
    dagster_run_id = client.get_run(run_id).data.tags.get(DAGSTER_RUN_TAG)
    return show_card(client, candidate, registered.version, run_id, dagster_run_id, verdict)


class NoCardError(LookupError):
    """A version has no card here; the message says why."""


def read_card(settings: Settings, version: int) -> str:
    """A version's card: the one kept with its release, else the registry's. Raises NoCardError, BundleError where the
    card is not the one that was released."""
    kept = card_beside(releases(settings.home) / f"{MODEL_NAME}-{version}")
    if kept is not None:
        return kept.decode()
    client = open_client(settings)
    from mlflow.exceptions import MlflowException

    try:
        with _downloaded(settings, client, version) as folder:
            return (folder / CARD_FILE).read_text()
    except (MlflowException, FileNotFoundError) as error:
        there = sorted(int(found.version) for found in client.search_model_versions(f"name = '{MODEL_NAME}'"))
        raise NoCardError(
            f"version {version} has no card; there are the versions {', '.join(map(str, there)) or 'none'}, "
            "and those registered before cards were made have none"
        ) from error


def champion_version(settings: Settings) -> int | None:
    """The version that carries the alias `champion`, or None."""
    return _alias(open_client(settings), CHAMPION)


def promote(settings: Settings, version: int, *, who: str, why: str, now: datetime) -> Path:
    """Put a registered version into force: alias `champion`, release, ledger. Returns the release's folder.

    Killed in between, `resume_promotion` or the same call again completes it. Raises BundleError when the version does
    not fit the catalogue in force, FollowingError in another region than the first.
    """
    refuse_following(settings.home, "says which release decides")
    root = releases(settings.home)
    root.mkdir(parents=True, exist_ok=True)
    with exclusive(root / ".promotion.lock"):
        _finish_pending(settings)
        intent = _Intent(version=version, who=who, why=why, at=now)
        replace_file(_intent_file(settings), msgspec.json.encode(intent))
        return _apply(settings, intent)


def challenge(settings: Settings, version: int, reason: Reason, now: datetime, *, again: bool = False) -> Routing:
    """Put a registered version into shadow beside the champion: alias `challenger`, release, routing, ledger.

    Raises BundleError, NoReleaseError, ReleaseError.
    """
    client = open_client(settings)
    with _downloaded(settings, client, version) as folder:
        routing = release.challenge(settings.home, folder, reason, now, again=again)
    client.set_registered_model_alias(MODEL_NAME, CHALLENGER, str(version))
    return routing


def bundle_of(settings: Settings, version: int) -> Bundle:
    """A registered version's bundle. Raises BundleError."""
    with _downloaded(settings, open_client(settings), version) as folder:
        return Bundle.load(folder)


def show_who_decides(settings: Settings) -> None:
    """Let the aliases `champion` and `challenger` say what the home's record says, after a change that was made without
    MLflow: a challenger taken out, an earlier release put back.

    That change stands in any case. Where MLflow cannot be written to, the log says so, and the next call catches up.
    """
    if not _database(settings).exists():
        return
    _keep_mlflow_quiet()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        client = open_client(settings)
        with exclusive(releases(settings.home) / ".promotion.lock"):
            routing = read_routing(settings.home)
            for alias, name in ((CHAMPION, routing.release), (CHALLENGER, routing.challenger)):
                if name is not None:
                    client.set_registered_model_alias(MODEL_NAME, alias, name.rpartition("-")[2])
                elif _alias(client, alias) is not None:
                    client.delete_registered_model_alias(MODEL_NAME, alias)
    except (MlflowException, SQLAlchemyError, sqlite3.Error) as error:
        _log.warning("MLflow may show another champion or challenger than the one that decides: %s", error)


def resume_promotion(settings: Settings) -> Path | None:
    """Complete a promotion whose process was killed; None, at once and without MLflow, when there is none."""
    if not _intent_file(settings).exists():
        return None
    with exclusive(releases(settings.home) / ".promotion.lock"):
        return _finish_pending(settings)


def close_orphan_runs(settings: Settings, is_alive: Callable[[str], bool]) -> list[str]:
    """End MLflow runs that a killed Dagster run left RUNNING as KILLED; returns their ids.

    is_alive: whether a Dagster run of this id still runs. Runs without the tag of a Dagster run belong to people and
    are left alone. Costs nothing while no run is RUNNING.
    """
    if not _any_running(settings):
        return []
    client = open_client(settings)
    running = client.search_runs([ensure_experiment(settings)], "attributes.status = 'RUNNING'")
    orphans = [
        run.info.run_id
        for run in running
        if DAGSTER_RUN_TAG in run.data.tags and not is_alive(run.data.tags[DAGSTER_RUN_TAG])
    ]
    for run_id in orphans:
        client.set_terminated(run_id, "KILLED")
    with exclusive(_database(settings).parent / "register.lock"):
        _delete_unfinished_versions(client)
    return orphans


def _finish_pending(settings: Settings) -> Path | None:
    """Callers hold the promotion's lock."""
    path = _intent_file(settings)
    if not path.exists():
        return None
    intent = msgspec.json.decode(path.read_bytes(), type=_Intent)
    try:
        return _apply(settings, intent)
    except BundleError:
        _log.exception("dropped the interrupted promotion of version %d, which this code cannot load", intent.version)
        return None


def _apply(settings: Settings, intent: _Intent) -> Path:
    client = open_client(settings)
    with _downloaded(settings, client, intent.version) as folder:
        try:
            released = publish(settings.home, folder)
        except BundleError:
            # made for other code; kept, the intent would stop every later promotion
            _intent_file(settings).unlink()
            raise
    client.set_registered_model_alias(MODEL_NAME, CHAMPION, str(intent.version))
    for alias in (CHALLENGER, CANDIDATE):
        if _alias(client, alias) == intent.version:
            client.delete_registered_model_alias(MODEL_NAME, alias)
    append_change(settings.home, Change(at=intent.at, who=intent.who, why=intent.why, to=released.name))
    _intent_file(settings).unlink()
    return released


@contextmanager
def _downloaded(settings: Settings, client: Any, version: int) -> Iterator[Path]:
    """A version's bundle, in a folder that goes with the block."""
    from mlflow.artifacts import download_artifacts

    run_id = client.get_model_version(MODEL_NAME, str(version)).run_id
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(
            download_artifacts(
                run_id=run_id,
                artifact_path=f"{MODEL_NAME}-{version}",
                dst_path=temporary,
                tracking_uri=tracking_uri(settings),
            )
        )


def _register(client: Any, candidate: Candidate, run_id: str, dagster_run_id: str | None) -> int:
    """Log everything into the active run and create the version; its fingerprint comes last."""
    import mlflow

    record, draft = candidate.record, candidate.bundle
    data = {f"data.{table}": f"{v['first_day']}..{v['last_day']} {v['sha256']}" for table, v in record.data.items()}
    tags = {"catalogue_hash": draft.catalogue_hash, KIND_TAG: draft.kind, **data}
    if dagster_run_id is not None:
        tags[DAGSTER_RUN_TAG] = dagster_run_id
    windows = {f"split.{name}": value for name, value in record.split.describe().items()}
    mlflow.set_tags(tags | {FINGERPRINT_TAG: candidate.fingerprint})
    chosen = {f"parameter.{name}": value for name, value in record.search.parameters.items()}
    mlflow.log_params(record.fixed | chosen | windows)
    mlflow.log_metrics(candidate.metrics)
    mlflow.log_artifacts(str(candidate.folder / PLOTS_FOLDER), PLOTS_FOLDER)
    mlflow.log_text(report_markdown(candidate), "report.md")
    _log_trials(client, run_id, candidate)
    version = int(mlflow.register_model(_log_model(draft), MODEL_NAME, tags=tags).version)
    bundle = replace(draft, version=version, mlflow_run_id=run_id, dagster_run_id=dagster_run_id)
    with tempfile.TemporaryDirectory() as temporary:
        bundle.write(Path(temporary))
        (Path(temporary) / CARD_FILE).write_text(card_markdown(record, bundle, None))
        mlflow.log_artifacts(temporary, bundle.name)
    mlflow.set_tag(MODEL_VERSION_TAG, str(version))
    client.set_model_version_tag(MODEL_NAME, str(version), FINGERPRINT_TAG, candidate.fingerprint)
    return version


def _log_model(bundle: Bundle) -> str:
    """Log the model itself into the active run, in a flavour of its kind without a pickle; returns its address."""
    import mlflow.pyfunc
    import mlflow.xgboost
    import xgboost
    from mlflow.models.signature import ModelSignature
    from mlflow.types import ColSpec, Schema

    signature = ModelSignature(
        inputs=Schema([ColSpec("float", name) for name in bundle.features]), outputs=Schema([ColSpec("float")])
    )
    # requirements are given, since MLflow would find them by starting Python and loading the model
    if bundle.kind == XGBOOST:
        logged = mlflow.xgboost.log_model(
            xgboost.Booster(model_file=bytearray(bundle.model)),
            name="model",
            model_format="ubj",
            signature=signature,
            pip_requirements=[f"xgboost=={xgboost.__version__}"],
        )
        return str(logged.model_uri)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / MODEL_FILE
        path.write_bytes(bundle.model)
        logged = mlflow.pyfunc.log_model(
            name="model",
            loader_module=linear_flavour.__name__,
            data_path=str(path),
            signature=signature,
            pip_requirements=[f"numpy=={np.__version__}"],
        )
    return str(logged.model_uri)


def _log_trials(client: Any, run_id: str, candidate: Candidate) -> None:
    """One run per trial, below the candidate's."""
    from mlflow.entities import Metric, Param, RunTag

    experiment = client.get_run(run_id).info.experiment_id
    for trial in candidate.record.search.trials:
        name = f"trial {trial.number}"
        run = client.create_run(experiment, tags={"mlflow.parentRunId": run_id, "mlflow.runName": name}, run_name=name)
        at = run.info.start_time
        reached = [Metric("average_precision", value, at, step) for step, value in enumerate(trial.average_precision)]
        grown = [Metric("rounds", float(value), at, step) for step, value in enumerate(trial.rounds)]
        client.log_batch(
            run.info.run_id,
            metrics=[*reached, *grown, Metric("mean_average_precision", trial.mean, at, 0)],
            params=[Param(key, str(value)) for key, value in trial.parameters.items()],
            tags=[RunTag(FINGERPRINT_TAG, candidate.fingerprint)],
        )
        client.set_terminated(run.info.run_id)


@contextmanager
def _run(settings: Settings, name: str) -> Iterator[str]:
    """The active MLflow run's id, or that of a new run which ends with the block."""
    import mlflow

    active = mlflow.active_run()
    if active is not None:
        yield str(active.info.run_id)
        return
    mlflow.set_tracking_uri(tracking_uri(settings))
    with mlflow.start_run(experiment_id=ensure_experiment(settings), run_name=name) as run:
        yield str(run.info.run_id)


def _delete_unfinished_versions(client: Any) -> None:
    """Delete versions whose registration was killed; those of runs that still run are left. Callers hold the lock."""
    for version in client.search_model_versions(f"name = '{MODEL_NAME}'"):
        if FINGERPRINT_TAG not in version.tags and client.get_run(version.run_id).info.status != "RUNNING":
            client.delete_model_version(MODEL_NAME, version.version)


def _alias(client: Any, alias: str) -> int | None:
    models = client.search_registered_models(f"name = '{MODEL_NAME}'")
    version = models[0].aliases.get(alias) if models else None
    return None if version is None else int(version)


def _any_running(settings: Settings) -> bool:
    """Whether a run is RUNNING, asked of the database itself: MLflow takes seconds to say so at every start."""
    if not _database(settings).exists():
        return False
    with closing(sqlite3.connect(f"file:{_database(settings)}?mode=ro", uri=True)) as database:
        if not database.execute("select 1 from sqlite_master where name = 'runs'").fetchone():
            return False
        return bool(database.execute("select 1 from runs where status = 'RUNNING' limit 1").fetchone())


def _database(settings: Settings) -> Path:
    return settings.home.absolute() / "mlflow" / "mlflow.db"


def _intent_file(settings: Settings) -> Path:
    return releases(settings.home) / "promotion.json"


def open_client(settings: Settings) -> Any:
    """MLflow's client of the embedded store, its telemetry off; in a home that has moved, of where it is now."""
    _keep_mlflow_quiet()
    from mlflow.tracking import MlflowClient

    _database(settings).parent.mkdir(parents=True, exist_ok=True)
    moved = follow_home(settings.home)
    if moved:
        _log.warning(moved)
    return MlflowClient(tracking_uri(settings), tracking_uri(settings))


def _keep_mlflow_quiet() -> None:
    """Before MLflow is imported, which is when it reads these."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    # a bundle is three small files: its progress is not worth a line
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
