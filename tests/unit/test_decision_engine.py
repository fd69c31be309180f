"""The engine's promises, on doubles: one decision per payment, records before answers, no error that escapes."""

import asyncio
import dataclasses
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fraud_platform.decision.budget import Budget
from fraud_platform.decision.policy import FOREVER, POLICY_SENTENCES, Listed, Policy, decide
from fraud_platform.decision.request import parse_payment
from fraud_platform.decision.rules import RULE_SENTENCES, FallbackRules
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.online.decision_key import claim
from tests.engine_kit import AS_SET, NOW, PAYMENT, UNLIMITED, World, body


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    for explainer in world.explainers:
        explainer.close()


async def test_the_answer_is_the_contract_to_the_letter(world: World) -> None:
    answer = await world.engine(0.0312254321).decide(body(), "default")
    assert (answer.status, answer.content_type) == (200, b"application/json")
    assert json.loads(answer.body) == {
        "transaction_id": "t-1",
        "score": 0.031225,
        "decision": "allow",
        "reason": "score_below_threshold",
        "threshold": 0.7,
        "model_version": "fraud-detector/7",
        "policy_version": 3,
        "served_by": {"user_features": "redis", "merchant_features": "redis", "model": "champion"},
        "degraded": False,
    }


async def test_the_decision_is_made_on_the_unrounded_score(world: World) -> None:
    answer = json.loads((await world.engine(0.7000000001).decide(body(), "default")).body)
    assert (answer["score"], answer["decision"], answer["reason"]) == (0.7, "block", "score_above_threshold")


async def test_defaults_instead_of_redis_are_marked_as_degraded(world: World) -> None:
    world.features.source = "default"
    answer = json.loads((await world.engine().decide(body(), "default")).body)
    assert answer["degraded"] is True
    assert answer["served_by"]["user_features"] == "default"


async def test_the_record_holds_the_scored_vector_and_where_it_came_from(world: World) -> None:
    engine = world.engine(0.25)
    await engine.decide(body(), "default")
    (record,) = world.recorder.records
    scored = engine.model.compiled.vectors[0][0]  # type: ignore[attr-defined]
    assert record.values.tobytes() == scored.tobytes()
    assert np.isnan(record.values).any()
    assert (record.amount, record.received_at) == (4250, NOW)
    assert record.score == pytest.approx(0.25, abs=1e-15)
    assert (record.user_effective_time, record.merchant_effective_time) == (NOW, NOW + 7)
    assert (record.user_snapshot, record.merchant_snapshot) == ("2026-11-22", None)
    assert (record.epoch, record.complete_since) == ("e-1", 5)
    assert (record.model_version, record.scorer_hash, record.policy_version) == ("fraud-detector/7", "f" * 64, 3)
    assert (record.catalogue_hash, record.caller) == (CATALOGUE.hash, "default")


async def test_the_same_body_again_gets_the_same_bytes_even_from_another_model(world: World) -> None:
    first = await world.engine(0.1).decide(body(), "default")
    world.now += 3_600_000_000
    again = await world.engine(0.9).decide(body(amount=42.50, timestamp="2026-11-23T13:00:00+01:00"), "default")
    assert again == first
    assert world.features.counted == {("default", "t-1")}
    assert world.meter.decisions == {("allow", False): 1, ("allow", True): 1}


async def test_a_repeat_is_recorded_as_the_decision_it_repeats(world: World) -> None:
    engine = world.engine()
    for _ in range(2):
        await engine.decide(body(), "default")
    assert len({record.decision_id for record in world.recorder.records}) == 1


async def test_another_body_under_the_same_id_is_a_conflict(world: World) -> None:
    engine = world.engine()
    await engine.decide(body(), "default")
    answer = await engine.decide(body(amount=43), "default")
    assert (answer.status, answer.content_type) == (409, b"application/problem+json")
    assert json.loads(answer.body)["field"] == "amount"
    assert len(world.recorder.records) == 1


async def test_two_callers_do_not_share_an_id(world: World) -> None:
    engine = world.engine()
    first = await engine.decide(body(), "acquirer")
    second = await engine.decide(body(amount=43), "issuer")
    assert (first.status, second.status) == (200, 200)


