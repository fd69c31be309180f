"""A decided day on which the service's own clock jumped, both ways: null or right, and the same offline."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import dagster as dg
import numpy as np
import pytest
import redis

from fraud_platform.dataset import fix_dataset
from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE, VELOCITY_WINDOWS
from fraud_platform.features.training_set import write_training_set
from fraud_platform.inference_log.record import DecisionRecord
from fraud_platform.inference_log.table import LogTable
from fraud_platform.ingest.steps import ingest_transactions
from fraud_platform.lake import Lake, days_between, open_lake
from fraud_platform.model.served import refuse_skew
from fraud_platform.monitoring.skew import SKEW, write_skew
from fraud_platform.online.packed import VIEWS
from fraud_platform.replay import replay_day, spans_of
from fraud_platform.settings import Settings
from tests.integration.decided_kit import exported, served
from tests.integration.test_dagster import run_history

FIRST_DAY = date(2026, 3, 5)
DAY = date(2026, 3, 8)
BEFORE, AFTER = DAY - timedelta(days=1), DAY + timedelta(days=1)
JUMPED = [BEFORE, DAY, AFTER]
SECOND = 1_000_000
A_DAY = 86_400 * SECOND
EVERY = 47 * SECOND
OFF = (
    dict.fromkeys((40, 41), A_DAY)
    | dict.fromkeys((120, 121, 122), -A_DAY)
    | dict.fromkeys((160,), 3600 * SECOND)
    | dict.fromkeys((170, 171), -3 * SECOND)
)
"""By how much the service's clock is off for which payments in turn."""


@dataclass
class World:
    settings: Settings
    lake: Lake
    jumped: list[tuple[int, str]]
    """True time and identifier of the payments of one user at one merchant, in the order in which they came."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, redis_server: str) -> Iterator[World]:
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        values = {
            "home": tmp_path_factory.mktemp("jumped"), "redis_url": redis_server, "history_start": FIRST_DAY,
            "users": 30, "merchants": 10, "transactions_per_day": 60,
        }  # fmt: skip
        for name, value in values.items():
            patch.setenv(f"FRAUD_{name.upper()}", str(value))
        settings = Settings()
        lake = open_lake(settings)
        assert run_history(settings, instance, days_between(FIRST_DAY, DAY - timedelta(days=1))).success
        rows = exported(settings, lake, DAY)
        sent = with_jumps(rows)
        list(served(settings, DAY, [row for _, row in sent]))
        for day in (DAY, AFTER):
            assert run_history(settings, instance, [day]).success
        yield World(settings, lake, [(at, row["transaction_id"]) for at, row in sent if row["user_id"] == "jumper"])


def with_jumps(rows: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """The bank's payments and 300 of one user in the afternoon, by true time; what the service's clock says of those of
    the same minute too is wrong by OFF."""
    start = rows[0]["received_at"] // A_DAY * A_DAY + 14 * 3_600 * SECOND
    base = {**rows[len(rows) // 2], "user_id": "jumper", "merchant_id": "jumped", "country": "DE"}
    own = [
        (start + number * EVERY, {**base, "transaction_id": f"jump-{number:03}", "amount_minor": 100 + number})
        for number in range(300)
    ]
    sent = []
    for at, row in sorted([*own, *((row["received_at"], row) for row in rows)], key=lambda each: each[0]):
        off = OFF.get((at - start) // EVERY, 0) if at >= start else 0
        sent.append((at, {**row, "received_at": at + off, "timestamp": at - 200}))
    return sent


def test_velocity_is_null_or_right_at_every_payment_and_known_again(world: World) -> None:
    log = {record.request.transaction_id: record for day in JUMPED for record in LogTable(world.lake).records(day)}
    came = [at for at, _ in world.jumped]
    counts = [f for f in CATALOGUE.of("velocity") if "txn_count" in f.name]
    unknown = {feature.name: 0 for feature in counts}
    for number, (at, name) in enumerate(world.jumped):
        record: DecisionRecord = log[name]
        for feature in counts:
            told = record.values[CATALOGUE.names.index(feature.name)]
            if told != told:
                unknown[feature.name] += 1
            elif OFF.get(number, 0) <= 0:
                # a clock that has just gone ahead cannot know that it has
                inside = sum(at - VELOCITY_WINDOWS[feature.window] < other <= at for other in came[: number + 1])
                assert told == inside, (name, feature.name)
    # after each of the jumps, until the window has filled: none of a minute has more than two payments
    assert 4 <= unknown["user_txn_count_1m"] <= 30, unknown
    assert unknown["user_txn_count_10m"] <= 150, unknown
    last = log[world.jumped[-1][1]]
    assert last.values[CATALOGUE.names.index("merchant_txn_count_1h")] == sum(
        came[-1] - VELOCITY_WINDOWS["1h"] < other for other in came
    )


def compared(lake: Lake, day: date) -> int:
    """How many decisions of a day were held against training, which none may contradict."""
    left_out = write_skew(lake, [day])[day]
    rows = lake.read(SKEW, day).to_pylist()
    assert {row["differences"] for row in rows} <= {0}, [row for row in rows if row["differences"]]
    refuse_skew(lake, [day], accepted=[])
    held = rows[0]["compared"] if rows else 0
    assert held + sum(left_out.values()) == len(list(LogTable(lake).records(day)))
    return held


def assert_replays(world: World, day: date, redis_url: str) -> None:
    report = replay_day(world.settings, world.lake, day, redis_url)
    assert report.differences == 0, (day, report.differing, report.examples, report.unmatched)
    assert report.rows > 50


def test_training_and_replay_have_no_difference_and_no_day_is_refused(world: World, redis_server: str) -> None:
    assert compared(world.lake, DAY) > 250
    assert compared(world.lake, AFTER) >= 0
    assert compared(world.lake, BEFORE) == 0, "the day was over, and built without what a wrong clock added to it"
    for day in JUMPED:
        assert_replays(world, day, redis_server)


def test_a_day_built_again_with_what_a_wrong_clock_added_has_no_difference(world: World, redis_server: str) -> None:
    settings, lake = world.settings, world.lake
    source = fix_dataset(settings, lake, datetime.combine(DAY, time(), UTC))[1]
    ingest_transactions(lake, source, [BEFORE], settings.base_currency)
    write_training_set(settings, lake, [BEFORE], *(spans_of(settings, lake, view) for view in VIEWS))
    # the snapshot that was in force when they came is another than on that day
    assert compared(lake, BEFORE) == 0
    trained = {row["transaction_id"]: row for row in lake.read(tables.TRAINING_SET, BEFORE).to_pylist()}
    wrong = [record for record in LogTable(lake).records(BEFORE) if record.request.user_id == "jumper"]
    assert len(wrong) == sum(off == -A_DAY for off in OFF.values())
    for record in wrong:
        for feature in (*CATALOGUE.of("velocity"), CATALOGUE.features[-1]):
            one = record.values[CATALOGUE.names.index(feature.name)]
            value = trained[record.request.transaction_id][feature.name]
            other = np.float32(np.nan if value is None else value)
            assert one == other or (np.isnan(one) and np.isnan(other)), (record.request.transaction_id, feature.name)
    assert not np.isnan(wrong[-1].values[CATALOGUE.names.index("user_txn_count_1m")]), "a minute after the jump"
    assert_replays(world, BEFORE, redis_server)
