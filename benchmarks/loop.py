"""The closed loop on simulated streams, seeded: does the retrain sensor fire when it should, and only then; does a bad
challenger ever come into force, and does a good one.

What belongs here: streams, counting, the table. What does not: sensor, gate and canary logic, which are the platform's
own. `make bench-loop` prints the table and writes <home>/bench/loop.json.
"""

import argparse
import json
import logging
import os
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.lake import Lake, open_lake
from fraud_platform.model.arms import Scores, measure
from fraud_platform.model.calibration import UNCALIBRATED, fit_calibration
from fraud_platform.model.gate import judge
from fraud_platform.model.kinds import XGBOOST
from fraud_platform.model.ranking import compare
from fraud_platform.model.rollout import next_step
from fraud_platform.model.routing import Routing, is_challengers
from fraud_platform.monitoring.drift import FEATURE_DRIFT, Served, feature_drift
from fraud_platform.monitoring.psi import Bins
from fraud_platform.monitoring.reference import Reference, usual
from fraud_platform.settings import Settings

FIRST_DAY = date(2026, 3, 2)
CALM_DAYS, DRIFTED_DAYS = 14, 2
ROWS_A_DAY = 4_600
"""Decisions of a day, as `make run` simulates the bank."""
REFERENCE_DAYS = 28
DRIFTS = ("one feature moves by a standard deviation", "amounts grow 2.7 times", "a fifth of a feature is lost")

PAYMENTS_AN_HOUR = 200
FRAUD_SHARE = 0.02
CANARY_DAYS = 12
LOOK_HOURS = 4
_OLD, _NEW = "fraud-detector-1", "fraud-detector-2"
_HOUR_US = 3_600_000_000


# --- drift: does the sensor fire