async def test_a_payment_that_comes_many_times_at_once_is_decided_once(world: World) -> None:
    engines = [world.engine(score) for score in (0.1, 0.5, 0.9)]
    answers = await asyncio.gather(*(engine.decide(body(), "default") for engine in engines * 5))
    assert len({answer.body for answer in answers}) == 1
    assert len({record.decision_id for record in world.recorder.records}) == 1
    assert sum(count for (_, repeated), count in world.meter.decisions.items() if not repeated) == 1


async def test_two_bodies_under_one_id_at_once_give_one_decision_and_conflicts(world: World) -> None:
    engine = world.engine()
    answers = await asyncio.gather(*(engine.decide(body(amount=n), "default") for n in (1, 2, 1, 2, 1)))
    winner = next(json.loads(a.body) for a in answers if a.status == 200)
    assert Counter(answer.status for answer in answers) in ({200: 3, 409: 2}, {200: 2, 409: 3})
    assert winner["transaction_id"] == "t-1"


async def test_a_payment_whose_first_worker_died_before_deciding_is_decided(world: World) -> None:
    payment = parse_payment(body(), "EUR")
    world.redis.values["default", "t-1"] = claim(payment.content_hash())
    assert (await world.engine().decide(body(), "default")).status == 200


async def test_another_body_than_the_one_being_decided_is_a_conflict(world: World) -> None:
    world.redis.values["default", "t-1"] = claim(parse_payment(body(amount=1), "EUR").content_hash())
    assert (await world.engine().decide(body(), "default")).status == 409
    assert world.recorder.records == []


async def test_without_the_store_a_worker_knows_its_own_decisions(world: World) -> None:
    world.redis.down = True
    engine = world.engine()
    first = await engine.decide(body(), "default")
    again = await engine.decide(body(), "default")
    other = await engine.decide(body(amount=1), "default")
    assert (first.status, again.body, other.status) == (200, first.body, 409)


async def test_a_full_disk_is_counted_and_does_not_stop_payments(world: World) -> None:
    world.recorder.full = True
    assert (await world.engine().decide(body(), "default")).status == 200
    assert world.meter.failures == {"record": 1}


async def test_whatever_breaks_on_our_side_the_rules_decide_and_it_is_logged_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.features.failing = True
    engine = world.engine()
    with caplog.at_level(logging.ERROR):
        answers = [await engine.decide(body(transaction_id=str(n), amount=10_000.01), "default") for n in range(50)]
    decided = json.loads(answers[0].body)
    assert {answer.status for answer in answers} == {200}
    assert (decided["decision"], decided["reason"], decided["score"]) == (
        "flag_for_review", "high_amount_fallback", None,
    )  # fmt: skip
    assert (decided["degraded"], decided["served_by"]["model"]) == (True, "rules")
    assert world.meter.failures == {"predict": 50}
    assert len(world.recorder.records) == len(world.features.counted) == 50
    assert len([r for r in caplog.records if r.name == "fraud_platform.decision"]) == 1
    world.now += 61_000_000
    await engine.decide(body(), "default")
    assert "49 more" in caplog.text


async def test_broken_trees_leave_the_decision_to_logistic_regression(world: World) -> None:
    engine = world.engine()
    engine.model.compiled.broken = True  # type: ignore[union-attr]
    answer = json.loads((await engine.decide(body(), "default")).body)
    assert (answer["score"], answer["decision"]) == (0.5, "flag_for_review")
    assert (answer["degraded"], answer["served_by"]["model"]) == (True, "logistic_regression")
    assert world.meter.failures == {"champion": 1}


async def test_after_five_failures_the_trees_are_left_alone(world: World) -> None:
    engine = world.engine()
    engine.model.compiled.broken = True  # type: ignore[union-attr]
    for n in range(9):
        assert (await engine.decide(body(transaction_id=str(n)), "default")).status == 200
    assert world.meter.failures == {"champion": 5}


async def test_without_any_model_the_rules_decide(world: World) -> None:
    engine = world.engine(None)
    abroad = body(amount=1000.01, user_country="FR")
    answer = json.loads((await engine.decide(abroad, "default")).body)
    assert (answer["decision"], answer["reason"]) == ("flag_for_review", "cross_country_fallback")
    assert answer["model_version"] == "none/0"
    (record,) = world.recorder.records
    assert not np.isnan(record.values).all()
    refused = await engine.explain(body(transaction_id="t-2"), "default")
    assert (refused.status, json.loads(refused.body)["type"][-10:]) == (404, "not-scored")
    explained = json.loads((await engine.explain(b'{"transaction_id": "t-1"}', "default")).body)
    assert explained["reason"].endswith("a larger amount was paid outside the home country")
    assert (explained["decided_by"], explained["score"], explained["contributions"]) == ("rules", None, [])


