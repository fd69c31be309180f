"""`python -m benchmarks.training`: how fast search and training go as data grows, and what memory they take.

What belongs here: timing stages of the real code on vectors of a built home. What does not: comparing models. Rows
beyond what the home has are its own again with noise, since rows that repeat exactly would be binned too cheaply.
"""

import argparse
import multiprocessing
import resource
import time

import numpy as np

from fraud_platform.features import tables
from fraud_platform.lake import open_lake
from fraud_platform.model.baseline import fit_baseline
from fraud_platform.model.data import Examples, labels_before, load_examples, newest_medians
from fraud_platform.model.train import DEFAULTS, Medians, grow
from fraud_platform.settings import Settings

ROUNDS = 100


def main() -> None:
    """Time each size in a process of its own, so that each reports its own peak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 100_000, 200_000, 400_000, 800_000])
    options = parser.parse_args()
    settings = Settings()
    examples, medians = _vectors(settings)
    print(f"{ROUNDS} trees; {len(examples):,} vectors with {examples.frauds:,} frauds from {settings.home}")
    print(f"{'rows':>9}{'XGBoost s':>11}{'rows/s':>10}{'regression s':>14}{'rows/s':>10}{'peak GB':>9}")
    seconds = []
    for rows in options.rows:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            grown, fitted, peak = pool.apply(_time, (settings, _enlarged(examples, rows), medians))
        seconds.append(grown)
        print(f"{rows:9,}{grown:11.1f}{rows / grown:10,.0f}{fitted:14.1f}{rows / fitted:10,.0f}{peak:9.2f}", flush=True)
    if len(seconds) > 1:
        exponent = np.polyfit(np.log(options.rows), np.log(seconds), 1)[0]
        print(f"XGBoost's time grows with rows to the power of {exponent:.2f}")


def _vectors(settings: Settings) -> tuple[Examples, Medians]:
    lake = open_lake(settings)
    days = lake.days(tables.TRAINING_SET)
    if not days:
        raise SystemExit(f"{settings.home} has no training set: run `make run` first, or set FRAUD_HOME")
    cut = days[-1]
    examples = load_examples(lake, days, labels_before(lake, cut), cut, settings.label_maturity_days)
    return examples, newest_medians(lake, days[-1])[1]


def _enlarged(examples: Examples, rows: int) -> Examples:
    random = np.random.default_rng(rows)
    picked = np.sort(random.integers(0, len(examples), rows) if rows > len(examples) else np.arange(rows))
    noise = 1 + random.normal(0, 0.01, (rows, examples.vectors.shape[1])).astype(np.float32)
    return Examples(examples.vectors[picked] * noise, examples.is_fraud[picked], examples.days[picked], 0)


def _time(settings: Settings, examples: Examples, medians: Medians) -> tuple[float, float, float]:
    began = time.perf_counter()
    grow(examples, DEFAULTS, settings, medians, rounds=ROUNDS)
    grown = time.perf_counter()
    fit_baseline(examples, settings.seed)
    ended = time.perf_counter()
    return grown - began, ended - grown, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
