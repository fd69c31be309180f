"""What a record's own inputs give when they are decided again: the score, then the decision.

What belongs here: the two steps, by the code that serving runs. What does not: holding them against the record
(`decision`). Nothing here knows the time or asks a store: the record is the whole input.
"""

from pathlib import Path
from typing import get_args

from fraud_platform.decision.arms import CHALLENGER
from fraud_platform.decision.measurement import RELEASED, released
from fraud_platform.decision.policy import RULES, DecisionName, Policy, Reason, decide
from fraud_platform.decision.problem import Problem
from fraud_platform.decision.rules import FallbackRules, RuleReason
from fraud_platform.decision.serving_model import (
    CHAMPION,
    LOGISTIC_REGRESSION,
    NoScoreError,
    OtherFeaturesError,
    ServingModel,
    load_to_serve,
    past_bundle,
    recorded_values,
    serving_model,
)
from fraud_platform.features.vector import Matrix
from fraud_platform.inference_log.record import DecisionRecord, Seen
from fraud_platform.model.bundle import BundleError, release_folder

_KEPT = 4


class NotKeptError(RuntimeError):
    """What decided is no longer kept, so the decision cannot be made again; the message says what is missing."""


class DecidingModels:
    """The models that records name, loaded as serving loads them, at most a few at a time."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._kept: dict[tuple[str, str], ServingModel] = {}

    def of(self, record: DecisionRecord) -> ServingModel:
        """The very model that decided, by the hash of its file. Raises NotKeptError."""
        key = record.model_version, record.scorer_hash
        if key not in self._kept:
            try:
                bundle = past_bundle(self._home, record)
                self._keep(key, serving_model(bundle, bundle.set_of()))
            except Problem as problem:
                raise NotKeptError(f"{problem}{_because(problem)}") from problem
            except BundleError as error:
                raise NotKeptError(f"{record.model_version} can no longer serve: {error}") from error
        return self._kept[key]

    def beside(self, record: DecisionRecord) -> ServingModel:
        """The model beside the one that decided; a record names it by version alone. Raises NotKeptError."""
        key = str(record.other_version), ""
        if key not in self._kept:
            try:
                folder = release_folder(self._home, key[0].replace("/", "-"))
                self._keep(key, load_to_serve(folder))
            except BundleError as error:
                raise NotKeptError(f"{record.other_version} cannot be loaded any more: {error}") from error
        return self._kept[key]

    def _keep(self, key: tuple[str, str], model: ServingModel) -> None:
        while len(self._kept) >= _KEPT:
            self._kept.pop(next(iter(self._kept)))
        self._kept[key] = model


def score_again(record: DecisionRecord, model: ServingModel) -> tuple[float | None, str]:
    """The score of the recorded vector by the rung that the record names, and the rung that gave it.

    None, and the rules, where that rung gives no probability any more. Raises NotKeptError.
    """
    try:
        if record.rung in (CHAMPION, CHALLENGER):
            return model.probability(values_again(record, model)), record.rung
        return model.fallback_probability(values_again(record, model)), LOGISTIC_REGRESSION
    except NoScoreError:
        return None, RULES


def values_again(seen: DecisionRecord | Seen, model: ServingModel) -> Matrix:
    """A recorded vector as the model is given it here. Raises NotKeptError where it is of features unknown here."""
    try:
        return recorded_values(seen, model.features, model.builder.catalogue)
    except OtherFeaturesError as error:
        raise NotKeptError(str(error)) from error


def decide_again(
    record: DecisionRecord, score: float | None, policy: Policy | None, limits: FallbackRules, places: int, seed: int
) -> tuple[DecisionName, str]:
    """Decision and reason, by the policy's version that the record names, where that is kept.

    policy: that version; None: it is not kept, and the record's thresholds and the rules' `limits` stand for it.
    places: decimals of the base currency. seed: of the share that is let through to be measured. Raises NotKeptError
    for a reason that only the policy could give.
    """
    if policy is None:
        if record.reason not in (*get_args(Reason), *get_args(RuleReason), RELEASED):
            raise NotKeptError(
                f"the reason {record.reason} comes from policy version {record.policy_version}, which is not kept"
            )
        policy = Policy(record.threshold, record.review_threshold, record.policy_version, limits)
    decision, reason = decide(policy, score, record.request, record.amount, places, record.received_at)
    if record.schema_version < 3 and reason == "kill_switch_rules_only":
        # what it was called then
        reason = "service_unavailable_fallback"
    share = record.propensity or 0.0
    return released(decision, reason, share, seed, record.caller, record.request.transaction_id)[:2]


def _because(problem: Problem) -> str:
    return f": {problem.__cause__}" if problem.__cause__ is not None else ""
