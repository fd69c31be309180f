"""XGBoost on labelled vectors: fixed parameters, early stopping, the same bytes for the same data and seed.

What belongs here: how trees are grown. What does not: where examples come from (`data`), how good a model is
(`evaluate`).
"""

import os
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.model.data import Examples
from fraud_platform.settings import Settings

TRAINING_VERSION = 1
"""Raised by hand when the same data, parameters and seed would give another model or other figures."""

MAX_ROUNDS = 1_000
PATIENCE_ROUNDS = 40
ROUNDS_WITHOUT_VALIDATION = 150
"""Trees that are grown when validation has no fraud to stop by."""

_PROGRESS_ROUNDS = 10

PARAMETERS: dict[str, Any] = {
    "objective": "binary:logistic",
    "eval_metric": "aucpr",
    "tree_method": "hist",
    "max_bin": 256,
    "learning_rate": 0.1,
    "max_depth": 6,
    # a leaf rests on some weight of evidence: with p near 0.005 a row weighs p (1 − p)
    "min_child_weight": 1.0,
    "reg_lambda": 5.0,
    "subsample": 0.8,
    "colsample_bytree": 0.6,
}
"""No class weights: they would shift the probabilities that the thresholds stand on."""


@dataclass(frozen=True)
class Trained:
    """A model cut back to its best round."""

    model: bytes
    """XGBoost's native UBJSON."""
    rounds: int
    validation_average_precision: float | None
    """None when validation had no fraud and the number of rounds was fixed."""


def parameters(settings: Settings) -> dict[str, Any]:
    """Everything that decides which model grows from given data."""
    return PARAMETERS | {"seed": settings.seed, "max_rounds": MAX_ROUNDS, "patience_rounds": PATIENCE_ROUNDS}


def threads(settings: Settings) -> int:
    """Threads of one training; the model does not depend on them."""
    return settings.training_threads or len(os.sched_getaffinity(0))


def train(train_set: Examples, validation: Examples, settings: Settings) -> Trained:
    """Train on `train_set`, stopping when the average precision on `validation` no longer rises."""
    import xgboost

    cores = threads(settings)
    names = list(CATALOGUE.names)
    bins = PARAMETERS["max_bin"]

    class Progress(xgboost.callback.TrainingCallback):
        """Moves a progress bar; XGBoost's own callback would print a line each time, also into logs."""

        def __init__(self, bar: "tqdm[Any]") -> None:
            self.bar = bar

        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            if (epoch + 1) % _PROGRESS_ROUNDS == 0:
                for metrics in evals_log.values():
                    self.bar.set_postfix(average_precision=f"{metrics['aucpr'][-1]:.4f}", refresh=False)
                self.bar.update(_PROGRESS_ROUNDS)
            return False

    matrix = xgboost.QuantileDMatrix(
        train_set.vectors, train_set.is_fraud, feature_names=names, max_bin=bins, nthread=cores
    )
    stops_early = 0 < validation.frauds < len(validation)
    evals, stopping = [], []
    if stops_early:
        held_out = xgboost.QuantileDMatrix(
            validation.vectors, validation.is_fraud, feature_names=names, max_bin=bins, nthread=cores, ref=matrix
        )
        evals = [(held_out, "validation")]
        stopping = [xgboost.callback.EarlyStopping(rounds=PATIENCE_ROUNDS, metric_name="aucpr", maximize=True)]
    rounds = MAX_ROUNDS if stops_early else ROUNDS_WITHOUT_VALIDATION
    with tqdm(total=rounds, desc="XGBoost", unit="round", disable=None, leave=False) as bar:
        booster = xgboost.train(
            PARAMETERS | {"seed": settings.seed, "nthread": cores},
            matrix,
            num_boost_round=rounds,
            evals=evals,
            callbacks=[*stopping, Progress(bar)],
            verbose_eval=False,
        )
    best = booster.best_iteration + 1 if stops_early else rounds
    score = float(booster.best_score) if stops_early else None
    kept = booster[:best]
    # the model alone: traces of how it was stopped are figures, kept in its report
    kept.set_attr(best_iteration=None, best_score=None)
    return Trained(bytes(kept.save_raw("ubj")), best, score)
