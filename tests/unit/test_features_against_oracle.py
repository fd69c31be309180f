"""Tiles, snapshots, velocity and the point-in-time join against plain Python, on worlds full of edges."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fraud_platform import schema
from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.lake import Lake
from fraud_platform.settings import Settings
from tests.feature_oracle import DAY, HOUR, MEANS_ONLINE, MINUTE, LabelRow, Oracle, Row
from tests.feature_worlds import MIDNIGHT, TODAY, crowded_world, write_world


def assert_training_set_is_the_oracles(lake: Lake, rows: list[Row], labels: list[LabelRow]) -> None:
    oracle = Oracle(rows, labels)
    table = lake.read(tables.TRAINING_SET, TODAY)
    today = [row for row in oracle.rows if row.received // DAY == MIDNIGHT // DAY]
    assert table.column("transaction_id").to_pylist() == [row.id for row in today]
    assert table.column("user_effective_time").to_pylist() == [row.effective["user"] for row in today]
    assert table.column("merchant_effective_time").to_pylist() == [row.effective["merchant"] for row in today]
    for index, row in enumerate(today):
        expected = oracle.vector(row)
        for name in CATALOGUE.names:
            got = table.column(name)[index].as_py()
            want = np.float32(expected[name])
            same = (got is None and np.isnan(want)) or (got is not None and np.float32(got) == want)
            assert same, f"{row.id} {name}: computed {got}, the oracle says {want}"


# The instants at which something could go wrong by one: windows, midnights, the nightly load, ties.
offsets = st.sampled_from(
    [0, 1, MINUTE - 1, MINUTE, MINUTE + 1, 10 * MINUTE, HOUR, 2 * HOUR - 1, 2 * HOUR, 5 * HOUR, 12 * HOUR, DAY - 1]
)
days_ago = st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3, 8, 9, 30, 31, 32, 90, 91, 92, 98])
lags = st.sampled_from(
    [0, 0, 1, 2 * MINUTE, -5 * MINUTE, -5 * MINUTE - 1, 3 * HOUR, DAY - 1, DAY, DAY + 1, 3 * DAY]
)  # received_at − timestamp


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Row], list[LabelRow]]:
    rows = []
    for number in range(draw(st.integers(30, 70))):
        received = MIDNIGHT - draw(days_ago) * DAY + draw(offsets)
        rows.append(
            Row(
                id=f"t{draw(st.integers(0, number))}",
                user=draw(st.sampled_from(["ana", "ben", "cem"])),
                merchant=draw(st.sampled_from(["kiosk", "shop"])),
                amount=draw(st.sampled_from([0, 1, 999, 4_200, 1_000_000, 10**11 + 1])),
                timestamp=received - draw(lags),
                received=received,
                country=draw(st.sampled_from([None, "DE", "FR", "BR"])),
                home=draw(st.sampled_from([None, "DE"])),
                channel=draw(st.sampled_from(list(MEANS_ONLINE))),
                device=draw(st.sampled_from([None, "phone", "laptop"])),
                region=draw(st.sampled_from(["", "", "west"])),
                currency=draw(st.sampled_from(["EUR", "EUR", "EUR", "KWD"])),
            )
        )
    labels = []
    for number in range(draw(st.integers(0, 8))):
        row = draw(st.sampled_from(rows))
        arrived = row.received + draw(st.sampled_from([0, HOUR, DAY, 6 * DAY, 20 * DAY]))
        revision = draw(st.integers(1, 3))
        state = draw(st.sampled_from(schema.LABEL_STATES))
        source = draw(st.sampled_from(["chargeback", "issuer", "investigator", "feedback", f"source{number}"]))
        caller = draw(st.sampled_from(["default", "default", "default", "other"]))
        labels.append(LabelRow(row.id, row.day, arrived, source, revision, state, caller))
    return rows, [label for label in labels if label.arrived < MIDNIGHT + DAY]


@pytest.fixture(scope="module")
def world_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("worlds")


@hypothesis_settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(world=worlds())
def test_every_value_of_a_small_world_is_the_oracles(world: tuple[list[Row], list[LabelRow]], world_root: Path) -> None:
    rows, labels = world
    shutil.rmtree(world_root, ignore_errors=True)
    settings = Settings(home=world_root)
    lake = Lake(str(world_root / "lake"))
    write_world(settings, lake, rows, labels)
    assert_training_set_is_the_oracles(lake, rows, labels)


def test_every_value_of_a_crowded_world_is_the_oracles(tmp_path: Path) -> None:
    rows, labels = crowded_world()
    settings = Settings(home=tmp_path)
    lake = Lake(str(tmp_path / "lake"))
    write_world(settings, lake, rows, labels)
    assert_training_set_is_the_oracles(lake, rows, labels)
