"""Training from batches of the lake, against the same in memory: the same rows and, as far as it goes, model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.features.label_rules import LabelRules
from fraud_platform.lake import Lake
from fraud_platform.model import stored
from fraud_platform.model.data import Examples, Learnable, find_split, labels_before, load_examples, load_holdout
from fraud_platform.model.ranking import average_precision
from fraud_platform.model.steps import train_candidate
from fraud_platform.model.stored import StoredExamples, store
from fraud_platform.model.train import DEFAULTS, WEIGHT_EXPONENT, grow, margins
from fraud_platform.settings import Settings
from tests import model_kit as kit

BATCH = 700
"""Two days and a part of a third, which a batch does not take."""


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    labels = kit.write_history(lake)
    # cases that are still open have no label
    lost = [kit.label(f"t-{n}-5", row["transaction_date"], row["arrived_at"], "suspected")
            for row in labels if (n := (row["transaction_date"] - kit.FIRST_DAY).days) % 3 == 0]  # fmt: skip
    kit.write_labels(lake, labels + lost)
    return lake


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batches of BATCH rows; the list gets the size of each that is read."""
    sizes: list[int] = []
    read = stored.read_vectors

    def spy(*arguments: Any) -> Any:
        found = read(*arguments)
        sizes.append(len(found[0]))
        return found

    monkeypatch.setattr(stored, "BATCH_ROWS", BATCH)
    monkeypatch.setattr(stored, "read_vectors", spy)
    return sizes


def settings_of(home: Path, **fields: Any) -> Settings:
    return Settings(home=home, **(kit.TRAINING | fields))


def both(lake: Lake, home: Path) -> tuple[Examples, StoredExamples]:
    split = find_split(lake, settings_of(home), kit.NOW)
    arguments = (
        [*split.train, *split.validation],
        labels_before(lake, split.training_cut, LabelRules()),
        split.training_cut,
    )
    return (
        load_examples(lake, *arguments, split.maturity_days),
        store(lake, *arguments, split.maturity_days),
    )


def test_batches_are_the_rows_and_labels_of_memory(lake: Lake, tmp_path: Path, small_batches: list[int]) -> None:
    loaded, left = both(lake, tmp_path)
    assert loaded.unknown == left.unknown > 0
    assert len(left) == len(loaded) > 3_000
    np.testing.assert_array_equal(left.is_fraud, loaded.is_fraud)
    for _ in range(2):
        np.testing.assert_array_equal(np.concatenate(list(left.batches())), loaded.vectors)
    assert max(small_batches) <= BATCH
    assert len(small_batches) > 8


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_the_model_of_many_batches_is_the_one_of_memory(
    lake: Lake, tmp_path: Path, small_batches: list[int], exponent: float
) -> None:
    loaded, left = both(lake, tmp_path)
    settings = settings_of(tmp_path)

    def grown(examples: Learnable) -> bytes:
        model = grow(examples, DEFAULTS | {WEIGHT_EXPONENT: exponent}, settings, kit.MEDIANS, rounds=40)
        assert not list((tmp_path / "training").glob("*")), "pages are left"
        return bytes(model.booster.save_raw("ubj"))

    # bytes: XGBoost's sketch of so few rows is exact; of many, cuts may differ within its error
    assert grown(left) == grown(loaded)
    assert max(small_batches) <= BATCH


def test_a_sample_has_every_fraud_and_stands_for_all(lake: Lake, tmp_path: Path, small_batches: list[int]) -> None:
    loaded, left = both(lake, tmp_path)
    sample = left.sample(400, seed=3)
    assert (sample.frauds, len(sample) - sample.frauds) == (loaded.frauds, 400)
    assert sample.weights is not None
    assert sample.weights.sum() == pytest.approx(len(loaded))
    rows = {
        row.tobytes(): (fraud, day)
        for row, fraud, day in zip(loaded.vectors, loaded.is_fraud, loaded.days, strict=True)
    }
    for row, fraud, day in zip(sample.vectors, sample.is_fraud, sample.days, strict=True):
        assert rows[row.tobytes()] == (fraud, day)
    whole = left.sample(10**6, seed=3)
    assert whole.weights is None
    np.testing.assert_array_equal(whole.vectors, loaded.vectors)
    np.testing.assert_array_equal(whole.days, loaded.days)


def test_a_candidate_from_the_lake_is_as_good_as_one_from_memory(
    lake: Lake, tmp_path: Path, small_batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "SAMPLE_GOODS", 1_000)
    inside = train_candidate(lake, settings_of(tmp_path / "a"), kit.NOW)
    assert not small_batches
    outside = train_candidate(lake, settings_of(tmp_path / "b", training_memory="external"), kit.NOW)
    assert max(small_batches) <= BATCH
    assert outside.fingerprint != inside.fingerprint
    assert outside.record.train_rows == inside.record.train_rows
    assert outside.record.train_frauds == inside.record.train_frauds
    holdout = load_holdout(lake, inside.record.split, LabelRules())
    # chosen on samples, so not the same; a holdout of some hundred frauds tells no smaller difference apart
    for name in ("candidate", "reference"):
        ours, theirs = (
            getattr(each.record.evaluation.comparison, name).average_precision for each in (outside, inside)
        )
        assert ours.value == pytest.approx(theirs.value, abs=0.05), name
    assert holdout.frauds > 100


def test_boosting_on_many_batches_is_noise_apart_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough rows that the sketch is not exact any more."""
    random = np.random.default_rng(5)

    def drawn(rows: int) -> Examples:
        vectors = random.normal(size=(rows, 50)).astype(np.float32)
        odds = vectors[:, 0] * vectors[:, 1] + vectors[:, 2] - 3
        return Examples(vectors, random.random(rows) < 1 / (1 + np.exp(-odds)), np.zeros(rows, np.int32), 0)

    class Parts(StoredExamples):
        def batches(self) -> Any:
            yield from np.array_split(whole.vectors, 7)

    whole, unseen = drawn(60_000), drawn(20_000)
    parts = Parts(whole.is_fraud, None, 0, CATALOGUE, Lake(str(tmp_path)), [])
    reached = [
        average_precision(
            unseen.is_fraud,
            margins(grow(each, DEFAULTS, settings_of(tmp_path), kit.MEDIANS, rounds=40), unseen),
        )
        for each in (whole, parts)
    ]
    assert reached[1] == pytest.approx(reached[0], abs=0.005)
