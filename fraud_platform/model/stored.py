"""Examples whose vectors stay in the lake, for trainings that exceed memory: read batch by batch, or sampled.

What belongs here: which rows they are, and reading them again and again. What does not: labels and vectors themselves
(`data`), what XGBoost keeps of them (`matrix`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.features.tables import tables_of
from fraud_platform.lake import Lake
from fraud_platform.model.data import EPOCH, Bools, Examples, Matrix, find_known, read_vectors

BATCH_ROWS = 200_000
"""Rows of a batch, if a day has not more: 40 MB of vectors. Each tree goes over every batch several times: small ones
are dear."""

SAMPLE_GOODS = 500_000
"""Good transactions of a sample, 100 MB of vectors; frauds are all kept."""


@dataclass(frozen=True)
class _Day:
    day: date
    known: Bools
    """(rows of the partition,): which have a label."""


@dataclass(frozen=True)
class StoredExamples:
    """A `Learnable` that holds some 15 bytes of a row in memory, and of its vectors one batch."""

    is_fraud: Bools
    weights: NDArray[np.float64] | None
    unknown: int
    catalogue: Catalogue
    _lake: Lake
    _days: list[_Day]

    def __len__(self) -> int:
        return len(self.is_fraud)

    @property
    def frauds(self) -> int:
        """How many of the examples are fraud."""
        return int(self.is_fraud.sum())

    def batches(self) -> Iterator[Matrix]:
        """Days together, up to BATCH_ROWS rows; a larger day alone."""
        waiting: list[_Day] = []
        for each in self._days:
            if waiting and sum(int(one.known.sum()) for one in [*waiting, each]) > BATCH_ROWS:
                yield self._read(waiting)
                waiting = []
            waiting.append(each)
        if waiting:
            yield self._read(waiting)

    def _read(self, days: Sequence[_Day]) -> Matrix:
        known = np.concatenate([each.known for each in days])
        return read_vectors(self._lake, [each.day for each in days], known, self.catalogue)[0]

    def sample(self, goods: int, seed: int) -> Examples:
        """Every fraud and at most `goods` good ones, drawn at random and weighted to stand for all."""
        good = np.flatnonzero(~self.is_fraud)
        drawn = np.random.default_rng(seed).permutation(good)[:goods]
        rows = np.sort(np.concatenate([np.flatnonzero(self.is_fraud), drawn]))
        vectors, ends = [], 0
        for batch in self.batches():
            begins, ends = ends, ends + len(batch)
            vectors.append(batch[rows[(rows >= begins) & (rows < ends)] - begins])
        ordinals = [np.full(int(each.known.sum()), (each.day - EPOCH).days, np.int32) for each in self._days]
        given = np.ones(len(self)) if self.weights is None else self.weights
        stands_for = np.where(self.is_fraud, 1.0, given[good].sum() / max(given[drawn].sum(), 1.0)) * given
        weights = None if self.weights is None and len(drawn) == len(good) else stands_for[rows]
        return Examples(
            np.concatenate(vectors), self.is_fraud[rows], np.concatenate(ordinals)[rows], self.unknown,
            weights=weights, catalogue=self.catalogue,
        )  # fmt: skip


def store(
    lake: Lake,
    days: Sequence[date],
    resolved: pa.Table,
    cut: date,
    maturity_days: int,
    catalogue: Catalogue = CATALOGUE,
) -> StoredExamples:
    """The same examples as `data.load_examples` loads, left where they are."""
    found, held, unknown = [], [], 0
    for day in tqdm(days, desc="labels", unit="day", disable=None, leave=False):
        if lake.exists(tables_of(catalogue).training_set, day):
            known = find_known(lake, [day], resolved, cut, maturity_days, catalogue)
            found.append(known)
            held.append(_Day(day, known.rows))
            unknown += int((~known.rows).sum())
    is_fraud = np.concatenate([each.is_fraud for each in found] or [np.empty(0, np.bool_)])
    weights = np.concatenate([each.weights for each in found] or [np.empty(0)])
    return StoredExamples(is_fraud, weights if (weights != 1).any() else None, unknown, catalogue, lake, held)


def load_sample(
    lake: Lake,
    days: Sequence[date],
    resolved: pa.Table,
    cut: date,
    maturity_days: int,
    catalogue: Catalogue = CATALOGUE,
    *,
    seed: int,
) -> Examples:
    """A sample of the examples that `data.load_examples` would load: all of them where they have no more good ones."""
    return store(lake, days, resolved, cut, maturity_days, catalogue).sample(SAMPLE_GOODS, seed)
