"""A study of models on a history: its own folder, its tables, its results on disk.

What belongs here: where a study lies and what it writes. What does not: the evaluation itself (`prequential`). The live
home is only read, and only where the study is of its own history.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from fraud_platform.erasure.suppression import carry_suppression
from fraud_platform.history import build_history
from fraud_platform.lake import open_lake
from fraud_platform.model.bundle import replace_file
from fraud_platform.model.prequential import Result, Windows, draw, evaluate_dates
from fraud_platform.settings import Settings


@dataclass(frozen=True)
class Study:
    """What a study found, and where it wrote it."""

    results: list[Result]
    results_file: Path
    plot_file: Path


def run_study(settings: Settings, folder: Path | None, windows: Windows, trials: int, now: datetime) -> Study:
    """Build the tables that are missing, evaluate, and write `results.json` and `average_precision.png`.

    folder: default `<home>/evaluate/<name>`, named by the mapping file and its content. Raises MappingError,
    TrainingDataError.
    """
    place = folder or settings.home / "evaluate" / _name(settings)
    study = settings.model_copy(update={"search_trials": trials})
    if settings.mapping is not None:
        # a lake of its own: the live home holds another history
        study = settings.model_copy(update={"home": place, "lake_url": None, "search_trials": trials})
        carry_suppression(settings.home, place)
        build_history(study, open_lake(study), now)
    place.mkdir(parents=True, exist_ok=True)
    results = list(evaluate_dates(open_lake(study), study.model_copy(update={"home": place}), windows))
    written = Study(results, place / "results.json", place / "average_precision.png")
    replace_file(written.results_file, msgspec.json.format(msgspec.json.encode([windows, results]), indent=2))
    replace_file(written.plot_file, draw(results))
    return written


def _name(settings: Settings) -> str:
    if settings.mapping is None:
        return "home"
    digest = hashlib.sha256(settings.mapping.read_bytes() + settings.base_currency.encode()).hexdigest()[:8]
    return f"{settings.mapping.resolve().parent.name}-{digest}"
