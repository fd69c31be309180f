"""Letting a share of would-be blocks through: who is drawn, how often, and that a repeat is drawn alike."""

import pytest

from fraud_platform.decision.measurement import RELEASED, released

BLOCKED = ("block", "score_above_threshold")


@pytest.mark.parametrize(
    ("decision", "reason"),
    [
        ("allow", "score_below_threshold"),
        ("flag_for_review", "score_in_review_band"),
        ("flag_for_review", "high_amount_fallback"),
        ("block", "user_on_blocklist"),
    ],
)
def test_only_what_the_score_alone_blocked_is_drawn_from(decision: str, reason: str) -> None:
    assert released(decision, reason, 0.5, 1, "bank", "t-1") == (decision, reason, None)  # type: ignore[arg-type]


def test_without_a_share_nothing_is_drawn() -> None:
    assert released(*BLOCKED, 0.0, 1, "bank", "t-1") == (*BLOCKED, None)


def test_the_share_is_kept_and_says_with_which_probability() -> None:
    drawn = [released(*BLOCKED, 0.05, 1, "bank", f"t-{n}") for n in range(20_000)]
    assert {propensity for *_, propensity in drawn} == {0.05}
    let_through = [each for each in drawn if each[0] == "allow"]
    assert {reason for _, reason, _ in let_through} == {RELEASED}
    # 1,000 are expected, with a standard deviation of 31
    assert 880 < len(let_through) < 1_120
    assert {each for each in drawn if each[0] != "allow"} == {(*BLOCKED, 0.05)}


def test_the_draw_is_of_caller_transaction_and_seed() -> None:
    def draw(seed: int, caller: str) -> list[str]:
        return [released(*BLOCKED, 0.5, seed, caller, f"t-{n}")[0] for n in range(64)]

    assert draw(1, "bank") == draw(1, "bank")
    assert draw(1, "bank") != draw(2, "bank")
    assert draw(1, "bank") != draw(1, "shop")
    # caller and transaction do not run into one another
    more = [released(*BLOCKED, 0.5, seed, *pair)[0] for seed in range(32) for pair in (("a", "bc"), ("ab", "c"))]
    assert more[::2] != more[1::2]