async def test_a_batch_is_decided_as_its_payments_would_be_alone_and_in_their_order(world: World) -> None:
    engine = world.engine(0.9)
    alone = await engine.decide(body(), "default")
    payments = [
        body(transaction_id="t-2"), body(amount=-1), body(), body(amount=43), b"[]", body(transaction_id="t-2"),
    ]  # fmt: skip
    answer = await engine.decide_batch(b'{"payments": [' + b",".join(payments) + b"]}", "default")
    items = json.loads(answer.body)["answers"]
    assert answer.status == 200
    assert [item["status"] for item in items] == [200, 422, 200, 409, 422, 200]
    assert items[0]["answer"]["transaction_id"] == "t-2"
    assert items[0] == items[5]
    assert items[1]["problem"]["field"] == "amount"
    assert items[2]["answer"] == json.loads(alone.body)
    assert len({r.decision_id for r in world.recorder.records}) == 2


@pytest.mark.parametrize(
    ("wrong", "status"),
    [(b"{", 400), (b"{}", 422), (b'{"payments": []}', 422), (b'{"payments": [%b]}' % b",".join([b"1"] * 101), 422)],
)
async def test_a_batch_that_is_none_is_refused_whole(world: World, wrong: bytes, status: int) -> None:
    assert (await world.engine().decide_batch(wrong, "default")).status == status
    assert world.recorder.records == []


async def test_past_its_capacity_the_rules_answer_at_once(world: World) -> None:
    world.features.wait = 0.2
    engine = world.engine(capacity=3)
    work = [asyncio.create_task(engine.decide(body(transaction_id=str(n)), "default")) for n in range(8)]
    await asyncio.sleep(0.05)
    early = [json.loads(task.result().body) for task in work if task.done()]
    assert [answer["served_by"]["model"] for answer in early] == ["rules"] * 5
    answers = [json.loads(answer.body) for answer in await asyncio.gather(*work)]
    assert sum(answer["degraded"] for answer in answers) == 5
    assert len(world.recorder.records) == len(world.features.counted) == 8
    again = json.loads((await engine.decide(body(transaction_id="7"), "default")).body)
    assert again == answers[7]


LISTED = Listed(users={"u-1": NOW + 1})


@pytest.mark.parametrize(
    ("lists", "score", "decision", "reason"),
    [
        ({"block_list": LISTED}, 0.1, "block", "block_list"),
        ({"allow_list": LISTED}, 0.9, "allow", "allow_list"),
        ({"allow_list": LISTED, "block_list": LISTED}, 0.1, "block", "block_list"),
    ],
)
async def test_a_list_decides_a_payment_that_is_scored_all_the_same(
    world: World, lists: dict[str, Listed], score: float, decision: str, reason: str
) -> None:
    world.policy = Policy(0.7, 0.4, 4, **lists)
    engine = world.engine(score)
    answer = json.loads((await engine.decide(body(), "default")).body)
    assert (answer["decision"], answer["reason"], answer["policy_version"]) == (decision, reason, 4)
    assert (answer["score"], answer["served_by"]["model"], answer["degraded"]) == (score, "list", False)
    (record,) = world.recorder.records
    assert (record.score, record.scored_by) == (pytest.approx(score), "champion")
    explained = json.loads((await engine.explain(b'{"transaction_id": "t-1"}', "default")).body)
    assert (explained["decided_by"], explained["decision"], explained["score"]) == ("list", decision, score)
    assert explained["reason"].endswith(f"is on the {reason.replace('_', ' ')}")
    assert len(explained["contributions"]) == 5
    world.now += 1
    later = json.loads((await engine.decide(body(transaction_id="t-2"), "default")).body)
    assert later["served_by"]["model"] == "champion", "the entry has expired"


async def test_a_list_decides_without_a_model_too_and_says_that_it_is_degraded(world: World) -> None:
    world.policy = Policy(0.7, 0.4, 4, block_list=LISTED)
    engine = world.engine(None)
    answer = json.loads((await engine.decide(body(), "default")).body)
    assert (answer["decision"], answer["served_by"]["model"], answer["degraded"]) == ("block", "list", True)
    explained = json.loads((await engine.explain(b'{"transaction_id": "t-1"}', "default")).body)
    assert (explained["decided_by"], explained["score"], explained["contributions"]) == ("list", None, [])
    assert explained["reason"].endswith("is on the block list")


