"""What is loaded for training and for the holdout, and that no later label trains."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fraud_platform import schema
from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.features.label_rules import LabelRules
from fraud_platform.lake import Lake
from fraud_platform.model.data import (
    TrainingData,
    data_versions,
    find_split,
    load_holdout,
    load_training_data,
    newest_medians,
)
from fraud_platform.model.split import Split, TrainingDataError
from fraud_platform.settings import Settings
from tests import model_kit as kit

MICROSECOND = timedelta(microseconds=1)


@pytest.fixture
def lake(tmp_path: Any) -> Lake:
    return Lake(str(tmp_path / "lake"))


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(**kit.WINDOWS)


@pytest.fixture
def labels(lake: Lake) -> list[dict[str, Any]]:
    return kit.write_history(lake)


def load(lake: Lake, settings: Settings) -> tuple[Split, TrainingData]:
    split = find_split(lake, settings, kit.NOW)
    return split, load_training_data(lake, split, LabelRules())


def frauds_of(labels: list[dict[str, Any]], days: list[Any]) -> int:
    return sum(row["transaction_date"] in days for row in labels)


def test_vectors_and_labels_are_those_of_the_partitions(
    lake: Lake, settings: Settings, labels: list[dict[str, Any]]
) -> None:
    split, data = load(lake, settings)
    frauds = {row["transaction_id"] for row in labels}
    for examples, days in (
        (data.train, split.train),
        (data.validation, split.validation),
        (data.holdout, split.holdout),
    ):
        rows = lake.read_days(tables.TRAINING_SET, days)
        assert rows is not None
        expected = np.column_stack([rows.column(name).to_numpy() for name in CATALOGUE.names])
        assert examples.vectors.dtype == np.float32
        assert examples.vectors.flags.c_contiguous
        np.testing.assert_array_equal(examples.vectors, expected)
        assert examples.is_fraud.tolist() == [name in frauds for name in rows.column("transaction_id").to_pylist()]
        assert examples.unknown == 0
    assert data.train.frauds > 50


def test_a_label_that_arrives_after_the_training_cut_does_not_train(
    lake: Lake, settings: Settings, labels: list[dict[str, Any]]
) -> None:
    split, before = load(lake, settings)
    cut = kit.midnight(split.training_cut)
    good = sorted({f"t-{n}-{i}" for n in range(2, 10) for i in range(200)} - {row["transaction_id"] for row in labels})
    planted = [(name, kit.FIRST_DAY + timedelta(days=int(name.split("-")[1]))) for name in good]

    kit.write_labels(lake, labels + [kit.label(name, day, cut) for name, day in planted])
    after = load(lake, settings)[1]
    np.testing.assert_array_equal(after.train.is_fraud, before.train.is_fraud)

    kit.write_labels(lake, labels + [kit.label(name, day, cut - MICROSECOND) for name, day in planted])
    known = load(lake, settings)[1]
    assert known.train.frauds == before.train.frauds + len(planted)


def test_the_holdout_is_measured_with_labels_that_came_after_the_training(
    lake: Lake, settings: Settings, labels: list[dict[str, Any]]
) -> None:
    split, data = load(lake, settings)
    in_holdout = [row for row in labels if row["transaction_date"] in split.holdout]
    assert all(row["arrived_at"] >= kit.midnight(split.training_cut) for row in in_holdout)
    assert data.holdout.frauds == len(in_holdout) >= 100


def test_an_open_case_is_left_out_and_counted(lake: Lake, settings: Settings, labels: list[dict[str, Any]]) -> None:
    split = find_split(lake, settings, kit.NOW)
    day = split.holdout[0]
    n = (day - kit.FIRST_DAY).days
    without = [row for row in labels if row["transaction_id"] != f"t-{n}-7"]
    kit.write_labels(lake, [*without, kit.label(f"t-{n}-7", day, kit.midnight(split.holdout[-1]), "suspected")])
    holdout = load_holdout(lake, split, LabelRules())
    assert holdout.unknown == 1
    assert len(holdout) == len(holdout.vectors) == 5 * kit.ROWS_PER_DAY - 1


def test_a_day_without_its_labels_does_not_end_the_history(
    lake: Lake, settings: Settings, labels: list[dict[str, Any]]
) -> None:
    later = lake.read(tables.TRAINING_SET, kit.LAST_DAY)
    lake.write(tables.TRAINING_SET, kit.LAST_DAY + timedelta(days=1), later)
    assert find_split(lake, settings, kit.NOW + timedelta(days=5)).last_day == kit.LAST_DAY


def test_the_present_day_is_never_used(lake: Lake, settings: Settings, labels: list[dict[str, Any]]) -> None:
    assert find_split(lake, settings, kit.midnight(kit.LAST_DAY)).last_day == kit.LAST_DAY - timedelta(days=1)


@pytest.mark.parametrize("window", ["train", "holdout"])
def test_a_window_without_fraud_is_an_error_that_names_it(
    lake: Lake, settings: Settings, labels: list[dict[str, Any]], window: str
) -> None:
    split = find_split(lake, settings, kit.NOW)
    kit.write_labels(lake, [row for row in labels if row["transaction_date"] not in getattr(split, window)])
    with pytest.raises(TrainingDataError, match=f"{window}, .* has 0 known frauds"):
        load_training_data(lake, split, LabelRules())


def test_an_empty_lake_is_an_error_that_names_the_table(lake: Lake, settings: Settings) -> None:
    with pytest.raises(TrainingDataError, match="training_set"):
        find_split(lake, settings, kit.NOW)


def test_medians_are_the_newest_in_the_catalogues_order(
    lake: Lake, settings: Settings, labels: list[dict[str, Any]]
) -> None:
    day, medians = newest_medians(lake, kit.LAST_DAY)
    assert day == kit.LAST_DAY
    assert medians["user"] == [23.0, *[0.5] * 16]
    assert medians["merchant"] == [*[0.5] * 9, None]


def test_data_versions_change_with_any_file_that_is_read_and_with_no_other(
    lake: Lake, settings: Settings, labels: list[dict[str, Any]]
) -> None:
    split = find_split(lake, settings, kit.NOW)
    before = data_versions(lake, split, kit.LAST_DAY, LabelRules())
    assert before == data_versions(lake, split, kit.LAST_DAY, LabelRules())
    assert before["training_set"]["partitions"] == 16
    warmup = lake.read(tables.TRAINING_SET, kit.FIRST_DAY)
    lake.write(tables.TRAINING_SET, kit.FIRST_DAY, warmup.slice(1))
    assert before == data_versions(lake, split, kit.LAST_DAY, LabelRules())
    lake.write(tables.TRAINING_SET, split.train[0], lake.read(tables.TRAINING_SET, split.train[0]).slice(1))
    lake.write(tables.FRAUD_LABELS, kit.LAST_DAY, schema.LABELS.empty_table())
    after = data_versions(lake, split, kit.LAST_DAY, LabelRules())
    assert {name for name in before if before[name] != after[name]} == {"training_set", "fraud_labels"}


def test_a_partition_without_rows_is_no_obstacle(lake: Lake, settings: Settings, labels: list[dict[str, Any]]) -> None:
    split = find_split(lake, settings, kit.NOW)
    empty: pa.Table = lake.read(tables.TRAINING_SET, split.train[3]).slice(0, 0)
    lake.write(tables.TRAINING_SET, split.train[3], empty)
    assert len(load_training_data(lake, split, LabelRules()).train) == 7 * kit.ROWS_PER_DAY
