"""`python -m benchmarks.bins`: average precision by histogram bins, and exactly, on a home's folds.

What belongs here: the measurement that `train`'s choice of bins rests on. What does not: choosing by the holdout.
"""

import time
from datetime import UTC, datetime
from typing import Any

import numpy as np

from fraud_platform.features.label_rules import label_rules
from fraud_platform.lake import open_lake
from fraud_platform.model.data import find_split
from fraud_platform.model.folds import FoldExamples, load_folds
from fraud_platform.model.ranking import average_precision
from fraud_platform.model.train import DEFAULTS, MAX_ROUNDS, PATIENCE_ROUNDS, WEIGHT_EXPONENT, threads
from fraud_platform.settings import Settings

METHODS: dict[str, dict[str, Any]] = {
    **{f"hist, {bins} bins": {"tree_method": "hist", "max_bin": bins} for bins in (32, 64, 256, 1024)},
    "exact": {"tree_method": "exact"},
}
SEEDS = 3


def main() -> None:
    """Mean over folds and seeds, and seconds of one training."""
    settings = Settings()
    lake = open_lake(settings)
    folds = load_folds(lake, find_split(lake, settings, datetime.now(UTC)), label_rules(settings))
    print("rows per fold:", ", ".join(f"{len(fold.train):,} + {len(fold.validation):,}" for fold in folds))
    print(f"{'method':18}{'average precision':>18}{'± over seeds':>14}{'seconds':>9}")
    for name, method in METHODS.items():
        began = time.perf_counter()
        reached = [
            np.mean([_reached(fold, method, settings.seed + seed, settings) for fold in folds]) for seed in range(SEEDS)
        ]
        each = (time.perf_counter() - began) / SEEDS / len(folds)
        print(f"{name:18}{np.mean(reached):18.4f}{np.std(reached):14.4f}{each:9.1f}", flush=True)


def _reached(fold: FoldExamples, method: dict[str, Any], seed: int, settings: Settings) -> float:
    import xgboost

    train, validation = (xgboost.DMatrix(part.vectors, part.is_fraud) for part in (fold.train, fold.validation))
    parameters = {name: value for name, value in DEFAULTS.items() if name != WEIGHT_EXPONENT} | method
    booster = xgboost.train(
        parameters
        | {"objective": "binary:logistic", "eval_metric": "aucpr", "seed": seed, "nthread": threads(settings)},
        train,
        num_boost_round=MAX_ROUNDS,
        evals=[(validation, "validation")],
        early_stopping_rounds=PATIENCE_ROUNDS,
        verbose_eval=False,
    )
    margins = booster.predict(validation, output_margin=True, iteration_range=(0, booster.best_iteration + 1))
    return average_precision(fold.validation.is_fraud, np.asarray(margins, np.float64))


if __name__ == "__main__":
    main()
