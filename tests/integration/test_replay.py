"""Training-serving parity on a day with planted ties, late rows, duplicates and wrong clocks, and proof that the proof
can fail: each mutation of the online path must be seen."""

import struct
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis import Redis

from fraud_platform import replay
from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.features.in_force import Span, nightly_visible_from
from fraud_platform.lake import Lake
from fraud_platform.online import velocity
from fraud_platform.online.packed import VIEWS, PackedView
from fraud_platform.online.snapshot_load import append_load
from fraud_platform.online.snapshot_record import SnapshotRecord, end_of_day
from fraud_platform.replay import replay_day
from fraud_platform.settings import Settings
from tests.feature_oracle import DAY, HOUR, LOADED_AT, MINUTE, Row
from tests.feature_worlds import MIDNIGHT, TODAY, micros, write_world


def planted_day() -> list[Row]:
    """Two weeks of ordinary traffic and a day on which everything happens that may go wrong."""
    random = np.random.default_rng(11)
    rows = [
        Row(
            id=f"t{number}",
            user=f"u{random.integers(6)}",
            merchant=f"m{random.integers(4)}",
            amount=int(random.lognormal(8, 1)),
            timestamp=(received := MIDNIGHT - 14 * DAY + int(random.integers(0, 15 * DAY))) - int(random.integers(5)),
            received=received,
            country=str(random.choice(["DE", "FR"])),
            home="DE",
            channel=str(random.choice(["online", "pos"])),
            device=str(random.choice(["a", "b"])),
        )
        for number in range(500)
    ]
    noon = MIDNIGHT + 12 * HOUR

    def plant(name: str, received: int, timestamp: int | None = None) -> None:
        at = received if timestamp is None else timestamp
        rows.append(Row(name, "u0", "m0", 1_000, at, received, "BR", "DE", "online", "c"))

    for number in range(4):
        plant(f"tie-{number}", noon)
    plant("minute-later", noon + MINUTE)
    plant("minute-and-a-bit-later", noon + MINUTE + 5)
    plant("hour-later", noon + HOUR)
    plant("twin", noon + 2 * HOUR)
    plant("twin", noon + 2 * HOUR + 1)
    plant("twin", noon + 2 * HOUR + 30_000_000, noon + 2 * HOUR)
    plant("after-twin", noon + 2 * HOUR + 40_000_000)
    plant("late", noon + 3 * HOUR, noon - 20 * HOUR)
    plant("a-day-late", noon + 3 * HOUR + 1, noon + 3 * HOUR + 1 - DAY)
    plant("too-late", noon + 3 * HOUR + 2, noon + 3 * HOUR + 1 - DAY)
    plant("ahead", noon + 4 * HOUR, noon + 4 * HOUR + 5 * MINUTE)
    plant("behind-the-one-ahead", noon + 4 * HOUR + 1)
    plant("over-midnight", MIDNIGHT - 1)
    plant("over-midnight", MIDNIGHT + 2 * HOUR + 7)
    plant("first-of-the-day", MIDNIGHT)
    plant("before-the-load", MIDNIGHT + 2 * HOUR - 1)
    plant("at-the-load", MIDNIGHT + 2 * HOUR)
    return rows


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Lake]:
    """The planted world from export to training set."""
    settings = Settings(home=tmp_path_factory.mktemp("planted"))
    lake = Lake(settings.lake)
    write_world(settings, lake, planted_day(), [])
    return settings, lake


def test_the_online_path_gives_the_training_sets_values(built: tuple[Settings, Lake], redis_url: str) -> None:
    report = replay_day(*built, TODAY, redis_url)

    assert report.differences == 0, (report.differing, report.examples)
    assert report.rows == built[1].read(tables.TRAINING_SET, TODAY).num_rows > 50
    assert report.duplicates == 3
    # emptiness must not pass for agreement; without labels every fraud rate is the known 0
    share = dict(zip(CATALOGUE.names, report.non_default / report.rows, strict=True))
    assert {name for name, value in share.items() if value == 0} == {
        f"merchant_fraud_rate_{window}d" for window in (7, 30, 90)
    }


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Lake]:
    """The planted world with every other payment in a second region, and payments retried there."""
    rows = planted_day()
    for number, row in enumerate(rows):
        row.region = ("", "west")[number % 2] if row.id not in ("over-midnight", "twin") else ""
    noon = MIDNIGHT + 12 * HOUR
    retried = [row for row in rows if row.region == "" and noon - 8 * HOUR < row.received < noon][:3]
    rows += [replace(row, received=row.received + 40 * MINUTE, region="west") for row in retried]
    # the first region's clock was ahead when the user's last payment before the snapshot came
    rows.append(Row("ahead-at-night", "traveller", "m0", 5, MIDNIGHT - 1 + 5 * MINUTE, MIDNIGHT - 1, "DE", "DE"))
    rows.append(
        Row(
            "late-in-the-west",
            "traveller",
            "m0",
            5,
            MIDNIGHT - 2 * HOUR,
            MIDNIGHT + 6 * HOUR,
            "DE",
            "DE",
            region="west",
        )
    )
    home = tmp_path_factory.mktemp("both")
    settings = Settings(home=home)
    lake = Lake(settings.lake)
    write_world(settings, lake, rows, [])
    for view in VIEWS:
        for day in (TODAY - timedelta(days=2), TODAY - timedelta(days=1)):
            at = micros(day + timedelta(days=1)) + LOADED_AT["west"]
            append_load(lake, load(view.name, day, at), "west")
    return settings, lake


