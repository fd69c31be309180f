"""A study's windows keep what a training waits for apart from what a test waits for, and its table takes no side."""

from datetime import date, timedelta
from pathlib import Path

import pytest

from fraud_platform.features.label_rules import LabelRules
from fraud_platform.lake import Lake
from fraud_platform.model.data import load_training_data
from fraud_platform.model.prequential import (
    FOREST,
    HEADER,
    MODELS,
    REGRESSION,
    XGBOOST,
    Result,
    Windows,
    conclusion,
    plan_dates,
    summary,
)
from fraud_platform.model.ranking import Interval
from tests import model_kit as kit

FIRST, LAST = kit.FIRST_DAY, kit.LAST_DAY
WORSE, UNSURE, BETTER = Interval(-0.1, -0.2, -0.05), Interval(-0.02, -0.1, 0.03), Interval(0.1, 0.05, 0.2)


def test_delay_and_maturity_are_windows_of_their_own() -> None:
    [split] = plan_dates(FIRST, LAST, Windows(train_days=10, delay_days=2, test_days=4, dates=1, maturity_days=6))
    trained = [*split.train, *split.validation]
    assert len(trained) == 10
    assert split.training_cut - trained[-1] == timedelta(days=3), "two whole days lie between"
    assert split.holdout == [split.training_cut + timedelta(days=n) for n in range(4)]
    assert LAST - split.holdout[-1] == timedelta(days=6)
    assert trained[0] == LAST - timedelta(days=10 + 2 + 4 + 6 - 1)


@pytest.mark.parametrize(("delay", "maturity"), [(0, 3), (3, 0), (2, 5), (4, 4)])
def test_silence_is_good_to_a_training_after_the_delay_and_to_a_test_after_maturity(
    delay: int, maturity: int, tmp_path: Path
) -> None:
    """A label takes 30 hours: what is waited for less long is taken for good wrongly, and only there."""
    lake = Lake(tmp_path / "lake")
    labels = kit.write_history(lake)
    frauds_of = {day: sum(row["transaction_date"] == day for row in labels) for day in kit_days()}
    [split] = plan_dates(FIRST, LAST, Windows(10, delay, 5, 1, maturity))
    data = load_training_data(lake, split, LabelRules())
    whole = 5 * kit.ROWS_PER_DAY
    assert (len(data.holdout), data.holdout.unknown) == (whole, 0), "each is good or fraud by its maturity"
    assert len(data.train) + len(data.validation) == 10 * kit.ROWS_PER_DAY, "so it is for a training by its delay"
    told = sum(frauds_of[day] for day in split.holdout)
    assert (data.holdout.frauds == told) == (maturity >= 2)
    trained = sum(frauds_of[day] for day in [*split.train, *split.validation])
    assert (data.train.frauds + data.validation.frauds == trained) == (delay >= 2)


def kit_days() -> list[date]:
    return [FIRST + timedelta(days=n) for n in range(kit.DAYS)]


def results(regression: list[Interval], precision: dict[str, float]) -> list[Result]:
    return [
        Result(
            date=FIRST + timedelta(days=number), model=model, train_rows=1, rows=1, frauds=1,
            average_precision=precision[model], auc=0.9, top_users=0.1, recall=0.5,
            gain=None if model == XGBOOST else gain if model == REGRESSION else UNSURE,
        )
        for number, gain in enumerate(regression)
        for model in MODELS
    ]  # fmt: skip


def test_the_table_says_when_another_model_is_better_and_how_surely() -> None:
    found = results([WORSE, UNSURE], {XGBOOST: 0.4, REGRESSION: 0.5, FOREST: 0.45})
    rows = {row[0]: dict(zip(HEADER, row, strict=True)) for row in summary(found)}
    assert rows[REGRESSION]["XGBoost surely better"] == "0 of 2"
    assert rows[REGRESSION]["surely better than XGBoost"] == "1 of 2"
    assert rows[FOREST]["surely better than XGBoost"] == "0 of 2"
    assert rows[XGBOOST]["surely better than XGBoost"] == ""
    assert conclusion(found) == (
        "Best in average precision: logistic regression, 0.500 against 0.400 of XGBoost; better on 2 of 2 date(s), "
        "surely on 1."
    )


def test_where_trees_are_best_it_says_against_whom() -> None:
    found = results([BETTER, UNSURE], {XGBOOST: 0.6, REGRESSION: 0.5, FOREST: 0.45})
    assert conclusion(found) == (
        "Best in average precision: XGBoost, 0.600 against 0.500 of logistic regression; better on 1 of 2 date(s), "
        "surely on 1."
    )
