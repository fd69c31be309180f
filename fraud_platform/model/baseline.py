"""Logistic regression, the model that any other has to beat and that serving falls back to.

What belongs here: fitting it, with its own transforms. What does not: scoring by it (`linear`), comparing (`ranking`).
"""

import numpy as np

from fraud_platform.model.data import Examples
from fraud_platform.model.linear import LinearModel, signed_log1p


def fit_baseline(examples: Examples, seed: int) -> LinearModel:
    """A scikit-learn pipeline, then its numbers: signed log, median for null with an indicator column, standardised,
    L2 regression. Infinite values are not expected: vectors have none."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    imputer = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    scaler, regression = StandardScaler(), LogisticRegression(max_iter=200, random_state=seed)
    pipeline = make_pipeline(imputer, scaler, regression)
    pipeline.fit(signed_log1p(examples.vectors), examples.is_fraud, logisticregression__sample_weight=examples.weights)
    weights = regression.coef_[0] / scaler.scale_
    intercept = float(regression.intercept_[0] - weights @ scaler.mean_)
    width = examples.vectors.shape[1]
    null_weights = np.zeros(width)
    null_weights[imputer.indicator_.features_] = weights[width:]
    return LinearModel(
        fill=tuple(np.nan_to_num(imputer.statistics_).tolist()),
        weights=tuple(weights[:width].tolist()),
        null_weights=tuple(null_weights.tolist()),
        intercept=intercept,
    )
