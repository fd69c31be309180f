"""Search, folds, calibration and lost stores: what is chosen before the holdout is looked at."""

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.features.degrade import DEFAULTS_ONLY, LEVELS, REDIS_LOST, VELOCITY_LOST, degrade, degrade_some
from fraud_platform.features.label_rules import LabelRules
from fraud_platform.features.vector import VectorBuilder
from fraud_platform.lake import Lake
from fraud_platform.model import search as searching
from fraud_platform.model.calibration import UNCALIBRATED, Calibration, fit_calibration
from fraud_platform.model.data import Examples
from fraud_platform.model.folds import FoldExamples, load_folds, plan_folds
from fraud_platform.model.search import WEIGHT_EXPONENTS, search
from fraud_platform.model.split import Split
from fraud_platform.schema import Transaction
from fraud_platform.settings import Settings
from tests import model_kit as kit

SPLIT = Split(
    first_day=kit.FIRST_DAY, last_day=kit.LAST_DAY, warmup_days=1, validation_days=2, holdout_days=4, maturity_days=3,
    shrunk=False,
)  # fmt: skip


TRIALS = len(WEIGHT_EXPONENTS) + 1
"""The last one is drawn by Optuna."""


@pytest.fixture
def quick(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, training_threads=1, search_trials=TRIALS, search_seconds=600)


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> list[FoldExamples]:
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    kit.write_history(lake)
    return load_folds(lake, SPLIT, LabelRules())


def test_folds_leave_labels_time_to_arrive_and_stay_before_the_holdout() -> None:
    planned = plan_folds(SPLIT)
    assert len(planned) == 2
    for fold in planned:
        assert (fold.cut - fold.train[-1]).days == SPLIT.maturity_days + 1
        assert fold.validation[-1] + timedelta(days=SPLIT.maturity_days) < SPLIT.training_cut
    assert planned[0].validation[-1] < planned[1].validation[0]
    assert planned[0].train[0] == planned[1].train[0] == SPLIT.train[0]


