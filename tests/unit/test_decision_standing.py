"""A decision stands: whatever a worker can ask, whoever reports, however much comes at once, on doubles.

What belongs here: which decision stands, and that worker, store and log come to the same one. What does not: the other
promises of the engine (`test_decision_engine`), real servers (`integration/test_decision_stands.py`).
"""

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_platform.decision.capacity import Capacity
from fraud_platform.decision.engine import DecisionEngine
from fraud_platform.decision.identity import AT_RISK_US
from fraud_platform.decision.policy import FOREVER, STRICTNESS, Listed, Policy
from fraud_platform.decision.policy_record import Entry, PolicyRecord, keep
from fraud_platform.decision.standing import replaces, standing_of
from fraud_platform.inference_log.record import DecisionRecord, ServedBy, decode_record, encode_record
from tests.engine_kit import NOW, PAYMENT, World, body
from tests.record_kit import record

MINUTE = 60_000_000


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    for explainer in world.explainers:
        explainer.close()


async def decided(engine: DecisionEngine, caller: str = "default", **changes: Any) -> str:
    answer = await engine.decide(body(**changes), caller)
    assert answer.status == 200, answer
    return str(json.loads(answer.body)["decision"])


async def settled(engine: DecisionEngine) -> None:
    """What the worker does beside payments."""
    assert await engine._decisions.settle_waiting()


def a_report(decision: str = "allow", number: int = 1, **changes: Any) -> dict[str, Any]:
    reasons = {"allow": "service_unavailable_fallback", "flag_for_review": "high_amount_fallback"}
    return {
        "decision_id": f"{number:032x}", "decided_at": "2026-11-23T11:59:59Z", "decision": decision,
        "reason": reasons[decision], "cause": "timeout", "payment": PAYMENT,
    } | changes  # fmt: skip


# --- which of two stands


def made(decision: str, by: str, number: int, **changes: Any) -> DecisionRecord:
    served = ServedBy(user_features="redis", merchant_features="redis", model=by)
    fields = {"decision": decision, "served_by": served, "decision_id": f"{number:032x}", "received_at": NOW + number}
    return msgspec.structs.replace(record(), **(fields | changes))


@pytest.mark.parametrize(
    ("standing", "late", "taken"),
    [
        (("block", "champion"), ("allow", "champion"), False),
        (("block", "champion"), ("allow", "rules"), False),
        (("allow", "champion"), ("flag_for_review", "rules"), False),
        (("allow", "rules"), ("block", "champion"), True),
        (("flag_for_review", "rules"), ("allow", "champion"), False),
        (("allow", "champion"), ("block", "champion"), True),
        (("allow", "champion"), ("block", "list"), True),
        (("allow", "champion"), ("allow", "champion"), False),
        (("allow", "rules"), ("flag_for_review", "rules"), True),
        (("allow", "list"), ("flag_for_review", "rules"), False),
    ],
)
def test_a_stricter_decision_stands_and_rules_never_replace_a_model(
    standing: tuple[str, str], late: tuple[str, str], taken: bool
) -> None:
    assert replaces(made(*late, 2), made(*standing, 1)) is taken


def test_of_several_records_the_same_one_stands_in_whatever_order_they_are_read() -> None:
    told = [
        made("allow", "champion", 3),
        made("flag_for_review", "rules", 1, unsettled=True),
        made("block", "logistic_regression", 2, unsettled=True),
    ]
    assert {standing_of(some) for some in permutations(told)} == {told[2]}  # type: ignore[arg-type]
    marked = msgspec.structs.replace(told[2], superseded_by=told[0].decision_id)
    assert {standing_of(some) for some in permutations([*told, marked])} == {told[0]}  # type: ignore[arg-type]
    assert standing_of([]) is None


# --- reports


async def test_a_report_does_not_lift_a_block(world: World) -> None:
    engine = world.engine(0.9)
    assert await decided(engine) == "block"
    answer = await world.report(engine, a_report())
    problem = json.loads(answer.body)
    assert (answer.status, problem["type"].rpartition(":")[2]) == (409, "already-decided")
    assert (problem["earlier"]["decision"], problem["earlier"]["reason"]) == ("block", "score_above_threshold")
    assert await decided(engine) == await decided(world.engine(0.1)) == "block"
    # what the caller was told is in the log all the same, and does not stand
    (told,) = [one for one in world.recorder.records if one.decision_id == f"{1:032x}"]
    assert (told.decision, told.superseded_by) == ("allow", problem["earlier"]["decision_id"])
    assert standing_of(world.recorder.records).decision == "block"  # type: ignore[union-attr]


