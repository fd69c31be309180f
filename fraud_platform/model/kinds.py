"""The kinds of model that may decide, behind one protocol: a bundle names its kind, and everything else asks here.

What belongs here: the protocol and the list. What does not: a kind's own arithmetic (`trees`, `linear`), fitting
(`train`, `baseline`), MLflow's flavours (`registry`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fraud_platform.model.linear_file import read_linear
from fraud_platform.model.model_file import check_model_file
from fraud_platform.model.trees import Trees

Matrix = NDArray[np.float32]

KindName = Literal["xgboost", "logistic_regression"]
XGBOOST: KindName = "xgboost"
REGRESSION: KindName = "logistic_regression"


class Margins(Protocol):
    """What scores payments, one or many."""

    def margins(self, vectors: Matrix) -> NDArray[np.floating]:
        """Raw output in log-odds, (n,), of vectors float32 (n, features), NaN for null; each row's own result."""
        ...


class Model(Margins, Protocol):
    """A model of some kind, read from its file."""

    def contributions(self, vectors: Matrix) -> NDArray[np.float64]:
        """What each value adds to the margin, float64 (n, features + 1); the last column is the base value."""
        ...

    def compiled(self) -> Margins:
        """The same model for one payment at a time. Raises ModelFileError where the two would differ."""
        ...

    def gains(self) -> dict[str, float] | None:
        """Share of what splits gain, by feature that any splits on; None for a kind without splits."""
        ...


@dataclass(frozen=True)
class Kind:
    """One kind of model."""

    title: str
    """As people read it."""
    check: Callable[[bytes, int], object]
    """Passes a model file of so many features. Raises ModelFileError."""
    load: Callable[[bytes, Sequence[str]], Model]
    """Reads a model file that was checked. Raises ModelFileError."""


KINDS: dict[KindName, Kind] = {
    XGBOOST: Kind("XGBoost", check_model_file, Trees),
    REGRESSION: Kind("logistic regression", read_linear, lambda payload, features: read_linear(payload, len(features))),
}