async def test_a_score_of_logistic_regression_is_explained_by_it_where_a_list_decided(world: World) -> None:
    world.policy = Policy(0.7, 0.4, 4, block_list=LISTED)
    engine = world.engine(0.2)
    engine.model.compiled.broken = True  # type: ignore[union-attr]
    answer = json.loads((await engine.decide(body(), "default")).body)
    assert (answer["score"], answer["served_by"]["model"], answer["degraded"]) == (0.5, "list", True)
    await engine.explain(b'{"transaction_id": "t-1"}', "default")
    explained_by = [len(rung.vectors) for rung in (engine.model.scorer, engine.model.fallback)]  # type: ignore[union-attr]
    assert explained_by == [0, 1]


@pytest.mark.parametrize(
    ("switch", "changes", "decision", "reason", "model"),
    [
        ("rules_only", {}, "allow", "kill_switch_rules_only", "rules"),
        ("rules_only", {"amount": 10_000.01}, "flag_for_review", "high_amount_fallback", "rules"),
        ("rules_only", {"user_id": "u-2"}, "block", "block_list", "list"),
        ("allow_all", {"user_id": "u-2"}, "allow", "kill_switch_allow_all", "kill_switch"),
    ],
)
async def test_while_the_kill_switch_is_thrown_no_model_is_asked(
    world: World, switch: Any, changes: dict[str, Any], decision: str, reason: str, model: str
) -> None:
    engine = world.engine(0.9)
    before = json.loads((await engine.decide(body(transaction_id="before"), "default")).body)
    engine.policy = Policy(0.7, 0.4, 4, kill_switch=switch, block_list=Listed(users={"u-2": NOW + 1}))
    answer = json.loads((await engine.decide(body(**changes), "default")).body)
    assert (before["decision"], before["policy_version"]) == ("block", 3)
    assert (answer["decision"], answer["reason"], answer["policy_version"]) == (decision, reason, 4)
    assert (answer["score"], answer["served_by"]["model"], answer["degraded"]) == (None, model, True)
    assert len(engine.model.compiled.vectors) == 1, "the one before"  # type: ignore[union-attr]
    record = world.recorder.records[-1]
    assert not np.isnan(record.values).all(), "what the model would have seen is kept"
    explained = json.loads((await engine.explain(b'{"transaction_id": "t-1"}', "default")).body)
    assert (explained["decided_by"], explained["reason"]) == (model, (RULE_SENTENCES | POLICY_SENTENCES)[reason])
    engine.policy = Policy(0.7, 0.4, 5)
    after = json.loads((await engine.decide(body(transaction_id="after"), "default")).body)
    assert (after["decision"], after["policy_version"]) == ("block", 5)


async def test_a_what_if_is_decided_as_the_payment_would_be(world: World) -> None:
    engine = world.engine(0.25)
    asked = []
    for policy in (
        Policy(0.7, 0.4, 4),
        Policy(0.2, 0.1, 5),
        Policy(0.7, 0.4, 6, block_list=LISTED),
        Policy(0.7, 0.4, 7, kill_switch="rules_only"),
    ):
        engine.policy = policy
        answer = json.loads((await engine.explain(body(amount=12_000), "default")).body)
        asked.append((answer["decision"], answer["decided_by"], answer["score"]))
    assert asked == [
        ("allow", "champion", 0.25),
        ("block", "champion", 0.25),
        ("block", "list", 0.25),
        ("flag_for_review", "rules", 0.25),
    ]


