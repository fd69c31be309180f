"""A model as it travels: `model.ubj`, `bundle.json` and their `SHA256SUMS` in one folder, verified on load, released by
one small pointer.

What belongs here: the folder's form, scoring and explaining with it, releases. What does not: training or MLflow; the
decision service imports this module, so it stays light. Only UBJSON and JSON: nothing is unpickled.

A folder may come from anywhere: nothing of it is believed before it was read within bounds, held against its hashes and
found in range. The hashes find what was damaged, cut off or mixed up; they do not stop somebody who may write all three
files, against whom the checks of form keep the process alive.
"""

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraud_platform.features.catalogue import CATALOGUE, ENTITIES, FIRST_SETS, Catalogue, Entity, Feature, check_served
from fraud_platform.model.calibration import Calibration
from fraud_platform.model.explanation import Explanation
from fraud_platform.model.kinds import KINDS, XGBOOST, Kind, KindName
from fraud_platform.model.linear import LinearModel
from fraud_platform.model.selected import Columns, Selected
from fraud_platform.model.ubjson import MAX_BYTES, ModelFileError
from fraud_platform.versions import LATER

_log = logging.getLogger(__name__)

MODEL_NAME = "fraud-detector"
MODEL_FILE, DOCUMENT_FILE, POINTER_FILE = "model.ubj", "bundle.json", "current.json"
CARD_FILE = "card.md"
"""The model's card, for people: it lies beside a registered bundle and goes with it, and no decision depends on it."""
SUMS_FILE = "SHA256SUMS"
"""What `sha256sum --check` reads: the hash of every file of the bundle."""
DECIDING = (MODEL_FILE, DOCUMENT_FILE)
"""Files that a decision rests on."""
_LARGEST = {MODEL_FILE: MAX_BYTES, DOCUMENT_FILE: 4 * 1024**2, CARD_FILE: 16 * 1024**2}
_LARGEST_OTHER = 64 * 1024
_DEEPEST_DATA = 32
_MODEL_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
_RELEASE = re.compile(rf"{_MODEL_NAME}-\d{{1,9}}")
_LATER = {"kind", "definitions"}
"""Fields that a bundle of an earlier version does not have."""
_RETRAIN = "retrain: `make run`, or materialize the model assets in Dagster"
UNREGISTERED = 0
"""Version of a bundle that no registry has numbered yet; such a bundle cannot be released."""


class BundleError(RuntimeError):
    """A bundle is incomplete, was altered, or needs features that are not computed here; the message says which."""


