"""The model's life in three steps, each repeatable: train and measure, register, promote if better.

What belongs here: the order of work that an orchestrator calls. What does not: any orchestrator.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fraud_platform.decision.policy_control import policy_in_force
from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.features.degrade import LEVELS, degrade
from fraud_platform.features.label_rules import LabelRules, label_rules
from fraud_platform.lake import Lake
from fraud_platform.model.attribution import attribute, summary_picture
from fraud_platform.model.baseline import fit_baseline
from fraud_platform.model.bundle import (
    MODEL_NAME,
    UNREGISTERED,
    Bundle,
    BundleError,
    NoReleaseError,
    Scorer,
    current_release,
    definitions_of,
)
from fraud_platform.model.calibration import UNCALIBRATED, Calibration, NoOrderError, fit_calibration
from fraud_platform.model.candidate import Candidate, CandidateRecord, candidate_folder, fingerprint, write_candidate
from fraud_platform.model.costs import CostChoice, LossTable, choose_threshold, in_units
from fraud_platform.model.data import (
    Holdout,
    Learnable,
    Load,
    data_versions,
    find_split,
    joined,
    labels_before,
    load_examples,
    load_holdout,
    load_training_data,
    newest_medians,
)
from fraud_platform.model.evaluate import Evaluation, Scores, evaluate
from fraud_platform.model.folds import FoldExamples, load_folds
from fraud_platform.model.gate import CHANCE, Verdict, judge, passed_verdict, read_verdict, write_verdict
from fraud_platform.model.kinds import KINDS, REGRESSION, XGBOOST, KindName
from fraud_platform.model.linear_file import write_linear
from fraud_platform.model.plots import draw
from fraud_platform.model.ranking import average_precision, compare
from fraud_platform.model.registry import Registered, challenge, log_and_register, promote
from fraud_platform.model.release import Reason
from fraud_platform.model.search import OutOfFold, search
from fraud_platform.model.served import refuse_skew
from fraud_platform.model.slices import first_seen
from fraud_platform.model.split import Split
from fraud_platform.model.stored import load_sample, store
from fraud_platform.model.train import EXTERNAL, fixed_parameters, grow
from fraud_platform.settings import Settings


@dataclass(frozen=True)
class Promotion:
    """What came of a candidate."""

    verdict: Verdict
    release: Path | None
    """The release's folder when it is in force now."""
    challenger: str | None
    """Name of the release when it is the challenger now."""


def train_candidate(lake: Lake, settings: Settings, now: datetime, catalogue: Catalogue = CATALOGUE) -> Candidate:
    """Train on the history before `now`'s day, measure on its holdout and write `<home>/candidates/<fingerprint>/`.

    Trees and logistic regression are fitted on the same rows, and the one that ranks the holdout better is the
    candidate. It is measured at the thresholds of the policy in force. The same data, settings and thresholds again
    return that folder's candidate without training. Raises TrainingDataError, PolicyError.
    """
    policy = policy_in_force(settings, now)
    settings = settings.model_copy(update={"threshold": policy.threshold, "review_threshold": policy.review_threshold})
    split = find_split(lake, settings, now, catalogue)
    medians_day, medians = newest_medians(lake, split.last_day, catalogue)
    # first of all: what was trained before on days that have turned out skewed is not handed out again either
    refuse_skew(lake, split.days, settings.accepted_skew_days)
    rules = label_rules(settings)
    versions = data_versions(lake, split, medians_day, rules, catalogue)
    name = fingerprint(settings, split, versions, catalogue)
    folder = candidate_folder(settings.home, name)
    if folder.exists():
        return Candidate.load(folder, catalogue)
    external = settings.training_memory == EXTERNAL
    load: Load = partial(load_sample, seed=settings.seed) if external else load_examples
    data = load_training_data(lake, split, rules, settings.accepted_skew_days, load, catalogue)
    # before the holdout is touched: everything that is chosen is chosen on days before it
    folds = load_folds(lake, split, rules, load=load, catalogue=catalogue)
    found, unseen = search(folds, settings, medians, settings.home / "search" / f"{name}.journal")
    loaded = joined([data.train, data.validation])
    # grown on validation days too: the newest labels look most like tomorrow
    learned_from = _stored(lake, split, rules, catalogue) if external else loaded
    grown = grow(learned_from, found.parameters, settings, medians, rounds=found.rounds)
    # fitted on as many days as the trees, or the gain would be partly the days'
    regression = fit_baseline(loaded, settings.seed)
    models = {XGBOOST: bytes(grown.booster.save_raw("ubj")), REGRESSION: write_linear(regression)}
    margins = {kind: _margins(kind, payload, data.holdout) for kind, payload in models.items()}
    # the first of equals, so trees
    kind, other = sorted(margins, key=lambda kind: -average_precision(data.holdout.is_fraud, margins[kind]))
    if unseen is not None and kind == REGRESSION:
        unseen = replace(unseen, margins=_unseen_by_regression(folds, settings.seed))
    calibration = UNCALIBRATED if unseen is None else _calibrated(unseen)
    bundle = Bundle(
        model_name=MODEL_NAME,
        version=UNREGISTERED,
        catalogue_hash=catalogue.hash,
        features=catalogue.names,
        definitions=definitions_of(catalogue),
        medians=medians,
        calibration=calibration,
        kind=kind,
        fallback=regression,
        threshold=settings.threshold,
        review_threshold=settings.review_threshold,
        model_sha256=hashlib.sha256(models[kind]).hexdigest(),
        mlflow_run_id=None,
        dagster_run_id=None,
        data={
            "fingerprint": name,
            "split": split.describe(),
            "tables": versions,
            "accepted_skew_days": [day.isoformat() for day in settings.accepted_skew_days if day in split.days],
        },
        trained_at=now.isoformat(),
        model=models[kind],
    )
    choice = None if unseen is None else _choose(unseen, calibration, settings)
    beside = other, UNCALIBRATED.probabilities(margins[other])
    evaluation, pictures, features = _measure(lake, bundle, beside, data.holdout, choice, settings)
    record = CandidateRecord(
        fingerprint=name,
        split=split,
        evaluation=evaluation,
        fixed=fixed_parameters(settings),
        search=found,
        calibration=calibration,
        features=features,
        data=versions,
        train_rows=len(learned_from),
        train_frauds=learned_from.frauds,
    )
    return write_candidate(folder, record, bundle, pictures, catalogue)


