"""Whatever in a document may name a person, taken out of it and put back.

What belongs here: which places these are. What does not: keeping the words (`store`), finding a person in them
(`erasure`). The history holds a number in place of each, so that an erasure alters the words and never the history.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

_PERSONAL = ("user", "device")
"""Kinds of entries on lists whose value names a person."""


class Words(NamedTuple):
    """Words of people or about people."""

    place: str
    """`user` or `device`: an identifier. `why`: what somebody wrote."""
    text: str


def found(document: Any) -> set[Words]:
    """All of them in a JSON document."""
    words: set[Words] = set()

    def note(place: str, text: str) -> str:
        words.add(Words(place, text))
        return text

    _replaced(document, note)
    return words


def hidden(document: Any, numbers: dict[Words, int]) -> Any:
    """The document with a number in place of each. Raises KeyError for words without one."""
    return _replaced(document, lambda place, text: numbers[Words(place, text)])


def numbers_in(document: Any) -> set[int]:
    """The numbers that stand in a document which `hidden` has made."""
    numbers: set[int] = set()

    def note(_: str, number: int) -> int:
        numbers.add(number)
        return number

    _replaced(document, note)
    return numbers


def shown(document: Any, texts: dict[int, str]) -> Any:
    """What `hidden` was given, as far as it was not erased since. Raises KeyError for an unknown number."""
    return _replaced(document, lambda _, number: texts[number])


def _replaced(value: Any, put: Callable[[str, Any], Any]) -> Any:
    if isinstance(value, list | tuple):
        return [_replaced(item, put) for item in value]
    if not isinstance(value, dict):
        return value
    after = {name: _replaced(item, put) for name, item in value.items()}
    if value.get("kind") in _PERSONAL and "value" in value:
        after["value"] = put(value["kind"], value["value"])
    if value.get("why") is not None:
        after["why"] = put("why", value["why"])
    return after
