"""Prequential evaluation: models trained and tested on dates back to back, as they would have been used.

What belongs here: the dates, the models side by side, and what came of them. What does not: how one model is trained
(`train`, `baseline`) and the data (`history`). The protocol is that of the Fraud Detection Handbook (Le Borgne and
others, 2022), chapter 5: train, a delay in which labels arrive, test; then the same again later.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.features.label_rules import label_rules
from fraud_platform.features.tables import tables_of
from fraud_platform.lake import Lake
from fraud_platform.model.baseline import fit_baseline
from fraud_platform.model.data import Examples, Holdout, joined, load_training_data, newest_medians
from fraud_platform.model.evaluate import TOP_USERS, top_users
from fraud_platform.model.folds import load_folds
from fraud_platform.model.ranking import Interval, compare
from fraud_platform.model.search import search
from fraud_platform.model.split import Split, TrainingDataError
from fraud_platform.model.train import grow, margins
from fraud_platform.settings import Settings

XGBOOST, REGRESSION, FOREST = "XGBoost", "logistic regression", "random forest"
MODELS = (XGBOOST, REGRESSION, FOREST)
ALERT_SHARE = 0.005

_FOREST_TREES = 200

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Windows:
    """Lengths in days; `dates` times back to back, the last one as late as labels allow."""

    train_days: int
    delay_days: int
    """For which a training waits for labels; silence that long counts as good to it."""
    test_days: int
    dates: int
    maturity_days: int
    """After which silence counts as good to a test."""


@dataclass(frozen=True)
class Result:
    """One model tested on one date's window."""

    date: date
    """First day of the test window."""
    model: str
    train_rows: int
    rows: int
    frauds: int
    average_precision: float
    auc: float
    top_users: float
    """Share of fraudulent users among the TOP_USERS of highest score of a day, mean over days."""
    recall: float
    """Share of frauds among the ALERT_SHARE of payments of highest score."""
    gain: Interval | None
    """Paired gain of XGBoost in average precision over this model; None for XGBoost itself."""


