"""XGBoost on labelled vectors: how trees are grown, weighted and stopped; the same bytes for the same data and seed.

What belongs here: one training. What does not: which parameters (`search`), where examples come from (`data`), how good
a model is (`evaluate`).
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from fraud_platform.model.data import Examples, Learnable
from fraud_platform.model.matrix import training_matrix
from fraud_platform.settings import Settings

TRAINING_VERSION = 5
"""Raised by hand when the same data, parameters and seed would give another model or other figures."""

MAX_ROUNDS = 800
PATIENCE_ROUNDS = 40
ROUNDS_WITHOUT_VALIDATION = 150
"""Trees that are grown when there is no fold to stop by."""

EXTERNAL = "external"
"""The `training_memory` under which vectors stay in the lake."""

_PROGRESS_ROUNDS = 10

Parameters = dict[str, Any]
Medians = Mapping[str, Sequence[float | None]]

WEIGHT_EXPONENT = "positive_weight_exponent"
"""A fraud weighs (goods / frauds) to this power: 0 leaves classes as they are, 1 balances them."""

DEFAULTS: Parameters = {
    "learning_rate": 0.05,
    "max_depth": 5,
    # a leaf rests on some weight of evidence: with p near 0.005 a row weighs p (1 − p)
    "min_child_weight": 3.0,
    "reg_lambda": 5.0,
    "subsample": 0.8,
    "colsample_bytree": 0.6,
    WEIGHT_EXPONENT: 0.0,
}

_FIXED: Parameters = {"objective": "binary:logistic", "eval_metric": "aucpr", "tree_method": "hist", "max_bin": 256}


@dataclass(frozen=True)
class Grown:
    """A booster stopped by its validation."""

    booster: Any
    rounds: int


def fixed_parameters(settings: Settings) -> Parameters:
    """Everything beside the searched parameters that decides which model grows from given data."""
    rounds = {"max_rounds": MAX_ROUNDS, "patience_rounds": PATIENCE_ROUNDS}
    # a model that was chosen on samples is another one; the fingerprints of all others stay what they were
    external = {"training_memory": EXTERNAL} if settings.training_memory == EXTERNAL else {}
    return _FIXED | rounds | {"seed": settings.seed, "nulled_share": settings.nulled_share} | external


def threads(settings: Settings) -> int:
    """Threads of one training; the model does not depend on them."""
    return settings.training_threads or len(os.sched_getaffinity(0))


def grow(
    examples: Learnable,
    parameters: Parameters,
    settings: Settings,
    medians: Medians,
    *,
    rounds: int,
    weights: NDArray[np.float64] | None = None,
    validation: Examples | None = None,
    title: str = "XGBoost",
) -> Grown:
    """Grow up to `rounds` trees, fewer when average precision on `validation` stops rising.

    A share of the training rows is degraded as if a store were lost (`settings.nulled_share`), the same rows for the
    same seed and length. weights: of each row, beside that of its class and the one that the examples give it.
    """
    import xgboost

    weights = _weights(examples, parameters[WEIGHT_EXPONENT], weights)
    common = {"max_bin": _FIXED["max_bin"], "nthread": threads(settings)}
    given = _FIXED | {name: value for name, value in parameters.items() if name != WEIGHT_EXPONENT}
    given |= {"seed": settings.seed, "nthread": threads(settings)}
    with (
        training_matrix(examples, weights, settings, medians, common) as matrix,
        tqdm(total=rounds, desc=title, unit="round", disable=None, leave=False) as bar,
    ):
        callbacks, evals = [_progress(bar)], []
        if validation is not None:
            held_out = xgboost.QuantileDMatrix(
                validation.vectors, validation.is_fraud, weight=validation.weights,
                feature_names=list(validation.catalogue.names), ref=matrix, **common,
            )  # fmt: skip
            evals = [(held_out, "validation")]
            callbacks.append(xgboost.callback.EarlyStopping(rounds=PATIENCE_ROUNDS, metric_name="aucpr", maximize=True))
        booster = xgboost.train(
            given, matrix, num_boost_round=rounds, evals=evals, callbacks=callbacks, verbose_eval=False
        )
    return Grown(booster, booster.best_iteration + 1 if validation is not None else rounds)


def margins(grown: Grown, examples: Examples) -> NDArray[np.float64]:
    """Raw output in log-odds, float64 (n,), of the trees up to the best round."""
    values = grown.booster.inplace_predict(examples.vectors, iteration_range=(0, grown.rounds), predict_type="margin")
    return np.asarray(values, np.float64)


def _weights(examples: Learnable, exponent: float, weights: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
    if examples.weights is not None:
        weights = examples.weights if weights is None else examples.weights * weights
    if not exponent:
        return weights
    given = np.ones(len(examples)) if weights is None else weights
    frauds, goods = given[examples.is_fraud].sum(), given[~examples.is_fraud].sum()
    return np.where(examples.is_fraud, (goods / frauds) ** exponent, 1.0) * given


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
