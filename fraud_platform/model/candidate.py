"""A trained and measured model before the registry knows it: one folder, named by what it was made of.

What belongs here: the folder's form, the fingerprint. What does not: making one (`steps`).
"""

import hashlib
import json
import shutil
import uuid
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import msgspec

from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.model.bundle import Bundle
from fraud_platform.model.calibration import Calibration
from fraud_platform.model.evaluate import Evaluation
from fraud_platform.model.search import SearchResult
from fraud_platform.model.split import Split
from fraud_platform.model.train import DEFAULTS, TRAINING_VERSION, Parameters, fixed_parameters
from fraud_platform.settings import Settings

RECORD_FILE, PLOTS_FOLDER = "candidate.json", "plots"

DataVersions = dict[str, dict[str, str | int]]


@dataclass(frozen=True, kw_only=True)
class CandidateRecord:
    """What `candidate.json` holds."""

    fingerprint: str
    split: Split
    evaluation: Evaluation
    fixed: Parameters
    """What was not searched for."""
    search: SearchResult
    calibration: Calibration
    features: list[tuple[str, float]]
    """By mean absolute SHAP value on the holdout, the strongest first."""
    data: DataVersions
    train_rows: int
    train_frauds: int


@dataclass(frozen=True)
class Candidate:
    """A candidate's folder, read. The bundle in it has no version yet."""

    folder: Path
    record: CandidateRecord
    catalogue: Catalogue
    """The features that are computed here, of which its own are some."""

    @staticmethod
    def load(folder: Path, catalogue: Catalogue = CATALOGUE) -> "Candidate":
        """Read a complete candidate. Raises FileNotFoundError."""
        record = msgspec.json.decode((folder / RECORD_FILE).read_bytes(), type=CandidateRecord)
        return Candidate(folder, record, catalogue)

    @property
    def fingerprint(self) -> str:
        """Name of what it was made of."""
        return self.record.fingerprint

    @cached_property
    def bundle(self) -> Bundle:
        """The verified bundle. Raises BundleError."""
        return Bundle.load(self.folder, self.catalogue)

    @cached_property
    def plots(self) -> dict[str, bytes]:
        """PNG bytes by file name."""
        return {path.name: path.read_bytes() for path in sorted((self.folder / PLOTS_FOLDER).glob("*.png"))}

    @property
    def metrics(self) -> dict[str, float]:
        """Flat figures for MLflow and Dagster."""
        record = self.record
        flat = record.evaluation.metrics() | {
            "rounds": float(record.search.rounds),
            "trials": float(len(record.search.trials)),
            "train_rows": float(record.train_rows),
            "train_frauds": float(record.train_frauds),
        }
        if record.search.trials:
            flat["folds_average_precision"] = max(trial.mean for trial in record.search.trials)
        return flat


def candidate_folder(home: Path, fingerprint: str) -> Path:
    """Where the candidate of a fingerprint lies."""
    return home / "candidates" / fingerprint


def candidates(home: Path) -> list[Path]:
    """The folders of this home's candidates, in no order."""
    return [folder for folder in (home / "candidates").glob("[!.]*") if folder.is_dir()]


def write_candidate(
    folder: Path, record: CandidateRecord, bundle: Bundle, plots: dict[str, bytes], catalogue: Catalogue
) -> Candidate:
    """Write a candidate aside and rename it into place; one that is there already was made of the same and stays."""
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    try:
        bundle.write(temporary)
        (temporary / PLOTS_FOLDER).mkdir()
        for name, picture in plots.items():
            (temporary / PLOTS_FOLDER / name).write_bytes(picture)
        (temporary / RECORD_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2))
        if not folder.exists():
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Candidate.load(folder, catalogue)


def fingerprint(settings: Settings, split: Split, data: DataVersions, catalogue: Catalogue) -> str:
    """16 hex digits over everything that decides the bundle and its figures; the same again need not be trained."""
    made_of = {
        "training_version": TRAINING_VERSION,
        "parameters": fixed_parameters(settings),
        "defaults": DEFAULTS,
        "search": [settings.search_trials, settings.search_seconds],
        "losses": [
            settings.loss_missed_fee,
            settings.loss_blocked_good,
            settings.loss_alert,
            settings.alert_budget_share,
        ],
        "catalogue": catalogue.hash,
        "thresholds": [settings.threshold, settings.review_threshold],
        "split": {name: str(value) for name, value in asdict(split).items()},
        "data": data,
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
