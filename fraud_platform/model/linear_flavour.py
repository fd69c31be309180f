"""Logistic regression as MLflow loads it: a loader instead of a pickle.

What belongs here: what `mlflow.pyfunc.load_model` calls. What does not: logging one (`registry`).
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.model.linear import LinearModel
from fraud_platform.model.linear_file import read_linear


class Flavour:
    """A logistic regression on tables."""

    def __init__(self, model: LinearModel) -> None:
        self._model = model

    def predict(self, table: Any) -> NDArray[np.float64]:
        """The regression's own probabilities, (n,). table: pandas.DataFrame with a column for each feature."""
        return self._model.score(table[list(CATALOGUE.names)].to_numpy(np.float32))


def _load_pyfunc(path: str) -> Flavour:
    """The name that MLflow asks for. Raises ModelFileError."""
    return Flavour(read_linear(Path(path).read_bytes(), len(CATALOGUE.names)))
