"""A model as it travels: `model.ubj` and `bundle.json` in one folder, verified on load, released by one small pointer.

What belongs here: the folder's form, scoring and explaining with it, releases. What does not: training or MLflow; the
decision service imports this module, so it stays light. Only XGBoost's native format and JSON: nothing is unpickled.
"""

import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.model.calibration import Calibration
from fraud_platform.model.explanation import Explanation
from fraud_platform.model.linear import LinearModel

MODEL_NAME = "fraud-detector"
MODEL_FILE, DOCUMENT_FILE, POINTER_FILE = "model.ubj", "bundle.json", "current.json"
CARD_FILE = "card.md"
"""The model's card, for people: it lies beside a registered bundle and goes with it, and nothing depends on it."""
UNREGISTERED = 0
"""Version of a bundle that no registry has numbered yet; such a bundle cannot be released."""


class BundleError(RuntimeError):
    """A bundle is incomplete, was altered, or was made for another catalogue; the message says which."""


class NoReleaseError(RuntimeError):
    """No model has been released under this home yet; the message says what to run."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A verified model with everything that has to travel with it."""

    model_name: str
    version: int
    catalogue_hash: str
    features: tuple[str, ...]
    medians: dict[str, list[float | None]]
    """Cold-start medians under "user" and "merchant", in the catalogue's order."""
    calibration: Calibration
    fallback: LinearModel
    """Decides where the model itself cannot."""
    threshold: float
    review_threshold: float
    model_sha256: str
    mlflow_run_id: str | None
    dagster_run_id: str | None
    data: dict[str, Any]
    """Versions of the tables it was trained on, and the days of the split."""
    trained_at: str
    """RFC 3339, UTC."""
    model: bytes = field(repr=False)
    """The content of `model.ubj`: what was verified is what is loaded."""

    @property
    def name(self) -> str:
        """`name-version`, the name of its release."""
        return f"{self.model_name}-{self.version}"

    @staticmethod
    def load(folder: Path, *, catalogue_hash: str = CATALOGUE.hash) -> "Bundle":
        """Read and verify a bundle. catalogue_hash: of the vectors that it is for. Raises BundleError."""
        document = _read_document(folder / DOCUMENT_FILE)
        expected = {f.name for f in fields(Bundle)} - {"model"}
        if document.keys() != expected:
            missing, unknown = sorted(expected - document.keys()), sorted(document.keys() - expected)
            raise BundleError(f"{folder / DOCUMENT_FILE}: missing fields {missing}, unknown fields {unknown}")
        try:
            bundle = msgspec.convert(document | {"model": b""}, Bundle)
        except (msgspec.ValidationError, ValueError) as error:
            raise BundleError(f"{folder / DOCUMENT_FILE}: {error}") from error
        bundle = replace(bundle, model=_read(folder / MODEL_FILE))
        bundle.verify(str(folder), catalogue_hash)
        return bundle

    def verify(self, where: str, catalogue_hash: str = CATALOGUE.hash) -> None:
        """Check the model file and that it was trained on this catalogue. Raises BundleError."""
        found = hashlib.sha256(self.model).hexdigest()
        if found != self.model_sha256:
            raise BundleError(f"{where}: {MODEL_FILE} has SHA-256 {found}, the bundle names {self.model_sha256}")
        if self.features != CATALOGUE.names:
            differing = sorted(set(CATALOGUE.names) ^ set(self.features)) or "another order"
            raise BundleError(f"{where}: trained on other features than the catalogue's ({differing}); retrain")
        if self.catalogue_hash != catalogue_hash:
            raise BundleError(
                f"{where}: trained on catalogue {self.catalogue_hash}, the vectors follow {catalogue_hash}; retrain: "
                "`make run`, or materialize the model assets in Dagster"
            )
        for source in ("user", "merchant"):
            if len(self.medians.get(source, ())) != len(CATALOGUE.of(source)):
                raise BundleError(f"{where}: needs one median for each of the {source} features")
        if len(self.fallback.weights) != len(CATALOGUE.names):
            raise BundleError(f"{where}: the fallback needs one weight for each of the {len(CATALOGUE.names)} features")

    def write(self, folder: Path) -> None:
        """Write both files into a new or existing folder; not atomic, so callers write aside and rename."""
        folder.mkdir(parents=True, exist_ok=True)
        document = {name: value for name, value in asdict(self).items() if name != "model"}
        _write_durably(folder / MODEL_FILE, self.model)
        _write_durably(folder / DOCUMENT_FILE, json.dumps(document, indent=2, sort_keys=True).encode())