def _stored(lake: Lake, split: Split, rules: LabelRules, catalogue: Catalogue) -> Learnable:
    """Train and validation as `load_training_data` has them, left in the lake."""
    known, days = labels_before(lake, split.training_cut, rules), [*split.train, *split.validation]
    return store(lake, days, known, split.training_cut, split.waited_days, catalogue)


def _margins(kind: KindName, payload: bytes, holdout: Holdout) -> NDArray[np.float64]:
    return np.asarray(KINDS[kind].load(payload, holdout.catalogue.names).margins(holdout.vectors), np.float64)


def _unseen_by_regression(folds: Sequence[FoldExamples], seed: int) -> NDArray[np.float64]:
    """Margins of logistic regression where `search` has those of trees: on each fold's validation, after its train."""
    return np.concatenate([fit_baseline(fold.train, seed).margins(fold.validation.vectors) for fold in folds])


def _calibrated(unseen: OutOfFold) -> Calibration:
    try:
        return fit_calibration(unseen.examples.is_fraud, unseen.margins, unseen.examples.weights)
    except NoOrderError:
        # no reason to end: the report says that it is not calibrated, and the gate judges how it ranks
        return UNCALIBRATED


def _choose(unseen: OutOfFold, calibration: Calibration, settings: Settings) -> CostChoice:
    column = unseen.examples.catalogue.position["amount"]
    amounts = in_units(unseen.examples.vectors[:, column].astype(np.float64), settings)
    return choose_threshold(unseen.examples.is_fraud, calibration.probabilities(unseen.margins), amounts, settings)


def _measure(
    lake: Lake,
    bundle: Bundle,
    beside: tuple[KindName, NDArray[np.float64]],
    holdout: Holdout,
    choice: CostChoice | None,
    settings: Settings,
) -> tuple[Evaluation, dict[str, bytes], list[tuple[str, float]]]:
    """The evaluation, its pictures, and the features by weight: all of the bundle as it will be served.

    beside: the other kind and its scores of the holdout.
    """
    scorer, catalogue = Scorer(bundle, holdout.catalogue), holdout.catalogue
    scores = Scores(
        candidate=scorer.score(holdout.vectors),
        other=beside[1],
        levels={level: scorer.score(degrade(holdout.vectors, level, bundle.medians, catalogue)) for level in LEVELS},
    )
    kinds = bundle.kind, beside[0]
    evaluation = evaluate(holdout, kinds, scores, choice, first_seen(lake, settings, holdout), settings)
    thresholds = {"policy": settings.threshold} | ({} if choice is None else {"by cost": choice.threshold})
    amounts = in_units(holdout.context.column("amount_minor").to_numpy(), settings)
    named = {KINDS[kind].title: values for kind, values in zip(kinds, (scores.candidate, scores.other), strict=True)}
    pictures = draw(holdout.is_fraud, named, amounts, thresholds, LossTable.of(settings))
    attribution = attribute(scorer.model, holdout, settings.seed)
    pictures["shap_summary.png"] = summary_picture(attribution, settings.seed)
    return evaluation, pictures, attribution.strongest()


