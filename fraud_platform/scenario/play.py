"""Playing a scenario: hour by hour its payments, night by night what the platform makes of them.

What belongs here: the order of a day. What does not: the processes (`stage`), the judgement (`sentences`).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fraud_platform.inference_log.process import drain
from fraud_platform.ingest.source import simulated_bank
from fraud_platform.lake import open_lake
from fraud_platform.model.release import Reason, challenge
from fraud_platform.scenario.bad_model import write_bad_model
from fraud_platform.scenario.facts import DayFigures, Fact, Facts, gather
from fraud_platform.scenario.sentences import Event
from fraud_platform.scenario.stage import Stage
from fraud_platform.scenario.story import FIRST_DAY, Story, day_of
from fraud_platform.scenario.traffic import Answered, payments_by_hour, send
from fraud_platform.settings import Settings

LOOK_HOURS = 3
_DRAIN_SECONDS = 120.0


@dataclass(frozen=True)
class Outcome:
    """What came of a scenario."""

    facts: Facts
    failed: dict[str, str]
    """Expectations that did not come true, each with what is so instead."""
    seconds: float
    home: Path


def play(story: Story, settings: Settings, say: Callable[[str], None]) -> Outcome:
    """Play a scenario in a home that holds its bank. say: told what happens, as it happens. Raises StageError."""
    began = time.monotonic()
    stage = Stage(settings)
    try:
        stage.open()
        say(f"payments are decided after {time.monotonic() - began:.0f} s")
        days = _Days(story, settings, stage, say)
        for number in tqdm(range(1, story.days + 1), desc="days", unit="day", disable=None):
            days.play(number)
        drain(settings, _DRAIN_SECONDS)
        facts = gather(settings, open_lake(settings), days.figures, days.trainings, days.answered, FIRST_DAY)
    finally:
        stage.close()
    failed = {
        expectation.sentence: wrong
        for expectation in story.expectations
        if (wrong := expectation.failed(facts)) is not None
    }
    return Outcome(facts, failed, time.monotonic() - began, settings.home)


@dataclass
class _Days:
    """The days of a scenario while they are played."""

    story: Story
    settings: Settings
    stage: Stage
    say: Callable[[str], None]
    figures: list[DayFigures] = field(default_factory=list)
    trainings: list[Fact] = field(default_factory=list)
    answered: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._bank = simulated_bank(self.settings, self.story.history_start)

    def play(self, number: int) -> None:
        """A day's payments hour by hour, then its night."""
        day = day_of(number)
        figures = DayFigures(number, day)
        self.figures.append(figures)
        frauds = set(self._bank.true_fraud(day).column("transaction_id").to_pylist())
        for hour, bodies in enumerate(payments_by_hour(self._bank, day)):
            # an hour's payments arrive at its end: none may be decided before it happened
            self.stage.move_clock(_us(day, minutes=60 * hour + 59))
            self._happen(number, hour)
            for answered in send(self.stage.url, bodies):
                self._count(figures, answered, answered.transaction_id in frauds)
            if hour % LOOK_HOURS == LOOK_HOURS - 1:
                self._heard(number, self.stage.ask_round("look"))
        self.stage.move_clock(_us(day, minutes=24 * 60 + 10))
        self._heard(number, self.stage.ask_round("night"))

    def _happen(self, number: int, hour: int) -> None:
        for event in self.story.events:
            if event.day != number:
                continue
            if event.hour == hour and (event.challenge or event.away or event.behaviour):
                self.say(event.sentence)
                self._begin(event)
            if event.away and event.until == hour:
                start = {"redis": self.stage.start_redis, "the log": self.stage.start_log}[event.away]
                start()

    def _begin(self, event: Event) -> None:
        if event.challenge:
            folder = self.settings.home / "bad-model"
            now = datetime.fromtimestamp(_us(day_of(event.day), minutes=60 * event.hour + 59) / 1e6, UTC)
            write_bad_model(self.settings, open_lake(self.settings), now, folder)
            challenge(self.settings.home, folder, Reason(who="scenario", why=event.sentence), now, again=True)
        elif event.away:
            kill = {"redis": self.stage.kill_redis, "the log": self.stage.kill_log}[event.away]
            kill()

    def _count(self, figures: DayFigures, answered: Answered, fraud: bool) -> None:
        figures.payments += 1
        answer = answered.answer
        if answer is None:
            figures.errors += 1
            return
        self.answered.add(answered.transaction_id)
        figures.degraded += answer["degraded"]
        figures.decided_by[answer["model_version"]] += 1
        figures.served_by[answer["served_by"]["user_features"]] += 1
        blocked, flagged = answer["decision"] == "block", answer["decision"] == "flag_for_review"
        figures.frauds += fraud
        figures.blocked_frauds += fraud and blocked
        figures.caught_frauds += fraud and (blocked or flagged)
        figures.blocked_good += not fraud and blocked

    def _heard(self, number: int, answer: dict[str, Any]) -> None:
        for training in answer["trainings"]:
            text = f"{training['subject']}: {training['value']}"
            # asked for in the night after the day
            self.trainings.append(Fact(number + 1, "training", training["cause"], text))
            self.say(f"day {number}: a training is started for {training['cause']} of {text}")
        for failed in answer["failed"]:
            self.say(f"day {number}: {failed}")
        if "rollout" in answer["said"] and "there is no challenger" not in answer["said"]["rollout"]:
            self.say(f"day {number}: {answer['said']['rollout']}")


def _us(day: date, minutes: int) -> int:
    moment = datetime.combine(day, datetime.min.time(), UTC) + timedelta(minutes=minutes)
    return int(moment.timestamp() * 1_000_000)
