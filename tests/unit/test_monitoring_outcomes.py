"""Performance by matured labels, skew against the training set, freshness, and the signals that follow."""

from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from fraud_platform import schema
from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.lake import Lake, open_lake
from fraud_platform.monitoring.freshness import freshness, write_freshness
from fraud_platform.monitoring.performance import PERFORMANCE, matured, performance, write_performance
from fraud_platform.monitoring.signals import performance_signals
from fraud_platform.monitoring.skew import CAUSES, SKEW, write_skew
from fraud_platform.settings import Settings
from tests.monitoring_kit import DAY, decided, degraded, log_decisions, vectors, write_labels, write_training_day

COUNT = 1_000


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, drift_min_rows=500, label_maturity_days=3)


@pytest.fixture
def lake(settings: Settings) -> Lake:
    return open_lake(settings)


def serve(lake: Lake, day: date, *, fraud_share: float = 0.04, blocked_good: float = 0.01, seed: int = 1) -> np.ndarray:
    """A day of decisions, the day after labels of its frauds and of the blocked good ones; returns which are frauds."""
    random = np.random.default_rng(seed + day.toordinal())
    frauds = random.permutation(COUNT) < round(COUNT * fraud_share)
    scores = np.where(frauds, random.beta(4, 2, COUNT), random.beta(1, 8, COUNT) * 0.6)
    good = np.flatnonzero(~frauds)[: round(COUNT * blocked_good)]
    scores[good] = 0.9
    made = vectors(random, COUNT)
    log_decisions(lake, decided(day, made, scores))
    looked_at = [f"{day}-{n}" for n in good]
    write_labels(lake, day + timedelta(days=1), [f"{day}-{n}" for n in np.flatnonzero(frauds)], day, looked_at)
    return frauds


def test_figures_are_those_of_matured_labels(settings: Settings, lake: Lake) -> None:
    frauds = serve(lake, DAY)
    # what arrives after maturity is not known yet when the day is judged
    write_labels(lake, matured(DAY, settings.label_maturity_days), [f"{DAY}-{int(np.flatnonzero(~frauds)[50])}"], DAY)
    (row,) = performance(lake, settings, DAY).to_pylist()
    log = _scores(lake)
    scores = np.array([score for score, _ in log])
    blocked = np.array([decision == "block" for _, decision in log])
    assert (row["decisions"], row["labelled"], row["frauds"]) == (COUNT, COUNT, frauds.sum())
    assert row["auc"] == pytest.approx(roc_auc_score(frauds, scores))
    assert row["average_precision"] == pytest.approx(average_precision_score(frauds, scores))
    assert row["catch_rate"] == pytest.approx(blocked[frauds].mean())
    assert row["false_positive_rate"] == pytest.approx(blocked[~frauds].mean())
    for name in ("auc", "average_precision", "catch_rate", "false_positive_rate", "fraud_rate"):
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
    assert row["blocked_fraud_minor"] == 4_250 * (blocked & frauds).sum()
    assert row["blocked_good_minor"] == 4_250 * (blocked & ~frauds).sum()
    assert row["missed_fraud_minor"] == 4_250 * (~blocked & frauds).sum()


def test_a_blocked_payment_that_nobody_looked_at_is_neither_good_nor_fraud(settings: Settings, lake: Lake) -> None:
    scores = np.concatenate([np.full(20, 0.9), np.full(80, 0.1)])
    log_decisions(lake, decided(DAY, vectors(np.random.default_rng(1), 100), scores))
    # of twenty blocked payments five were looked at: three frauds and two good ones
    write_labels(lake, DAY, [f"{DAY}-{n}" for n in (0, 1, 2, 50)], DAY, [f"{DAY}-{n}" for n in (3, 4)])
    (row,) = performance(lake, settings, DAY).to_pylist()
    assert (row["decisions"], row["labelled"], row["frauds"]) == (100, 85, 4)
    assert (row["blocks"], row["blocks_known"], row["released"]) == (20, 5, 0)
    assert row["block_precision"] == pytest.approx(3 / 5)
    assert row["catch_rate"] == pytest.approx(3 / 4)
    assert row["false_positive_rate"] == pytest.approx(2 / 81)
    # scipy.stats.binomtest(3, 5).proportion_ci(0.95, method="wilson")
    assert (row["block_precision_low"], row["block_precision_high"]) == pytest.approx((0.230724, 0.882378), abs=1e-5)


