"""Velocity under wrong clocks, callers' and the service's own: null or right, for the entity that they touch alone."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import ibis
import msgspec
import numpy as np
import pyarrow as pa
import pytest
import redis
from hypothesis import Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fraud_platform import schema
from fraud_platform.callers import DEFAULT_CALLER
from fraud_platform.currency import Rates
from fraud_platform.features import tables, training_set
from fraud_platform.features.catalogue import CATALOGUE, LIVE_HISTORY
from fraud_platform.ingest.standardize import standardize
from fraud_platform.lake import Lake
from fraud_platform.online import velocity
from fraud_platform.online.store import OnlineFeatures, OnlineStore
from fraud_platform.online.warm import warm_velocity
from fraud_platform.processing import event_time
from fraud_platform.schema import Transaction
from fraud_platform.settings import Settings
from tests.feature_oracle import DAY, HOUR, MINUTE, SECOND, Counters, Row, count, last_attempt
from tests.feature_oracle import velocity as windows_of
from tests.feature_worlds import export

NOW = 1_795_435_200 * SECOND
NAMES = [feature.name for feature in CATALOGUE.of("velocity")]


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[OnlineStore]:
    begin(redis_url)
    store = OnlineStore(redis_url, ttl_days=3)
    await store.open()
    yield store
    await store.close()


def begin(url: str) -> None:
    """A Redis that has counted since ever."""
    with redis.Redis.from_url(url) as client:
        client.flushall()
        client.set(velocity.epoch_key(), msgspec.json.encode(velocity.Epoch(epoch="test", complete_since=0)))


def paid(name: str, received: int, *, user: str = "u", timestamp: int | None = None) -> Transaction:
    happened, skew = event_time(received if timestamp is None else timestamp, received)
    return Transaction(
        transaction_id=name, user_id=user, merchant_id="m", amount=100, event_time=happened, received_at=received,
        clock_skew=skew,
    )  # fmt: skip


def value(found: OnlineFeatures, name: str) -> float:
    return float(found.velocity[NAMES.index(name)])


async def test_a_payment_dated_ahead_bends_no_window_of_others(store: OnlineStore) -> None:
    counts = []
    for number in range(5):
        received = NOW + number * 30 * SECOND
        ahead = 5 * MINUTE if number == 1 else 0
        payment = paid(f"t{number}", received, user=f"u{number}", timestamp=received + ahead)
        counts.append(value(await store.read(payment), "merchant_txn_count_10m"))
    later = paid("later", NOW + 11 * MINUTE, user="u9")
    assert counts == [1, 2, 3, 4, 5]
    assert value(await store.read(later), "merchant_txn_count_10m") == 3, "those of the last ten minutes, this included"


async def test_a_clock_a_day_ahead_for_one_payment_is_forgotten_as_windows_fill(store: OnlineStore) -> None:
    for number in range(3):
        await store.read(paid(f"before-{number}", NOW + number * 10 * SECOND))
    await store.read(paid("ahead", NOW + DAY))
    at = NOW + 40 * SECOND
    first = await store.read(paid("back", at))
    assert np.isnan(first.velocity).all()
    assert first.last_effective_time is None
    assert first.user_effective_time == at
    start = at + 2 * SECOND
    sent: list[int] = []
    # the last of them lie behind the time that the clock had jumped to
    for minutes in (*range(1, 13), *range(58, 62), *range(120, 25 * 60, 60)):
        sent.append(minutes)
        found = await store.read(paid(f"m{minutes}", start + minutes * MINUTE))
        for name in NAMES:
            window = velocity.VELOCITY_WINDOWS[name.rpartition("_")[2]] // MINUTE
            inside = sum(minutes - window < each <= minutes for each in sent) * (100 if "amount_sum" in name else 1)
            assert same(value(found, name), float(inside) if minutes >= window else None), (minutes, name)
        if minutes > 1:
            assert found.last_effective_time == start + sent[-2] * MINUTE


async def test_a_clock_a_day_behind_and_right_again_never_counts_too_few(store: OnlineStore) -> None:
    async def counted(name: str, received: int) -> OnlineFeatures:
        return await store.read(paid(name, received))

    for number in range(3):
        await counted(f"before-{number}", NOW + number * SECOND)
    back = [await counted(f"behind-{number}", NOW - DAY + number * SECOND) for number in (5, 8)]
    assert all(np.isnan(found.velocity).all() for found in back)
    assert back[1].last_effective_time == NOW - DAY + 5 * SECOND, "none came between, whatever the clock says"
    right = [await counted(f"right-{number}", NOW + number * SECOND) for number in (20, 30, 85)]
    assert all(np.isnan(found.velocity).all() for found in right[:2])
    # those behind were a moment ago: no window may say that there were none
    assert value(right[2], "user_txn_count_1m") == 2.0
    assert np.isnan(value(right[2], "user_txn_count_10m"))


async def test_who_looks_on_changes_nothing(store: OnlineStore, redis_url: str) -> None:
    await store.read(paid("ahead", NOW + DAY))
    looked = await store.read(paid("look", NOW), write=False)
    assert np.isnan(looked.velocity).all()
    assert (await store.read(paid("day-after", NOW + DAY + SECOND))).velocity[0] == 2


async def test_a_repeat_of_what_was_given_up_sees_nothing(store: OnlineStore) -> None:
    first = paid("ahead", NOW + DAY)
    await store.read(first)
    after = [paid(f"after-{number}", NOW + number * SECOND) for number in range(3)]
    seen = [await store.read(payment) for payment in after]
    again = await store.read(first)
    assert again.duplicate
    assert again.user_effective_time == NOW + DAY
    assert np.isnan(again.velocity).all()
    assert again.last_effective_time is None
    for payment, then in zip(after, seen, strict=True):
        found = await store.read(payment)
        assert found.duplicate
        assert found.velocity.tolist() == pytest.approx(then.velocity.tolist(), nan_ok=True)
        assert (found.user_counted_since, found.last_effective_time) == (
            then.user_counted_since,
            then.last_effective_time,
        )


# how far the service's clock is off, for one or more attempts in turn
jumps = st.sampled_from([0, 0, DAY, -DAY, 2 * DAY, HOUR, -HOUR, -2 * SECOND, 2 * SECOND, -SECOND, 3 * MINUTE])
# how long after the attempt before it one is received, in true time
gaps = st.sampled_from([1, 2, 900_000, SECOND + 1, 30 * SECOND, MINUTE, 10 * MINUTE + 1, 3 * HOUR, 13 * HOUR, DAY])
# received_at − timestamp
lags = st.sampled_from([0, 0, 0, 1, 700_000, 2 * MINUTE, -1, -SECOND, -5 * MINUTE, 3 * HOUR, DAY - 1])


@dataclass(frozen=True)
class Attempt:
    gap: int
    off: int
    lag: int
    user: str
    merchant: str
    repeats: int | None
    """How many attempts ago the one was that comes again."""


@st.composite
def streams(draw: st.DrawFn) -> list[Attempt]:
    attempts, off, left = [], 0, 0
    for number in range(draw(st.integers(10, 24))):
        if left == 0:
            off, left = draw(jumps), draw(st.integers(1, 3))
        left -= 1
        repeats = draw(st.sampled_from([None] * 4 + [1, 2, 3])) if number > 3 else None
        user, merchant = draw(st.sampled_from(["ana", "ana", "ben"])), draw(st.sampled_from(["kiosk", "kiosk", "shop"]))
        attempts.append(Attempt(draw(gaps), off, draw(lags), user, merchant, repeats))
    return attempts


def received(stream: list[Attempt]) -> list[tuple[Row, int]]:
    """The attempts in the order in which they came, and when, by the service's clock."""
    came: list[tuple[Row, int]] = []
    now = NOW
    for number, attempt in enumerate(stream):
        now += attempt.gap if attempt.repeats is None else attempt.repeats
        # no two at the same microsecond of a clock that was set
        at = now + attempt.off + 7 * number * (attempt.off != 0)
        if attempt.repeats is not None:
            again = came[number - attempt.repeats][0]
            # by a clock that goes on: Redis keeps 48 hours of an entity, and no more
            if at - again.received < HOUR and again.received - again.timestamp < HOUR:
                came.append((again, at))
                continue
        came.append((Row(f"t{number:02}", attempt.user, attempt.merchant, 100 + number, at - attempt.lag, at), at))
    return came


