"""A scenario as somebody writes it: a bank, what happens on which day, and what has to come of it.

What belongs here: the YAML file and its checks. What does not: what a sentence does (`sentences`).
"""

from datetime import date, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import yaml

from fraud_platform.scenario.sentences import Event, Expectation, SentenceError, read_event, read_expectation

FIRST_DAY = date(2026, 4, 20)
"""The first day that is played, a Monday. Fixed, so that a scenario is the same whenever it is played."""


class StoryError(ValueError):
    """A scenario that cannot be played; the message names the file and the sentence."""


class BankSize(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How large the bank is, and how long its history."""

    users: int
    merchants: int
    payments_a_day: int
    history_days: int
    behaviour: dict[str, float] = {}
    """Fields of `simulator.behaviour.Behaviour` that differ from its defaults."""
    settings: dict[str, Any] = {}
    """Fields of `Settings` that its first model is made with."""


class Story(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A scenario, read and checked."""

    title: str
    bank: BankSize
    days: int
    settings: dict[str, Any] = {}
    """Further fields of `Settings` while it is played, such as shorter dwell times."""
    story: list[str] = []
    expect: list[str]

    @property
    def events(self) -> list[Event]:
        """What happens, by day and hour."""
        return sorted((read_event(sentence) for sentence in self.story), key=lambda event: (event.day, event.hour))

    @property
    def expectations(self) -> list[Expectation]:
        """What has to come of it."""
        return [read_expectation(sentence) for sentence in self.expect]

    @property
    def history_start(self) -> date:
        """First day of the bank's history."""
        return FIRST_DAY - timedelta(days=self.bank.history_days)

    @property
    def changes(self) -> dict[date, dict[str, float]]:
        """What differs in the bank's behaviour from each day on; what changed once stays changed."""
        behaviour: dict[str, float] = {}
        changes = {}
        for event in self.events:
            if event.behaviour:
                behaviour |= event.behaviour
                changes[day_of(event.day)] = dict(behaviour)
        return changes


def day_of(number: int) -> date:
    """The date of day 1, 2, …"""
    return FIRST_DAY + timedelta(days=number - 1)


def shipped() -> dict[str, Path]:
    """The scenarios that come with the platform, by name."""
    folder = Path(str(files("fraud_platform.scenario"))) / "stories"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_story(path: Path) -> Story:
    """Read a scenario. Raises StoryError, OSError."""
    try:
        story = msgspec.convert(yaml.safe_load(path.read_text()), Story)
        events, _ = story.events, story.expectations
    except (yaml.YAMLError, msgspec.ValidationError, SentenceError) as error:
        raise StoryError(f"{path}: {error}") from error
    late = [event.sentence for event in events if event.day > story.days]
    if late:
        raise StoryError(f"{path}: {late[0]!r} is after the last day, {story.days}")
    return story