def test_a_payment_of_which_silence_means_nothing_is_not_judged(settings: Settings, lake: Lake) -> None:
    scores = np.concatenate([np.full(20, 0.9), np.full(80, 0.1)])
    log_decisions(lake, decided(DAY, vectors(np.random.default_rng(1), 100), scores))
    write_labels(lake, DAY + timedelta(days=1), [f"{DAY}-50", f"{DAY}-51"], DAY, [f"{DAY}-60"])
    # an export has the payments from 40 on, and says of them only what the caller said as well
    labels = lake.read(tables.FRAUD_LABELS, DAY + timedelta(days=1)).slice(0, 1).to_pylist()
    at = datetime.combine(DAY, time(1), UTC)
    silent = labels[0] | {"source": "import", "state": schema.UNLABELLED, "arrived_at": at}
    rows = [silent | {"transaction_id": f"{DAY}-{n}"} for n in range(40, 100)]
    lake.write(tables.FRAUD_LABELS, DAY, pa.Table.from_pylist(rows, schema.LABELS))
    (row,) = performance(lake, settings, DAY).to_pylist()
    # of the first forty twenty are blocked, of which silence says nothing either
    assert (row["decisions"], row["labelled"], row["frauds"]) == (100, 20 + 3, 2)
    assert row["fraud_rate"] == pytest.approx(2 / 23)


def test_what_was_let_through_stands_for_every_block(settings: Settings, lake: Lake) -> None:
    """A day whose truth is known: the figures from a released tenth are the truth's, those of the looked-at are not."""
    random = np.random.default_rng(4)
    count = 6_000
    frauds = random.random(count) < 0.3
    scores = np.where(np.arange(count) < 3_000, 0.9, 0.1)
    frauds[3_000:] = random.random(3_000) < 0.01
    records = decided(DAY, vectors(random, count), scores)
    let_through = np.flatnonzero(random.random(3_000) < 0.1)
    for n in range(3_000):
        records[n] = msgspec.structs.replace(records[n], propensity=0.1, reason="score_above_threshold")
    for n in let_through:
        records[n] = msgspec.structs.replace(records[n], decision="allow", reason="released_for_measurement")
    log_decisions(lake, records)
    happened = set(let_through) | set(range(3_000, count))
    # investigators confirm frauds among the blocked, and never trouble to say that one was good
    looked_at = {n for n in range(500) if frauds[n]}
    known = [f"{DAY}-{n}" for n in np.flatnonzero(frauds) if n in happened or n in looked_at]
    write_labels(lake, DAY, known, DAY)
    (row,) = performance(lake, settings, DAY).to_pylist()
    truth = {"block_precision": frauds[:3_000].mean(), "catch_rate": frauds[:3_000].sum() / frauds.sum()}
    truth["false_positive_rate"] = (~frauds[:3_000]).sum() / (~frauds).sum()
    for name, value in truth.items():
        assert row[f"{name}_low"] < value < row[f"{name}_high"], name
        assert row[name] == pytest.approx(value, abs=0.06), name
    assert row["released"] == len(let_through)
    assert row["blocked_fraud_minor"] == pytest.approx(4_250 * frauds[:3_000].sum(), rel=0.15)
    assert row["missed_fraud_minor"] == 4_250 * sum(frauds[n] for n in happened), "money that was really lost"


def _scores(lake: Lake) -> list[tuple[float, str]]:
    from fraud_platform.inference_log.table import LogTable

    rows = LogTable(lake).read(DAY, ["score", "decision"]).to_pylist()
    return [(row["score"], row["decision"]) for row in rows]


def test_a_day_of_few_frauds_is_not_ranked(settings: Settings, lake: Lake) -> None:
    serve(lake, DAY, fraud_share=0.005)
    (row,) = performance(lake, settings, DAY).to_pylist()
    assert row["frauds"] == 5
    assert row["auc"] is None
    assert row["catch_rate"] is not None


def weeks(settings: Settings, lake: Lake, *, last: dict[str, float]) -> None:
    days = [DAY - timedelta(days=back) for back in range(7, -1, -1)]
    for day in days:
        serve(lake, day, **(last if day == DAY else {}))
    write_performance(lake, settings, days)


def test_a_usual_day_gives_no_signal(settings: Settings, lake: Lake) -> None:
    weeks(settings, lake, last={})
    assert performance_signals(lake, settings, DAY) == []


def test_a_fraud_rate_out_of_its_band_wants_a_retraining(settings: Settings, lake: Lake) -> None:
    weeks(settings, lake, last={"fraud_share": 0.09})
    (signal,) = performance_signals(lake, settings, DAY)
    assert (signal.cause, signal.action) == ("fraud_rate", "retrain")
    assert signal.value == pytest.approx(0.09)
    assert 0.04 < signal.limit < 0.07


def test_more_good_payments_blocked_is_told_to_people(settings: Settings, lake: Lake) -> None:
    weeks(settings, lake, last={"blocked_good": 0.03})
    (signal,) = performance_signals(lake, settings, DAY)
    assert (signal.cause, signal.action) == ("false_positive_rate", "alert")


def test_a_day_whose_labels_are_few_decides_nothing(settings: Settings, lake: Lake) -> None:
    weeks(settings, lake, last={})
    strict = settings.model_copy(update={"drift_min_rows": COUNT + 1})
    (signal,) = performance_signals(lake, strict, DAY)
    assert signal.cause == "too_few_rows"


