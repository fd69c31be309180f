"""The statistics of `make compare`: bounds that hold as often as they say, and a verdict in the right direction."""

import math

import numpy as np
import pytest
from scipy.stats import wilcoxon

from benchmarks.compare import report
from benchmarks.compare.ratios import ratio


def test_of_seven_pairs_the_estimate_and_the_bounds_are_those_by_hand() -> None:
    logs = [-0.3, -0.1, 0.0, 0.05, 0.1, 0.2, 0.7]
    found = ratio([math.exp(each) for each in logs], [1.0] * 7)
    means = sorted((one + other) / 2 for number, one in enumerate(logs) for other in logs[number:])
    assert len(means) == 28
    assert found.estimate == pytest.approx(math.exp((means[13] + means[14]) / 2))
    # of the 128 ways to set signs, 5 give a rank sum of at most 3: 3.9%; with 4 they are 7: 5.5%
    assert (found.at_least, found.at_most) == pytest.approx((math.exp(means[3]), math.exp(means[-4])))


@pytest.mark.parametrize("pairs", [7, 12, 20])
def test_a_bound_is_where_wilcoxons_test_begins_to_object(pairs: int) -> None:
    logs = np.random.default_rng(pairs).normal(0.02, 0.1, pairs)
    least = math.log(ratio(np.exp(logs).tolist(), [1.0] * pairs).at_least)
    chances = [
        wilcoxon(logs - moved, alternative="greater", method="exact").pvalue for moved in (least - 1e-9, least + 1e-9)
    ]
    assert chances[0] <= 0.05 < chances[1]


@pytest.mark.parametrize("pairs", [7, 12])
def test_a_bound_fails_as_seldom_as_it_says_also_with_wild_pairs(pairs: int) -> None:
    random = np.random.default_rng(5)
    failed = 0
    for _ in range(1_500):
        # symmetric about a ratio of 1.0, with tails that no mean would bear
        ratios = np.exp(random.standard_t(1.5, pairs) * 0.05)
        failed += ratio(ratios.tolist(), [1.0] * pairs).at_least > 1.0
    # 5% of 1,500 are 75, with a deviation of 8
    assert 20 < failed <= 95


def test_five_pairs_bound_a_ratio_and_four_do_not() -> None:
    assert ratio([1.0] * 5, [2.0] * 5).at_least == pytest.approx(0.5)
    assert ratio([1.0] * 4, [2.0] * 4).at_least == 0.0
    assert ratio([1.0] * 4, [2.0] * 4).at_most == math.inf


@pytest.mark.parametrize(("new", "base"), [([], []), ([1.0], [0.0]), ([-1.0], [1.0]), ([1.0, 2.0], [1.0])])
def test_what_has_no_ratio_is_refused(new: list[float], base: list[float]) -> None:
    with pytest.raises(ValueError, match=r"ratio needs|zip"):
        ratio(new, base)


def side(rate: float, p99_ms: float, cpu_us: float, served: float = 1.0) -> dict:
    return {"saturated": {"rate": rate}, "fixed": {"p99_ms": p99_ms, "cpu_us": cpu_us, "served_share": served}}


@pytest.mark.parametrize(
    ("new", "missed"),
    [
        (side(1_000, 10, 400), set()),
        (side(2_000, 5, 200), set()),
        (side(960, 10, 400), {"throughput"}),
        (side(1_000, 11, 400), {"P99"}),
        (side(1_000, 10, 420), {"CPU"}),
        (side(1_000, 10, 400, 0.9), {"served"}),
    ],
)
def test_more_payments_are_better_and_more_time_is_worse(new: dict, missed: set[str]) -> None:
    found = report.ratios([{"base": side(1_000, 10, 400), "new": new}] * 7)
    assert {name for name, each in found.items() if not each["met"]} == missed
    assert report.met({"ratios": found}) == (not missed)


def turn(latencies: list[float], *, unanswered: int = 0, seconds: float = 2.0) -> dict:
    return {
        "sent": len(latencies) + unanswered, "served": len(latencies), "latencies": latencies, "unanswered": unanswered,
        "causes": {"reset": unanswered, "degraded": 0}, "seconds": seconds, "service_seconds": 0.049,
        "redis_seconds": 0.0098, "took": 2.0, "rested": 0.3, "lateness_p99": 0.001,
    }  # fmt: skip


def test_turns_of_one_side_count_together() -> None:
    found = report.pooled([turn([0.001] * 98, unanswered=2), turn([0.003] * 98)])
    assert (found["sent"], found["served"], found["causes"]) == (198, 196, {"reset": 2})
    assert found["rate"] == pytest.approx(196 / 4)
    assert found["cpu_us"] == pytest.approx(500)
    assert found["busy"] == pytest.approx(0.0245)
    # two of two hundred were never answered: that is the hundredth part
    assert found["p99_of_all_ms"] > 3


def test_a_stop_of_the_machine_spoils_one_second_and_a_slow_service_every_one() -> None:
    quick = [0.001] * 100
    stopped = turn([*quick, *([0.001] * 90 + [0.040] * 10), *quick], seconds=3)
    assert report.typical_p99([stopped]) == pytest.approx(0.001)
    assert report.pooled([stopped])["p99_of_all_ms"] == pytest.approx(40)
    slow = turn(([0.001] * 97 + [0.008] * 3) * 3, seconds=3)
    assert report.typical_p99([slow]) == pytest.approx(0.008)


def test_what_got_no_answer_waited_as_long_as_one_can() -> None:
    assert report.typical_p99([turn([0.001] * 294, unanswered=6, seconds=3)]) == pytest.approx(2)
    assert report.typical_p99([turn([], unanswered=6)]) == pytest.approx(2)
