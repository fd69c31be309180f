"""Logistic regression, the model that any other has to beat.

What belongs here: its pipeline with its own transforms. What does not: comparing (`ranking`).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fraud_platform.model.data import Examples, Matrix


def signed_log1p(values: Matrix) -> Matrix:
    """sign(x) · log(1 + |x|): amounts and counts become comparable; NaN stays NaN."""
    return np.asarray(np.sign(values) * np.log1p(np.abs(values)), values.dtype)


def fit_baseline(examples: Examples, seed: int) -> Any:
    """A scikit-learn pipeline: signed log, median for null with an indicator column, standardised, L2 regression."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    pipeline = make_pipeline(
        FunctionTransformer(signed_log1p),
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True),
        StandardScaler(),
        LogisticRegression(max_iter=200, random_state=seed),
    )
    return pipeline.fit(examples.vectors, examples.is_fraud)


def baseline_scores(pipeline: Any, vectors: Matrix) -> NDArray[np.float64]:
    """Fraud probabilities, float64 (n,)."""
    return np.asarray(pipeline.predict_proba(vectors)[:, 1], np.float64)