class Stream:
    """Days of 50 features: skewed, discrete, half-empty. Weekends differ, no two days are quite alike, and every fifth
    feature wanders from day to day around its level, as what merchants share does."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._wandering = np.zeros(len(CATALOGUE.names))
        self._day = 0

    def next_day(self) -> NDArray[np.float32]:
        """(ROWS_A_DAY, 50), NaN for null."""
        random, count = self._random, ROWS_A_DAY
        self._wandering = 0.9 * self._wandering + random.normal(0, 0.05, len(self._wandering))
        weekend = 0.1 if self._day % 7 >= 5 else 0.0
        self._day += 1
        made = np.empty((count, len(CATALOGUE.names)), np.float32)
        for index in range(made.shape[1]):
            shift = weekend + random.normal(0, 0.03) + (self._wandering[index] if index % 5 == 4 else 0.0)
            if index % 3 == 0:
                made[:, index] = random.lognormal(3 + shift, 1, count)
            elif index % 3 == 1:
                made[:, index] = random.poisson(3 * np.exp(shift), count)
            else:
                made[:, index] = np.where(random.random(count) < 0.4, np.nan, random.normal(shift, 1, count))
        return made


def drifted(random: np.random.Generator, vectors: NDArray[np.float32], kind: int) -> NDArray[np.float32]:
    """The same day with one of DRIFTS in it."""
    changed = vectors.copy()
    if kind == 0:
        changed[:, 2] += 1.0
    elif kind == 1:
        changed[:, 0] *= 2.7
    else:
        changed[random.random(len(changed)) < 0.2, 1] = np.nan
    return changed


@dataclass
class Watched:
    """What became of the seeded runs of one kind."""

    runs: int = 0
    fired: int = 0
    days_until: list[int] = field(default_factory=list)


def watch(seed: int, drift: int | None) -> int | None:
    """Days of drifted (or calm) data after which the real sensor asked for a training, or None."""
    import dagster as dg

    from assets.definitions import build_definitions

    random = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder, dg.DagsterInstance.ephemeral() as instance:
        os.environ |= {"FRAUD_HOME": folder, "FRAUD_HISTORY_START": FIRST_DAY.isoformat()}
        settings = Settings()
        lake = open_lake(settings)
        repository = _repository(build_definitions, settings)
        stream = Stream(random)
        reference = _reference([stream.next_day() for _ in range(REFERENCE_DAYS)])
        cursor: str | None = None
        days = CALM_DAYS if drift is None else CALM_DAYS // 2 + DRIFTED_DAYS
        begins = days if drift is None else CALM_DAYS // 2
        for number in range(days):
            vectors = stream.next_day()
            if number >= begins and drift is not None:
                vectors = drifted(random, vectors, drift)
            day = FIRST_DAY + timedelta(days=number)
            _write(lake, day, vectors, reference)
            instance.report_runless_asset_event(dg.AssetMaterialization(FEATURE_DRIFT, partition=day.isoformat()))
            with dg.build_sensor_context(instance=instance, cursor=cursor, repository_def=repository) as context:
                result = repository.get_sensor_def("drift_retrains").evaluate_tick(context)
            cursor = result.cursor or cursor
            if result.run_requests:
                return number + 1 - (0 if drift is None else begins)
    return None


_repositories: list[Any] = []


def _repository(build: Any, settings: Settings) -> Any:
    """Built once: the sensor reads its settings at each tick, and building takes seconds."""
    if not _repositories:
        from datetime import UTC, datetime

        _repositories.append(build(settings, datetime(2026, 3, 30, tzinfo=UTC)).get_repository_def())
    return _repositories[0]


def _score(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(4 - np.nan_to_num(vectors[:, 2]).astype(np.float64)))


def _reference(days: list[NDArray[np.float32]]) -> Reference:
    vectors = np.concatenate(days)
    features = {name: Bins.of(vectors[:, index]) for index, name in enumerate(CATALOGUE.names)}
    score = Bins.of(_score(vectors))
    return Reference(
        release=_OLD, catalogue_hash=CATALOGUE.hash, first_day=FIRST_DAY, last_day=FIRST_DAY, rows=len(vectors),
        features=features,
        usual={name: usual(bins, [day[:, n] for day in days]) for n, (name, bins) in enumerate(features.items())},
        score=score, usual_score=usual(score, [_score(day) for day in days]),
    )  # fmt: skip


def _write(lake: Lake, day: date, vectors: NDArray[np.float32], reference: Reference) -> None:
    import pyarrow as pa

    flat = pa.array(vectors.reshape(-1))
    offsets = pa.array(np.arange(0, vectors.size + 1, vectors.shape[1], dtype=np.int32))
    made = ["fraud-detector/1"] * len(vectors)
    columns = {"vector": pa.ListArray.from_arrays(offsets, flat), "score": _score(vectors), "model_version": made}
    rows = pa.table(columns)
    lake.write(FEATURE_DRIFT, day, feature_drift(Served(_OLD, rows, 0, CATALOGUE), reference))


# --- canary: who comes into force


@dataclass
class Bank:
    """Payments whose fraud hangs on products of features, so that more data makes a better model."""

    random: np.random.Generator

    def payments(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]]:
        vectors = self.random.normal(0, 1, (count, 12)).astype(np.float32)
        strength = 2.2 * vectors[:, 0] * vectors[:, 1] + 1.5 * vectors[:, 2] + 0.8 * vectors[:, 3] ** 2
        strength = strength + self.random.normal(0, 0.7, count)
        frauds = strength > np.quantile(strength, 1 - FRAUD_SHARE)
        return vectors, frauds, self.random.lognormal(8, 1, count)


def train(vectors: NDArray[np.float32], frauds: NDArray[np.bool_], seed: int) -> Any:
    """A small XGBoost with its calibration, as a function from vectors to probabilities."""
    import xgboost

    half = len(frauds) * 3 // 4
    parameters = {"objective": "binary:logistic", "max_depth": 4, "eta": 0.2, "nthread": 2, "seed": seed}
    booster = xgboost.train(parameters, xgboost.DMatrix(vectors[:half], frauds[:half]), num_boost_round=60)
    margins = booster.inplace_predict(vectors[half:], predict_type="margin")
    try:
        calibration = fit_calibration(frauds[half:], margins)
    except ValueError:
        # of shuffled labels, now and then: training would refuse it, and the canary is to see it all the same
        calibration = UNCALIBRATED
    return lambda rows: calibration.probabilities(booster.inplace_predict(rows, predict_type="margin"))


@dataclass
class Outcome:
    """One challenger's life."""

    passed_gate: bool
    end: str
    """promoted, rolled back or waiting."""
    hours: int
    reason: str


def challenge(seed: int, good: bool, settings: Settings) -> Outcome:
    """A champion, a challenger of more data or of shuffled labels, and days of payments that both score."""
    random = np.random.default_rng(seed)
    bank = Bank(random)
    vectors, frauds, _ = bank.payments(60_000)
    champion = train(vectors[:24_000], frauds[:24_000], seed)
    labels = frauds if good else random.permutation(frauds)
    challenger = train(vectors, labels, seed + 1)
    held, held_frauds, _ = bank.payments(20_000)
    gain = compare(held_frauds, challenger(held), champion(held), seed, 200)
    verdict = judge(
        frauds=int(held_frauds.sum()),
        min_frauds=settings.min_holdout_frauds,
        kinds=(XGBOOST, XGBOOST),
        between=gain,
        rival=_OLD,
        against_rival=gain,
    )
    # whatever the gate said: the canary has to stop what the gate would have let through
    return _lived(bank, champion, challenger, verdict.promote, settings)


