"""The search for parameters: Optuna over time-ordered folds, within a budget, resumable, the same for the same seed.

What belongs here: what is tried and what came of it. What does not: one training (`train`), folds (`folds`).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from fraud_platform.model.data import Examples, joined
from fraud_platform.model.folds import FoldExamples
from fraud_platform.model.ranking import average_precision
from fraud_platform.model.train import (
    DEFAULTS,
    MAX_ROUNDS,
    ROUNDS_WITHOUT_VALIDATION,
    WEIGHT_EXPONENT,
    Medians,
    Parameters,
    grow,
    margins,
)
from fraud_platform.settings import Settings

WEIGHT_EXPONENTS = (0.0, 0.5, 1.0)
"""The first trials: the default parameters under each, so that weighting is a measured choice."""

SEARCH_GOODS = 30_000
"""Good transactions of a fold that a trial learns from, drawn once and weighted up; frauds are all kept."""


@dataclass(frozen=True)
class Trial:
    """One set of parameters and what it reached."""

    number: int
    parameters: Parameters
    average_precision: list[float]
    """Per fold, oldest first; fewer than there are folds when the trial was given up."""
    rounds: list[int]

    @property
    def mean(self) -> float:
        """Mean average precision over its folds."""
        return float(np.mean(self.average_precision))


@dataclass(frozen=True)
class SearchResult:
    """Every trial, the parameters chosen, and what they say of examples that they did not see."""

    trials: list[Trial]
    parameters: Parameters
    rounds: int
    """Trees to grow: mean over folds."""
    out_of_time: bool
    """The time budget ended the search before its trials were done: another run may find other parameters."""


@dataclass(frozen=True)
class OutOfFold:
    """The chosen parameters' margins on examples that no training saw, folds one after the other."""

    examples: Examples
    margins: NDArray[np.float64]


def search(
    folds: Sequence[FoldExamples], settings: Settings, medians: Medians, journal: Path
) -> tuple[SearchResult, OutOfFold | None]:
    """Find parameters by mean average precision over the folds, then measure the best on whole folds.

    journal: file that keeps finished trials; a search that was killed goes on from there, and ends as if it had not
    been. Without folds the default parameters are taken, and no out-of-fold margins are there.
    """
    if not folds:
        return SearchResult([], DEFAULTS, ROUNDS_WITHOUT_VALIDATION, False), None
    started = time.monotonic()
    thinned = [_thin(fold, settings.seed) for fold in folds]
    study = _study(journal)
    out_of_time = False
    with tqdm(total=settings.search_trials, desc="search", unit="trial", disable=None, leave=False) as bar:
        while (done := len(_finished(study))) < max(1, settings.search_trials):
            bar.update(done - bar.n)
            if done and time.monotonic() - started > settings.search_seconds:
                out_of_time = True
                break
            _try(study, done, thinned, settings, medians)
    trials = [_trial(number, trial) for number, trial in enumerate(_finished(study))]
    whole = [trial for trial in trials if len(trial.average_precision) == len(folds)]
    # the first of equals: neither order of computing nor a tie decides
    best = max(whole, key=lambda trial: (trial.mean, -trial.number))
    grown = [
        grow(
            fold.train, best.parameters, settings, medians,
            rounds=MAX_ROUNDS, validation=fold.validation, title=f"best parameters, fold {index + 1} of {len(folds)}",
        )
        for index, fold in enumerate(folds)
    ]  # fmt: skip
    unseen = OutOfFold(
        joined([fold.validation for fold in folds]),
        np.concatenate([margins(model, fold.validation) for model, fold in zip(grown, folds, strict=True)]),
    )
    rounds = max(1, round(float(np.mean([model.rounds for model in grown]))))
    return SearchResult(trials, best.parameters, rounds, out_of_time), unseen


def _try(
    study: Any, number: int, folds: Sequence[tuple[FoldExamples, NDArray[np.float64]]], settings: Settings,
    medians: Medians,
) -> None:  # fmt: skip
    """Run the trial after `number` finished ones and put it into the study."""
    import optuna

    trial = None
    if number < len(WEIGHT_EXPONENTS):
        parameters = DEFAULTS | {WEIGHT_EXPONENT: WEIGHT_EXPONENTS[number]}
    else:
        # a seed of its own for each: what is drawn depends on finished trials and not on which process drew
        study.sampler = optuna.samplers.TPESampler(seed=settings.seed + number, n_startup_trials=5)
        trial = study.ask(_space())
        parameters = dict(trial.params)
    best = max((np.mean(other.user_attrs["average_precision"]) for other in _finished(study)), default=0.0)
    reached: list[float] = []
    rounds: list[int] = []
    for fold, weights in folds:
        grown = grow(
            fold.train, parameters, settings, medians,
            rounds=MAX_ROUNDS, weights=weights, validation=fold.validation, title=f"trial {number}",
        )  # fmt: skip
        reached.append(average_precision(fold.validation.is_fraud, margins(grown, fold.validation)))
        rounds.append(grown.rounds)
        if trial is not None and reached[-1] < 0.85 * best:
            break
    attributes = {"average_precision": reached, "rounds": rounds}
    if trial is None:
        study.add_trial(
            optuna.trial.create_trial(
                params=parameters, distributions=_space(), value=float(np.mean(reached)), user_attrs=attributes
            )
        )
        return
    for name, value in attributes.items():
        trial.set_user_attr(name, value)
    study.tell(trial, float(np.mean(reached)))


def _space() -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    return {
        "learning_rate": FloatDistribution(0.03, 0.2, log=True),
        "max_depth": IntDistribution(3, 8),
        "min_child_weight": FloatDistribution(0.5, 20.0, log=True),
        "reg_lambda": FloatDistribution(0.1, 20.0, log=True),
        "subsample": FloatDistribution(0.5, 1.0),
        "colsample_bytree": FloatDistribution(0.3, 1.0),
        WEIGHT_EXPONENT: CategoricalDistribution(WEIGHT_EXPONENTS),
    }


def _study(journal: Path) -> Any:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal.parent.mkdir(parents=True, exist_ok=True)
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal))),
        study_name="search",
        direction="maximize",
        load_if_exists=True,
    )


def _finished(study: Any) -> list[Any]:
    """Finished trials in order; one that a killed process left open counts nowhere."""
    from optuna.trial import TrialState

    return list(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def _trial(number: int, trial: Any) -> Trial:
    attributes = trial.user_attrs
    return Trial(number, dict(trial.params), list(attributes["average_precision"]), list(attributes["rounds"]))


def _thin(fold: FoldExamples, seed: int) -> tuple[FoldExamples, NDArray[np.float64]]:
    """The fold with at most SEARCH_GOODS good training examples, and the weights that make up for the others."""
    fraud = fold.train.is_fraud
    goods = np.flatnonzero(~fraud)
    kept = np.random.default_rng(seed).permutation(goods)[:SEARCH_GOODS]
    rows = np.sort(np.concatenate([np.flatnonzero(fraud), kept]))
    given = fold.train.weights
    total, drawn = (len(goods), len(kept)) if given is None else (given[goods].sum(), given[kept].sum())
    weights = np.where(fraud[rows], 1.0, total / drawn)
    return replace(fold, train=_taken(fold.train, rows)), weights


def _taken(examples: Examples, rows: NDArray[np.intp]) -> Examples:
    weights = None if examples.weights is None else examples.weights[rows]
    return replace(
        examples,
        vectors=examples.vectors[rows],
        is_fraud=examples.is_fraud[rows],
        days=examples.days[rows],
        weights=weights,
    )
