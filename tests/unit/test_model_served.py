"""Served payments as training takes them: matured or unknown, blocked or let through, and days that it refuses."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from fraud_platform import schema
from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.features.label_rules import LabelRules
from fraud_platform.lake import Lake
from fraud_platform.model.data import (
    Examples,
    data_versions,
    find_split,
    joined,
    labels_before,
    load_examples,
    load_training_data,
)
from fraud_platform.model.search import _taken
from fraud_platform.model.served import MAX_WEIGHT, refuse_skew
from fraud_platform.model.split import TrainingDataError
from fraud_platform.model.stored import store
from fraud_platform.model.train import DEFAULTS, WEIGHT_EXPONENT, _weights
from fraud_platform.monitoring.skew import SKEW, write_skew
from fraud_platform.settings import Settings
from tests import model_kit as kit
from tests.monitoring_kit import decided, log_decisions, vectors, write_labels, write_training_day

DAY = date(2026, 3, 1)
CUT = DAY + timedelta(days=10)
MATURITY = 3
COUNT = 12
BLOCKED, RELEASED, FOUND, FRAUD = 0, 1, 2, 3
"""Rows: blocked and silent, let through to be measured, blocked and looked at, let through and fraud."""


@pytest.fixture
def lake(tmp_path: Any) -> Lake:
    return Lake(str(tmp_path / "lake"))


def serve(lake: Lake, propensity: float = 0.25, caller: str = "default") -> None:
    """A day of COUNT payments, all served; the first four as named above."""
    made = vectors(np.random.default_rng(1), COUNT)
    write_training_day(lake, DAY, made)
    records = decided(DAY, made, np.full(COUNT, 0.1), caller=caller)
    change = msgspec.structs.replace
    for row in (BLOCKED, FOUND):
        records[row] = change(records[row], score=0.9, decision="block", reason="score_above_threshold")
    drawn = {"score": 0.9, "decision": "allow", "reason": "released_for_measurement", "propensity": propensity}
    for row in (RELEASED, FRAUD):
        records[row] = change(records[row], **drawn)
    log_decisions(lake, records)
    write_labels(lake, DAY + timedelta(days=1), [f"{DAY}-{FOUND}", f"{DAY}-{FRAUD}"], DAY, caller=caller)


def load(lake: Lake, cut: date = CUT) -> Examples:
    return load_examples(lake, [DAY], labels_before(lake, cut, LabelRules()), cut, MATURITY)


def test_a_blocked_payments_silence_says_nothing_and_a_finding_does(lake: Lake) -> None:
    serve(lake)
    examples = load(lake)
    assert (len(examples), examples.unknown) == (COUNT - 1, 1)
    assert np.flatnonzero(examples.is_fraud).tolist() == [FOUND - 1, FRAUD - 1], "one row before them is left out"


def test_a_served_payment_is_unknown_until_it_has_matured(lake: Lake) -> None:
    serve(lake)
    # received in the first seconds of DAY: a cut of DAY + 3 days comes before three whole days for all but the first
    early = load(lake, DAY + timedelta(days=MATURITY))
    assert early.is_fraud.tolist() == [True, True], "what is known of them, and no silence"
    assert early.unknown == COUNT - 2
    assert load(lake, DAY + timedelta(days=MATURITY + 1)).unknown == 1


@pytest.mark.parametrize(("propensity", "weight"), [(0.25, 4.0), (0.001, MAX_WEIGHT)])
def test_what_was_let_through_weighs_for_those_that_were_not(lake: Lake, propensity: float, weight: float) -> None:
    serve(lake, propensity)
    examples = load(lake)
    expected = np.ones(COUNT - 1)
    expected[[RELEASED - 1, FRAUD - 1]] = weight
    assert examples.weights is not None
    np.testing.assert_array_equal(examples.weights, expected)
    # and its weight stays with it on every way into a training
    twice = joined([examples, replace(examples, weights=None)])
    np.testing.assert_array_equal(twice.weights, [*expected, *np.ones(COUNT - 1)])
    np.testing.assert_array_equal(_taken(examples, np.array([3, 0])).weights, expected[[3, 0]])
    left = store(lake, [DAY - timedelta(days=1), DAY], labels_before(lake, CUT, LabelRules()), CUT, MATURITY)
    np.testing.assert_array_equal(left.weights, expected)
    assert left.unknown == examples.unknown
    np.testing.assert_array_equal(left.sample(COUNT, seed=1).weights, expected)
    given = _weights(examples, DEFAULTS[WEIGHT_EXPONENT], np.full(len(examples), 2.0))
    np.testing.assert_array_equal(given, 2 * expected)


def test_a_day_that_nobody_decided_has_no_weights(lake: Lake) -> None:
    write_training_day(lake, DAY, vectors(np.random.default_rng(1), COUNT))
    lake.write(tables.FRAUD_LABELS, DAY, schema.LABELS.empty_table())
    examples = load(lake)
    assert (len(examples), examples.weights) == (COUNT, None)


def test_another_payment_of_the_same_id_is_not_the_blocked_one(lake: Lake) -> None:
    serve(lake)
    rows = lake.read(tables.TRAINING_SET, DAY)
    position = rows.schema.get_field_index("received_at")
    later = pc.add(rows["received_at"].cast(pa.int64()), 1_000).cast(schema.TIME)
    lake.write(tables.TRAINING_SET, DAY, rows.set_column(position, "received_at", later))
    assert load(lake).unknown == 0


def test_another_callers_payment_of_the_same_id_is_not_the_blocked_one(lake: Lake) -> None:
    serve(lake)
    rows = lake.read(tables.TRAINING_SET, DAY)
    position = rows.schema.get_field_index("caller")
    lake.write(tables.TRAINING_SET, DAY, rows.set_column(position, rows.schema.field(position), pa.repeat("b", COUNT)))
    assert load(lake).unknown == 0


def test_a_blocked_payment_is_known_in_a_partition_older_than_callers(lake: Lake) -> None:
    serve(lake, caller="bank")
    rows = lake.read(tables.TRAINING_SET, DAY)
    lake.write(tables.TRAINING_SET, DAY, rows.drop_columns(["caller"]))
    write_training_day(lake, DAY + timedelta(days=1), vectors(np.random.default_rng(1), COUNT))
    days = [DAY, DAY + timedelta(days=1)]
    examples = load_examples(lake, days, labels_before(lake, CUT, LabelRules()), CUT, MATURITY)
    assert (len(examples), examples.unknown) == (2 * COUNT - 1, 1)


def test_days_of_other_served_values_do_not_train(lake: Lake, make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(**kit.WINDOWS)
    kit.write_history(lake)
    split = find_split(lake, settings, kit.NOW)
    day = split.train[2]
    load_training_data(lake, split, LabelRules())
    differs = pa.Table.from_pylist(
        [{"feature": name, "compared": 9, "differences": 3 * (name == "amount"), "example": "t-1: served 1, offline 2"}
         for name in CATALOGUE.names]
    )  # fmt: skip
    lake.write(SKEW, day, differs)
    with pytest.raises(TrainingDataError, match=f"{day}: amount was served with other values .* 3 of 9 .*t-1"):
        load_training_data(lake, split, LabelRules())
    load_training_data(lake, split, LabelRules(), accepted_skew_days=[day])
    with pytest.raises(TrainingDataError):
        load_training_data(lake, split, LabelRules(), accepted_skew_days=[day + timedelta(days=1)])
    # a day outside the windows is no matter
    refuse_skew(lake, split.holdout, accepted=[])


def test_a_day_that_agrees_trains(lake: Lake) -> None:
    serve(lake)
    write_skew(lake, [DAY])
    assert lake.read(SKEW, DAY).num_rows == len(CATALOGUE.names)
    refuse_skew(lake, [DAY], accepted=[])


def test_decisions_that_training_takes_are_part_of_what_it_was_made_of(
    lake: Lake, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings(**kit.WINDOWS)
    kit.write_history(lake)
    split = find_split(lake, settings, kit.NOW)
    before = data_versions(lake, split, kit.LAST_DAY, LabelRules())
    assert "inference_log" not in before
    made = vectors(np.random.default_rng(1), 3)
    log_decisions(lake, decided(split.train[0], made, np.full(3, 0.1)))
    assert data_versions(lake, split, kit.LAST_DAY, LabelRules()) == before, "what was allowed changes nothing"
    log_decisions(lake, decided(split.train[1], made, np.full(3, 0.9)))
    after = data_versions(lake, split, kit.LAST_DAY, LabelRules())
    assert after["inference_log"]["first_day"] == split.train[1].isoformat()