async def test_a_report_of_another_payment_under_a_decided_id_changes_nothing(world: World) -> None:
    engine = world.engine(0.1)
    await decided(engine)
    other = PAYMENT | {"amount": 1}
    assert (await world.report(engine, a_report(payment=other))).status == 409
    assert await decided(engine) == "allow"
    assert (await engine.decide(body(amount=1), "default")).status == 409


async def test_a_reported_id_is_of_one_payment(world: World) -> None:
    engine = world.engine(score=None)
    assert (await world.report(engine, a_report())).status == 200
    other = {**PAYMENT, "transaction_id": "t-2"}
    refused = await world.report(engine, a_report(payment=other))
    assert (refused.status, json.loads(refused.body)["field"]) == (422, "decision_id")
    assert (await world.report(engine, a_report(), caller="another")).status == 422
    assert not world.features.counted & {("default", "t-2"), ("another", "t-1")}, "what is refused is not counted"
    assert (await world.report(engine, a_report())).status == 200, "sent again, it is the same report"
    assert {record.identity for record in world.recorder.records} == {("default", "t-1")}
    assert (await world.report(engine, a_report(number=2, payment=other))).status == 200


async def test_a_report_on_what_waits_for_the_store_is_one_on_a_decided_payment(world: World) -> None:
    engine = world.engine(0.9)
    world.redis.down = True
    assert await decided(engine) == "block"
    world.redis.down = False
    assert (await world.report(engine, a_report())).status == 409


@pytest.mark.parametrize(
    ("policy", "payment"),
    [
        (Policy(0.7, 0.4, 4, block_list=Listed(users={"u-1": FOREVER})), PAYMENT),
        (Policy(0.7, 0.4, 4, block_list=Listed(users={"u-1": FOREVER})), PAYMENT | {"amount": 900_000}),
        (Policy(0.7, 0.4, 4), PAYMENT | {"amount": 900_000}),
    ],
)
async def test_a_report_more_lenient_than_the_policy_was_does_not_stand(
    world: World, policy: Policy, payment: dict[str, Any]
) -> None:
    world.policy = policy
    engine = world.engine(0.1)
    answer = await world.report(engine, a_report(payment=payment))
    problem = json.loads(answer.body)
    assert (answer.status, problem["type"].rpartition(":")[2]) == (409, "contradicts-policy")
    stands = await engine.decide(body(amount=payment["amount"]), "default")
    assert json.loads(stands.body)["decision"] == problem["earlier"]["decision"] != "allow"
    told = {one.decision_id: one for one in world.recorder.records}[f"{1:032x}"]
    assert told.superseded_by == problem["earlier"]["decision_id"]
    assert (await world.report(engine, a_report(payment=payment))).status == 409, "sent again"


async def test_a_report_is_held_against_the_policy_of_its_time(world: World) -> None:
    noon = datetime(2026, 11, 23, 12, tzinfo=UTC)
    plain = {"threshold": 0.7, "review_threshold": 0.4, "rule_high_amount": 10_000, "rule_cross_country_amount": 1_000}
    listed = (Entry(kind="user", value="u-1", until=None, why="fraud"),)
    keep(world.home, PolicyRecord(version=1, since=noon - timedelta(hours=9), **plain))  # type: ignore[arg-type]
    keep(world.home, PolicyRecord(version=2, since=noon - timedelta(hours=1), block_list=listed, **plain))  # type: ignore[arg-type]
    keep(world.home, PolicyRecord(version=3, since=noon - timedelta(minutes=30), **plain))  # type: ignore[arg-type]
    engine = world.engine()
    statuses = {}
    for number, at in enumerate(("02:59", "10:59", "11:00:03", "11:15", "11:30:04", "11:45")):
        payment = PAYMENT | {"transaction_id": at}
        when = f"2026-11-23T{at:0<8}Z" if at.count(":") == 2 else f"2026-11-23T{at}:00Z"
        report = a_report(number=number, decided_at=when, payment=payment)
        statuses[at] = (await world.report(engine, report)).status
    # five seconds are given to whoever follows the policy
    assert statuses == {"02:59": 200, "10:59": 200, "11:00:03": 200, "11:15": 409, "11:30:04": 200, "11:45": 200}