def offline(rows: list[Row], found: dict[str, OnlineFeatures]) -> dict[str, dict[str, float]]:
    """Velocity, and the live part of `seconds_since_last`, by the offline engine from what a record keeps."""
    by_receipt = sorted(rows, key=lambda row: (row.received, row.id))
    plain = [
        {
            "transaction_id": row.id, "caller": "", "user_id": row.user, "merchant_id": row.merchant,
            "amount": row.amount, "event_time": row.event, "received_at": row.received,
            "is_duplicate": False, "region": None,
            **{
                f"{entity}_{what}": getattr(found[row.id], f"{entity}_{what}")
                for entity in velocity.ENTITIES for what in ("effective_time", "counted_since")
            },
        }
        for row in by_receipt
    ]  # fmt: skip
    columns = {
        name: pa.array([row[name] for row in plain], None if name != "region" else pa.string()) for name in plain[0]
    }
    for name in ("event_time", "received_at"):
        columns[name] = columns[name].cast(schema.TIME)
    engine = ibis.duckdb.connect()
    table = engine.create_table("rows", pa.table(columns))
    windows = training_set.velocity(table, date(2020, 1, 1), CATALOGUE.of("velocity"))
    last = training_set._last(
        windows._live_last, ibis.null("int64"), windows.user_effective_time, windows.user_counted_since
    )
    result = engine.to_pyarrow(windows.mutate(last=last)).to_pylist()
    return {row["transaction_id"]: {name: row[name] for name in (*NAMES, "last")} for row in result}


