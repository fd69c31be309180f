"""The policy's edges, on unrounded scores; the order in which it decides; when an entry of a list counts."""

import math
from typing import Any

import msgspec
import pytest

from fraud_platform.decision.policy import DECIDED_BY, POLICY_SENTENCES, Listed, Policy, decide
from fraud_platform.decision.request import Payment
from fraud_platform.decision.rules import RULE_SENTENCES, FallbackRules

POLICY = Policy(threshold=0.7, review_threshold=0.4, version=3)
NOW = 1_795_435_200_000_000
LATER = NOW + 1
PAYMENT = Payment(
    transaction_id="t-1", user_id="u-1", merchant_id="m-1", amount_minor=4250, currency="EUR", country="FR",
    timestamp=NOW, device_id="d-1", user_country="DE",
)  # fmt: skip


@pytest.mark.parametrize(
    ("score", "decision", "reason"),
    [
        (0.0, "allow", "score_below_threshold"),
        (0.4, "allow", "score_below_threshold"),
        (math.nextafter(0.4, 1), "flag_for_review", "score_in_review_band"),
        (0.7, "flag_for_review", "score_in_review_band"),
        (math.nextafter(0.7, 1), "block", "score_above_threshold"),
        (0.7000001, "block", "score_above_threshold"),
        (1.0, "block", "score_above_threshold"),
    ],
)
def test_only_a_score_strictly_greater_than_a_threshold_passes_it(score: float, decision: str, reason: str) -> None:
    assert POLICY.of_score(score) == (decision, reason)
    assert decided(POLICY, score) == (decision, reason)


def test_a_policy_without_a_review_band_blocks_or_allows() -> None:
    policy = Policy(threshold=0.5, review_threshold=0.5, version=1)
    assert [policy.of_score(score)[0] for score in (0.5, 0.51)] == ["allow", "block"]


@pytest.mark.parametrize("score", [math.nan, -0.1, 1.1, math.inf])
def test_a_score_that_is_no_probability_is_refused_rather_than_allowed(score: float) -> None:
    with pytest.raises(ValueError, match="probability"):
        decided(POLICY, score)


@pytest.mark.parametrize(("threshold", "review"), [(0.4, 0.7), (1.0, 0.5), (0.5, 0.0), (math.nan, 0.1)])
def test_a_policy_whose_bands_do_not_nest_is_refused(threshold: float, review: float) -> None:
    with pytest.raises(ValueError, match="review_threshold"):
        Policy(threshold=threshold, review_threshold=review, version=1)


def decided(policy: Policy, score: float | None, amount: int = 4250, at: int = NOW) -> tuple[str, str]:
    return decide(policy, score, PAYMENT, amount, 2, at)


HELD, OTHER = Listed(users={"u-1": LATER}), Listed(users={"u-2": LATER})
BLOCK, ALLOW = ("block", "block_list"), ("allow", "allow_list")
EVERYTHING = ("allow", "kill_switch_allow_all")
BY_RULE = ("flag_for_review", "cross_country_fallback")
BY_SCORE = ("block", "score_above_threshold")


@pytest.mark.parametrize(
    ("switch", "blocked", "allowed", "score", "expected"),
    [
        ("off", OTHER, OTHER, 0.9, BY_SCORE),
        ("off", OTHER, OTHER, None, BY_RULE),
        ("off", HELD, OTHER, 0.1, BLOCK),
        ("off", HELD, OTHER, None, BLOCK),
        ("off", OTHER, HELD, 0.9, ALLOW),
        ("off", OTHER, HELD, None, ALLOW),
        ("off", HELD, HELD, 0.1, BLOCK),
        ("rules_only", OTHER, OTHER, 0.9, BY_RULE),
        ("rules_only", OTHER, OTHER, None, BY_RULE),
        ("rules_only", HELD, OTHER, 0.1, BLOCK),
        ("rules_only", OTHER, HELD, 0.9, ALLOW),
        ("rules_only", HELD, HELD, 0.9, BLOCK),
        ("allow_all", OTHER, OTHER, 0.9, EVERYTHING),
        ("allow_all", OTHER, OTHER, None, EVERYTHING),
        ("allow_all", HELD, OTHER, 0.9, EVERYTHING),
        ("allow_all", HELD, HELD, None, EVERYTHING),
    ],
)
def test_the_kill_switch_comes_first_then_the_block_list_then_the_allow_list_then_the_score(
    switch: Any, blocked: Listed, allowed: Listed, score: float | None, expected: tuple[str, str]
) -> None:
    policy = Policy(0.7, 0.4, 3, FallbackRules(10_000, 1_000), switch, blocked, allowed)
    assert decided(policy, score, amount=1_000_01) == expected


def test_the_limits_of_the_rules_are_the_policys() -> None:
    policy = Policy(0.7, 0.4, 3, FallbackRules(high_amount=50, cross_country_amount=20))
    reasons = [decided(policy, None, amount)[1] for amount in (20_00, 20_01, 50_01)]
    assert reasons == ["service_unavailable_fallback", "cross_country_fallback", "high_amount_fallback"]


@pytest.mark.parametrize(
    "listed",
    [
        Listed(users={"u-1": LATER}),
        Listed(merchants={"m-1": LATER}),
        Listed(devices={"d-1": LATER}),
        Listed(countries={"FR": LATER}),
    ],
)
def test_an_entry_counts_until_the_microsecond_at_which_it_ends(listed: Listed) -> None:
    policy = Policy(0.7, 0.4, 3, block_list=listed)
    assert decided(policy, 0.1, at=LATER - 1) == BLOCK
    assert decided(policy, 0.1, at=LATER) == ("allow", "score_below_threshold")


@pytest.mark.parametrize(
    "listed",
    [
        # an identifier of another kind, the home country, somebody else
        Listed(users={"m-1": LATER}, merchants={"d-1": LATER}, devices={"u-1": LATER}),
        Listed(countries={"DE": LATER}),
        Listed(users={"U-1": LATER, "u-10": LATER}),
    ],
)
def test_an_entry_is_of_its_kind_and_value_alone(listed: Listed) -> None:
    assert not listed.holds(PAYMENT, NOW)


def test_a_payment_without_a_device_is_on_no_list_of_devices() -> None:
    listed = Listed(devices={"d-1": LATER, "None": LATER})
    assert not listed.holds(msgspec.structs.replace(PAYMENT, device_id=None), NOW)


def test_every_reason_that_no_score_gives_names_who_decided_and_has_its_sentence() -> None:
    assert DECIDED_BY.keys() == RULE_SENTENCES.keys() | POLICY_SENTENCES.keys()