@pytest.mark.parametrize("at", ["09:00:00", "11:59:50", "12:04:00"])
async def test_a_report_of_another_time_does_not_lift_a_list_that_is_in_force(world: World, at: str) -> None:
    noon = datetime(2026, 11, 23, 12, tzinfo=UTC)
    plain = {"threshold": 0.7, "review_threshold": 0.4, "rule_high_amount": 10_000, "rule_cross_country_amount": 1_000}
    keep(world.home, PolicyRecord(version=1, since=noon - timedelta(hours=9), **plain))  # type: ignore[arg-type]
    until = noon + timedelta(minutes=3)
    listed = PolicyRecord(
        version=2, since=noon - timedelta(seconds=1),
        block_list=(Entry(kind="user", value="u-1", until=until, why="fraud"),), **plain,  # type: ignore[arg-type]
    )  # fmt: skip
    keep(world.home, listed)
    world.policy = listed.compiled()
    engine = world.engine(0.1)
    answer = await world.report(engine, a_report(decided_at=f"2026-11-23T{at}Z"))
    problem = json.loads(answer.body)
    assert (answer.status, problem["type"].rpartition(":")[2]) == (409, "contradicts-policy")
    assert problem["earlier"]["reason"] == "block_list"
    assert await decided(engine) == "block"


@pytest.mark.parametrize(
    ("when", "status"),
    [
        ("1970-01-01T00:00:00Z", 422),
        ("2026-11-22T11:59:59Z", 422),
        ("2026-11-22T12:00:01Z", 200),
        ("2026-11-23T12:05:00Z", 200),
        ("2026-11-23T12:05:01Z", 422),
    ],
)
async def test_a_report_is_of_the_last_day(world: World, when: str, status: int) -> None:
    answer = await world.report(world.engine(), a_report(decided_at=when))
    assert answer.status == status
    if status == 422:
        assert json.loads(answer.body)["field"] == "decided_at"
        assert world.recorder.records == []


async def test_a_report_whose_reason_decides_otherwise_is_refused(world: World) -> None:
    answer = await world.report(world.engine(), a_report(reason="high_amount_fallback"))
    assert (answer.status, json.loads(answer.body)["field"]) == (422, "reason")


async def test_a_report_waits_while_nobody_can_say_what_stands(world: World) -> None:
    engine = world.engine()
    world.redis.down = True
    assert (await world.report(engine, a_report())).status == 503
    assert world.recorder.records == []
    world.redis.down = False
    assert (await world.report(engine, a_report())).status == 200


async def test_a_report_that_settled_and_was_not_written_is_written_when_it_is_sent_again(world: World) -> None:
    engine = world.engine()
    world.recorder.full = True
    assert (await world.report(engine, a_report())).status == 503
    world.recorder.full = False
    assert (await world.report(engine, a_report())).status == 200
    assert [one.decision_id for one in world.recorder.records] == [f"{1:032x}"]


# --- overload


async def test_past_its_capacity_a_worker_still_finds_what_stands(world: World) -> None:
    engine = world.engine(0.9, capacity=1)
    assert await decided(engine) == "block"
    world.features.wait = 0.05
    busy = [asyncio.create_task(engine.decide(body(transaction_id=f"t-{n}"), "default")) for n in range(2, 9)]
    await asyncio.sleep(0.01)
    asked = [await decided(engine) for _ in range(20)]
    await asyncio.gather(*busy)
    assert set(asked) == {"block"}
    assert await decided(engine) == "block"
    assert len({one.decision_id for one in world.recorder.records if one.request.transaction_id == "t-1"}) == 1


async def test_one_caller_sheds_its_own_payments_and_no_others(world: World) -> None:
    world.features.wait = 0.05
    engine = world.engine(0.1, capacity=10)
    flood = [asyncio.create_task(engine.decide(body(transaction_id=f"a-{n}"), "a")) for n in range(30)]
    await asyncio.sleep(0)
    others = [asyncio.create_task(engine.decide(body(transaction_id=f"b-{n}"), "b")) for n in range(5)]
    answers = [json.loads(answer.body)["served_by"]["model"] for answer in await asyncio.gather(*flood, *others)]
    assert Counter(answers[:30]) == {"champion": 10, "rules": 20}
    assert Counter(answers[30:]) == {"champion": 5}


async def test_a_batch_counts_as_its_payments(world: World) -> None:
    world.features.wait = 0.05
    engine = world.engine(0.1, capacity=10)
    batch = b'{"payments": [' + b",".join(body(transaction_id=f"a-{n}") for n in range(30)) + b"]}"
    work = asyncio.create_task(engine.decide_batch(batch, "a"))
    await asyncio.sleep(0.01)
    assert engine.under_way == 10, "the others went without features"
    assert await decided(engine, "b", transaction_id="b-1") == "allow"
    items = json.loads((await work).body)["answers"]
    assert Counter(item["answer"]["served_by"]["model"] for item in items) == {"champion": 10, "rules": 20}