def load(view: str, day: date, at: int) -> SnapshotRecord:
    return SnapshotRecord(
        view=view, snapshot=day, snapshot_at=end_of_day(day), visible_from=at, loaded_at=at,
        catalogue_hash=CATALOGUE.hash, medians=[], rows=0,
    )  # fmt: skip


def test_each_region_gives_the_training_set_s_values_of_its_payments(
    both: tuple[Settings, Lake], redis_url: str
) -> None:
    settings, lake = both
    reports = [replay_day(settings.model_copy(update={"region": name}), lake, TODAY, redis_url) for name in LOADED_AT]

    for report in reports:
        assert report.differences == 0, (report.differing, report.examples)
        assert report.rows > 20
    assert sum(report.rows for report in reports) == lake.read(tables.TRAINING_SET, TODAY).num_rows
    assert [report.elsewhere for report in reports] == [0, 3], "decided twice, counted once, and said so"
    rows = {row["transaction_id"]: row for row in lake.read(tables.TRAINING_SET, TODAY).to_pylist()}
    assert rows["late-in-the-west"]["seconds_since_last"] == 0, "no payment lies before the one before it"


def test_replay_leaves_nothing_behind(built: tuple[Settings, Lake], redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        client.set("somebody", "else")
        replay_day(*built, TODAY, redis_url)
        assert client.keys() == [b"somebody"]


def test_a_window_one_microsecond_longer_is_seen(
    built: tuple[Settings, Lake], redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = {name: window + 1 for name, window in velocity.VELOCITY_WINDOWS.items()}
    monkeypatch.setattr(velocity, "VELOCITY_WINDOWS", longer)

    report = replay_day(*built, TODAY, redis_url)

    assert report.differing["user_txn_count_1m"] >= 1, "minute-later is exactly a minute after the first tie"
    assert report.differing["user_txn_count_1h"] >= 1


def test_a_duplicate_that_counts_is_seen(
    built: tuple[Settings, Lake], redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, life = velocity._tail, struct.pack("<d", velocity.IDENTITY_LIFE)

    def without_life(windows: Any) -> bytes:
        assert life in whole(windows)
        return whole(windows).replace(life, struct.pack("<d", 0), 1)

    monkeypatch.setattr(velocity, "_tail", without_life)

    report = replay_day(*built, TODAY, redis_url)

    assert report.differing["user_txn_count_1m"] >= 1, "after-twin counts the twin's repeats"
    assert report.unmatched == 3, "and the repeats themselves are decided anew"


def test_the_next_days_snapshot_is_seen(
    built: tuple[Settings, Lake], redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def a_day_early(settings: Settings, lake: Lake, view: PackedView) -> list[Span]:
        early: Callable[[date], int] = lambda day: nightly_visible_from(day) - DAY  # noqa: E731
        days = [TODAY - timedelta(days=2), TODAY - timedelta(days=1)]
        return [Span(day, early(day), early(day) + DAY) for day in days]

    monkeypatch.setattr(replay, "spans_of", a_day_early)

    report = replay_day(*built, TODAY, redis_url)

    assert report.differing["user_txn_count_30d"] >= 1


def test_the_velocity_store_survives_a_restart_without_scripts(built: tuple[Settings, Lake], redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        client.script_flush()
        assert replay_day(*built, TODAY, redis_url).differences == 0


def test_replay_of_a_day_that_was_not_built_names_it(tmp_path: Path, redis_url: str) -> None:
    settings = Settings(home=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"training_set.*2020-01-01"):
        replay_day(settings, Lake(settings.lake), date(2020, 1, 1), redis_url)
