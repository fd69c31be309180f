"""What a model must do, tested on one that was really trained: a small bank, through the whole offline chain."""

import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.features.in_force import Span, spans
from fraud_platform.features.label_rules import LabelRules
from fraud_platform.features.snapshots import write_medians, write_merchant_features, write_user_features
from fraud_platform.features.tiles import write_label_tiles, write_merchant_tiles, write_user_tiles
from fraud_platform.features.training_set import write_training_set
from fraud_platform.history import build_history
from fraud_platform.lake import Lake, days_between, open_lake
from fraud_platform.model.bundle import Scorer
from fraud_platform.model.candidate import Candidate
from fraud_platform.model.data import Holdout, load_holdout
from fraud_platform.model.prequential import MODELS, Windows, evaluate_dates, plan_dates, summary
from fraud_platform.model.split import TrainingDataError
from fraud_platform.model.steps import train_candidate
from fraud_platform.settings import Settings

pytestmark = pytest.mark.timeout(400)

NOW = datetime(2026, 3, 1, 3, tzinfo=UTC)
DAYS = 45
FIRST = NOW.date() - timedelta(days=DAYS)
POSITION = {name: index for index, name in enumerate(CATALOGUE.names)}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(
        home=tmp_path_factory.mktemp("bank"),
        users=1_000,
        merchants=120,
        transactions_per_day=1_600,
        history_start=FIRST,
        label_maturity_days=5,
        warmup_days=5,
        search_trials=1,
        training_threads=1,
    )


@pytest.fixture(scope="module")
def lake(settings: Settings) -> Lake:
    lake = open_lake(settings)
    build_history(settings, lake, NOW)
    return lake


@pytest.fixture(scope="module")
def candidate(settings: Settings, lake: Lake) -> Candidate:
    return train_candidate(lake, settings, NOW)


@pytest.fixture(scope="module")
def scorer(candidate: Candidate) -> Scorer:
    return Scorer(candidate.bundle)


@pytest.fixture(scope="module")
def holdout(lake: Lake, candidate: Candidate) -> Holdout:
    return load_holdout(lake, candidate.record.split, LabelRules())


def copied(lake: Lake, tmp_path: Path, names: list[str]) -> Lake:
    for name in names:
        shutil.copytree(Path(lake.root) / name, tmp_path / name)
    return Lake(str(tmp_path))


def test_a_history_that_is_there_is_not_built_again(settings: Settings, lake: Lake) -> None:
    files = {path: path.stat().st_mtime_ns for path in Path(lake.root).rglob("*.parquet")}
    build_history(settings, lake, NOW)
    assert {path: path.stat().st_mtime_ns for path in Path(lake.root).rglob("*.parquet")} == files
    assert len(lake.days(tables.TRAINING_SET)) == DAYS


def test_it_is_far_better_than_chance(candidate: Candidate) -> None:
    comparison = candidate.record.evaluation.comparison
    assert comparison.candidate.auc.low > 0.75
    rate = candidate.record.evaluation.frauds / candidate.record.evaluation.rows
    assert comparison.candidate.average_precision.low > 10 * rate


def test_the_order_of_rows_changes_no_score(scorer: Scorer, holdout: Holdout) -> None:
    order = np.random.default_rng(1).permutation(len(holdout))
    np.testing.assert_array_equal(scorer.score(holdout.vectors[order]), scorer.score(holdout.vectors)[order])


def test_renamed_users_get_the_same_values(settings: Settings, lake: Lake, tmp_path: Path) -> None:
    days = days_between(FIRST, FIRST + timedelta(days=9))
    other = copied(lake, tmp_path, [tables.RAW_TRANSACTIONS, tables.FRAUD_LABELS])
    for day in days:
        raw = other.read(tables.RAW_TRANSACTIONS, day)
        renamed = pa.array([f"renamed-{user[::-1]}" for user in raw.column("user_id").to_pylist()])
        other.write(tables.RAW_TRANSACTIONS, day, raw.set_column(raw.column_names.index("user_id"), "user_id", renamed))
    rebuild(settings, other, days)
    for day in days[-3:]:
        mine, theirs = (one.read(tables.TRAINING_SET, day) for one in (lake, other))
        for name in CATALOGUE.names:
            assert mine.column(name).equals(theirs.column(name)), name


def rebuild(settings: Settings, lake: Lake, days: list[date], in_force_of: Callable[..., list[Span]] = spans) -> None:
    """The feature tables of days whose raw tables are there."""
    in_force = in_force_of(days, [], settings.online_ttl_days)
    write_user_tiles(settings, lake, days)
    write_merchant_tiles(settings, lake, days)
    write_label_tiles(settings, lake, days)
    write_user_features(settings, lake, days)
    write_merchant_features(settings, lake, days)
    write_medians(lake, days)
    write_training_set(settings, lake, days, in_force, in_force)