async def test_a_decision_is_made_again_from_its_record_and_the_version_that_it_names(world: World) -> None:
    """Under every kind of policy and with any score: what is kept is enough."""
    policies = [
        Policy(0.7, 0.4, 1),
        Policy(0.3, 0.2, 2, rules=FallbackRules(100, 10)),
        Policy(0.7, 0.4, 3, block_list=Listed(users={"u-1": NOW + 30}, devices={"d-1": FOREVER})),
        Policy(0.7, 0.4, 4, allow_list=Listed(merchants={"m-1": NOW + 30}, countries={"FR": FOREVER})),
        Policy(0.7, 0.4, 5, rules=FallbackRules(100, 10), kill_switch="rules_only"),
        Policy(0.7, 0.4, 6, kill_switch="allow_all", block_list=LISTED),
    ]
    engines = [world.engine(score) for score in (None, 0.1, 0.5, 0.9)]
    payments: list[dict[str, Any]] = [{}, {"device_id": "d-1"}, {"country": "FR", "user_country": "DE"}]
    for number, (policy, engine, payment, amount) in enumerate(product(policies, engines, payments, (9, 50, 500))):
        world.now += 1
        engine.policy = policy
        assert (await engine.decide(body(transaction_id=str(number), amount=amount, **payment), "x")).status == 200
    kept = {policy.version: policy for policy in policies}
    assert len(world.recorder.records) == len(policies) * len(engines) * len(payments) * 3
    for record in world.recorder.records:
        policy = kept[record.policy_version]
        again = decide(policy, record.score, record.request, record.amount, 2, record.received_at)
        assert again == (record.decision, record.reason)
    assert len({record.reason for record in world.recorder.records}) == 10


async def test_every_stage_is_measured(world: World) -> None:
    await world.engine().decide(body(), "default")
    assert world.meter.stages == {"read", "request_features", "model", "log"}


async def test_a_report_is_written_down_counted_and_stands(world: World) -> None:
    engine = world.engine()
    report = {
        "decision_id": "0123456789abcdef" * 2, "decided_at": "2026-11-23T11:30:01Z", "decision": "allow",
        "reason": "service_unavailable_fallback", "cause": "timeout", "payment": PAYMENT,
    }  # fmt: skip
    assert (await world.report(engine, report)).status == 200
    answer = json.loads((await engine.decide(body(), "default")).body)
    assert (answer["decision"], answer["reason"]) == ("allow", "service_unavailable_fallback")
    assert {record.decision_id for record in world.recorder.records} == {report["decision_id"]}
    assert world.features.counted == {("default", "t-1")}


async def test_a_report_that_cannot_be_written_down_is_not_taken(world: World) -> None:
    world.recorder.full = True
    report = {
        "decision_id": "0123456789abcdef" * 2, "decided_at": "2026-11-23T11:30:01Z", "decision": "allow",
        "reason": "service_unavailable_fallback", "cause": "timeout", "payment": PAYMENT,
    }  # fmt: skip
    assert (await world.report(world.engine(), report)).status == 503


@pytest.mark.parametrize(
    ("payload", "status", "named"),
    [
        (b"{", 400, None),
        (b"[]", 422, None),
        (body(country="ZZ"), 422, "country"),
        (body(currency="ABC"), 422, "currency"),
    ],
)
async def test_a_wrong_body_is_a_problem_that_names_the_field(
    world: World, payload: bytes, status: int, named: str | None
) -> None:
    answer = await world.engine().decide(payload, "default")
    problem = json.loads(answer.body)
    assert (answer.status, problem["status"], problem.get("field")) == (status, status, named)
    assert {"type", "title", "detail"} <= problem.keys()
    assert world.features.reads == []


@pytest.mark.parametrize("currency", ["KWD", "INR", "ISK", "BGN"])
async def test_a_payment_whose_amount_is_not_known_goes_to_review_and_says_why(world: World, currency: str) -> None:
    answer = await world.engine(0.01).decide(body(currency=currency, amount=42), "default")
    told = json.loads(answer.body)
    assert answer.status == 200
    assert (told["decision"], told["reason"], told["score"]) == ("flag_for_review", "amount_unknown_fallback", None)
    assert told["degraded"] is True
    assert told["served_by"] == {
        "user_features": "redis", "merchant_features": "redis", "model": "rules", "amount": "unknown",
    }  # fmt: skip
    record = world.recorder.records[0]
    assert (record.amount, record.request.currency, record.degraded) == (None, currency, True)
    amounts = [name for name in CATALOGUE.names if name.startswith("amount")]
    assert len(amounts) == 5
    values = dict(zip(CATALOGUE.names, record.values, strict=True))
    assert all(np.isnan(values[name]) for name in amounts)
    assert not np.isnan(values["hour_of_day"]), "the vector is built, so that scores can be made up for"