def _lived(bank: Bank, champion: Any, challenger: Any, passed: bool, settings: Settings) -> Outcome:
    random = bank.random
    routing = Routing(release=_OLD, challenger=_NEW, stage="shadow", since=0, began=0)
    seen: list[tuple[NDArray[Any], ...]] = []
    for hour in range(0, CANARY_DAYS * 24, LOOK_HOURS):
        vectors, frauds, amounts = bank.payments(PAYMENTS_AN_HOUR * LOOK_HOURS)
        users = random.integers(0, 5_000, len(frauds))
        turns = np.array([is_challengers(f"u-{user}", _NEW, routing.weight) for user in users])
        latency = random.gamma(4, 0.5, len(frauds))
        # a tenth of the frauds is known at once by a call, the rest after the stream's end
        known = np.where(frauds & (random.random(len(frauds)) < 0.1), 1.0, np.nan)
        seen.append((champion(vectors), challenger(vectors), amounts, turns, latency, known))
        evidence = measure(
            Scores(*(np.concatenate(column) for column in zip(*seen, strict=True))),
            settings.threshold, settings.canary_block_band,
        )  # fmt: skip
        now = (hour + LOOK_HOURS) * _HOUR_US
        step = next_step(routing, evidence, settings, now)
        if step.action == "roll_back":
            return Outcome(passed, "rolled back", hour + LOOK_HOURS, step.reasons[0])
        if step.action == "promote":
            return Outcome(passed, "promoted", hour + LOOK_HOURS, step.reasons[0])
        if step.action == "ramp":
            routing = Routing(
                release=_OLD, challenger=_NEW, stage="canary", weight=step.weight, since=now, began=routing.began
            )
    return Outcome(passed, "waiting", CANARY_DAYS * 24, step.reasons[0])


# --- the table


def main() -> None:
    """Run it all, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=50, help="seeded runs of each kind (default 50)")
    seeds = parser.parse_args().seeds
    # Dagster's betas and every tick's log line, hundreds of times
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    settings, began = Settings(), time.monotonic()
    bench = settings.home / "bench"
    calm, moved = Watched(), Watched()
    for seed in tqdm(range(seeds), "calm streams", unit="run"):
        day = watch(seed, None)
        calm.runs, calm.fired = calm.runs + 1, calm.fired + (day is not None)
    for seed in tqdm(range(seeds), "drifting streams", unit="run"):
        day = watch(1_000 + seed, seed % len(DRIFTS))
        moved.runs, moved.fired = moved.runs + 1, moved.fired + (day is not None)
        moved.days_until += [] if day is None else [day]
    lives = {
        kind: [challenge(2_000 + seed, kind == "good", settings) for seed in tqdm(range(seeds), f"{kind} challengers")]
        for kind in ("good", "bad")
    }
    figures = _figures(calm, moved, lives, time.monotonic() - began)
    bench.mkdir(parents=True, exist_ok=True)
    (bench / "loop.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(_table(figures))


def _figures(calm: Watched, moved: Watched, lives: dict[str, list[Outcome]], seconds: float) -> dict[str, Any]:
    def ended(kind: str, end: str) -> list[Outcome]:
        return [life for life in lives[kind] if life.end == end]

    return {
        "runs": calm.runs,
        "calm_fired": calm.fired,
        "drift_fired": moved.fired,
        "drift_days_most": max(moved.days_until, default=None),
        "good_promoted": len(ended("good", "promoted")),
        "good_rolled_back": len(ended("good", "rolled back")),
        "good_hours_median": float(np.median([float(life.hours) for life in ended("good", "promoted")] or [np.nan])),
        "good_passed_gate": sum(life.passed_gate for life in lives["good"]),
        "bad_promoted": len(ended("bad", "promoted")),
        "bad_rolled_back": len(ended("bad", "rolled back")),
        "bad_hours_median": float(np.median([float(life.hours) for life in ended("bad", "rolled back")] or [np.nan])),
        "bad_passed_gate": sum(life.passed_gate for life in lives["bad"]),
        "seconds": round(seconds),
    }


def _table(f: dict[str, Any]) -> str:
    runs = f["runs"]
    rows = [
        (f"retrain sensor fires in {CALM_DAYS} calm days", f"{f['calm_fired']} of {runs}", "at most 2 of 50"),
        (f"fires within {DRIFTED_DAYS} days of drift", f"{f['drift_fired']} of {runs}", "at least 48 of 50"),
        ("good challenger comes into force", f"{f['good_promoted']} of {runs}", "at least 45 of 50"),
        ("… after, median", f"{f['good_hours_median']:.0f} h", ""),
        ("bad challenger (shuffled labels) comes into force", f"{f['bad_promoted']} of {runs}", "0 of 50"),
        ("… is rolled back", f"{f['bad_rolled_back']} of {runs}", ""),
        ("… after, median", f"{f['bad_hours_median']:.0f} h", ""),
        (
            "good, bad challengers that the gate passes",
            f"{f['good_passed_gate']}, {f['bad_passed_gate']} of {runs}",
            "",
        ),
    ]
    lines = ["| what | found | wanted |", "|---|---|---|", *(f"| {a} | {b} | {c} |" for a, b, c in rows)]
    return "\n".join([*lines, "", f"{f['seconds']} s"])


if __name__ == "__main__":
    main()
