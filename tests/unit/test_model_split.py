"""Windows in time: what may be used for what, whatever the length of the history."""

from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_platform.model.split import TrainingDataError, plan_split
from fraud_platform.settings import Settings

FIRST = date(2026, 1, 1)


def last(days: int) -> date:
    return FIRST + timedelta(days=days - 1)


def test_the_default_history_is_split_as_the_settings_say() -> None:
    split = plan_split(FIRST, last(120), Settings())
    assert not split.shrunk
    assert (split.evaluation_cut - FIRST).days == 120
    assert [(d - FIRST).days for d in (split.holdout[0], split.holdout[-1])] == [90, 105]
    assert (split.training_cut - FIRST).days == 90
    assert [(d - FIRST).days for d in (split.validation[0], split.validation[-1])] == [66, 75]
    assert [(d - FIRST).days for d in (split.train[0], split.train[-1])] == [30, 65]


WINDOW = st.integers(0, 40)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 400), WINDOW, st.integers(1, 40), st.integers(1, 40), WINDOW)
def test_windows_follow_each_other_and_every_used_day_is_matured_at_its_cut(
    days: int, warmup: int, validation: int, holdout: int, maturity: int
) -> None:
    wanted = Settings(
        warmup_days=warmup, validation_days=validation, holdout_days=holdout, label_maturity_days=maturity
    )
    full = warmup + 2 * (validation + holdout) + 2 * maturity
    try:
        split = plan_split(FIRST, last(days), wanted)
    except TrainingDataError:
        # only a history of two days or less has no room at all
        assert days <= 2
        return
    assert split.shrunk == (days < full)
    if not split.shrunk:
        assert (split.warmup_days, split.validation_days) == (warmup, validation)
        assert (split.holdout_days, split.maturity_days) == (holdout, maturity)
    assert split.train[0] >= FIRST + timedelta(days=split.warmup_days)
    assert split.train[-1] < split.validation[0] <= split.validation[-1] < split.training_cut == split.holdout[0]
    assert split.holdout[-1] < split.evaluation_cut == last(days) + timedelta(days=1)
    mature = timedelta(days=split.maturity_days)
    # the last instant of the last day is old enough
    assert split.validation[-1] + timedelta(days=1) + mature <= split.training_cut
    assert split.holdout[-1] + timedelta(days=1) + mature <= split.evaluation_cut


def test_a_history_of_about_half_the_length_halves_every_window() -> None:
    settings = Settings(warmup_days=30, validation_days=10, holdout_days=16, label_maturity_days=14)
    split = plan_split(FIRST, last(57), settings)
    assert split.shrunk
    assert (split.warmup_days, split.validation_days, split.holdout_days, split.maturity_days) == (15, 5, 8, 7)


def test_a_single_day_is_refused_with_what_to_do() -> None:
    with pytest.raises(TrainingDataError, match="ingest more days"):
        plan_split(FIRST, FIRST, Settings())