def register_candidate(settings: Settings, candidate: Candidate, dagster_run_id: str | None = None) -> Registered:
    """Log a candidate into MLflow and register it, once per fingerprint."""
    return log_and_register(settings, candidate, dagster_run_id)


def judge_candidate(lake: Lake, settings: Settings, candidate: Candidate) -> Verdict:
    """Judge a candidate against what is in force now, and keep the verdict beside it.

    Both are measured on the candidate's holdout, which no training of either may have seen.
    """
    verdict = _judged(lake, settings, candidate)
    write_verdict(candidate.folder, verdict)
    return verdict


def release_if_better(
    lake: Lake, settings: Settings, candidate: Candidate, registered: Registered, *, who: str, now: datetime
) -> Promotion:
    """Make a registered candidate the challenger if its verdict, read again here, allows it; the first one of all, or
    one beside a champion that this code cannot load, comes into force at once.

    A verdict against another release than the one in force now is no verdict, and the candidate is judged again. who:
    person or job that asks, for the ledger.
    """
    rival = _in_force(settings, candidate.catalogue)[0]
    verdict = read_verdict(candidate.folder)
    if verdict is None or verdict.rival != rival:
        verdict = judge_candidate(lake, settings, candidate)
    if not verdict.promote:
        return Promotion(verdict, None, None)
    passed = passed_verdict(candidate.folder, rival)
    if rival == f"{MODEL_NAME}-{registered.version}":
        return Promotion(passed, current_release(settings.home), None)
    why = "; ".join(passed.reasons)
    if rival == CHANCE or _in_force(settings, candidate.catalogue)[1] is None:
        return Promotion(passed, promote(settings, registered.version, who=who, why=why, now=now), None)
    routing = challenge(settings, registered.version, Reason(who=who, why=why), now)
    return Promotion(passed, None, routing.challenger)


def _in_force(settings: Settings, catalogue: Catalogue) -> tuple[str, Bundle | None, str | None]:
    """Name of the release in force, its bundle where this code can load it, and why it cannot."""
    try:
        release = current_release(settings.home)
    except NoReleaseError:
        return CHANCE, None, None
    except BundleError as error:
        return CHANCE, None, str(error)
    try:
        return release.name, Bundle.load(release, catalogue), None
    except BundleError as error:
        return release.name, None, str(error)


def _judged(lake: Lake, settings: Settings, candidate: Candidate) -> Verdict:
    evaluation, split = candidate.record.evaluation, candidate.record.split
    rival, champion, broken = _in_force(settings, candidate.catalogue)
    alone = judge(
        frauds=evaluation.frauds,
        min_frauds=settings.min_holdout_frauds,
        kinds=(evaluation.kind, evaluation.other_kind),
        between=evaluation.comparison,
        rival=rival,
    )
    if champion is None:
        # a champion that this code cannot load cannot decide either
        return alone if broken is None else replace(alone, reasons=[f"WARNING: {broken}", *alone.reasons])
    if champion.data.get("fingerprint") == candidate.fingerprint:
        return replace(alone, promote=True, reasons=["is already the champion"])
    champion_cut = champion.data["split"]["training_cut"]
    if champion_cut > split.training_cut.isoformat():
        reason = f"{rival} has a training cut of {champion_cut}, after the holdout's start, {split.training_cut}"
        return replace(alone, promote=False, reasons=[reason])
    holdout = load_holdout(lake, split, label_rules(settings), candidate.catalogue)
    try:
        rivals = Scorer(champion, holdout.catalogue)
    except BundleError as error:
        # it decides by the set that it states, of which this code computes no holdout
        return replace(alone, reasons=[f"WARNING: not compared with {rival}: {error}", *alone.reasons])
    own = Scorer(candidate.bundle, holdout.catalogue)
    scores, others = (scorer.score(holdout.vectors) for scorer in (own, rivals))
    return judge(
        frauds=holdout.frauds,
        min_frauds=settings.min_holdout_frauds,
        kinds=(evaluation.kind, evaluation.other_kind),
        between=evaluation.comparison,
        rival=rival,
        against_rival=compare(holdout.is_fraud, scores, others, settings.seed),
    )
