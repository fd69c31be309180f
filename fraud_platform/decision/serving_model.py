"""The model that decides, as one immutable value that can be swapped: its rungs, and what it was made of.

What belongs here: loading a release for serving, scoring by the first rung that can, old releases for explanations.
What does not: publishing a release, the rules that need no model (`rules`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fraud_platform.decision.breaker import Breaker
from fraud_platform.decision.problem import model_gone
from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.features.vector import Matrix
from fraud_platform.inference_log.record import DecisionRecord
from fraud_platform.model.bundle import (
    Bundle,
    BundleError,
    NoReleaseError,
    Scorer,
    current_release,
    release_folder,
    releases,
)
from fraud_platform.model.calibration import Calibration
from fraud_platform.model.explanation import Explanation
from fraud_platform.model.kinds import Margins
from fraud_platform.model.selected import Selected
from fraud_platform.model.ubjson import ModelFileError

CHAMPION, LOGISTIC_REGRESSION = "champion", "logistic_regression"

_KEPT = 4


class NoScoreError(RuntimeError):
    """No rung of the model gave a probability."""


class OtherFeaturesError(RuntimeError):
    """A recorded vector is of a set of features that is not known here; the message names it."""


@dataclass(frozen=True)
class ServingModel:
    """A loaded, verified, warmed model."""

    version: str
    """`name/version`."""
    scorer_hash: str
    """SHA-256 of the model file."""
    compiled: Margins
    """For one payment at a time."""
    calibration: Calibration
    fallback: "Fallback"
    scorer: Scorer
    """The same model for many payments, and for explanations."""
    medians: dict[str, Matrix]
    """The model's own copy of the cold-start medians under "user" and "merchant", for when no snapshot can be read."""
    features: tuple[str, ...] = ()
    """What the model sees of a vector, in its own order."""

    @property
    def release(self) -> str:
        """Name of its release, `name-version`."""
        return self.version.replace("/", "-")

    def rung(self, name: str) -> "Explainable":
        """The rung that decided; a challenger's is its own model, as a champion's is."""
        return self.fallback if name == LOGISTIC_REGRESSION else self.scorer

    def probability(self, vector: Matrix) -> float:
        """The probability of fraud of one vector, float32 (50,). Raises NoScoreError when it is none."""
        margin = float(self.compiled.margins(vector[None, :])[0])
        score = self.calibration.probability(margin)
        if not math.isfinite(score):
            raise NoScoreError(f"the score of {self.version} is {score}")
        return score

    def score(
        self, vector: Matrix, breaker: Breaker, failed: Callable[[str, BaseException], None]
    ) -> tuple[float, str]:
        """The probability of fraud of one vector, float32 (50,), and which rung gave it. Raises NoScoreError."""
        if breaker.allow():
            try:
                score = self.probability(vector)
            except Exception as error:  # noqa: BLE001 - counted and told; the next rung decides
                breaker.failed()
                failed(CHAMPION, error)
            else:
                breaker.succeeded()
                return score, CHAMPION
        return self.fallback_probability(vector), LOGISTIC_REGRESSION

    def fallback_probability(self, vector: Matrix) -> float:
        """Logistic regression's probability of fraud of one vector, float32 (50,). Raises NoScoreError."""
        try:
            score = float(self.fallback.score(vector[None, :])[0])
        except Exception as error:
            raise NoScoreError("logistic regression failed") from error
        if not math.isfinite(score):
            raise NoScoreError(f"logistic regression's score is {score}")
        return score


def load_model(release: Path, catalogue: Catalogue = CATALOGUE) -> ServingModel:
    """Load a release for vectors of a set, see `serving_model`. Raises BundleError."""
    return serving_model(Bundle.load(release, catalogue), catalogue)


def serving_model(bundle: Bundle, catalogue: Catalogue = CATALOGUE) -> ServingModel:
    """A verified bundle as it serves: compiled trees are held against XGBoost, and everything scores once, so that no
    payment pays for a first time. Raises BundleError."""
    scorer = Scorer(bundle, catalogue)
    try:
        compiled: Margins = scorer.model.compiled()
    except ModelFileError as error:
        raise BundleError(f"{bundle.name}: {error}") from error
    width, columns = len(catalogue.names), bundle.columns(catalogue)
    if columns is not None:
        compiled = Selected(compiled, columns, width)
    fallback = fallback_of(bundle, catalogue)
    empty = np.full((1, width), np.nan, np.float32)
    compiled.margins(empty)
    fallback.score(empty)
    return ServingModel(
        version=f"{bundle.model_name}/{bundle.version}",
        scorer_hash=bundle.model_sha256,
        compiled=compiled,
        calibration=bundle.calibration,
        fallback=fallback,
        scorer=scorer,
        medians=bundle.medians_of(catalogue),
        features=bundle.features,
    )


