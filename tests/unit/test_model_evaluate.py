"""Figures of an evaluation against oracles written the long way."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.model.costs import LossTable, choose_threshold
from fraud_platform.model.data import Holdout
from fraud_platform.model.evaluate import Scores, at_threshold, calibration, evaluate, top_users
from fraud_platform.model.kinds import REGRESSION, XGBOOST
from fraud_platform.model.ranking import average_precision
from fraud_platform.model.slices import slices
from fraud_platform.settings import Settings

ROWS = 4_000


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def holdout(seed: int = 1, rows: int = ROWS, days: int = 5) -> tuple[Holdout, np.ndarray]:
    random = np.random.default_rng(seed)
    scores = random.beta(0.5, 8, rows)
    fraud = random.random(rows) < scores
    vectors = random.normal(10, 5, (rows, len(CATALOGUE.names))).astype(np.float32)
    context = pa.table(
        {
            "transaction_id": [f"t{i}" for i in range(rows)],
            "received_at": np.arange(rows),
            "user_id": [f"u{i}" for i in random.integers(0, 600, rows)],
            "amount_minor": random.lognormal(8, 1.5, rows).astype(np.int64),
            "country": [("DE", "FR", None)[i % 3] for i in range(rows)],
            "channel": [("online", "pos")[i % 2] for i in range(rows)],
        }
    )
    ordinals = np.sort(random.integers(20_000, 20_000 + days, rows)).astype(np.int32)
    return Holdout(vectors, fraud, ordinals, 3, context), scores


def test_what_a_threshold_does_is_counted_and_summed(settings: Settings) -> None:
    data, scores = holdout()
    amounts = data.context.column("amount_minor").to_numpy() / 100
    found = at_threshold(data.is_fraud, scores, amounts, 0.3, settings)
    caught = wrongly = money = wrong_money = loss = 0.0
    for fraud, score, amount in zip(data.is_fraud, scores, amounts, strict=True):
        if score > 0.3:
            loss += 2 + (0 if fraud else 10)
            caught, money = caught + fraud, money + fraud * amount
            wrongly, wrong_money = wrongly + (not fraud), wrong_money + (not fraud) * amount
        elif fraud:
            loss += amount + 15
    assert found.flagged == caught + wrongly
    assert found.precision is not None
    assert found.precision.value == pytest.approx(caught / (caught + wrongly))
    assert found.recall.value == pytest.approx(caught / data.frauds)
    assert (found.caught.value, found.wrongly.value) == (pytest.approx(money), pytest.approx(wrong_money))
    assert found.loss_per_thousand.value == pytest.approx(loss / ROWS * 1_000)
    for interval in (found.precision, found.recall, found.caught, found.wrongly, found.loss_per_thousand):
        assert interval.low < interval.value < interval.high


def test_only_scores_strictly_above_the_threshold_are_acted_on(settings: Settings) -> None:
    fraud = np.array([True, True, False, False])
    scores = np.array([0.9, 0.7, 0.8, 0.1])
    found = at_threshold(fraud, scores, np.ones(4), 0.7, settings)
    assert (found.flagged, found.recall.value) == (2, 0.5)
    assert found.precision is not None
    assert found.precision.value == 0.5
    assert at_threshold(fraud, scores, np.ones(4), 0.95, settings).precision is None


def test_intervals_cover_what_they_should(settings: Settings) -> None:
    """Recall of many holdouts drawn alike: about 95 of 100 intervals hold the true value."""
    _, many = holdout(seed=99, rows=400_000)
    true = many[many > 0.3].sum() / many.sum()
    held = 0
    for seed in range(100):
        data, scores = holdout(seed, rows=3_000)
        recall = at_threshold(data.is_fraud, scores, np.ones(3_000), 0.3, settings).recall
        held += recall.low <= true <= recall.high
    assert 88 <= held <= 100


def test_top_users_are_those_of_the_highest_score_a_day() -> None:
    data, scores = holdout()
    users = data.context.column("user_id").to_pylist()
    shares = []
    for day in sorted(set(data.days.tolist())):
        best: dict[str, float] = {}
        frauds = set()
        for user, score, fraud, on in zip(users, scores, data.is_fraud, data.days, strict=True):
            if on == day:
                best[user] = max(best.get(user, 0), score)
                if fraud:
                    frauds.add(user)
        chosen = sorted(best, key=lambda user: -best[user])[:20]
        shares.append(sum(user in frauds for user in chosen) / 20)
    found = top_users(data, scores, seed=1, top=20)
    assert found.value == pytest.approx(np.mean(shares))
    assert found.low <= found.value <= found.high


def test_calibration_error_brier_and_log_loss() -> None:
    from sklearn.metrics import brier_score_loss, log_loss

    data, scores = holdout()
    found = calibration(data.is_fraud, scores, seed=1)
    order = np.argsort(scores, kind="stable")
    parts = np.array_split(order, 10)
    expected = sum(abs(scores[part].mean() - data.is_fraud[part].mean()) * len(part) for part in parts) / ROWS
    assert found.expected_error.value == pytest.approx(expected)
    assert found.brier.value == pytest.approx(brier_score_loss(data.is_fraud, scores))
    assert found.log_loss.value == pytest.approx(log_loss(data.is_fraud, scores))
    assert calibration(data.is_fraud, np.clip(scores * 3, 0, 1), seed=1).expected_error.low > found.expected_error.high


@pytest.mark.parametrize("budget", [0.002, 0.02, 1.0])
@pytest.mark.parametrize("decimals", [1, 12])
def test_the_threshold_by_cost_is_the_best_of_all_that_the_budget_allows(
    settings: Settings, budget: float, decimals: int
) -> None:
    data, scores = holdout(rows=800)
    scores = scores.round(decimals)
    amounts = data.context.column("amount_minor").to_numpy() / 100
    limited = settings.model_copy(update={"alert_budget_share": budget})
    table = LossTable.of(limited)

    def loss(threshold: float) -> float:
        blocked = scores > threshold
        each = np.where(blocked, table.if_blocked(data.is_fraud), table.if_let_through(data.is_fraud, amounts))
        return float(each.sum())

    allowed = [one for one in [-1.0, *np.unique(scores)] if (scores > one).mean() <= budget]
    choice = choose_threshold(data.is_fraud, scores, amounts, limited)
    assert loss(choice.threshold) == pytest.approx(min(loss(one) for one in allowed))
    assert (scores > choice.threshold).mean() == pytest.approx(choice.alert_share)
    everything = min(loss(one) for one in [-1.0, *np.unique(scores)])
    assert choice.bound_by_budget == (everything < loss(choice.threshold) - 1e-6)


def test_average_precision_is_scikit_learns() -> None:
    from sklearn.metrics import average_precision_score

    data, scores = holdout()
    for values in (scores, scores.round(2), np.zeros(ROWS)):
        assert average_precision(data.is_fraud, values) == pytest.approx(average_precision_score(data.is_fraud, values))


def test_each_dimensions_slices_part_the_holdout(settings: Settings) -> None:
    data, _ = holdout()
    seen = data.days - np.random.default_rng(1).integers(0, 200, ROWS).astype(float)
    seen[:5] = np.nan
    parts: dict[str, Any] = {}
    for dimension, name, rows in slices(data, seen, settings):
        assert rows.any(), name
        parts.setdefault(dimension, []).append(rows)
    assert set(parts) == {"amount", "country", "channel", "account age", "cold start"}
    for dimension, masks in parts.items():
        assert (np.sum(masks, axis=0) == 1).all(), dimension


def test_an_evaluation_is_whole_and_the_same_again(settings: Settings) -> None:
    data, scores = holdout()
    noise = np.random.default_rng(2).random(ROWS)
    amounts = data.context.column("amount_minor").to_numpy() / 100
    choice = choose_threshold(data.is_fraud, scores, amounts, settings)
    given = Scores(scores, noise, {"defaults_only": noise})
    seen = np.full(ROWS, 19_990.0)
    found = evaluate(data, (XGBOOST, REGRESSION), given, choice, seen, settings)
    assert found == evaluate(data, (XGBOOST, REGRESSION), given, choice, seen, settings)
    assert (found.rows, found.frauds, found.unknown) == (ROWS, data.frauds, 3)
    assert found.comparison.average_precision_gain.low > 0
    assert found.levels[0].ranking.auc.value < found.comparison.candidate.auc.value
    assert found.choice == choice
    few = [one for one in found.slices if one.frauds < 10]
    assert all(one.ranking is None for one in few)
    metrics = found.metrics()
    assert all(np.isfinite(value) for value in metrics.values())
    assert {"block_recall", "expected_calibration_error", "by_cost_loss_per_thousand"} <= set(metrics)