def test_a_label_that_arrives_after_a_folds_cut_does_not_train_it(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    labels = kit.write_history(lake)
    before = load_folds(lake, SPLIT, LabelRules())
    first = plan_folds(SPLIT)[0]
    good = next(f"t-1-{i}" for i in range(kit.ROWS_PER_DAY) if f"t-1-{i}" not in {x["transaction_id"] for x in labels})

    def frauds(arrived: Any) -> tuple[int, int]:
        kit.write_labels(lake, [*labels, kit.label(good, kit.FIRST_DAY + timedelta(days=1), arrived)])
        after = load_folds(lake, SPLIT, LabelRules())
        return after[0].train.frauds - before[0].train.frauds, after[1].train.frauds - before[1].train.frauds

    assert frauds(kit.midnight(first.cut)) == (0, 1)
    assert frauds(kit.midnight(first.cut) - timedelta(hours=1)) == (1, 1)


def test_the_first_trials_measure_class_weights_and_the_best_is_chosen(
    folds: list[FoldExamples], quick: Settings, tmp_path: Path
) -> None:
    found, unseen = search(folds, quick, kit.MEDIANS, tmp_path / "journal")
    assert len(found.trials) == TRIALS
    assert not found.out_of_time
    for trial, exponent in zip(found.trials, WEIGHT_EXPONENTS, strict=False):
        assert trial.parameters["positive_weight_exponent"] == exponent
    complete = [trial for trial in found.trials if len(trial.average_precision) == 2]
    assert found.parameters == max(complete, key=lambda trial: trial.mean).parameters
    assert unseen is not None
    assert len(unseen.margins) == len(unseen.examples) == sum(len(fold.validation) for fold in folds)
    assert set(unseen.examples.days.tolist()) == set(np.concatenate([fold.validation.days for fold in folds]).tolist())


def test_a_search_that_was_killed_ends_as_if_it_had_not_been(
    folds: list[FoldExamples], quick: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = search(folds, quick, kit.MEDIANS, tmp_path / "undisturbed")
    grow = searching.grow
    grown = 0

    class KilledError(BaseException):
        """The end of the process."""

    def killed(*arguments: Any, **named: Any) -> Any:
        nonlocal grown
        grown += 1
        if grown == 8:  # in the second fold of the fourth trial, which Optuna drew
            raise KilledError
        return grow(*arguments, **named)

    monkeypatch.setattr(searching, "grow", killed)
    with pytest.raises(KilledError):
        search(folds, quick, kit.MEDIANS, tmp_path / "killed")
    monkeypatch.undo()
    resumed = search(folds, quick, kit.MEDIANS, tmp_path / "killed")
    assert resumed[0] == undisturbed[0]
    assert resumed[1] is not None
    assert undisturbed[1] is not None
    np.testing.assert_array_equal(resumed[1].margins, undisturbed[1].margins)


def test_the_time_budget_ends_a_search_and_the_result_says_so(
    folds: list[FoldExamples], quick: Settings, tmp_path: Path
) -> None:
    hurried = quick.model_copy(update={"search_seconds": 1e-6})
    found, _ = search(folds, hurried, kit.MEDIANS, tmp_path / "journal")
    assert len(found.trials) == 1
    assert found.out_of_time


def test_a_planted_future_feature_is_seen_in_the_report(tmp_path: Path) -> None:
    """A column that knows the label takes over: the strongest feature by far, and an average precision near 1."""
    from sklearn.metrics import average_precision_score

    from fraud_platform.model.attribution import attribute
    from fraud_platform.model.train import DEFAULTS, grow, margins
    from fraud_platform.model.trees import Trees

    random = np.random.default_rng(3)
    vectors = random.normal(size=(3_000, len(CATALOGUE.names))).astype(np.float32)
    fraud = random.random(3_000) < 0.05
    planted = CATALOGUE.names.index("merchant_users_30d")
    vectors[:, planted] = fraud + random.normal(scale=0.05, size=3_000)
    data = Examples(vectors, fraud, np.zeros(3_000, np.int32), 0)
    settings = Settings(home=tmp_path, training_threads=1, nulled_share=0)
    grown = grow(data, DEFAULTS, settings, kit.MEDIANS, rounds=30)
    ranked = attribute(Trees(bytes(grown.booster.save_raw("ubj")), CATALOGUE.names), data, seed=1).strongest()
    assert ranked[0][0] == "merchant_users_30d"
    assert ranked[0][1] > 5 * ranked[1][1]
    assert average_precision_score(fraud, margins(grown, data)) > 0.99


def test_calibration_finds_the_map_that_made_the_labels() -> None:
    random = np.random.default_rng(1)
    margins = random.normal(-2, 2, 200_000)
    true = Calibration(slope=0.7, intercept=-1.2)
    found = fit_calibration(random.random(200_000) < true.probabilities(margins), margins)
    assert found.slope == pytest.approx(0.7, abs=0.02)
    assert found.intercept == pytest.approx(-1.2, abs=0.04)
    assert true.probabilities(np.array([3.0]))[0] == pytest.approx(expit(0.7 * 3 - 1.2))
    assert true.probability(3.0) == pytest.approx(expit(0.7 * 3 - 1.2))
    np.testing.assert_array_equal(UNCALIBRATED.probabilities(np.array([-800.0, 0.0, 800.0])), [0.0, 0.5, 1.0])


def test_calibration_repairs_a_model_that_was_trained_with_weights() -> None:
    random = np.random.default_rng(2)
    margins = random.normal(-4, 1.5, 100_000)
    fraud = random.random(100_000) < expit(margins)
    weighted = margins + np.log(50)
    found = fit_calibration(fraud, weighted)
    assert expit(weighted).mean() > 5 * fraud.mean()
    assert found.probabilities(weighted).mean() == pytest.approx(fraud.mean(), rel=0.02)


def test_margins_that_turn_the_order_around_are_no_model() -> None:
    margins = np.linspace(-3, 3, 1_000)
    with pytest.raises(ValueError, match="slope"):
        fit_calibration(margins < -1, margins)


BUILDER = VectorBuilder()
PAYMENT = Transaction(
    transaction_id="t", user_id="u", merchant_id="m", amount=4_213, event_time=1_774_785_600_000_000 + 7_200_000_000,
    received_at=1_774_785_600_000_000 + 7_200_000_000, country="DE", user_country="FR", channel="online", device_key=1,
)  # fmt: skip


def online(**changes: Any) -> Any:
    everything: dict[str, Any] = {
        "user_row": np.arange(10, 10 + len(CATALOGUE.of("user")), dtype=np.float32),
        "merchant_row": np.arange(50, 50 + len(CATALOGUE.of("merchant")), dtype=np.float32),
        "user_medians": np.array(kit.MEDIANS["user"], np.float32),
        "merchant_medians": np.array(kit.MEDIANS["merchant"], np.float32),
        "known_countries": frozenset({"DE"}),
        "known_devices": frozenset({2}),
        "velocity": np.arange(1.0, 1 + len(CATALOGUE.of("velocity"))),
        "user_effective_time": PAYMENT.event_time,
        "last_effective_time": PAYMENT.event_time - 60_000_000,
    }
    return SimpleNamespace(**everything | changes)


NO_VELOCITY = {"velocity": np.full(len(CATALOGUE.of("velocity")), np.nan), "last_effective_time": None}


@pytest.mark.parametrize(
    ("level", "lost"),
    [
        (VELOCITY_LOST, NO_VELOCITY),
        (REDIS_LOST, NO_VELOCITY),
        (
            DEFAULTS_ONLY,
            NO_VELOCITY | {"user_row": None, "merchant_row": None, "known_countries": None, "known_devices": None},
        ),
    ],
)
def test_a_degraded_vector_is_the_one_that_serving_builds(level: str, lost: dict[str, Any]) -> None:
    full = BUILDER.build(PAYMENT, online())[None, :]
    expected = BUILDER.build(PAYMENT, online(**lost))
    np.testing.assert_array_equal(degrade(full, level, kit.MEDIANS)[0], expected)
    np.testing.assert_array_equal(full[0], BUILDER.build(PAYMENT, online()), "the given vector stays")
    assert set(LEVELS) == {REDIS_LOST, VELOCITY_LOST, DEFAULTS_ONLY}


def test_a_share_of_rows_is_degraded_half_each_way() -> None:
    full = np.repeat(BUILDER.build(PAYMENT, online())[None, :], 20_000, axis=0)
    mixed = degrade_some(full, 0.2, kit.MEDIANS, seed=1)
    no_velocity = np.isnan(mixed[:, CATALOGUE.names.index("user_txn_count_1m")])
    stranger = mixed[:, CATALOGUE.names.index("user_txn_count_90d")] == 0
    assert no_velocity.mean() == pytest.approx(0.2, abs=0.01)
    assert stranger.mean() == pytest.approx(0.1, abs=0.01)
    assert not (stranger & ~no_velocity).any()
    assert degrade_some(full, 0.0, kit.MEDIANS, seed=1) is full