def same(first: float | None, second: float | None) -> bool:
    one, two = (np.float32(np.nan if each is None else each) for each in (first, second))
    return bool(one.view(np.uint32) == two.view(np.uint32) or (np.isnan(one) and np.isnan(two)))


def test_online_the_oracle_and_the_offline_engine_are_one(redis_url: str) -> None:
    seen: Counter[str] = Counter()

    # to make an example smaller takes minutes on a real server
    @hypothesis_settings(max_examples=30, derandomize=True, phases=(Phase.explicit, Phase.generate))
    @given(stream=streams())
    def holds(stream: list[Attempt]) -> None:
        asyncio.run(held(stream, redis_url, seen))

    holds()
    kinds = ("null", "known", "known after a jump", "repeated", "repeated too late")
    assert min(seen[kind] for kind in kinds) >= 5, seen


async def held(stream: list[Attempt], redis_url: str, seen: Counter[str]) -> None:
    """One stream by a real Redis, by the oracle, and by the offline engine from what was recorded."""
    begin(redis_url)
    store = OnlineStore(redis_url, ttl_days=3)
    await store.open()
    counters: dict[tuple[str, str, str], Counters] = defaultdict(Counters)
    rows: list[Row] = []
    found: dict[str, OnlineFeatures] = {}
    try:
        for row, at in received(stream):
            repeated = row.id in found
            happened, skew = event_time(row.timestamp, at)
            payment = Transaction(
                transaction_id=row.id, user_id=row.user, merchant_id=row.merchant, amount=row.amount,
                event_time=happened, received_at=at, clock_skew=skew,
            )  # fmt: skip
            online = await store.read(payment)
            assert online.duplicate is repeated
            if not repeated:
                row.event = happened
                count(row, counters)
                rows.append(row)
                found[row.id] = online
            expected = windows_of(row, rows)
            current = {
                entity: counters[row.region, entity, name].epoch is row.epoch[entity]
                for entity, name in (("user", row.user), ("merchant", row.merchant))
            }
            for entity in velocity.ENTITIES:
                assert getattr(online, f"{entity}_effective_time") == row.effective[entity]
                if current[entity]:
                    assert getattr(online, f"{entity}_counted_since") == row.epoch[entity].since
            for name in NAMES:
                entity = name.split("_")[0]
                want = expected[name] if current[entity] else None
                assert same(value(online, name), want), (row.id, name)
                null = np.isnan(value(online, name))
                seen["null" if null else "known after a jump" if row.epoch[entity].since else "known"] += 1
            seen["repeated" if all(current.values()) else "repeated too late"] += repeated
            last = last_attempt(row, None) if current["user"] else None
            kept = last is None or last > row.epoch["user"].times[-1] - LIVE_HISTORY
            assert online.last_effective_time == (last if kept else None)
    finally:
        await store.close()
    for name, values in offline(rows, found).items():
        online = found[name]
        for feature in NAMES:
            assert same(value(online, feature), values[feature]), (name, feature)
        assert online.last_effective_time == values["last"]