def changed_by_the_future(
    settings: Settings, lake: Lake, last: date, tmp_path: Path, in_force_of: Callable[..., list[Span]] = spans
) -> list[str]:
    """Features of the days up to `last` whose values differ once the days after it are gone."""
    days = days_between(FIRST, last)
    past = copied(lake, tmp_path, [])
    for name in (tables.RAW_TRANSACTIONS, tables.FRAUD_LABELS):
        for day in days:
            past.write(name, day, lake.read(name, day))
    rebuild(settings, past, days, in_force_of)
    rows = lake.read_days(tables.TRAINING_SET, days[-3:], CATALOGUE.names)
    again = past.read_days(tables.TRAINING_SET, days[-3:], CATALOGUE.names)
    assert rows is not None
    assert again is not None
    return [name for name in CATALOGUE.names if not rows.column(name).equals(again.column(name))]


def test_no_feature_knows_the_future(settings: Settings, lake: Lake, tmp_path: Path) -> None:
    assert changed_by_the_future(settings, lake, FIRST + timedelta(days=9), tmp_path) == []


def test_a_planted_feature_that_knows_the_future_is_caught(settings: Settings, lake: Lake, tmp_path: Path) -> None:
    """Snapshots that take effect two days before they could be known: what is trained on changes when the days go."""
    two_days = 2 * 86_400_000_000

    def early(days: list[date], loads: list[tuple[int, date]], ttl_days: int) -> list[Span]:
        return [
            Span(span.snapshot, span.visible_from_us - two_days, span.visible_until_us - two_days)
            for span in spans(days, loads, ttl_days)
        ]

    last = FIRST + timedelta(days=9)
    cheating = copied(lake, tmp_path / "cheating", [tables.RAW_TRANSACTIONS, tables.FRAUD_LABELS])
    rebuild(settings, cheating, days_between(FIRST, last + timedelta(days=2)), early)
    caught = changed_by_the_future(settings, cheating, last, tmp_path / "past", early)
    assert "user_txn_count_1d" in caught
    assert not any(name in caught for name in ("amount", "hour_of_day", "user_txn_count_1m"))


def riskier(scorer: Scorer, holdout: Holdout, changes: dict[str, float]) -> tuple[float, float]:
    """Mean change of the margin, and the share of payments whose risk falls by more than a tenth in log-odds."""
    vectors = holdout.vectors.copy()
    for name, factor in changes.items():
        if factor in (0.0, 1.0):
            vectors[:, POSITION[name]] = factor
        else:
            vectors[:, POSITION[name]] *= factor
    change = scorer.margins(vectors).astype(float) - scorer.margins(holdout.vectors)
    return float(change.mean()), float((change < -0.1).mean())


AMOUNTS = ("amount", "amount_to_user_avg_30d", "amount_to_user_max_90d", "amount_to_merchant_avg_30d")


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("ten times the habit", dict.fromkeys((*AMOUNTS, "amount_zscore_90d"), 10.0)),
        ("a new country", {"country_is_new": 1.0, "country_mismatch": 1.0}),
        ("a new device", {"device_is_new": 1.0}),
    ],
)
def test_what_is_stranger_is_not_less_risky(
    scorer: Scorer, holdout: Holdout, what: str, changes: dict[str, float]
) -> None:
    mean, fallen = riskier(scorer, holdout, changes)
    assert mean > 0.1, what
    assert fallen < 0.1, what


def test_a_card_testing_burst_stands_out(scorer: Scorer, holdout: Holdout) -> None:
    """Ten small payments within minutes on a new device, far from home: what the simulator's card tests look like."""
    usual = holdout.vectors[~holdout.is_fraud][:2_000].copy()
    burst = usual.copy()
    for name, value in {
        "user_txn_count_1m": 4, "user_txn_count_10m": 10, "user_txn_count_1h": 10, "seconds_since_last": 15,
        "amount": 150, "device_is_new": 1, "is_online": 1,
    }.items():  # fmt: skip
        burst[:, POSITION[name]] = value
    for name, average in (
        ("amount_to_user_avg_30d", "user_amount_avg_30d"),
        ("amount_to_merchant_avg_30d", "merchant_amount_avg_30d"),
    ):
        burst[:, POSITION[name]] = 150 / burst[:, POSITION[average]]
    ordinary, suspicious = scorer.score(usual), scorer.score(burst)
    assert np.median(suspicious) > 20 * np.median(ordinary)
    assert (ordinary <= 0.4).mean() > 0.99, "an ordinary payment is allowed"


def test_dates_back_to_back_train_on_nothing_that_came_later(settings: Settings, lake: Lake) -> None:
    windows = Windows(train_days=15, delay_days=5, test_days=6, dates=2, maturity_days=5)
    splits = plan_dates(FIRST, FIRST + timedelta(days=DAYS - 1), windows)
    assert [split.holdout[0] for split in splits][1] == splits[0].holdout[-1] + timedelta(days=1)
    for split in splits:
        assert len(split.train) + len(split.validation) == 15
        assert (split.training_cut - split.validation[-1]).days == 6
    results = list(evaluate_dates(lake, settings, windows))
    assert [(result.date, result.model) for result in results] == [
        (split.training_cut, model) for split in splits for model in MODELS
    ]
    for result in results:
        assert 0 < result.average_precision <= 1
        assert result.auc > 0.6
    assert [row[0] for row in summary(results)] == list(MODELS)
    with pytest.raises(TrainingDataError, match="fewer dates"):
        plan_dates(FIRST, FIRST + timedelta(days=DAYS - 1), Windows(60, 14, 14, 4, 14))