class NoReleaseError(RuntimeError):
    """No model has been released under this home yet; the message says what to run."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A verified model with everything that has to travel with it."""

    model_name: str
    version: int
    catalogue_hash: str
    """Hash of `features` as a set: which they are, in which order, and what each means."""
    features: tuple[str, ...]
    """What the model sees of a vector, in its own order; the vector may have more."""
    medians: dict[str, list[float | None]]
    """Cold-start medians under "user" and "merchant", in the order of `features`."""
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
    kind: KindName = XGBOOST
    """What `model.ubj` holds; a bundle from before there were kinds holds trees."""
    definitions: tuple[Feature, ...] | None = None
    """The whole set that the model was trained on, so that it is served where another set is computed. None: the first
    fifty, which every version knows, or a bundle from before sets were stated."""

    @property
    def kind_of_model(self) -> Kind:
        """The kind that `kind` names."""
        return KINDS[self.kind]

    @property
    def name(self) -> str:
        """`name-version`, the name of its release."""
        return f"{self.model_name}-{self.version}"

    def set_of(self, catalogue: Catalogue = CATALOGUE) -> Catalogue:
        """The set whose vectors the model is served: the one that it states, else its own features, as `catalogue`
        means them. Where they make no vector by themselves: `catalogue`, of which it sees its own columns."""
        if self.definitions is not None:
            return Catalogue(self.definitions)
        if self.features == catalogue.names:
            return catalogue
        own = catalogue.only(self.features)
        try:
            check_served(own)
        except ValueError:
            return catalogue
        return own

    def columns(self, catalogue: Catalogue = CATALOGUE) -> Columns | None:
        """Where the model's features stand in the vectors of a set; None: it is that set, in order. Raises BundleError
        where the set has not all of them, or means something else by them."""
        self._check_known(self.name, catalogue)
        if self.features == catalogue.names:
            return None
        return np.array([catalogue.position[name] for name in self.features], np.intp)

    def medians_of(self, catalogue: Catalogue = CATALOGUE) -> dict[str, NDArray[np.float32]]:
        """The medians as float32 in the order of a set that has the features; NaN where the bundle knows none."""
        known = {
            name: value
            for entity in ENTITIES
            for name, value in zip(self._batch(entity, catalogue), self.medians[entity], strict=True)
            if value is not None
        }
        return {
            entity: np.array([known.get(feature.name, np.nan) for feature in catalogue.of(entity)], np.float32)
            for entity in ENTITIES
        }

    def _batch(self, entity: Entity, catalogue: Catalogue) -> list[str]:
        """The model's batch features of an entity, in its order."""
        own = {feature.name for feature in catalogue.of(entity)}
        return [name for name in self.features if name in own]

    @staticmethod
    def load(folder: Path, catalogue: Catalogue = CATALOGUE) -> "Bundle":
        """Read a bundle, and verify it for vectors of a set. Raises BundleError."""
        content = {name: _read(folder / name) for name in DECIDING}
        sums = _read_sums(folder)
        if sums is None:
            _log.warning(
                "%s has no %s, as before this version: a damaged %s may go unnoticed. `fraud-platform release seal` "
                "adds it", folder, SUMS_FILE, DOCUMENT_FILE,
            )  # fmt: skip
        else:
            for name in DECIDING:
                _check_sum(folder / name, content[name], sums)
        document = _document(folder / DOCUMENT_FILE, content[DOCUMENT_FILE])
        expected = {f.name for f in fields(Bundle)} - {"model"}
        if document.keys() | _LATER != expected:
            missing, unknown = sorted(expected - _LATER - document.keys()), sorted(document.keys() - expected)
            later = f"; {LATER}, or release a model that this one has trained" if unknown else ""
            raise BundleError(f"{folder / DOCUMENT_FILE}: missing fields {missing}, unknown fields {unknown}{later}")
        try:
            bundle = msgspec.convert(document | {"model": b""}, Bundle)
        except (msgspec.ValidationError, ValueError) as error:
            raise BundleError(f"{folder / DOCUMENT_FILE}: {error}") from error
        bundle = replace(bundle, model=content[MODEL_FILE])
        bundle.verify(str(folder), catalogue)
        return bundle

    def verify(self, where: str, catalogue: Catalogue = CATALOGUE) -> None:
        """Check every value, the model file, and that the set that it states, else `catalogue`, has its features and
        means by them what it was trained on. Raises BundleError.

        Their values may have followed an earlier version, which differs in rare rows alone (docs/parity.md): rules
        instead of that model would be the greater harm, and the next training ends it.
        """
        found = hashlib.sha256(self.model).hexdigest()
        if found != self.model_sha256:
            raise BundleError(f"{where}: {MODEL_FILE} has SHA-256 {found}, the bundle names {self.model_sha256}")
        if self.definitions is not None:
            catalogue = Catalogue(self.definitions)
            try:
                check_served(catalogue)
            except ValueError as error:
                raise BundleError(f"{where}: its features are not served here: {error}; {_RETRAIN}") from error
        self._check_known(where, catalogue)
        for entity in ENTITIES:
            if len(self.medians.get(entity, ())) != len(self._batch(entity, catalogue)):
                raise BundleError(f"{where}: needs one median for each of its {entity} features")
        if len(self.fallback.weights) != len(self.features):
            raise BundleError(f"{where}: the fallback needs one weight for each of its {len(self.features)} features")
        for name, sound in self._values():
            if not sound:
                raise BundleError(f"{where}: {name} is out of its range: {getattr(self, name)!r:.80}")
        try:
            self.kind_of_model.check(self.model, len(self.features))
        except ModelFileError as error:
            title = self.kind_of_model.title
            raise BundleError(f"{where}: {MODEL_FILE} is no {title} model of this platform: {error}") from error

    def _check_known(self, where: str, catalogue: Catalogue) -> None:
        missing = sorted(set(self.features) - set(catalogue.names))
        if missing or not self.features or len(set(self.features)) != len(self.features):
            raise BundleError(f"{where}: needs features that are not computed here ({missing or 'twice'}); {_RETRAIN}")
        if self.catalogue_hash not in catalogue.alike_of(self.features):
            computed = catalogue.hash_of(self.features)
            raise BundleError(
                f"{where}: trained on catalogue {self.catalogue_hash}, while its features are {computed} as they are "
                f"computed here: another order, or another meaning; {_RETRAIN}"
            )

    def _values(self) -> Iterator[tuple[str, bool]]:
        """Field, and whether it holds what it may. NaN is in no range."""
        yield "model_name", re.fullmatch(_MODEL_NAME, self.model_name) is not None
        yield "version", 0 <= self.version < 10**9
        yield "threshold", 0 <= self.threshold <= 1
        yield "review_threshold", 0 <= self.review_threshold <= self.threshold
        medians = [value for values in self.medians.values() for value in values if value is not None]
        yield "medians", bool((np.abs(np.array(medians, np.float64)) <= np.finfo(np.float32).max).all())
        yield "trained_at", _is_instant(self.trained_at)
        yield "data", _is_shallow(self.data) and _is_split(self.data.get("split", {}))

    def write(self, folder: Path, card: bytes | None = None) -> None:
        """Write the files into a new or existing folder; not atomic, so callers write aside and rename."""
        folder.mkdir(parents=True, exist_ok=True)
        document = {name: value for name, value in asdict(self).items() if name != "model"}
        if self.definitions is None:
            # as a version that knows of none reads it
            del document["definitions"]
        described = json.dumps(document, indent=2, sort_keys=True, allow_nan=False).encode()
        _write_sealed(folder, {MODEL_FILE: self.model, DOCUMENT_FILE: described}, card)