def test_capacity_is_given_back_and_shared_by_whoever_is_there() -> None:
    capacity = Capacity(4)
    assert [capacity.enter("a") for _ in range(5)] == [True] * 4 + [False]
    assert [capacity.enter("b") for _ in range(3)] == [True, True, False]
    for _ in range(5):
        capacity.leave("a")
    for _ in range(3):
        capacity.leave("b")
    assert capacity.under_way == 0
    assert [capacity.enter("c") for _ in range(5)] == [True] * 4 + [False]


# --- the store away


async def test_a_worker_answers_as_it_did_while_the_store_is_away(world: World) -> None:
    engine = world.engine(0.1)
    first = await engine.decide(body(), "default")
    world.redis.down = True
    engine.policy = Policy(0.05, 0.01, 9)
    assert await engine.decide(body(), "default") == first
    assert (await engine.decide(body(amount=1), "default")).status == 409
    world.redis.down = False
    assert await engine.decide(body(), "default") == first


async def test_what_another_worker_decided_is_remembered_once_it_was_met(world: World) -> None:
    first, second = world.engine(0.9), world.engine(0.1)
    assert await decided(first) == await decided(second) == "block"
    world.redis.down = True
    assert await decided(second) == "block"


@pytest.mark.parametrize(
    ("one", "other", "stands"),
    [
        (0.9, 0.1, "block"),
        (0.1, 0.9, "block"),
        (0.1, None, "allow"),
        (None, 0.9, "block"),
        (0.5, 0.1, "flag_for_review"),
    ],
)
async def test_two_decisions_told_apart_come_to_be_one(
    world: World, one: float | None, other: float | None, stands: str
) -> None:
    """One worker decides and settles, another is cut off and decides as well."""
    first, second = world.engine(one), world.engine(other)
    told = [await decided(first)]
    world.redis.down = True
    told.append(await decided(second))
    assert told[1] == await decided(second), "it stays by what it told"
    world.redis.down = False
    await settled(second)
    assert [await decided(engine) for engine in (first, second, world.engine(0.3))] == [stands] * 3
    assert decode_record(world.redis.values["default", "t-1"]).decision == stands
    (mark,) = world.superseded
    assert mark.superseded_by == decode_record(world.redis.values["default", "t-1"]).decision_id
    log = [*world.recorder.records, mark]
    assert standing_of(log).decision == stands  # type: ignore[union-attr]
    assert Counter(told) <= Counter({record.decision_id: record.decision for record in log}.values())


async def test_a_decision_whose_settlement_got_lost_is_settled_again(world: World) -> None:
    """Redis answers too late: whether it took the record, only asking again will tell."""
    engine = world.engine(0.1)
    world.redis.down = True
    await decided(engine)
    world.redis.down = False
    (waiting,) = [engine._decisions.waiting("default", "t-1")]
    assert waiting is not None
    world.redis.values["default", "t-1"] = encode_record(waiting)
    await settled(engine)
    assert engine._decisions.unsettled == 0
    assert world.superseded == []


async def test_what_waits_goes_on_waiting_while_the_store_is_away(world: World) -> None:
    engine = world.engine(0.1)
    world.redis.down = True
    for number in range(450):
        await decided(engine, transaction_id=str(number))
    assert not await engine._decisions.settle_waiting()
    assert engine._decisions.unsettled == 450
    world.redis.down = False
    await settled(engine)
    assert engine._decisions.unsettled == 0
    assert len(world.redis.values) == 450


async def test_a_store_that_lost_its_last_seconds_gets_them_again(world: World) -> None:
    engine = world.engine(0.9)
    for number in range(3):
        await decided(engine, transaction_id=str(number))
        world.now += AT_RISK_US // 3 + 1
    lost = dict(world.redis.values)
    world.redis.values.clear()
    other = world.engine(0.1)
    assert await decided(other, transaction_id="2") == "allow", "it cannot know"
    engine._decisions.settle_recent_again()
    await settled(engine)
    assert decode_record(world.redis.values["default", "2"]).decision == "block"
    assert world.redis.values["default", "1"] == lost["default", "1"]
    assert ("default", "0") not in world.redis.values, "that was safe by then"
    assert [mark.decision for mark in world.superseded] == ["allow"]


