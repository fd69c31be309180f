"""PSI, the reference that a release keeps, and what a day's drift means."""

import math
from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.inference_log.table import LogTable
from fraud_platform.lake import Lake, open_lake
from fraud_platform.model.bundle import Bundle, Scorer
from fraud_platform.monitoring.drift import FEATURE_DRIFT, SCORE_DRIFT, served, write_feature_drift, write_score_drift
from fraud_platform.monitoring.psi import Bins
from fraud_platform.monitoring.reference import ensure_reference, read_reference
from fraud_platform.monitoring.signals import drift_signals
from fraud_platform.settings import Settings
from tests.monitoring_kit import (
    DAY,
    DRIFTING,
    HOLDOUT,
    decided,
    degraded,
    log_decisions,
    release_with_holdout,
    vectors,
    write_training_day,
)


def plain_psi(reference: list[float], sample: list[float]) -> float:
    """The same index, row by row: deciles are the values at ranks ⌈n/10⌉, … of the sorted reference."""
    known = sorted(value for value in reference if not math.isnan(value))
    edges = sorted({known[math.ceil(len(known) * k / 10) - 1] for k in range(1, 10)}) if known else []

    def shares(values: list[float]) -> list[float]:
        counts = [0.5] * (len(edges) + 2)
        for value in values:
            counts[-1 if math.isnan(value) else sum(edge < value for edge in edges)] += 1
        return [count / sum(counts) for count in counts]

    return sum((a - e) * math.log(a / e) for a, e in zip(shares(sample), shares(reference), strict=True))


VALUES = st.lists(st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6), st.just(math.nan)), max_size=60)


@given(VALUES, VALUES)
def test_the_index_is_what_its_definition_says(reference: list[float], sample: list[float]) -> None:
    bins = Bins.of(np.array(reference, np.float64))
    found = bins.psi(bins.count(np.array(sample, np.float64)))
    assert found == pytest.approx(plain_psi(reference, sample), abs=1e-9)
    assert found >= -1e-12
    assert bins.psi(np.array(bins.counts)) == pytest.approx(0)


def test_the_amounts_that_blind_bins_of_equal_width_are_seen() -> None:
    random = np.random.default_rng(0)
    bins = Bins.of(random.lognormal(3, 1.2, 50_000))
    assert bins.psi(bins.count(2.7 * random.lognormal(3, 1.2, 50_000))) > 0.2
    assert bins.psi(bins.count(random.lognormal(3, 1.2, 1_000))) < 0.03


def test_values_that_become_null_are_drift() -> None:
    bins = Bins.of(np.arange(1_000.0))
    half = np.where(np.arange(1_000) % 2, np.nan, np.arange(1_000))
    assert bins.psi(bins.count(half)) > 1


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, drift_min_rows=500)


@pytest.fixture
def lake(settings: Settings) -> Lake:
    return open_lake(settings)


def serve(settings: Settings, lake: Lake, *, shift: float, count: int = 1_500, seed: int = 9) -> None:
    """A released model, its reference and a day of its decisions."""
    release = release_with_holdout(settings.home, lake)
    ensure_reference(lake, release, settings.seed)
    made = vectors(np.random.default_rng(seed), count, shift=shift)
    log_decisions(lake, decided(DAY, made, Scorer(Bundle.load(release)).score(made)))
    write_feature_drift(lake, [DAY])
    write_score_drift(lake, [DAY])


def test_a_calm_day_gives_no_signal(settings: Settings, lake: Lake) -> None:
    serve(settings, lake, shift=0)
    assert drift_signals(lake, settings, DAY) == []
    table = lake.read(FEATURE_DRIFT, DAY).to_pylist()
    assert [row["name"] for row in table] == [*CATALOGUE.names, "score"]
    assert all(row["rows"] == 1_500 == sum(row["counts"]) for row in table)
    assert all(0 <= row["psi"] < 0.05 for row in table)


def test_a_feature_that_drifted_is_named_and_wants_a_retraining(settings: Settings, lake: Lake) -> None:
    serve(settings, lake, shift=1.5)
    signals = drift_signals(lake, settings, DAY)
    assert [(signal.subject, signal.action) for signal in signals if signal.cause == "feature_psi"] == [
        (DRIFTING, "retrain")
    ]
    assert DRIFTING in signals[0].sentence
    assert "fraud-detector-1" in signals[0].sentence


def test_too_few_decisions_decide_nothing(settings: Settings, lake: Lake) -> None:
    serve(settings, lake, shift=3, count=499)
    (signal,) = drift_signals(lake, settings, DAY)
    assert (signal.cause, signal.action, signal.value) == ("too_few_rows", "none", 499)


def test_a_day_of_which_an_outage_took_hours_decides_nothing(settings: Settings, lake: Lake) -> None:
    release = release_with_holdout(settings.home, lake)
    ensure_reference(lake, release, settings.seed)
    made = vectors(np.random.default_rng(9), 3_000, shift=1.5)
    scores = Scorer(Bundle.load(release)).score(made)
    outage = decided(DAY, made, scores, served_by=degraded())[2_600:]
    log_decisions(lake, [*decided(DAY, made, scores)[:2_600], *outage])
    write_feature_drift(lake, [DAY])
    (signal,) = drift_signals(lake, settings, DAY)
    assert (signal.cause, signal.action, signal.value, signal.limit) == ("too_few_rows", "none", 2_600, 2_700)