def fallback_of(bundle: Bundle, catalogue: Catalogue = CATALOGUE) -> "Fallback":
    """A verified bundle's model of last resort, for vectors of a set."""
    columns = bundle.columns(catalogue)
    return bundle.fallback if columns is None else Selected(bundle.fallback, columns, len(catalogue.names))


def load_newest(
    home: Path, failed: Callable[[str, BaseException], None], catalogue: Catalogue = CATALOGUE
) -> ServingModel | None:
    """The release in force, else the newest of this home that still loads; None when none does.

    failed(stage, error): told of each release that does not load.
    """
    try:
        candidates = [current_release(home)]
    except (NoReleaseError, BundleError) as error:
        failed("model", error)
        candidates = []
    for folder in (*candidates, *kept_releases(home)):
        try:
            return load_model(folder, catalogue)
        except BundleError as error:
            failed("model", error)
    return None


def recorded_values(record: DecisionRecord, features: Sequence[str], catalogue: Catalogue = CATALOGUE) -> Matrix:
    """A record's vector as one of a set, float32 (features of the set,), for a model that sees `features` of it.

    A decision from before the set grew was made on the model's own features alone: the others, which it does not see,
    are null. Raises OtherFeaturesError where what the vector's values are is not known here.
    """
    values = record.values
    if record.catalogue_hash in catalogue.alike and len(values) == len(catalogue.names):
        return values
    known = set(features) <= set(catalogue.names)
    if known and record.catalogue_hash in catalogue.only(features).alike and len(values) == len(features):
        vector = np.full(len(catalogue.names), np.nan, np.float32)
        vector[[catalogue.position[name] for name in features]] = values
        return vector
    raise OtherFeaturesError(
        f"the vector is of catalogue {record.catalogue_hash}, this platform computes {catalogue.hash}"
    )


def kept_releases(home: Path) -> list[Path]:
    """The folders of this home's releases, newest first."""
    kept = [folder for folder in releases(home).glob("*-*") if folder.is_dir() and not folder.name.startswith(".")]
    return sorted(kept, key=_number, reverse=True)


def _number(release: Path) -> int:
    number = release.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


class Explainable(Protocol):
    """A rung of a model; `model.bundle.Scorer` and `model.linear.LinearModel` have it."""

    def explain(self, vector: Matrix) -> Explanation: ...


class Fallback(Explainable, Protocol):
    """The rung that decides where the model itself cannot; `model.linear.LinearModel` has it."""

    def score(self, vectors: Matrix) -> NDArray[np.float64]: ...


class PastModels:
    """Earlier releases under `<home>/releases`, loaded when an explanation needs one. Not thread-safe."""

    def __init__(self, home: Path, catalogue: Catalogue = CATALOGUE) -> None:
        """catalogue: what the vectors of its callers follow."""
        self._home = home
        self._catalogue = catalogue
        self._kept: dict[str, _Past] = {}

    def rung(self, record: DecisionRecord) -> tuple[Explainable, Matrix]:
        """The very model that made a decision, and the vector that it saw, as one of the set. Raises Problem (410) when
        it is no longer kept, or when what it saw is not known here."""
        rungs = self._kept.get(record.scorer_hash)
        if rungs is None:
            rungs = self._load(record)
            while len(self._kept) >= _KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[record.scorer_hash] = rungs
        rung = rungs.fallback if record.rung == LOGISTIC_REGRESSION else rungs.scorer
        return rung, known_values(record, rungs.features, self._catalogue)

    def _load(self, record: DecisionRecord) -> "_Past":
        bundle = past_bundle(self._home, record, self._catalogue)
        return _Past(Scorer(bundle, self._catalogue), fallback_of(bundle, self._catalogue), bundle.features)


class _Past(NamedTuple):
    """A release that explains what it decided."""

    scorer: Explainable
    fallback: Explainable
    features: tuple[str, ...]


def known_values(record: DecisionRecord, features: Sequence[str], catalogue: Catalogue) -> Matrix:
    """`recorded_values`, whose absence is told as a problem (410)."""
    try:
        return recorded_values(record, features, catalogue)
    except OtherFeaturesError as error:
        raise model_gone(str(error)) from error


def past_bundle(home: Path, record: DecisionRecord, catalogue: Catalogue = CATALOGUE) -> Bundle:
    """The verified bundle of the very model that made a decision. Raises Problem (410) when it is no longer kept."""
    try:
        folder = release_folder(home, record.model_version.replace("/", "-"))
        bundle = Bundle.load(folder, catalogue)
    except BundleError as error:
        raise model_gone(f"{record.model_version} cannot be loaded any more") from error
    if bundle.model_sha256 != record.scorer_hash:
        raise model_gone(f"{record.model_version} is kept, with another model file than the one that decided")
    return bundle
