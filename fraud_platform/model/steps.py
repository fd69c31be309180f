"""The model's life in three steps, each repeatable: train and measure, register, promote if better.

What belongs here: the order of work that an orchestrator calls. What does not: any orchestrator.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.lake import Lake
from fraud_platform.model.baseline import fit_baseline
from fraud_platform.model.bundle import (
    MODEL_NAME,
    UNREGISTERED,
    Bundle,
    BundleError,
    NoReleaseError,
    Scorer,
    current_release,
)
from fraud_platform.model.calibration import UNCALIBRATED
from fraud_platform.model.candidate import Candidate, CandidateRecord, candidate_folder, fingerprint, write_candidate
from fraud_platform.model.data import (
    data_versions,
    find_split,
    joined,
    load_holdout,
    load_training_data,
    newest_medians,
)
from fraud_platform.model.evaluate import evaluate
from fraud_platform.model.gate import Verdict, decide_promotion
from fraud_platform.model.plots import draw
from fraud_platform.model.ranking import compare
from fraud_platform.model.registry import Registered, log_and_register, promote
from fraud_platform.model.train import parameters, train
from fraud_platform.settings import Settings


@dataclass(frozen=True)
class Promotion:
    """What came of a candidate."""

    verdict: Verdict
    release: Path | None
    """The release's folder when it is in force now."""


def train_candidate(lake: Lake, settings: Settings, now: datetime) -> Candidate:
    """Train on the history before `now`'s day, measure on its holdout and write `<home>/candidates/<fingerprint>/`.

    The same data and settings again return that folder's candidate without training. Raises TrainingDataError.
    """
    split = find_split(lake, settings, now)
    medians_day, medians = newest_medians(lake, split.last_day)
    versions = data_versions(lake, split, medians_day)
    name = fingerprint(settings, split, versions)
    folder = candidate_folder(settings.home, name)
    if folder.exists():
        return Candidate.load(folder)
    data = load_training_data(lake, split)
    trained = train(data.train, data.validation, settings)
    # fitted on as many days as the candidate, or the gain would be partly the days'
    fallback = fit_baseline(joined(data.train, data.validation), settings.seed)
    bundle = Bundle(
        model_name=MODEL_NAME,
        version=UNREGISTERED,
        catalogue_hash=CATALOGUE.hash,
        features=CATALOGUE.names,
        medians=medians,
        calibration=UNCALIBRATED,
        fallback=fallback,
        threshold=settings.threshold,
        review_threshold=settings.review_threshold,
        model_sha256=hashlib.sha256(trained.model).hexdigest(),
        mlflow_run_id=None,
        dagster_run_id=None,
        data={"fingerprint": name, "split": split.describe(), "tables": versions},
        trained_at=now.isoformat(),
        model=trained.model,
    )
    # measured as it will be served: the bundle's own scorer
    scores = Scorer(bundle).score(data.holdout.vectors)
    baseline = fallback.score(data.holdout.vectors)
    record = CandidateRecord(
        fingerprint=name,
        split=split,
        evaluation=evaluate(data.holdout.is_fraud, scores, baseline, data.holdout.unknown, settings),
        parameters=parameters(settings),
        data=versions,
        rounds=trained.rounds,
        validation_average_precision=trained.validation_average_precision,
        train_rows=len(data.train),
        train_frauds=data.train.frauds,
        validation_rows=len(data.validation),
        validation_frauds=data.validation.frauds,
    )
    return write_candidate(folder, record, bundle, draw(data.holdout.is_fraud, scores, baseline))


def register_candidate(settings: Settings, candidate: Candidate, dagster_run_id: str | None = None) -> Registered:
    """Log a candidate into MLflow and register it, once per fingerprint."""
    return log_and_register(settings, candidate, dagster_run_id)


def promote_if_better(
    lake: Lake, settings: Settings, candidate: Candidate, registered: Registered, *, who: str, now: datetime
) -> Promotion:
    """Judge a registered candidate against what decides now, and put it into force if the rule allows.

    who: person or job that asks, for the ledger.
    """
    verdict = _judge(lake, settings, candidate, registered)
    if not verdict.promote:
        return Promotion(verdict, None)
    return Promotion(verdict, promote(settings, registered.version, who=who, why="; ".join(verdict.reasons), now=now))


def _judge(lake: Lake, settings: Settings, candidate: Candidate, registered: Registered) -> Verdict:
    evaluation, split = candidate.record.evaluation, candidate.record.split
    try:
        champion = Bundle.load(current_release(settings.home))
    except NoReleaseError:
        return decide_promotion(evaluation.frauds, evaluation.comparison, None)
    except BundleError as error:
        # a champion that this code cannot load cannot decide either
        verdict = decide_promotion(evaluation.frauds, evaluation.comparison, None)
        return Verdict(verdict.promote, [f"WARNING: the champion cannot be loaded: {error}", *verdict.reasons])
    if champion.version == registered.version:
        return Verdict(True, ["is the champion already"])
    champion_cut = champion.data["split"]["training_cut"]
    if champion_cut > split.training_cut.isoformat():
        return Verdict(
            False, [f"the champion's training cut, {champion_cut}, lies after the holdout's start {split.training_cut}"]
        )
    holdout = load_holdout(lake, split)
    scores, rival = (Scorer(bundle).score(holdout.vectors) for bundle in (candidate.bundle, champion))
    return decide_promotion(
        holdout.frauds, evaluation.comparison, compare(holdout.is_fraud, scores, rival, settings.seed)
    )
