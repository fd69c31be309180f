"""What XGBoost trains on, from examples in memory or from batches of the lake: the same rows, labels and weights.

What belongs here: XGBoost's matrices, and where it keeps their pages. What does not: parameters and training (`train`),
where batches come from (`stored`).
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fraud_platform.features.degrade import degrade_some
from fraud_platform.model.data import Examples, Learnable
from fraud_platform.settings import Settings


@contextmanager
def training_matrix(
    examples: Learnable,
    weights: NDArray[np.float64] | None,
    settings: Settings,
    medians: Mapping[str, Sequence[float | None]],
    common: Mapping[str, Any],
) -> Iterator[Any]:
    """An xgboost.QuantileDMatrix of examples in memory, else an ExtMemQuantileDMatrix, whose pages lie under
    `<home>/training` while the block runs.

    A share of the rows is degraded as if a store were lost (`settings.nulled_share`), the same rows either way. common:
    further arguments that both take.
    """
    import xgboost

    catalogue = examples.catalogue
    named = {"feature_names": list(catalogue.names)}
    if isinstance(examples, Examples):
        vectors = degrade_some(examples.vectors, settings.nulled_share, medians, settings.seed, catalogue)
        yield xgboost.QuantileDMatrix(vectors, examples.is_fraud, weight=weights, **named, **common)
        return
    place = settings.home / "training"
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as folder:

        def rows() -> Iterator[dict[str, Any]]:
            random, end = np.random.default_rng(settings.seed), 0
            for batch in examples.batches():
                begin, end = end, end + len(batch)
                given = None if weights is None else weights[begin:end]
                data = degrade_some(batch, settings.nulled_share, medians, random, catalogue)
                yield {"data": data, "label": examples.is_fraud[begin:end], "weight": given, **named}

        yield xgboost.ExtMemQuantileDMatrix(_batches(rows, f"{folder}/pages"), **common)


def _batches(rows: Callable[[], Iterator[dict[str, Any]]], cache: str) -> Any:
    """XGBoost's iterator over what `rows` gives, which it goes through several times."""
    import xgboost

    class Batches(xgboost.DataIter):
        def __init__(self) -> None:
            self._left = rows()
            super().__init__(cache_prefix=cache, release_data=True)

        def next(self, input_data: Callable[..., Any]) -> bool:
            batch = next(self._left, None)
            if batch is not None:
                input_data(**batch)
            return batch is not None

        def reset(self) -> None:
            self._left = rows()

    return Batches()
