"""Windows rolled from day to day are the windows over all tiles, bit for bit."""

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pytest

from fraud_platform.features import rolling, snapshots, tables
from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.features.rolling import Windows, first_state
from fraud_platform.features.snapshots import write_user_features
from fraud_platform.features.tiles import USER_TILE
from fraud_platform.lake import Lake, days_between
from fraud_platform.settings import Settings

FIRST = date(2026, 1, 1)
DAYS = days_between(FIRST, FIRST + timedelta(days=129))
NIGHT = ("user_tiles.night_count", "user_tiles.txn_count")


def tiles_of(day: date, users: int = 40, missing: float = 0.1) -> pa.Table:
    """Some users' tiles of a day: gaps of all lengths, few members, ties of amounts, values that are unknown."""
    draw = np.random.default_rng(day.toordinal())
    rows = []
    for user in range(users):
        # some pay daily, some once in a hundred days, one has stopped
        if draw.random() > 1 / (1 + user * 2) or (user == 3 and day > DAYS[20]):
            continue
        count = int(draw.integers(1, 4))
        known = count - (user % 5 == 0) if day.day % 3 else 0
        rows.append(
            {
                "user_id": f"u{user:03}",
                "txn_count": count,
                "amount_known": known,
                "amount_sum": int(draw.integers(1, 10**12)) * known,
                "amount_square_sum": int(draw.integers(1, 10**18)) * 10**6 * known,
                "amount_max": int(draw.integers(1, 30)) if known else None,
                "foreign_count": 0,
                "foreign_known": 0 if draw.random() < missing else count,
                "online_count": int(draw.integers(0, count + 1)),
                "channel_known": count,
                "night_count": int(draw.integers(0, count + 1)),
                "last_effective_time": day.toordinal() * 10**9 + int(draw.integers(0, 10**8)),
                "merchants": sorted({f"m{m}" for m in draw.integers(0, 12, count)}),
                "countries": None if draw.random() < missing else ["DE", "FR"][: count % 2 + 1],
                "devices": None if draw.random() < missing else sorted({int(d) for d in draw.integers(0, 5, count)}),
            }
        )
    return pa.Table.from_pylist(rows, USER_TILE)


def lake_with_tiles(root: Path, days: list[date]) -> Lake:
    lake = Lake(str(root / "lake"))
    for day in days:
        lake.write(tables.USER_TILES, day, tiles_of(day))
    return lake


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def snapshot_bytes(lake: Lake, day: date) -> bytes:
    return lake.open(tables.USER_FEATURES, day).read()


def over_all_tiles(settings: Settings, lake: Lake, days: list[date]) -> dict[date, bytes]:
    write_user_features(settings, lake, days)
    return {day: snapshot_bytes(lake, day) for day in days}


def test_a_first_night_in_parts_is_the_whole(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = lake_with_tiles(tmp_path, DAYS)
    expected = over_all_tiles(settings, lake, DAYS[-1:])
    monkeypatch.setattr(snapshots, "CHUNK_ROWS", 0)
    states = []
    for rows in (10**9, 60):
        monkeypatch.setattr(rolling, "PART_ROWS", rows)
        write_user_features(settings, lake, DAYS[-1:])
        assert snapshot_bytes(lake, DAYS[-1]) == expected[DAYS[-1]]
        states.append(lake.read(tables.USER_WINDOWS, DAYS[-1]))
    assert states[0]["user_id"].to_pylist() == states[1]["user_id"].to_pylist() != []


@pytest.mark.parametrize("days", [DAYS[:9], DAYS[-6:]], ids=["from the first day", "from the middle of history"])
def test_every_rolled_day_is_that_of_all_tiles(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: list[date]
) -> None:
    lake = lake_with_tiles(tmp_path, DAYS)
    expected = over_all_tiles(settings, lake, days)
    begun = []

    def begin(windows: Windows, tiles: ibis.Table, day: date) -> ibis.Table:
        begun.append(day)
        return first_state(windows, tiles, day)

    monkeypatch.setattr(rolling, "first_state", begin)
    monkeypatch.setattr(snapshots, "CHUNK_ROWS", 0)
    for day in days:
        write_user_features(settings, lake, [day])
        assert snapshot_bytes(lake, day) == expected[day], day
    assert begun == days[:1]
    assert lake.days(tables.USER_WINDOWS) == days[-2:]
    assert lake.read(tables.USER_WINDOWS, days[-1]).schema.equals(Windows(CATALOGUE.of("user"), beside=True).schema)


@pytest.mark.parametrize("age", [1, 45, 90], ids=lambda age: f"{age} days ago")
def test_tiles_that_were_written_again_are_summed_again(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: int
) -> None:
    lake = lake_with_tiles(tmp_path, DAYS)
    day = DAYS[-1]
    monkeypatch.setattr(snapshots, "CHUNK_ROWS", 0)
    write_user_features(settings, lake, [DAYS[-2]])
    changed = day - timedelta(days=age)
    lake.write(tables.USER_TILES, changed, tiles_of(changed - timedelta(days=400)))
    write_user_features(settings, lake, [day])
    rolled = snapshot_bytes(lake, day)
    monkeypatch.setattr(snapshots, "CHUNK_ROWS", 10**9)
    assert over_all_tiles(settings, lake, [day]) == {day: rolled}


def test_a_state_of_other_sums_is_not_gone_on_with(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = lake_with_tiles(tmp_path, DAYS[-40:])
    monkeypatch.setattr(snapshots, "CHUNK_ROWS", 0)
    nightly = replace(CATALOGUE.features[CATALOGUE.position["user_online_share_30d"]], inputs=NIGHT)
    other = Catalogue(tuple(nightly if one.name == nightly.name else one for one in CATALOGUE.features))
    write_user_features(settings, lake, [DAYS[-2]], other)
    write_user_features(settings, lake, [DAYS[-1]])
    rolled = snapshot_bytes(lake, DAYS[-1])
    monkeypatch.setattr(snapshots, "CHUNK_ROWS", 10**9)
    assert over_all_tiles(settings, lake, [DAYS[-1]]) == {DAYS[-1]: rolled}


def test_a_day_without_tiles_moves_the_windows_all_the_same(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = lake_with_tiles(tmp_path, DAYS)
    hole, day = DAYS[-2], DAYS[-1]
    lake.write(tables.USER_TILES, hole, USER_TILE.empty_table())
    expected = over_all_tiles(settings, lake, [day])
    for each in (DAYS[-3], hole, day):
        monkeypatch.setattr(snapshots, "CHUNK_ROWS", -1)
        write_user_features(settings, lake, [each])
    assert snapshot_bytes(lake, day) == expected[day]
