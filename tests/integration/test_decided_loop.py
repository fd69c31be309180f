"""What was decided is also what happened: a served day goes into the lake and comes out bit for bit as served."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from itertools import cycle
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from fraud_platform.features import tables
from fraud_platform.features.training_set import write_training_set
from fraud_platform.inference_log.table import LogTable
from fraud_platform.lake import Lake, days_between, open_lake
from fraud_platform.model.served import refuse_skew
from fraud_platform.model.split import TrainingDataError
from fraud_platform.monitoring.skew import CAUSES, SKEW, cause_of, offline_vectors, write_skew
from fraud_platform.online.packed import MERCHANT_VECTOR, USER_VECTOR
from fraud_platform.online.velocity import set_key
from fraud_platform.online.warm import warm_velocity
from fraud_platform.replay import replay_day, spans_of
from fraud_platform.schema import PROCESSING_ORDER
from fraud_platform.settings import Settings
from tests.integration.decided_kit import exported, micros, served
from tests.integration.test_dagster import run_history

FIRST_DAY = date(2026, 3, 1)
DAY = date(2026, 3, 8)
BEFORE = DAY - timedelta(days=1)
UNSEEN = slice(-30, -26)
"""Payments of the bank's export, in the evening, that never came to the service."""


OTHERS = 6
"""Payments of another caller, each under the id of a payment of the bank's."""
WITHOUT_RATE = ("burst-4", "burst-11", "burst-18")
"""Payments in a currency for which the bank has no rate."""
CHANNELS_SENT = {"ONLINE": 1, " web": 1, "E-Commerce": 1, "Terminal": 0, "carrier pigeon": None, "": None}
"""Texts of a channel that a caller sends, and `is_online` of them."""
LATE_US = 15 * 3_600_000_000
"""How long after the bank's export had them some payments came to the service."""


@dataclass
class World:
    """A bank of a week, and a day that was decided."""

    settings: Settings
    lake: Lake
    sent: list[dict[str, Any]]
    late: set[str]
    """Payments that were transactions of the day before when they were decided; velocity was warmed up with them."""
    unknown: set[str]
    """Others like them, that came into the lake after velocity had been warmed up."""
    answers: list[tuple[int, dict[str, Any]]]
    result: dg.ExecuteInProcessResult