def definitions_of(catalogue: Catalogue) -> tuple[Feature, ...] | None:
    """`Bundle.definitions` of a model that is trained on a set."""
    return None if catalogue.hash in FIRST_SETS else catalogue.features


class Scorer:
    """A bundle's model with its calibration, for any number of payments. May be shared by Python threads."""

    def __init__(self, bundle: Bundle, catalogue: Catalogue = CATALOGUE) -> None:
        """catalogue: the set that vectors follow, for which the bundle was verified. Raises BundleError."""
        try:
            self.model = bundle.kind_of_model.load(bundle.model, bundle.features)
        except ModelFileError as error:
            raise BundleError(f"{bundle.name}: {MODEL_FILE} {error}") from error
        self._width, columns = len(catalogue.names), bundle.columns(catalogue)
        self._seeing = self.model if columns is None else Selected(self.model, columns, self._width)
        self._calibration = bundle.calibration

    def score(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """Calibrated fraud probabilities, float64 (n,), of vectors float32 (n, 50), NaN for null."""
        return self._calibration.probabilities(self.margins(vectors))

    def margins(self, vectors: NDArray[np.float32]) -> NDArray[np.floating]:
        """The model's raw output in log-odds, (n,)."""
        return self._seeing.margins(self._checked(vectors))

    def contributions(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """What each value adds to the margin, float64 (n, 51); the last column is the base value."""
        return self._seeing.contributions(self._checked(vectors))

    def explain(self, vector: NDArray[np.float32]) -> Explanation:
        """Why one vector, float32 (50,), is scored as it is."""
        row = self._checked(vector[None, :])
        values = self.contributions(row)[0]
        return Explanation(float(values[-1]), float(self.margins(row)[0]), float(self.score(row)[0]), values[:-1])

    def _checked(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        if vectors.dtype != np.float32 or vectors.ndim != 2 or vectors.shape[1] != self._width:
            raise ValueError(f"vectors must be float32 (n, {self._width}), got {vectors.dtype} {vectors.shape}")
        return vectors


def releases(home: Path) -> Path:
    """Folder of all releases of this home."""
    return home / "releases"


def release_folder(home: Path, name: str) -> Path:
    """Folder of a release by its name, such as fraud-detector-7. Raises BundleError where that is no name."""
    if _RELEASE.fullmatch(name) is None:
        raise BundleError(f"{name!r:.80} is not the name of a release, such as fraud-detector-7")
    return releases(home) / name


def current_release(home: Path) -> Path:
    """Folder of the release in force. Raises NoReleaseError, or BundleError when the pointer is unreadable."""
    pointer = releases(home) / POINTER_FILE
    if not pointer.exists():
        raise NoReleaseError(
            f"no model has been released under {home}: run `make run`, or materialize the model assets in Dagster"
        )
    document = _document(pointer, _read(pointer))
    name = document.get("release")
    if not isinstance(name, str):
        raise BundleError(f"{pointer} does not name a release")
    folder = release_folder(home, name)
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
    release, card = release_folder(home, bundle.name), card_beside(bundle_dir)
    root.mkdir(parents=True, exist_ok=True)
    with exclusive(root / ".publish.lock"):
        for left_behind in root.glob(".*.tmp"):
            shutil.rmtree(left_behind)
        if release.exists():
            if Bundle.load(release) != bundle:
                raise BundleError(f"{release} already exists with other content; a release is never overwritten")
            seal(release)
        else:
            temporary = root / f".{bundle.name}.{uuid.uuid4().hex}.tmp"
            temporary.mkdir()
            # byte for byte: other regions know a release by the hashes of its files, whichever version wrote them
            _write_sealed(temporary, {name: _read(bundle_dir / name) for name in DECIDING}, card)
            if Bundle.load(temporary) != bundle:
                raise BundleError(f"{bundle_dir} was changed while it was read; publish it again")
            temporary.rename(release)
    return release


def seal(folder: Path) -> bool:
    """Give a verified bundle from before SHA256SUMS its own; whether it had none. Raises BundleError."""
    Bundle.load(folder)
    if (folder / SUMS_FILE).exists():
        return False
    there = [name for name in (*DECIDING, CARD_FILE) if (folder / name).exists()]
    replace_file(folder / SUMS_FILE, _sums_of({name: _read(folder / name) for name in there}))
    return True


def card_beside(folder: Path) -> bytes | None:
    """The card beside a bundle; None without one. Raises BundleError where it is not the one that was sealed."""
    if not (folder / CARD_FILE).exists():
        return None
    card, sums = _read(folder / CARD_FILE), _read_sums(folder) or {}
    if CARD_FILE in sums:  # a registry's card is rewritten with the verdict, until its bundle is released
        _check_sum(folder / CARD_FILE, card, sums)
    return card


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


def _write_sealed(folder: Path, deciding: dict[str, bytes], card: bytes | None) -> None:
    content = deciding | ({CARD_FILE: card} if card is not None else {})
    for name, payload in content.items():
        _write_durably(folder / name, payload)
    _write_durably(folder / SUMS_FILE, _sums_of(content))


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> bytes:
    most = _LARGEST.get(path.name, _LARGEST_OTHER)
    try:
        if not path.is_file():  # a pipe would be waited for without end
            raise BundleError(f"{path} does not exist" if not path.exists() else f"{path} is no file")
        with path.open("rb") as file:
            payload = file.read(most + 1)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(payload) > most:
        raise BundleError(f"{path} is larger than {most:,} bytes")
    return payload


def _document(path: Path, payload: bytes) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise BundleError(f"{path} is not a JSON object")
    return document


def _sums_of(content: dict[str, bytes]) -> bytes:
    return "".join(f"{hashlib.sha256(content[name]).hexdigest()}  {name}\n" for name in sorted(content)).encode()


def _read_sums(folder: Path) -> dict[str, str] | None:
    """Hash by file name; None in a bundle from before. Raises BundleError."""
    path = folder / SUMS_FILE
    if not path.exists():
        return None
    found = re.findall(rb"^([0-9a-f]{64})  ([a-z.]{1,40})$", _read(path), re.MULTILINE)
    sums = {name.decode(): digest.decode() for digest, name in found}
    if not set(DECIDING) <= sums.keys():
        raise BundleError(f"{path} does not name {' and '.join(DECIDING)}")
    return sums


def _check_sum(path: Path, payload: bytes, sums: dict[str, str]) -> None:
    found = hashlib.sha256(payload).hexdigest()
    if found != sums[path.name]:
        raise BundleError(f"{path} has SHA-256 {found}, its {SUMS_FILE} says {sums[path.name]}")


def _is_instant(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _is_shallow(tree: Any) -> bool:
    """Whether whoever walks it by recursion comes back."""
    level = [tree]
    for _ in range(_DEEPEST_DATA):
        inner = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        if not inner:
            return True
        level = [value for each in inner for value in each]
    return False


def _is_split(split: Any) -> bool:
    """Whether each window that it names is two days."""
    windows = ("train", "validation", "holdout")
    try:
        return isinstance(split, dict) and all(
            len(split[name]) == 2 and date.fromisoformat(split[name][0]) <= date.fromisoformat(split[name][1])
            for name in windows
            if name in split
        )
    except (TypeError, ValueError, KeyError):
        return False