async def test_a_rate_that_comes_later_fills_no_amount_in(world: World) -> None:
    engine = world.engine(0.01)
    payload = body(currency="KWD", amount=1.25)
    first = await engine.decide(payload, "default")
    world.rate_e9["KWD"] = 3 * 10**9
    assert (await engine.decide(payload, "default")).body == first.body
    assert (await world.engine(0.01).decide(payload, "default")).body == first.body
    assert {record.amount for record in world.recorder.records} == {None}
    later = json.loads((await engine.decide(body(transaction_id="t-2", currency="KWD", amount=1.25), "default")).body)
    assert (later["reason"], "amount" in later["served_by"]) == ("score_below_threshold", False)
    conflict = await engine.decide(body(currency="KWD", amount=1.5), "default")
    assert (conflict.status, json.loads(conflict.body)["field"]) == (409, "amount")


@pytest.mark.parametrize(
    ("policy", "decision", "reason"),
    [
        (Policy(0.7, 0.4, 3, block_list=Listed(users={"u-1": FOREVER})), "block", "block_list"),
        (Policy(0.7, 0.4, 3, allow_list=Listed(users={"u-1": FOREVER})), "allow", "allow_list"),
        (Policy(0.7, 0.4, 3, kill_switch="allow_all"), "allow", "kill_switch_allow_all"),
        (Policy(0.7, 0.4, 3, kill_switch="rules_only"), "flag_for_review", "amount_unknown_fallback"),
    ],
)
async def test_people_decide_before_a_missing_rate_does(
    world: World, policy: Policy, decision: str, reason: str
) -> None:
    engine = world.engine(0.99)
    engine.policy = policy
    told = json.loads((await engine.decide(body(currency="KWD"), "default")).body)
    assert (told["decision"], told["reason"], told["degraded"]) == (decision, reason, True)
    assert told["served_by"]["amount"] == "unknown"
    without = json.loads((await world.engine(None).decide(body(transaction_id="t-2", currency="KWD"), "default")).body)
    assert (without["decision"], without["reason"]) == ("flag_for_review", "amount_unknown_fallback")


async def test_a_payment_whose_amount_is_not_known_is_explained_by_that(world: World) -> None:
    engine = world.engine(0.99)
    await engine.decide(body(currency="KWD"), "default")
    recorded = await engine.explain(b'{"transaction_id": "t-1"}', "default")
    what_if = await engine.explain(body(currency="KWD", transaction_id="t-9"), "default")
    for answer, basis in ((recorded, "recorded"), (what_if, "what_if")):
        told = json.loads(answer.body)
        assert (answer.status, told["basis"], told["decided_by"]) == (200, basis, "rules")
        assert (told["score"], told["decision"], told["contributions"]) == (None, "flag_for_review", [])
        assert "not known in the base currency" in told["reason"]


async def test_a_report_of_a_payment_whose_amount_is_not_known_passes_no_limit(world: World) -> None:
    report = {
        "decision_id": "0123456789abcdef" * 2, "decided_at": "2026-11-23T11:30:01Z", "decision": "allow",
        "reason": "service_unavailable_fallback", "cause": "timeout", "payment": {**PAYMENT, "currency": "KWD"},
    }  # fmt: skip
    answer = await world.report(world.engine(), report)
    problem = json.loads(answer.body)
    assert (answer.status, problem["type"].rsplit(":", 1)[1]) == (409, "contradicts-policy")
    assert problem["earlier"]["reason"] == "amount_unknown_fallback"
    assert {record.amount for record in world.recorder.records} == {None}


async def test_an_explanation_names_the_five_largest_contributions_with_their_values(world: World) -> None:
    engine = world.engine(0.25)
    await engine.decide(body(), "default")
    answer = json.loads((await engine.explain(b'{"transaction_id": "t-1", "note": 1}', "default")).body)
    assert answer["basis"] == "recorded"
    assert (answer["score"], answer["margin"], answer["base_value"], answer["units"]) == (0.25, -2.59, -2.0, "log-odds")
    names = [CATALOGUE.names[index] for index in (38, 49, 5, 1, 0)]
    assert [each["feature"] for each in answer["contributions"]] == names
    assert [each["contribution"] for each in answer["contributions"]] == [-3, 2, 0.5, -0.2, 0.1]
    assert answer["contributions"][0]["value"] == 4250
    assert answer["contributions"][1]["value"] is None
    assert [each["effect"] for each in answer["contributions"][:2]] == ["lowers risk", "raises risk"]
    assert "42.50 EUR" in answer["contributions"][0]["reason"]
    assert answer["contributions"][0]["meaning"] == CATALOGUE.features[38].meaning