def planted(rows: list[dict[str, Any]], yesterdays: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The bank's payments but for UNSEEN, and what makes a day hard: a repeat, a burst, two counted in another
    order than they were received, amounts in other currencies, with and without a rate, another caller's payments
    under ids of the bank's, and payments that the bank's export had on the day before."""
    sent = [row for row in rows if row not in rows[UNSEEN]]
    middle = next(i for i, row in enumerate(sent) if row["received_at"] > rows[0]["received_at"] + 12 * 3_600_000_000)
    base = sent[middle]
    own = {**base, "user_id": "burst", "device_id": "phone"}
    burst = [
        {**own, "transaction_id": f"burst-{n}", "received_at": at, "timestamp": at - 200, "amount_minor": 100 + 7 * n}
        for n, at in enumerate(base["received_at"] + 9_000_000 * (1 + k) for k in range(30))
    ]
    burst = [{**row, "currency": "KWD"} if row["transaction_id"] in WITHOUT_RATE else row for row in burst]
    burst = [{**row, "channel": channel} for row, channel in zip(burst, cycle(CHANNELS_SENT), strict=False)]
    last = burst[-1]
    later = {**last, "transaction_id": "counted-first", "received_at": last["received_at"] + 50}
    earlier = {**last, "transaction_id": "received-first", "received_at": last["received_at"] + 10, "amount_minor": 7}
    foreign = {**last, "transaction_id": "yen", "received_at": last["received_at"] + 99, "currency": "USD"}
    repeat = {**burst[3], "received_at": last["received_at"] + 200}
    others = [
        {**row, "caller": "another", "user_id": "another's", "received_at": row["received_at"] + shift}
        for row, shift in zip(sent[middle : middle + 2 * OTHERS : 2], [1, -1] * OTHERS, strict=False)
    ]
    late = [{**row, "received_at": row["received_at"] + LATE_US, "timestamp": row["timestamp"]} for row in yesterdays]
    # two workers: the one that received first was the second to count
    ordered = sorted([*sent, *burst, later, foreign, repeat, *others, *late], key=lambda row: row["received_at"])
    ordered.insert(ordered.index(later) + 1, earlier)
    return ordered


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, redis_server: str) -> Iterator[World]:
    import redis

    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        values = {
            "home": tmp_path_factory.mktemp("decided"), "redis_url": redis_server, "history_start": FIRST_DAY,
            "users": 40, "merchants": 12, "transactions_per_day": 300,
        }  # fmt: skip
        for name, value in values.items():
            patch.setenv(f"FRAUD_{name.upper()}", str(value))
        settings = Settings()
        lake = open_lake(settings)
        assert run_history(settings, instance, days_between(FIRST_DAY, DAY - timedelta(days=1))).success
        evening = [row for row in exported(settings, lake, BEFORE) if row["received_at"] > micros(BEFORE, 16)][:12:3]
        sent = planted(exported(settings, lake, DAY), evening)
        answers = list(served(settings, DAY, sent))
        late = {row["transaction_id"] for row in evening}
        unknown = add_to_the_day_before(lake, [row for row in sent if row["received_at"] > micros(DAY, 9)][:3])
        yield World(settings, lake, sent, late, unknown, answers, run_history(settings, instance, [DAY]))


def add_to_the_day_before(lake: Lake, rows: list[dict[str, Any]]) -> set[str]:
    """Payments of the day as an export has them that dates them on the evening before; returns their ids."""
    raw = lake.read(tables.RAW_TRANSACTIONS, BEFORE)
    names = ("transaction_id", "user_id", "merchant_id")
    changes = [
        {name: row[name] for name in names} | {"received_at": micros(BEFORE, 23) + n} for n, row in enumerate(rows)
    ]
    plain = [raw.slice(0, 1).to_pylist()[0] | {"is_duplicate": False} | change for change in changes]
    added = pa.Table.from_pylist(plain, raw.schema)
    whole = pa.concat_tables([raw, added]).sort_by([(name, "ascending") for name in PROCESSING_ORDER])
    lake.write(tables.RAW_TRANSACTIONS, BEFORE, whole.combine_chunks())
    return {row["transaction_id"] for row in rows}


def test_every_decision_is_a_transaction_as_it_was_served(world: World) -> None:
    assert world.result.success
    statuses = Counter(status for status, _ in world.answers)
    assert set(statuses) <= {200, 409}
    decided = Counter(answer["decision"] for status, answer in world.answers if status == 200)
    assert decided["block"] >= 1
    log = list(LogTable(world.lake).records(DAY))
    assert len(log) > 250
    raw = world.lake.read(tables.RAW_TRANSACTIONS, DAY)
    rows = {row["decision_id"]: row for row in raw.to_pylist() if row["decision_id"]}
    assert set(rows) == {record.decision_id for record in log}
    for record in log:
        row = rows[record.decision_id]
        assert (row["transaction_id"], row["amount"]) == (record.request.transaction_id, record.amount)
        assert row["user_effective_time"] == record.user_effective_time
        assert int(row["received_at"].timestamp() * 1e6 + 0.5) == record.received_at
    copies = {row["transaction_id"] for row in raw.to_pylist() if not row["decision_id"]}
    planned = {row["transaction_id"] for row in world.sent}
    assert len(copies - planned) >= 3, "what the service never saw stays the source's"
    assert sum(row["transaction_id"] == "burst-3" for row in raw.to_pylist()) == 1, "a repeated payment is one"
    (event,) = [e for e in world.result.asset_materializations_for_node("raw_transactions") if e.partition]
    assert event.metadata["decided"].value == len(log)
    assert event.metadata["copies_left_out"].value > 150


def test_training_takes_what_was_served_bit_for_bit(world: World) -> None:
    left_out = write_skew(world.lake, [DAY])[DAY]
    rows = world.lake.read(SKEW, DAY).to_pylist()
    assert {row["differences"] for row in rows} == {0}, [row for row in rows if row["differences"]]
    assert rows[0]["compared"] > 150, left_out
    assert left_out["one_sided_attempt"] > 0, "the unseen payments touch others of their users and merchants"
    assert sum(left_out.values()) + rows[0]["compared"] == len(list(LogTable(world.lake).records(DAY)))
    assert {cause for cause in CAUSES if left_out[cause]} <= {"one_sided_attempt", "not_in_training_set"}
    refuse_skew(world.lake, [DAY], accepted=[])


def test_an_amount_that_was_not_known_stays_null_and_counts(world: World) -> None:
    log = {record.request.transaction_id: record for record in LogTable(world.lake).records(DAY)}
    raw, trained = (
        {row["transaction_id"]: row for row in world.lake.read(table, DAY).to_pylist()}
        for table in (tables.RAW_TRANSACTIONS, tables.TRAINING_SET)
    )
    offline = offline_vectors(world.lake, DAY)
    for name in WITHOUT_RATE:
        record, row, number = log[name], trained[name], int(name.removeprefix("burst-"))
        assert record.amount is raw[name]["amount"] is row["amount_minor"] is row["amount"] is None
        assert cause_of(record, offline[record.caller, name, record.received_at]) is None, "skew compares it"
        assert row["user_txn_count_1h"] == number + 1
        before = [100 + 7 * n for n in range(number) if f"burst-{n}" not in WITHOUT_RATE]
        assert row["user_amount_sum_1h"] == sum(before)
    (tile,) = [row for row in world.lake.read(tables.USER_TILES, DAY).to_pylist() if row["user_id"] == "burst"]
    known = [row["amount"] for row in raw.values() if row["user_id"] == "burst" and row["amount"] is not None]
    assert (tile["txn_count"] - tile["amount_known"], tile["amount_known"]) == (len(WITHOUT_RATE), len(known))
    assert (tile["amount_sum"], tile["amount_max"]) == (sum(known), max(known))
    answers = [answer for status, answer in world.answers if answer.get("transaction_id") in WITHOUT_RATE]
    assert {answer["reason"] for answer in answers} == {"amount_unknown_fallback"}


def test_a_channel_is_read_as_it_was_online(world: World) -> None:
    log = {record.request.transaction_id: record for record in LogTable(world.lake).records(DAY)}
    trained = {row["transaction_id"]: row for row in world.lake.read(tables.TRAINING_SET, DAY).to_pylist()}
    sent = dict(zip((f"burst-{n}" for n in range(30)), cycle(CHANNELS_SENT), strict=False))
    for name, text in sent.items():
        assert log[name].request.channel == (text or None), "the record has what was sent"
        assert trained[name]["is_online"] == CHANNELS_SENT[text], text
    (tile,) = [row for row in world.lake.read(tables.USER_TILES, DAY).to_pylist() if row["user_id"] == "burst"]
    assert (tile["channel_known"], tile["online_count"]) == (20, 15)


def test_velocity_that_is_warmed_up_with_them_is_what_was_counted(world: World, redis_server: str) -> None:
    import redis

    with redis.Redis.from_url(redis_server) as client:
        warm_velocity(world.settings, world.lake, client, DAY, now_us=micros(DAY, 24), key_prefix=b"warmed:")
        live, warmed = (
            client.zrange(set_key("user", "burst", prefix), 0, -1, withscores=True) for prefix in (b"", b"warmed:")
        )
    assert len(live) > 30
    assert warmed == live


def test_callers_under_one_id_count_apart(world: World) -> None:
    others = {row["transaction_id"] for row in world.sent if row.get("caller") == "another"}
    assert len(others) == OTHERS
    raw, trained = (world.lake.read(table, DAY).to_pylist() for table in (tables.RAW_TRANSACTIONS, tables.TRAINING_SET))
    for rows in ([row for row in raw if not row["is_duplicate"]], trained):
        who = [(row["caller"], row["user_id"] == "another's") for row in rows if row["transaction_id"] in others]
        assert Counter(who) == {("another", True): OTHERS, ("default", False): OTHERS}
    tiles = {row["user_id"]: row["txn_count"] for row in world.lake.read(tables.USER_TILES, DAY).to_pylist()}
    assert tiles["another's"] == OTHERS


def test_what_was_exported_the_day_before_it_was_decided_is_the_decisions_payment(world: World) -> None:
    known = world.late | world.unknown
    assert (len(world.late), len(world.unknown)) == (4, 3)
    before, raw = (world.lake.read(tables.RAW_TRANSACTIONS, day).to_pylist() for day in (BEFORE, DAY))
    copies = [row for row in before if row["transaction_id"] in known]
    assert {row["transaction_id"] for row in copies} == known
    assert all(row["is_duplicate"] and row["decision_id"] is None for row in copies)
    decided = {
        row["transaction_id"]: row for row in raw if row["transaction_id"] in known and row["caller"] == "default"
    }
    assert all(not row["is_duplicate"] and row["decision_id"] for row in decided.values())
    assert decided.keys() == known
    for day, rows in ((BEFORE, before), (DAY, raw)):
        counted = sum(not row["is_duplicate"] for row in rows)
        assert world.lake.size(tables.TRAINING_SET, day)[0] == counted
        for table in (tables.USER_TILES, tables.MERCHANT_TILES):
            assert pc.sum(world.lake.read(table, day)["txn_count"]).as_py() == counted
    # what velocity had been warmed up with it counted then, and no second time
    assert all((decided[name]["user_effective_time"] < micros(DAY)) == (name in world.late) for name in known)
    offline = offline_vectors(world.lake, DAY)
    for record in LogTable(world.lake).records(DAY):
        if record.request.transaction_id in known and record.caller == "default":
            row = offline[record.caller, record.request.transaction_id, record.received_at]
            assert cause_of(record, row) is None
            np.testing.assert_array_equal(record.values, row[1])
    (event,) = [e for e in world.result.asset_materializations_for_node("raw_transactions") if e.partition]
    assert event.metadata["marked_on_the_day_before"].value == len(known)


def test_two_workers_orders_are_compared_too(world: World) -> None:
    rows = {row["transaction_id"]: row for row in world.lake.read(tables.TRAINING_SET, DAY).to_pylist()}
    first, second = rows["counted-first"], rows["received-first"]
    assert first["received_at"] > second["received_at"]
    assert first["user_effective_time"] < second["user_effective_time"]
    assert second["user_txn_count_1h"] == first["user_txn_count_1h"] + 1 == 32


def test_a_replay_of_the_day_gives_the_same(world: World, redis_server: str) -> None:
    report = replay_day(world.settings, world.lake, DAY, redis_server)
    assert report.differences == 0, (report.differing, report.examples, report.unmatched)
    assert report.rows > 250


def test_an_amount_changed_in_the_lake_is_seen_and_stops_training(world: World) -> None:
    raw = world.lake.read(tables.RAW_TRANSACTIONS, DAY)
    changed = pc.if_else(pc.equal(raw["transaction_id"], "burst-5"), pc.add(raw["amount"], 1), raw["amount"])
    position = raw.schema.get_field_index("amount")
    spans = [spans_of(world.settings, world.lake, view) for view in (USER_VECTOR, MERCHANT_VECTOR)]
    try:
        world.lake.write(
            tables.RAW_TRANSACTIONS, DAY, pa.table(raw.set_column(position, raw.schema.field(position), changed))
        )
        write_training_set(world.settings, world.lake, [DAY], *spans)
        write_skew(world.lake, [DAY])
        wrong = {row["feature"]: row["differences"] for row in world.lake.read(SKEW, DAY).to_pylist()}
        assert wrong["amount"] == 1
        assert wrong["user_amount_sum_1h"] > 20
        with pytest.raises(TrainingDataError, match=rf"{DAY}.*amount"):
            refuse_skew(world.lake, [DAY], accepted=[])
    finally:
        world.lake.write(tables.RAW_TRANSACTIONS, DAY, raw)
        write_training_set(world.settings, world.lake, [DAY], *spans)
        write_skew(world.lake, [DAY])


def test_a_day_whose_decisions_wait_is_not_ingested(world: World) -> None:
    from fraud_platform.inference_log.delivered import UndeliveredError, deliver
    from fraud_platform.inference_log.record import encode_record
    from fraud_platform.inference_log.spool import SpoolWriter
    from tests.record_kit import record

    midnight = int(datetime.combine(DAY, time()).timestamp() * 1e6)
    waiting = record("waits", decision_id="f" * 32, received_at=midnight)
    other = world.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    writer = SpoolWriter(world.settings.home, "worker-2")
    writer.append(DAY, encode_record(waiting))
    writer.close()
    with pytest.raises(UndeliveredError, match=f"1 of {DAY}"):
        deliver(other, [DAY], 0.1)
    deliver(other, [DAY - timedelta(days=1)], 0.1)
