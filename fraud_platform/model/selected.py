"""A model on some features of a larger set: of each vector it sees its own values, in its own order.

What belongs here: picking columns, and putting explanations back in the set's order. What does not: which columns
(`bundle`), any model's arithmetic. A model on the whole set in its order is used as it is, so that nothing is copied.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fraud_platform.model.explanation import Explanation

Matrix = NDArray[np.float32]
Columns = NDArray[np.intp]


class Selected:
    """A model behind the vectors of a larger set. It has whatever methods of these the model has."""

    def __init__(self, model: Any, columns: Columns, width: int) -> None:
        """model: what scores vectors of its own features; columns: where those stand in a vector of `width` values."""
        self._model = model
        self._columns = columns
        self._width = width

    def margins(self, vectors: Matrix) -> NDArray[np.floating]:
        """The model's margins, (n,), of vectors float32 (n, width). Raises ValueError for another width."""
        margins: NDArray[np.floating] = self._model.margins(self._own(vectors))
        return margins

    def score(self, vectors: Matrix) -> NDArray[np.float64]:
        """The model's scores, (n,), of vectors float32 (n, width)."""
        scores: NDArray[np.float64] = self._model.score(self._own(vectors))
        return scores

    def contributions(self, vectors: Matrix) -> NDArray[np.float64]:
        """The model's contributions, float64 (n, width + 1): a feature that it does not have adds nothing."""
        found = self._model.contributions(self._own(vectors))
        out = np.zeros((len(vectors), self._width + 1))
        out[:, self._columns], out[:, -1] = found[:, :-1], found[:, -1]
        return out

    def explain(self, vector: Matrix) -> Explanation:
        """The model's explanation of one vector, float32 (width,)."""
        found: Explanation = self._model.explain(self._own(vector[None, :])[0])
        contributions = np.zeros(self._width)
        contributions[self._columns] = found.contributions
        return replace(found, contributions=contributions)

    def _own(self, vectors: Matrix) -> Matrix:
        if vectors.ndim != 2 or vectors.shape[1] != self._width:
            raise ValueError(f"vectors must be (n, {self._width}), got {vectors.shape}")
        return np.ascontiguousarray(vectors[:, self._columns])