async def test_a_recorded_explanation_is_of_the_very_vector_that_was_scored(world: World) -> None:
    engine = world.engine(0.25)
    await engine.decide(body(), "default")
    await engine.explain(b'{"transaction_id": "t-1"}', "default")
    scored, explained = engine.model.compiled.vectors  # type: ignore[attr-defined]
    assert explained.tobytes() == scored[0].tobytes()


async def test_a_what_if_writes_nothing_anywhere(world: World) -> None:
    engine = world.engine(0.8)
    answer = json.loads((await engine.explain(body(), "default")).body)
    assert (answer["basis"], answer["decision"]) == ("what_if", "block")
    assert world.features.reads == [False]
    assert world.redis.values == {}
    assert world.features.counted == set()
    assert world.recorder.records == []


async def test_a_decision_of_another_caller_or_of_nobody_is_unknown(world: World) -> None:
    engine = world.engine()
    await engine.decide(body(), "acquirer")
    for transaction_id in ("t-1", "t-2"):
        answer = await engine.explain(msgspec.json.encode({"transaction_id": transaction_id}), "issuer")
        assert answer.status == 404


async def test_a_payment_whose_budget_is_gone_before_the_model_is_decided_by_the_rules_and_says_so(
    world: World,
) -> None:
    # 100 − 2 × 5 − 30 − 5 = 55 ms are there until the model has to begin
    world.features.wait = 0.06
    engine = world.engine(0.9, budget=AS_SET)
    answer = json.loads((await engine.decide(body(amount=10_000.01), "default")).body)
    assert (answer["decision"], answer["reason"]) == ("flag_for_review", "high_amount_fallback")
    assert (answer["score"], answer["degraded"]) == (None, True)
    assert answer["served_by"] == {"user_features": "redis", "merchant_features": "redis", "model": "rules"}
    assert engine.model.compiled.vectors == []  # type: ignore[attr-defined, union-attr]
    assert world.meter.overruns == {"read": 1, "budget": 1}
    (record,) = world.recorder.records
    # what was read is kept, so that the record replays; the decision stands as any other
    assert record.values[38] == 1_000_001
    assert json.loads((await engine.decide(body(amount=10_000.01), "default")).body) == answer


async def test_a_slow_stage_is_counted_and_its_payment_decided_by_the_model_all_the_same(world: World) -> None:
    allowed = dataclasses.asdict(UNLIMITED)
    engine = world.engine(0.9, budget=Budget(**{**allowed, "model_ms": 20}))
    forest = engine.model.compiled  # type: ignore[union-attr]
    quick = forest.margins

    def slow(vectors: Any) -> Any:
        time.sleep(0.03)
        return quick(vectors)

    forest.margins = slow  # type: ignore[method-assign]
    answer = json.loads((await engine.decide(body(), "default")).body)
    assert (answer["decision"], answer["served_by"]["model"]) == ("block", "champion")
    assert world.meter.overruns == {"model": 1}
    assert world.meter.stages == {"read", "request_features", "model", "log"}


async def test_a_disk_that_is_slow_overruns_the_stage_of_the_log(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = world.recorder.append

    def slow(day: date, payload: bytes) -> None:
        time.sleep(0.03)
        quick(day, payload)

    monkeypatch.setattr(world.recorder, "append", slow)
    allowed = dataclasses.asdict(UNLIMITED)
    answer = await world.engine(budget=Budget(**{**allowed, "log_ms": 20})).decide(body(), "default")
    assert answer.status == 200
    assert world.meter.overruns == {"log": 1}


async def test_a_payment_let_through_to_be_measured_says_so_and_is_so_again(world: World) -> None:
    engine = world.engine(0.9, release_share=0.5)
    answers = [json.loads((await engine.decide(body(transaction_id=f"t-{n}"), "default")).body) for n in range(40)]
    told = Counter((answer["decision"], answer["reason"]) for answer in answers)
    assert set(told) == {("block", "score_above_threshold"), ("allow", "released_for_measurement")}
    assert {record.propensity for record in world.recorder.records} == {0.5}
    # a worker that draws from nothing finds what stands
    again = world.engine(0.9)
    repeats = [json.loads((await again.decide(body(transaction_id=f"t-{n}"), "default")).body) for n in range(40)]
    assert repeats == answers


async def test_without_a_share_the_record_has_no_propensity(world: World) -> None:
    await world.engine(0.9).decide(body(), "default")
    assert [(record.decision, record.propensity) for record in world.recorder.records] == [("block", None)]
