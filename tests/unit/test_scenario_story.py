"""What a scenario's sentences make happen, what they hold against the facts, and which files are refused."""

from collections import Counter
from datetime import date
from pathlib import Path

import pytest

from fraud_platform.scenario.facts import DayFigures, Fact, Facts
from fraud_platform.scenario.sentences import SentenceError, read_event, read_expectation
from fraud_platform.scenario.story import FIRST_DAY, StoryError, read_story, shipped
from fraud_platform.simulator.behaviour import behaviour_of

STORY = """
title: A story
bank: {users: 10, merchants: 2, payments_a_day: 100, history_days: 30, behaviour: {retry: 0.5}}
days: 3
story: [on day 2 amounts grow 2 times, on day 3 payments move online 1.5 times]
expect: [no training is started]
"""


def facts(*found: Fact, **changes: object) -> Facts:
    days = [DayFigures(1, FIRST_DAY, payments=10, served_by=Counter(redis=10))]
    fields = {
        "days": days, "facts": list(found), "champion": "fraud-detector-1", "largest_weight": 0.3, "answered": 10,
        "in_lake": 10, "twice_in_lake": 0, "skew_compared": 10, "skew_differences": 0,
    }  # fmt: skip
    return Facts(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", shipped())
def test_every_scenario_that_comes_with_the_platform_is_understood(name: str) -> None:
    story = read_story(shipped()[name])
    assert story.expectations
    for change in story.changes.values():
        behaviour_of(story.bank.behaviour | change)
    assert "no payment is answered with an error" in story.expect


def test_what_changed_once_stays_changed(tmp_path: Path) -> None:
    (tmp_path / "story.yaml").write_text(STORY)
    story = read_story(tmp_path / "story.yaml")
    assert story.changes == {
        date(2026, 4, 21): {"amount_scale": 2.0},
        date(2026, 4, 22): {"amount_scale": 2.0, "online_scale": 1.5},
    }


@pytest.mark.parametrize(
    ("sentence", "field", "value"),
    [
        ("on day 3 amounts grow 2.7 times", "behaviour", {"amount_scale": 2.7}),
        ("on day 3 account takeover becomes 1.5% of payments", "behaviour", {"account_takeover": 0.015}),
        ("on day 3 labels begin to take 9 days", "behaviour", {"label_delay_days": 9.0}),
        ("on day 3 at 7 a model of shuffled labels is put beside the champion", "challenge", True),
        ("on day 3 from 12 to 14 redis is away", "away", "redis"),
        ("on day 3 from 12 to 14 the log is away", "until", 14),
    ],
)
def test_a_sentence_makes_one_thing_happen(sentence: str, field: str, value: object) -> None:
    event = read_event(sentence)
    assert event.day == 3
    assert getattr(event, field) == value


ONCE = Fact(4, "training", "feature_psi", "amount: 0.5")
EXPECTED = [
    ("a training for feature_psi is started by day 4", facts(ONCE), facts()),
    ("a training for feature_psi is started by day 4", facts(ONCE), facts(Fact(5, "training", "feature_psi", ""))),
    ("a training for feature_psi is started by day 4", facts(ONCE), facts(Fact(4, "training", "fraud_rate", ""))),
    ("no training is started", facts(), facts(ONCE)),
    ("version 2 is a canary by day 3", facts(Fact(3, "a canary", "version 2", "")),
     facts(Fact(3, "in shadow", "version 2", ""))),
    ("a later version is the champion by day 3", facts(Fact(3, "the champion", "version 4", "")),
     facts(Fact(1, "the champion", "version 1", ""))),
    ("version 1 is the champion at the end", facts(), facts(champion="fraud-detector-2")),
    ("the challenger is rolled back by day 2", facts(Fact(2, "rolled back", "version 9", "")), facts()),
    ("no challenger ever decides for more than 30% of users", facts(), facts(largest_weight=0.31)),
    ("no payment is answered with an error", facts(), facts(days=[DayFigures(1, FIRST_DAY, errors=1)])),
    ("payments are served by redis on day 1", facts(), facts(days=[DayFigures(1, FIRST_DAY)])),
    ("people are told of log_lag by day 1", facts(Fact(1, "alert", "log_lag", "")), facts()),
    ("the lake holds every decision once", facts(), facts(in_lake=9)),
    ("the lake holds every decision once", facts(), facts(twice_in_lake=1)),
    ("no value that was served differs from training's", facts(), facts(skew_differences=1)),
    ("no value that was served differs from training's", facts(), facts(skew_compared=0)),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "so", "otherwise"), EXPECTED)
def test_an_expectation_comes_true_or_says_what_is_so_instead(sentence: str, so: Facts, otherwise: Facts) -> None:
    expectation = read_expectation(sentence)
    assert expectation.failed(so) is None
    assert expectation.failed(otherwise)


def test_a_sentence_that_nobody_understands_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(SentenceError, match="amounts grow"):
        read_event("on day 3 pigs fly")
    for wrong, said in (
        (STORY.replace("no training is started", "all is well"), "all is well"),
        (STORY.replace("on day 3", "on day 4"), "after the last day"),
        (STORY.replace("days: 3", "weeks: 3"), "weeks"),
        ("{", "story.yaml"),
    ):
        (tmp_path / "story.yaml").write_text(wrong)
        with pytest.raises(StoryError, match=said):
            read_story(tmp_path / "story.yaml")


def test_an_unknown_behaviour_is_named() -> None:
    with pytest.raises(ValueError, match=r"amount_scall.*is not a behaviour; known are: account_takeover"):
        behaviour_of({"amount_scall": 2})
