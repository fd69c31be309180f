"""Somebody else's history, with nothing but ids, time, amount and label, through the whole chain by a mapping alone."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import pytest

from assets.definitions import build_definitions
from assets.partitions import key_range_tags
from assets.resources import Platform
from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.lake import days_between
from fraud_platform.model.bundle import Scorer
from fraud_platform.model.steps import train_candidate
from fraud_platform.replay import replay_day
from fraud_platform.settings import Settings

FIRST_DAY, LAST_DAY = date(2019, 3, 1), date(2019, 4, 14)
"""Years back, over the night in which Berlin's clocks change."""

MAPPING = """\
path: {folder}/payments-*.csv
currency: EUR
time_zone: Europe/Berlin
columns:
  transaction_id: nr
  user_id: kunde
  amount: betrag
  timestamp: zeit
label:
  column: betrug
  arrives_after_days: 2
"""


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Platform:
    random = np.random.default_rng(5)
    lines = ["nr,kunde,betrag,zeit,betrug"]
    for number in range(4_000):
        day = FIRST_DAY + timedelta(days=int(random.integers(1, 44)))
        fraud = random.random() < 0.04
        amount = random.lognormal(6 if fraud else 3.5, 0.6)
        clock = f"{random.integers(24):02d}:{random.integers(60):02d}:{random.integers(60):02d}"
        lines.append(f"{number},{random.integers(60)},{amount:.2f},{day} {clock},{int(fraud)}")
    (tmp_path / "payments-1.csv").write_text("\n".join(lines[:2_500]) + "\n")
    (tmp_path / "payments-2.csv").write_text("\n".join([lines[0], *lines[2_500:]]) + "\n")
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(MAPPING.format(folder=tmp_path))
    monkeypatch.setenv("FRAUD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FRAUD_MAPPING", str(mapping))
    monkeypatch.setenv("FRAUD_TRAINING_THREADS", "1")
    return Platform(Settings(), datetime.now(UTC))


def test_it_trains_a_model_and_replays_without_a_difference(platform: Platform, redis_url: str) -> None:
    dataset, _ = platform.opened
    assert dataset.last_day is not None
    days = days_between(dataset.first_day, dataset.last_day)
    job = build_definitions(platform.settings, platform.now).resolve_job_def("history")
    with dg.DagsterInstance.ephemeral() as instance:
        assert job.execute_in_process(instance=instance, tags=key_range_tags(days)).success

    lake = platform.lake
    assert sum(lake.size(tables.RAW_TRANSACTIONS, day)[0] for day in days) == 4_000
    assert sum(lake.size(tables.QUARANTINE, day)[0] for day in days) == 0

    report = replay_day(platform.settings, lake, days[-5], redis_url)
    assert report.differences == 0, report.examples
    assert report.rows > 50
    known = dict(zip(CATALOGUE.names, report.non_null / report.rows, strict=True))
    absent = {"is_online", "country_mismatch", "country_is_new", "device_is_new"}
    absent |= {"user_foreign_share_90d", "user_online_share_30d", "merchant_foreign_share_30d"}
    assert {name for name, share in known.items() if share == 0} == absent, "what was not given is null, not invented"

    candidate = train_candidate(lake, platform.settings, dataset.now(platform.now))
    assert candidate.record.evaluation.comparison.candidate.auc.value > 0.9
    vectors = lake.read(tables.TRAINING_SET, days[-5])
    columns = [vectors.column(name).to_numpy(zero_copy_only=False) for name in CATALOGUE.names]
    scores = Scorer(candidate.bundle).score(np.column_stack(columns).astype(np.float32))
    assert ((scores >= 0) & (scores <= 1)).all()
    large = vectors.column("amount_minor").to_numpy() > 25_000
    assert scores[large].min() > scores[~large].mean(), "amounts far above the others are what the frauds were"