class Scorer:
    """A bundle's booster on one thread: OpenMP costs a server more than it gives. May be shared by Python threads."""

    def __init__(self, bundle: Bundle) -> None:
        import xgboost

        self._xgboost = xgboost
        self.booster = xgboost.Booster({"nthread": 1})
        """xgboost.Booster; not to be changed."""
        try:
            self.booster.load_model(bytearray(bundle.model))
        except xgboost.core.XGBoostError as error:
            raise BundleError(f"{bundle.name}: {MODEL_FILE} is no XGBoost model") from error
        # loading replaces the parameters given above
        self.booster.set_param({"nthread": 1})
        if tuple(self.booster.feature_names or ()) != bundle.features:
            raise BundleError(f"{bundle.name}: the model names other features than its {DOCUMENT_FILE}")
        self._width = len(bundle.features)
        self._calibration = bundle.calibration

    def score(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """Calibrated fraud probabilities, float64 (n,), of vectors float32 (n, 50), NaN for null."""
        return self._calibration.probabilities(self.margins(vectors))

    def margins(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """The model's raw output in log-odds, float32 (n,)."""
        margins = self.booster.inplace_predict(self._checked(vectors), predict_type="margin")
        return np.asarray(margins, np.float32)

    def explain(self, vector: NDArray[np.float32]) -> Explanation:
        """TreeSHAP of one vector, float32 (50,)."""
        row = self._checked(vector[None, :])
        matrix = self._xgboost.DMatrix(row, feature_names=self.booster.feature_names, nthread=1)
        values = np.asarray(self.booster.predict(matrix, pred_contribs=True)[0], np.float64)
        margin = float(self.margins(row)[0])
        return Explanation(float(values[-1]), margin, float(self.score(row)[0]), values[:-1])

    def _checked(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        if vectors.dtype != np.float32 or vectors.ndim != 2 or vectors.shape[1] != self._width:
            raise ValueError(f"vectors must be float32 (n, {self._width}), got {vectors.dtype} {vectors.shape}")
        return vectors


def releases(home: Path) -> Path:
    """Folder of all releases of this home."""
    return home / "releases"


def current_release(home: Path) -> Path:
    """Folder of the release in force. Raises NoReleaseError, or BundleError when the pointer is unreadable."""
    pointer = releases(home) / POINTER_FILE
    if not pointer.exists():
        raise NoReleaseError(
            f"no model has been released under {home}: run `make run`, or materialize the model assets in Dagster"
        )
    document = _read_document(pointer)
    name = document.get("release")
    if not isinstance(name, str):
        raise BundleError(f"{pointer} names no release")
    folder = releases(home) / name
    if not folder.is_dir():
        raise BundleError(f"{pointer} names {name}, which is not under {releases(home)}")
    return folder


def publish(home: Path, bundle_dir: Path) -> Path:
    """Release a registered bundle and make it the current one, without a challenger; returns the release's folder.

    Killed at any moment, the old release or the new one is in force, and a repetition ends in the same state. A release
    is never rewritten. Raises BundleError.
    """
    release = install(home, bundle_dir)
    replace_file(releases(home) / POINTER_FILE, json.dumps({"release": release.name}).encode())
    return release


def install(home: Path, bundle_dir: Path) -> Path:
    """Put a registered bundle among the releases, without putting it into force. Raises BundleError."""
    bundle = Bundle.load(bundle_dir)
    if bundle.version == UNREGISTERED:
        raise BundleError(f"{bundle_dir}: has no version yet; register it first")
    root = releases(home)
    release = root / bundle.name
    root.mkdir(parents=True, exist_ok=True)
    with exclusive(root / ".publish.lock"):
        for left_behind in root.glob(".*.tmp"):
            shutil.rmtree(left_behind)
        if release.exists():
            if Bundle.load(release) != bundle:
                raise BundleError(f"{release} exists with another content; a release is never rewritten")
        else:
            temporary = root / f".{bundle.name}.{uuid.uuid4().hex}.tmp"
            bundle.write(temporary)
            if (bundle_dir / CARD_FILE).exists():
                shutil.copyfile(bundle_dir / CARD_FILE, temporary / CARD_FILE)
            temporary.rename(release)
    return release


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file of this machine; the kernel frees it when the process dies. Not re-entrant."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file atomically and durably."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        _write_durably(temporary, content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise BundleError(f"{path} does not exist") from error


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(_read(path))
    except ValueError as error:
        raise BundleError(f"{path} is not JSON") from error
    if not isinstance(document, dict):
        raise BundleError(f"{path} is not a JSON object")
    return document