async def test_more_than_can_wait_is_left_to_the_lake(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fraud_platform.decision.identity.UNSETTLED", 3)
    engine = world.engine()
    world.redis.down = True
    for number in range(5):
        await decided(engine, transaction_id=str(number))
    assert (engine._decisions.unsettled, world.given_up) == (3, 2)
    assert len(world.recorder.records) == 5


# --- identity


async def test_a_retry_may_bear_another_timestamp_and_further_fields(world: World) -> None:
    engine = world.engine(0.1)
    first = await engine.decide(body(), "default")
    again = await engine.decide(
        body(timestamp="2026-11-23T12:00:09Z", channel="online", country="FR", device_id="d-1", x=1), "default"
    )
    assert again == first
    assert len({one.decision_id for one in world.recorder.records}) == 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"amount": 43}, "amount"),
        ({"user_id": "u-2"}, "user_id"),
        ({"merchant_id": "m-2"}, "merchant_id"),
    ],
)
async def test_a_conflict_shows_the_earlier_decision_and_the_field_that_differs(
    world: World, change: dict[str, Any], field: str
) -> None:
    engine = world.engine(0.9)
    await decided(engine)
    answer = await engine.decide(body(**change), "default")
    problem = json.loads(answer.body)
    assert (answer.status, problem["field"]) == (409, field)
    assert problem["earlier"] == {
        "decision_id": world.recorder.records[0].decision_id, "decided_at": "2026-11-23T12:00:00Z",
        "decision": "block", "reason": "score_above_threshold", "score": 0.9,
        "model_version": "fraud-detector/7", "policy_version": 3,
    }  # fmt: skip


async def test_a_retry_of_what_a_former_release_decided_finds_it(world: World) -> None:
    """Records of schema version 1 bear another hash; what they say of the payment is compared."""
    engine = world.engine(0.9)
    await decided(engine)
    (kept,) = world.recorder.records
    former = msgspec.structs.replace(kept, schema_version=1, request_hash=kept.request.former_content_hash())
    world.redis.values["default", "t-1"] = encode_record(former)
    assert await decided(world.engine(0.1)) == "block"
    assert (await world.engine(0.1).decide(body(amount=1), "default")).status == 409


# --- all of it at once


SCORES = (0.1, 0.5, 0.9, None)
STEPS = st.lists(
    st.tuples(
        st.integers(0, 2), st.integers(0, 3), st.sampled_from(SCORES), st.booleans(), st.sampled_from(["ask", "report"])
    ),
    min_size=2,
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_whatever_happens_everybody_comes_to_the_same_decision(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, float | None, bool, str]]
) -> None:
    """Three workers, three payments, a store that comes and goes between any two steps, models that change, reports:
    in the end workers, store and log know one decision per payment, and every one that was told is in the log."""
    asyncio.run(_come_to_the_same(World(tmp_path_factory.mktemp("world")), steps))


async def _come_to_the_same(world: World, steps: list[tuple[int, int, float | None, bool, str]]) -> None:
    workers = [world.engine(0.1) for _ in range(3)]
    told: dict[str, set[str]] = defaultdict(set)
    from tests.engine_kit import model

    for number, (payment, worker, score, down, what) in enumerate(steps):
        world.redis.down = down
        world.now += 1
        engine = workers[worker % 3]
        engine.model = None if score is None else model(score)
        name = f"t-{payment}"
        if what == "ask":
            told[name].add(await decided(engine, transaction_id=name))
        else:
            named = PAYMENT | {"transaction_id": name}
            answer = await world.report(engine, a_report(number=number + 1, payment=named))
            assert answer.status == (503 if down else answer.status)
            if answer.status != 503:
                told[name].add("allow")
        if worker == 3:
            await engine._decisions.settle_waiting()
    world.redis.down = False
    for engine in workers:
        await settled(engine)
    for explainer in world.explainers:
        explainer.close()
    for name, decisions in told.items():
        log = [one for one in (*world.recorder.records, *world.superseded) if one.request.transaction_id == name]
        stands = standing_of(log)
        assert stands is not None
        assert decode_record(world.redis.values["default", name]).decision_id == stands.decision_id
        assert {await decided(engine, transaction_id=name) for engine in workers} == {stands.decision}
        assert decisions <= {one.decision for one in log}
        assert len({one.decision_id for one in log} - {one.decision_id for one in log if one.superseded_by}) == 1
        by_models = [one for one in log if one.served_by.model != "rules"]
        if by_models:
            assert stands.served_by.model != "rules" or STRICTNESS[stands.decision] >= max(
                STRICTNESS[one.decision] for one in by_models
            )