def plan_dates(first_day: date, last_day: date, windows: Windows) -> list[Split]:
    """One split per date, oldest first. Raises TrainingDataError when the history is too short."""
    splits = []
    for back in range(windows.dates - 1, -1, -1):
        # the last day by which the labels of this date's test window have matured
        end = last_day - timedelta(days=back * windows.test_days)
        whole = windows.train_days + windows.delay_days + windows.test_days + windows.maturity_days
        start = end - timedelta(days=whole - 1)
        validation = max(1, windows.train_days // 5)
        if start < first_day:
            days = (last_day - start).days + 1
            raise TrainingDataError(
                f"these windows need {days} days up to {last_day}, and the history starts {first_day}: take "
                "fewer dates, or shorter windows"
            )
        splits.append(
            Split(
                first_day=start, last_day=end, warmup_days=0, validation_days=validation,
                holdout_days=windows.test_days, maturity_days=windows.maturity_days, delay_days=windows.delay_days,
                shrunk=False,
            )
        )  # fmt: skip
    return splits


def evaluate_dates(
    lake: Lake, settings: Settings, windows: Windows, catalogue: Catalogue = CATALOGUE
) -> Iterator[Result]:
    """Train and test every model on every date. Raises TrainingDataError."""
    days = sorted(set(lake.days(tables_of(catalogue).training_set)) & set(lake.days(tables.FRAUD_LABELS)))
    if not days:
        raise TrainingDataError(f"there is no training set under {lake.root}")
    rules = label_rules(settings)
    splits = plan_dates(days[0], days[-1], windows)
    for split in tqdm(splits, desc="dates", unit="date", disable=None):
        data = load_training_data(lake, split, rules, settings.accepted_skew_days, catalogue=catalogue)
        learned_from = joined([data.train, data.validation])
        scores = {model: score(data.holdout) for model, score in _fitted(lake, settings, split, learned_from)}
        for model in MODELS:
            yield _result(split, data.holdout, model, len(learned_from), scores, settings)


def _fitted(
    lake: Lake, settings: Settings, split: Split, learned_from: Examples
) -> Iterator[tuple[str, Callable[[Examples], Floats]]]:
    catalogue = learned_from.catalogue
    _, medians = newest_medians(lake, split.last_day, catalogue)
    journal = settings.home / "search" / f"prequential-{split.training_cut}-{len(learned_from)}.journal"
    found, _ = search(load_folds(lake, split, label_rules(settings), catalogue=catalogue), settings, medians, journal)
    grown = grow(learned_from, found.parameters, settings, medians, rounds=found.rounds, title=XGBOOST)
    yield XGBOOST, lambda examples: margins(grown, examples)
    regression = fit_baseline(learned_from, settings.seed)
    yield REGRESSION, lambda examples: regression.score(examples.vectors)
    forest = _fit_forest(learned_from, settings)
    yield FOREST, lambda examples: np.asarray(forest.predict_proba(examples.vectors)[:, 1], np.float64)


def _fit_forest(examples: Examples, settings: Settings) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    # each tree on a third of the rows: its usual bootstrap costs three times as much and ranks no better
    forest = RandomForestClassifier(
        n_estimators=_FOREST_TREES, min_samples_leaf=5, max_samples=1 / 3, random_state=settings.seed,
        n_jobs=settings.training_threads or -1,
    )  # fmt: skip
    return forest.fit(examples.vectors, examples.is_fraud, examples.weights)


def _result(
    split: Split, holdout: Holdout, model: str, train_rows: int, scores: dict[str, Floats], settings: Settings
) -> Result:
    comparison = compare(holdout.is_fraud, scores[XGBOOST], scores[model], settings.seed, resamples=400)
    alerts = max(1, int(len(holdout) * ALERT_SHARE))
    highest = np.argsort(-scores[model], kind="stable")[:alerts]
    return Result(
        date=split.training_cut,
        model=model,
        train_rows=train_rows,
        rows=len(holdout),
        frauds=holdout.frauds,
        average_precision=comparison.reference.average_precision.value,
        auc=comparison.reference.auc.value,
        top_users=top_users(holdout, scores[model], settings.seed).value,
        recall=float(holdout.is_fraud[highest].sum() / holdout.frauds),
        gain=None if model == XGBOOST else comparison.average_precision_gain,
    )


def summary(results: list[Result]) -> list[list[str]]:
    """One row of text per model: mean and standard deviation over dates, and how often each side was surely better."""
    rows = []
    for model in MODELS:
        of_model = [result for result in results if result.model == model]
        gains = [result.gain for result in of_model if result.gain is not None]
        rows.append(
            [
                model,
                *(_spread([getattr(result, name) for result in of_model]) for name in COLUMNS),
                f"{sum(gain.low > 0 for gain in gains)} of {len(gains)}" if gains else "",
                f"{sum(gain.high < 0 for gain in gains)} of {len(gains)}" if gains else "",
            ]
        )
    return rows


def conclusion(results: list[Result]) -> str:
    """Which model is best in average precision, and how sure that is of it and XGBoost, as a sentence."""
    means = {model: np.mean([one.average_precision for one in results if one.model == model]) for model in MODELS}
    best = max(MODELS, key=lambda model: means[model])
    if best == XGBOOST:
        second = max(MODELS[1:], key=lambda model: means[model])
        gains = [one.gain for one in results if one.model == second and one.gain is not None]
        other, surely, better = second, [gain.low > 0 for gain in gains], [gain.value > 0 for gain in gains]
    else:
        gains = [one.gain for one in results if one.model == best and one.gain is not None]
        other, surely, better = XGBOOST, [gain.high < 0 for gain in gains], [gain.value < 0 for gain in gains]
    return (
        f"Best in average precision: {best}, {means[best]:.3f} against {means[other]:.3f} of {other}; better on "
        f"{sum(better)} of {len(better)} date(s), surely on {sum(surely)}."
    )


COLUMNS = {
    "average_precision": "average precision",
    "auc": "AUC ROC",
    "top_users": f"precision, top {TOP_USERS} users a day",
    "recall": f"recall at {ALERT_SHARE:.1%} alerts",
}
HEADER = ["model", *COLUMNS.values(), "XGBoost surely better", "surely better than XGBoost"]


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values):.3f}"


def draw(results: list[Result]) -> bytes:
    """Average precision of each model over the dates as PNG bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for model in MODELS:
        of_model = [result for result in results if result.model == model]
        labels = [result.date.isoformat() for result in of_model]
        axes.plot(labels, [result.average_precision for result in of_model], marker="o", label=model)
    axes.set(title="Trained up to a date, tested after it", ylabel="average precision", ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend()
    sink = io.BytesIO()
    figure.savefig(sink, format="png", metadata={"Software": None})
    return sink.getvalue()
