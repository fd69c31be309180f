"""XGBoost on labelled vectors: fixed parameters, early stopping, the same bytes for the same data and seed.

What belongs here: how trees are grown. What does not: where examples come from (`data`), how good a model is
(`evaluate`).
"""

import os
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.model.data import Examples, joined
from fraud_platform.settings import Settings

TRAINING_VERSION = 3
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
    "learning_rate": 0.05,
    "max_depth": 5,
    # a leaf rests on some weight of evidence: with p near 0.005 a row weighs p (1 − p)
    "min_child_weight": 3.0,
    "reg_lambda": 5.0,
    "subsample": 0.8,
    "colsample_bytree": 0.6,
}
"""No class weights: they would shift the probabilities that the thresholds stand on."""


@dataclass(frozen=True)
class Trained:
    """A model of as many trees as validation asked for."""

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
    """Find the number of trees by the average precision on `validation`, then grow as many on both windows together.

    Growing again gives the model the newest labels, which are the ones that look most like tomorrow.
    """
    import xgboost

    seeded = PARAMETERS | {"seed": settings.seed, "nthread": threads(settings)}
    stops_early = 0 < validation.frauds < len(validation)
    rounds, score = ROUNDS_WITHOUT_VALIDATION, None
    if stops_early:
        matrix = _matrix(train_set, settings)
        held_out = _matrix(validation, settings, ref=matrix)
        stopping = xgboost.callback.EarlyStopping(rounds=PATIENCE_ROUNDS, metric_name="aucpr", maximize=True)
        with tqdm(total=MAX_ROUNDS, desc="XGBoost, early stopping", unit="round", disable=None, leave=False) as bar:
            stopped = xgboost.train(
                seeded,
                matrix,
                num_boost_round=MAX_ROUNDS,
                evals=[(held_out, "validation")],
                callbacks=[stopping, _progress(bar)],
                verbose_eval=False,
            )
        rounds, score = stopped.best_iteration + 1, float(stopped.best_score)
    both = _matrix(joined(train_set, validation), settings)
    with tqdm(total=rounds, desc="XGBoost", unit="round", disable=None, leave=False) as bar:
        booster = xgboost.train(seeded, both, num_boost_round=rounds, callbacks=[_progress(bar)])
    return Trained(bytes(booster.save_raw("ubj")), rounds, score)


def _matrix(examples: Examples, settings: Settings, ref: Any = None) -> Any:
    import xgboost

    return xgboost.QuantileDMatrix(
        examples.vectors,
        examples.is_fraud,
        feature_names=list(CATALOGUE.names),
        max_bin=PARAMETERS["max_bin"],
        nthread=threads(settings),
        ref=ref,
    )


def _progress(bar: "tqdm[Any]") -> Any:
    """Moves a progress bar; XGBoost's own callback would print a line each time, also into logs."""
    import xgboost

    class Progress(xgboost.callback.TrainingCallback):
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            if (epoch + 1) % _PROGRESS_ROUNDS == 0:
                for metrics in evals_log.values():
                    bar.set_postfix(average_precision=f"{metrics['aucpr'][-1]:.4f}", refresh=False)
                bar.update(_PROGRESS_ROUNDS)
            return False

    return Progress()
