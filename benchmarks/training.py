"""`python -m benchmarks.training`: how fast search and training go as data grows, and what memory they take.

What belongs here: timing stages of the real code on vectors of a built home. What does not: comparing models. Rows
beyond what the home has are its own again with noise, since rows that repeat exactly would be binned too cheaply. The
same rows are trained on in memory and, as `FRAUD_TRAINING_MEMORY=external` does, from batches that XGBoost keeps on
disk.
"""

import argparse
import hashlib
import multiprocessing
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fraud_platform.features import tables
from fraud_platform.features.catalogue import Catalogue
from fraud_platform.features.label_rules import label_rules
from fraud_platform.lake import open_lake
from fraud_platform.model.baseline import fit_baseline
from fraud_platform.model.data import Bools, Examples, Matrix, labels_before, load_examples, newest_medians
from fraud_platform.model.stored import BATCH_ROWS
from fraud_platform.model.train import DEFAULTS, Medians, grow
from fraud_platform.settings import Settings

ROUNDS = 100


@dataclass(frozen=True)
class Enlarged:
    """So many rows of a home, made batch by batch: a `Learnable` that holds the home's own vectors and one batch."""

    home: Examples
    is_fraud: Bools
    weights: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.is_fraud)

    @property
    def frauds(self) -> int:
        """How many of the rows are fraud."""
        return int(self.is_fraud.sum())

    @property
    def catalogue(self) -> Catalogue:
        """The features of the vectors."""
        return self.home.catalogue

    def batches(self) -> Iterator[Matrix]:
        """BATCH_ROWS rows each, as the lake's days are read."""
        for first in range(0, len(self), BATCH_ROWS):
            yield _enlarged(self.home, first, min(BATCH_ROWS, len(self) - first)).vectors


@dataclass(frozen=True)
class Timed:
    """One training: seconds, the process' peak of resident memory in GB, and a hash of the trees."""

    xgboost: float
    regression: float | None
    peak: float
    trees: str


def main() -> None:
    """Time each size, in memory and from batches, in a process of its own, so that each reports its own peak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 100_000, 200_000, 400_000, 800_000])
    options = parser.parse_args()
    settings = Settings()
    examples, medians = _vectors(settings)
    print(f"{ROUNDS} trees; {len(examples):,} vectors with {examples.frauds:,} frauds from {settings.home}")
    print(f"{'rows':>9}{'memory':>10}{'XGBoost s':>11}{'rows/s':>10}{'regression s':>14}{'peak GB':>9}{'trees':>11}")
    seconds = []
    for rows in options.rows:
        for memory in ("internal", "external"):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found = pool.apply(_time, (settings, examples, rows, medians, memory == "external"))
            if memory == "internal":
                seconds.append(found.xgboost)
            regression = "" if found.regression is None else f"{found.regression:.1f}"
            print(
                f"{rows:9,}{memory:>10}{found.xgboost:11.1f}{rows / found.xgboost:10,.0f}{regression:>14}"
                f"{found.peak:9.2f}{found.trees:>11}",
                flush=True,
            )
    if len(seconds) > 1:
        exponent = np.polyfit(np.log(options.rows), np.log(seconds), 1)[0]
        print(f"XGBoost's time in memory grows with rows to the power of {exponent:.2f}")


def _vectors(settings: Settings) -> tuple[Examples, Medians]:
    lake = open_lake(settings)
    days = lake.days(tables.TRAINING_SET)
    if not days:
        raise SystemExit(f"{settings.home} has no training set: run `make run` first, or set FRAUD_HOME")
    cut = days[-1]
    examples = load_examples(
        lake, days, labels_before(lake, cut, label_rules(settings)), cut, settings.label_maturity_days
    )
    return examples, newest_medians(lake, days[-1])[1]


def _enlarged(examples: Examples, first: int, rows: int) -> Examples:
    """The rows from `first` on of the home enlarged without end."""
    random = np.random.default_rng([first, rows])
    picked = np.arange(first, first + rows) % len(examples)
    vectors = examples.vectors[picked]
    vectors *= 1 + random.normal(0, 0.01, vectors.shape).astype(np.float32)
    return Examples(vectors, examples.is_fraud[picked], examples.days[picked], 0)


def _time(settings: Settings, home: Examples, rows: int, medians: Medians, external: bool) -> Timed:
    left = Enlarged(home, home.is_fraud[np.arange(rows) % len(home)])
    began = time.perf_counter()
    if external:
        grown = grow(left, DEFAULTS, settings, medians, rounds=ROUNDS)
    else:
        loaded = Examples(
            np.empty((rows, home.vectors.shape[1]), np.float32), left.is_fraud, np.zeros(rows, np.int32), 0
        )
        filled = 0
        for batch in left.batches():
            loaded.vectors[filled : filled + len(batch)] = batch
            filled += len(batch)
        began = time.perf_counter()
        grown = grow(loaded, DEFAULTS, settings, medians, rounds=ROUNDS)
    ended = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    trees = hashlib.sha256(bytes(grown.booster.save_raw("ubj"))).hexdigest()[:8]
    if external:
        return Timed(ended - began, None, peak, trees)
    # after the peak was read: regression runs on samples where data exceed memory
    fit_baseline(loaded, settings.seed)
    return Timed(ended - began, time.perf_counter() - ended, peak, trees)


if __name__ == "__main__":
    main()