def test_served_values_are_held_against_the_training_set_bit_for_bit(settings: Settings, lake: Lake) -> None:
    made = vectors(np.random.default_rng(5), 200)
    write_training_day(lake, DAY, made)
    records = decided(DAY, made, np.full(200, 0.1))
    log_decisions(lake, records)
    assert write_skew(lake, [DAY]) == {DAY: dict.fromkeys(CAUSES, 0)}
    rows = lake.read(SKEW, DAY).to_pylist()
    assert [row["feature"] for row in rows] == list(CATALOGUE.names)
    assert {(row["compared"], row["differences"]) for row in rows} == {(200, 0)}


def test_one_bit_of_one_value_is_seen_and_named(settings: Settings, lake: Lake) -> None:
    made = vectors(np.random.default_rng(5), 50)
    write_training_day(lake, DAY, made)
    other = made.copy()
    other[7, 0] = np.nextafter(other[7, 0], np.float32(np.inf))
    log_decisions(lake, decided(DAY, other, np.full(50, 0.1)))
    write_skew(lake, [DAY])
    wrong = [row for row in lake.read(SKEW, DAY).to_pylist() if row["differences"]]
    assert [(row["feature"], row["differences"]) for row in wrong] == [(CATALOGUE.names[0], 1)]
    assert wrong[0]["example"].startswith(f"{DAY}-7: served ")


def test_what_cannot_be_compared_is_counted_by_cause(settings: Settings, lake: Lake) -> None:
    made = vectors(np.random.default_rng(5), 6)
    write_training_day(lake, DAY, made[:5])
    records = decided(DAY, made, np.full(6, 0.1))
    change = msgspec.structs.replace
    records[0] = change(records[0], served_by=degraded())
    records[1] = change(records[1], complete_since=records[1].received_at)
    records[2] = change(records[2], catalogue_hash="other")
    records[3] = change(records[3], user_snapshot="2026-02-27")
    log_decisions(lake, records)
    assert write_skew(lake, [DAY])[DAY] == {
        "degraded": 1, "incomplete_epoch": 1, "other_catalogue": 1, "not_in_training_set": 1, "other_snapshot": 1,
        "one_sided_attempt": 0,
    }  # fmt: skip
    assert {row["compared"] for row in lake.read(SKEW, DAY).to_pylist()} == {1}


def test_the_age_of_what_was_served(settings: Settings, lake: Lake) -> None:
    from fraud_platform.inference_log.table import LogTable

    made = vectors(np.random.default_rng(5), 3_601)
    records = decided(DAY, made, np.full(3_601, 0.1))
    records[0] = msgspec.structs.replace(records[0], merchant_snapshot=None)
    log_decisions(lake, records)
    write_freshness(lake, [DAY])
    user, merchant = freshness(LogTable(lake), DAY).to_pylist()
    assert user["age_hours_p100"] == pytest.approx(1.0, abs=1e-6)
    assert user["age_hours_p50"] == pytest.approx(0.5, abs=1e-6)
    assert (user["without"], merchant["without"]) == (0, 1)
    assert performance(lake, settings, DAY + timedelta(days=1)).num_rows == 0
    write_performance(lake, settings, [DAY + timedelta(days=1)])
    assert lake.read(PERFORMANCE, DAY + timedelta(days=1)).num_rows == 0


def test_an_attempt_that_one_side_alone_counted_is_a_cause_and_no_difference(settings: Settings, lake: Lake) -> None:
    made = vectors(np.random.default_rng(5), 8)
    merchants = ["m-2"] * 4 + ["m-1"] * 4
    write_training_day(lake, DAY, made, merchant_id=merchants)
    records = [
        msgspec.structs.replace(each, request=msgspec.structs.replace(each.request, merchant_id=merchant))
        for each, merchant in zip(decided(DAY, made, np.full(8, 0.1)), merchants, strict=True)
    ]
    # of the source alone: the second payment at m-2. In the lake alone by its time: the third, counted without Redis
    del records[1]
    records[1] = msgspec.structs.replace(records[1], epoch=None, served_by=degraded())
    log_decisions(lake, records)
    left_out = write_skew(lake, [DAY])[DAY]
    # the first at m-2 came before both, the fourth after; those at m-1 have nothing to do with it
    assert left_out == dict.fromkeys(CAUSES, 0) | {"degraded": 1, "one_sided_attempt": 1}
    assert {row["compared"] for row in lake.read(SKEW, DAY).to_pylist()} == {5}
    # what was put back when the epoch began is known to velocity
    lake.write_record("velocity_epochs/e", {"warmed_until": DAY.isoformat()})
    assert write_skew(lake, [DAY])[DAY]["one_sided_attempt"] == 0