@given(
    live=st.none() | st.integers(1, 4),
    snapshot=st.none() | st.integers(0, 6),
    since=st.sampled_from([0, 0, 1, 3, 5 + LIVE_HISTORY]),
    at=st.sampled_from([5, 5 + LIVE_HISTORY]),
)
@hypothesis_settings(max_examples=60, derandomize=True)
def test_the_last_attempt_is_the_same_over_columns(live: int | None, snapshot: int | None, since: int, at: int) -> None:
    at, since = NOW + at, NOW + since if since else 0
    live, snapshot = (None if each is None else NOW + each for each in (live, snapshot))
    reply = velocity.Reply(at, False, live, since, [])
    online = velocity.last_attempt(reply, snapshot, velocity.Epoch(epoch="e", complete_since=0))
    columns = (ibis.literal(each, type="int64") for each in (live, snapshot, at, since))
    found = ibis.duckdb.connect().to_pyarrow(training_set._last(*columns)).as_py()
    assert found == online
    if since and live is not None and snapshot is not None and snapshot > live:
        assert online is None, "which of the two clocks is right, nobody knows"


async def test_a_warmed_store_goes_on_in_the_epoch_or_owns_up_to_what_it_cannot_know(
    redis_url: str, tmp_path: Path
) -> None:
    """The lake's history is put back: of an entity with one epoch as it was, of one whose clock jumped meanwhile never
    as if nothing had happened."""
    midnight = NOW // DAY * DAY
    settings = Settings(home=tmp_path, redis_url=redis_url)
    lake, day = Lake(str(tmp_path / "lake")), date(1970, 1, 1) + timedelta(days=midnight // DAY)
    noon = midnight + 12 * HOUR
    told = {
        "plain": [(noon, 0), (noon + HOUR, 0)],
        "jumped": [(noon, 0), (midnight + DAY - 1, 0), (noon + HOUR, noon + SECOND)],
        "since": [(noon, noon - HOUR), (noon + HOUR, noon - HOUR)],
    }
    counted = [(f"{user}-{n}", user, *each) for user, all_of in told.items() for n, each in enumerate(all_of)]
    rows = [Row(name, user, f"m-{user}", 100, at, at) for name, user, at, _ in counted]
    write_recorded(lake, day, rows, {name: since for name, _, _, since in counted})
    later = midnight + DAY + 10 * MINUTE
    with redis.Redis.from_url(redis_url) as client:
        for _ in range(2):
            client.delete(velocity.epoch_key())
            assert warm_velocity(settings, lake, client, day, now_us=later).complete_since == 0
        members = {user: client.zrange(velocity.set_key("user", user), 0, -1) for user in told}
    assert members["plain"] == [b"1:100", b"2:200"]
    assert members["jumped"] == [b"0:0:%d" % (midnight + DAY + SECOND + 1)]
    carried = velocity.carried(noon - HOUR)
    assert members["since"] == [b"0:0" + carried, b"1:100" + carried, b"2:200" + carried]
    store = OnlineStore(redis_url, ttl_days=3)
    await store.open()
    try:
        for user, day_long, last in (("plain", 3.0, noon + HOUR), ("since", None, noon + HOUR), ("jumped", None, None)):
            payment = paid(f"{user}-now", later, user=user)
            found = await store.read(msgspec.structs.replace(payment, merchant_id=f"m-{user}"))
            assert same(value(found, "user_txn_count_24h"), day_long), user
            assert found.last_effective_time == last
            assert same(value(found, "user_txn_count_1h"), None if user == "jumped" else 1.0)
        repeat = await store.read(paid("jumped-1", later, user="jumped"), caller=DEFAULT_CALLER)
        assert np.isnan(repeat.velocity[:8]).all()
        assert repeat.duplicate
    finally:
        await store.close()


def write_recorded(lake: Lake, day: date, rows: list[Row], since: dict[str, int]) -> None:
    """Decided payments as the lake keeps them, each counted at its own time in the epoch since then."""
    result = standardize(export(rows), day, Rates("EUR", {}), "EUR", None).transactions
    names = result["transaction_id"].to_pylist()
    received_us = result["received_at"].cast(pa.int64())
    for entity in velocity.ENTITIES:
        for name, values in (
            (f"{entity}_effective_time", received_us),
            (f"{entity}_counted_since", pa.array([since[each] for each in names])),
        ):
            position = result.schema.get_field_index(name)
            result = result.set_column(position, result.schema.field(position), values)
    lake.write(tables.RAW_TRANSACTIONS, day, result)
