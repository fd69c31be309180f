"""The sentences of scenarios: what each of them makes happen, or holds against what has happened.

What belongs here: one line per kind of sentence. What does not: making it happen (`play`).
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from fraud_platform.scenario.facts import Facts

Store = Literal["redis", "the log"]


class SentenceError(ValueError):
    """A sentence that nobody understands; the message lists those that are."""


@dataclass(frozen=True)
class Event:
    """Something that happens on a day: exactly one of behaviour, challenge and away."""

    sentence: str
    day: int
    hour: int = 0
    """0 to 23; UTC."""
    behaviour: dict[str, float] = field(default_factory=dict)
    """Fields of `simulator.behaviour.Behaviour` from this day on."""
    challenge: bool = False
    """A model of shuffled labels is put beside the champion."""
    away: Store | None = None
    """What is killed in this hour."""
    until: int = 0
    """Hour in which it is started again."""


@dataclass(frozen=True)
class Expectation:
    """A sentence and whether it came true: a function that says what is wrong, or None."""

    sentence: str
    failed: Callable[[Facts], str | None]


_BEHAVIOURS = {
    "amounts grow": "amount_scale",
    "payments move online": "online_scale",
    "payments become more": "volume_scale",
}
_NUMBER = r"(\d+(?:\.\d+)?)"


def _behaviour(match: re.Match[str]) -> Event:
    day, what, times = match.groups()
    return Event(match.string, int(day), behaviour={_BEHAVIOURS[what]: float(times)})


def _share(match: re.Match[str]) -> Event:
    day, what, percent = match.groups()
    return Event(match.string, int(day), behaviour={what.replace(" ", "_"): float(percent) / 100})


def _delay(match: re.Match[str]) -> Event:
    return Event(match.string, int(match[1]), behaviour={"label_delay_days": float(match[2])})


def _challenge(match: re.Match[str]) -> Event:
    return Event(match.string, int(match[1]), int(match[2]), challenge=True)


def _away(match: re.Match[str]) -> Event:
    day, begins, ends, store = match.groups()
    away: Store = "redis" if store == "redis" else "the log"
    return Event(match.string, int(day), int(begins), away=away, until=int(ends))


_EVENTS: dict[str, Callable[[re.Match[str]], Event]] = {
    rf"on day (\d+) ({'|'.join(_BEHAVIOURS)}) {_NUMBER} times": _behaviour,
    rf"on day (\d+) (card testing|account takeover|compromised merchant|out of character) becomes {_NUMBER}% of "
    r"payments": _share,
    rf"on day (\d+) labels begin to take {_NUMBER} days": _delay,
    r"on day (\d+) at (\d+) a model of shuffled labels is put beside the champion": _challenge,
    r"on day (\d+) from (\d+) to (\d+) (redis|the log) is away": _away,
}


def _training(match: re.Match[str]) -> Callable[[Facts], str | None]:
    cause, day = match[1], int(match[2])
    return lambda facts: facts.first_by("training", cause, day)


def _stage(match: re.Match[str]) -> Callable[[Facts], str | None]:
    version, stage, day = int(match[1]), match[2], int(match[3])
    return lambda facts: facts.first_by(stage, f"version {version}", day)


def _later(match: re.Match[str]) -> Callable[[Facts], str | None]:
    stage, day = match[1], int(match[2])

    def failed(facts: Facts) -> str | None:
        found = [fact for fact in facts.of(stage) if fact.subject != "version 1"]
        if found and found[0].day <= day:
            return None
        return f"{found[0].subject} was so on day {found[0].day}" if found else "none ever was"

    return failed


def _at_the_end(match: re.Match[str]) -> Callable[[Facts], str | None]:
    release = f"fraud-detector-{match[1]}"
    return lambda facts: None if facts.champion == release else f"{facts.champion} is the champion"


def _rolled_back(match: re.Match[str]) -> Callable[[Facts], str | None]:
    return lambda facts: facts.first_by("rolled back", "", int(match[1]))


def _no_training(_: re.Match[str]) -> Callable[[Facts], str | None]:
    def failed(facts: Facts) -> str | None:
        found = facts.of("training")
        return f"day {found[0].day}: {found[0].text}" if found else None

    return failed


def _no_errors(_: re.Match[str]) -> Callable[[Facts], str | None]:
    def failed(facts: Facts) -> str | None:
        wrong = {day.number: day.errors for day in facts.days if day.errors}
        return f"errors by day: {wrong}" if wrong else None

    return failed


def _served_by(match: re.Match[str]) -> Callable[[Facts], str | None]:
    store, number = match[1], int(match[2])

    def failed(facts: Facts) -> str | None:
        served = facts.days[number - 1].served_by
        return None if served.get(store) else f"they were served by {dict(served)}"

    return failed


def _told(match: re.Match[str]) -> Callable[[Facts], str | None]:
    return lambda facts: facts.first_by("alert", match[1], int(match[2]))


def _never_more(match: re.Match[str]) -> Callable[[Facts], str | None]:
    most = float(match[1]) / 100
    return lambda facts: None if facts.largest_weight <= most else f"it decided for {facts.largest_weight:.0%}"


def _complete(_: re.Match[str]) -> Callable[[Facts], str | None]:
    def failed(facts: Facts) -> str | None:
        if facts.answered == facts.in_lake and not facts.twice_in_lake:
            return None
        return f"{facts.answered} answered, {facts.in_lake} in the lake, {facts.twice_in_lake} more than once"

    return failed


def _no_skew(_: re.Match[str]) -> Callable[[Facts], str | None]:
    def failed(facts: Facts) -> str | None:
        if not facts.skew_compared:
            return "nothing was compared"
        return f"{facts.skew_differences} values differ" if facts.skew_differences else None

    return failed


_EXPECTATIONS: dict[str, Callable[[re.Match[str]], Callable[[Facts], str | None]]] = {
    r"a training for (\w+) is started by day (\d+)": _training,
    r"version (\d+) is (in shadow|a canary|the champion) by day (\d+)": _stage,
    r"a later version is (in shadow|a canary|the champion) by day (\d+)": _later,
    r"version (\d+) is the champion at the end": _at_the_end,
    r"the challenger is rolled back by day (\d+)": _rolled_back,
    r"no training is started": _no_training,
    r"no payment is answered with an error": _no_errors,
    r"payments are served by (redis|postgres|default) on day (\d+)": _served_by,
    r"people are told of (\w+) by day (\d+)": _told,
    r"no challenger ever decides for more than (\d+)% of users": _never_more,
    r"the lake holds every decision once": _complete,
    r"no value that was served differs from training's": _no_skew,
}


def read_event(sentence: str) -> Event:
    """What a sentence makes happen. Raises SentenceError."""
    for pattern, event in _EVENTS.items():
        if match := re.fullmatch(pattern, sentence):
            return event(match)
    raise SentenceError(_unknown(sentence, _EVENTS))


def read_expectation(sentence: str) -> Expectation:
    """What a sentence holds against what has happened. Raises SentenceError."""
    for pattern, made in _EXPECTATIONS.items():
        if match := re.fullmatch(pattern, sentence):
            return Expectation(sentence, made(match))
    raise SentenceError(_unknown(sentence, _EXPECTATIONS))


def _unknown(sentence: str, known: Iterable[str]) -> str:
    return f"{sentence!r} is none of these sentences:\n" + "\n".join(f"  {pattern}" for pattern in known)
