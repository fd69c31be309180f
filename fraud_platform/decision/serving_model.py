"""The model that decides, as one immutable value that can be swapped: its rungs, and what it was made of.

What belongs here: loading a release for serving, scoring by the first rung that can, old releases for explanations.
What does not: publishing a release, the rules that need no model (`rules`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fraud_platform.decision.breaker import Breaker
from fraud_platform.decision.problem import model_gone
from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.features.vector import Matrix, VectorBuilder
from fraud_platform.inference_log.record import DecisionRecord, Seen
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
from fraud_platform.online.sets import ServedSet

CHAMPION, LOGISTIC_REGRESSION = "champion", "logistic_regression"

_KEPT = 4
_BUILDER = VectorBuilder()


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
    builder: VectorBuilder = _BUILDER
    """Builds the vectors that it scores."""
    set_hash: str = CATALOGUE.hash
    """The hash of their set."""

    @cached_property
    def served(self) -> ServedSet:
        """What payments have to be read for."""
        return ServedSet(self.builder.catalogue, self.medians)

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


def load_to_serve(release: Path, catalogue: Catalogue = CATALOGUE) -> ServingModel:
    """Load a release for vectors of its own set, see `Bundle.set_of`. catalogue: what is computed here. Raises
    BundleError."""
    bundle = Bundle.load(release, catalogue)
    return serving_model(bundle, bundle.set_of(catalogue))


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
    model = ServingModel(
        version=f"{bundle.model_name}/{bundle.version}",
        scorer_hash=bundle.model_sha256,
        compiled=compiled,
        calibration=bundle.calibration,
        fallback=fallback,
        scorer=scorer,
        medians=bundle.medians_of(catalogue),
        features=bundle.features,
        builder=VectorBuilder(catalogue),
        set_hash=catalogue.hash,
    )
    # hashed now: whoever puts it into force must not stop payments for that
    _ = model.served.views
    return model


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
            return load_to_serve(folder, catalogue)
        except BundleError as error:
            failed("model", error)
    return None


def recorded_values(
    seen: DecisionRecord | Seen, features: Sequence[str], own: Catalogue = CATALOGUE, wider: Catalogue = CATALOGUE
) -> Matrix:
    """A recorded vector as one of a model's own set, float32 (features of the set,), for a model that sees `features`
    of it.

    wider: a set that the vector may be of, since services once built the vectors of their own set alone, of which a
    model sees its columns. Of a vector of just `features` the rest of the own set is null. Raises OtherFeaturesError
    where what the vector's values are is not known here.
    """
    values, of, width = seen.values, seen.catalogue_hash, len(own.names)
    if of in own.alike and len(values) == width:
        return values
    known = set(own.names) <= set(wider.names) and wider.hash_of(own.names) == own.hash
    if known and of in wider.alike and len(values) == len(wider.names):
        return np.ascontiguousarray(values[[wider.position[name] for name in own.names]])
    if set(features) <= set(own.names) and of in own.only(features).alike and len(values) == len(features):
        vector = np.full(width, np.nan, np.float32)
        vector[[own.position[name] for name in features]] = values
        return vector
    raise OtherFeaturesError(f"the vector is of catalogue {of}, while its model is of {own.hash}")


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
        """catalogue: what is computed here."""
        self._home = home
        self._catalogue = catalogue
        self._kept: dict[str, _Past] = {}

    def rung(self, record: DecisionRecord) -> tuple[Explainable, Catalogue, Matrix]:
        """The very model that made a decision, its own set, and the vector that it saw, as one of the set. Raises
        Problem (410) when it is no longer kept, or when what it saw is not known here."""
        rungs = self._kept.get(record.scorer_hash)
        if rungs is None:
            rungs = self._load(record)
            while len(self._kept) >= _KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[record.scorer_hash] = rungs
        rung = rungs.fallback if record.rung == LOGISTIC_REGRESSION else rungs.scorer
        return rung, rungs.own, known_values(record, rungs.features, rungs.own, self._catalogue)

    def _load(self, record: DecisionRecord) -> "_Past":
        bundle = past_bundle(self._home, record, self._catalogue)
        own = bundle.set_of(self._catalogue)
        return _Past(Scorer(bundle, own), fallback_of(bundle, own), own, bundle.features)


class _Past(NamedTuple):
    """A release that explains what it decided."""

    scorer: Explainable
    fallback: Explainable
    own: Catalogue
    features: tuple[str, ...]


def known_values(record: DecisionRecord, features: Sequence[str], own: Catalogue, wider: Catalogue) -> Matrix:
    """`recorded_values`, whose absence is told as a problem (410)."""
    try:
        return recorded_values(record, features, own, wider)
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