def test_a_day_without_decisions_has_no_rows(settings: Settings, lake: Lake) -> None:
    write_feature_drift(lake, [DAY])
    assert lake.read(FEATURE_DRIFT, DAY).num_rows == 0
    assert drift_signals(lake, settings, DAY) == []


def test_what_a_lost_store_has_defaulted_is_no_drift(settings: Settings, lake: Lake) -> None:
    serve(settings, lake, shift=0)
    lost = np.zeros((3_000, len(CATALOGUE.names)), np.float32)
    log_decisions(lake, [
        each for each in decided(DAY, lost, np.full(3_000, 0.99), served_by=degraded())
        if each.decision_id > f"{DAY}-00001500"
    ])  # fmt: skip
    found = served(LogTable(lake), DAY)
    assert (found.rows.num_rows, found.left_out) == (1_500, 1_499)
    write_feature_drift(lake, [DAY])
    assert drift_signals(lake, settings.model_copy(update={"drift_min_share": 0.5}), DAY) == []


def test_a_day_on_which_one_release_follows_another_is_compared_whole(settings: Settings, lake: Lake) -> None:
    release = release_with_holdout(settings.home, lake)
    ensure_reference(lake, release, settings.seed)
    made = vectors(np.random.default_rng(9), 1_500, shift=0)
    # what a feature of the hour would show, were the first release's hours compared alone
    made[:, CATALOGUE.names.index(DRIFTING)].sort()
    records = decided(DAY, made, Scorer(Bundle.load(release)).score(made))
    later = [msgspec.structs.replace(each, model_version="fraud-detector/2", score=0.99) for each in records[800:]]
    log_decisions(lake, [*records[:800], *later])
    write_feature_drift(lake, [DAY])
    write_score_drift(lake, [DAY])
    assert drift_signals(lake, settings, DAY) == []
    rows = {row["name"]: row for row in lake.read(FEATURE_DRIFT, DAY).to_pylist()}
    assert (rows[DRIFTING]["release"], rows[DRIFTING]["rows"], rows["score"]["rows"]) == (
        "fraud-detector-1",
        1_500,
        800,
    )
    assert sum(row["rows"] for row in lake.read(SCORE_DRIFT, DAY).to_pylist()) == 800


def test_the_score_is_watched_hour_by_hour(settings: Settings, lake: Lake) -> None:
    serve(settings, lake, shift=0, count=4_000)
    hours = lake.read(SCORE_DRIFT, DAY).to_pylist()
    assert [row["rows"] for row in hours] == [3_600, 400]
    scores = lake.read(SCORE_DRIFT, DAY).column("histogram").to_pylist()
    assert [sum(histogram) for histogram in scores] == [3_600, 400]
    decisions = LogTable(lake).read(DAY, ["score"]).column("score").to_numpy()
    assert hours[0]["mean"] == pytest.approx(decisions[:3_600].mean())
    assert hours[1]["variance"] == pytest.approx(decisions[3_600:].var())


def test_a_reference_is_drawn_once_and_stays(settings: Settings, lake: Lake) -> None:
    release = release_with_holdout(settings.home, lake)
    first = ensure_reference(lake, release, settings.seed)
    assert (first.rows, first.first_day, first.last_day) == (6_000, HOLDOUT[0], HOLDOUT[-1])
    write_training_day(lake, HOLDOUT[0], vectors(np.random.default_rng(4), 100, shift=5))
    assert ensure_reference(lake, release, settings.seed) == first == read_reference(lake, "fraud-detector-1")
    assert read_reference(lake, "fraud-detector-2") is None


def test_a_reference_needs_its_days(settings: Settings, lake: Lake) -> None:
    release = release_with_holdout(settings.home, lake)
    for day in HOLDOUT:
        Path(lake.path(f"training_set/{CATALOGUE.hash}", day)).unlink()
    with pytest.raises(FileNotFoundError, match="2026-02-01 to 2026-02-03"):
        ensure_reference(lake, release, settings.seed)
    assert DAY - HOLDOUT[0] > timedelta(0)


def test_a_reference_of_other_features_is_compared_with_nothing(settings: Settings, lake: Lake) -> None:
    serve(settings, lake, shift=0)
    known = lake.read_record("drift_reference/fraud-detector-1")
    assert known is not None
    assert known["catalogue_hash"] == CATALOGUE.hash
    few = {name: known["features"][name] for name in CATALOGUE.names[:-1]}
    for changes in (
        {"catalogue_hash": "0123456789ab"},
        {"features": few},
        {"features": {**few, "of_another_version": known["features"]["amount"]}},
    ):
        lake.write_record("drift_reference/fraud-detector-1", known | changes)
        assert read_reference(lake, "fraud-detector-1") is None
        write_feature_drift(lake, [DAY])
        assert lake.read(FEATURE_DRIFT, DAY).num_rows == 0
    # from before the set grew by its last feature
    then = CATALOGUE.hash_of(CATALOGUE.names[:-1])
    lake.write_record("drift_reference/fraud-detector-1", known | {"features": few, "catalogue_hash": then})
    write_feature_drift(lake, [DAY])
    assert [row["name"] for row in lake.read(FEATURE_DRIFT, DAY).to_pylist()] == [*CATALOGUE.names[:-1], "score"]
