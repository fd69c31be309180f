"""The model that decides, as one immutable value that can be swapped: bundle, scorer, policy.

What belongs here: loading a release for serving, and old releases for explanations. What does not: publishing one.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fraud_platform.decision.policy import Policy
from fraud_platform.decision.problem import model_gone
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.features.vector import Matrix
from fraud_platform.inference_log.record import DecisionRecord
from fraud_platform.model.bundle import Bundle, BundleError, Scorer

_KEPT = 4


@dataclass(frozen=True)
class ServingModel:
    """A loaded, warmed model with its policy."""

    version: str
    """`name/version`."""
    scorer_hash: str
    """SHA-256 of the model file."""
    scorer: Scorer
    policy: Policy
    medians: dict[str, Matrix]
    """The model's own copy of the cold-start medians under "user" and "merchant", for when no snapshot can be read."""


def load_model(release: Path, policy_version: int) -> ServingModel:
    """Load a release folder and score once, so that the first payment pays for nothing. Raises BundleError."""
    bundle = Bundle.load(release)
    scorer = Scorer(bundle)
    scorer.score(np.zeros((1, len(CATALOGUE.names)), np.float32))
    return ServingModel(
        version=f"{bundle.model_name}/{bundle.version}",
        scorer_hash=bundle.model_sha256,
        scorer=scorer,
        policy=Policy(bundle.threshold, bundle.review_threshold, policy_version),
        medians={
            entity: np.array([np.nan if value is None else value for value in values], np.float32)
            for entity, values in bundle.medians.items()
        },
    )


class PastModels:
    """Scorers of earlier releases under `<home>/releases`, loaded when an explanation needs one. Not thread-safe."""

    def __init__(self, home: Path) -> None:
        self._releases = home / "releases"
        self._kept: dict[str, Scorer] = {}

    def scorer(self, record: DecisionRecord) -> Scorer:
        """The very model that made a decision. Raises Problem (410) when it is no longer kept."""
        scorer = self._kept.get(record.scorer_hash)
        if scorer is None:
            scorer = self._load(record)
            while len(self._kept) >= _KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[record.scorer_hash] = scorer
        return scorer

    def _load(self, record: DecisionRecord) -> Scorer:
        try:
            bundle = Bundle.load(self._releases / record.model_version.replace("/", "-"))
        except BundleError as error:
            raise model_gone(f"{record.model_version} cannot be loaded any more") from error
        if bundle.model_sha256 != record.scorer_hash:
            raise model_gone(f"{record.model_version} is kept, with another model file than the one that decided")
        return Scorer(bundle)
