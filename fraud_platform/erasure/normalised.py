"""A text as the rule of identity reads it, each character with its place in the text as it stands.

What belongs here: undoing escapes, leaving out what is invisible, decomposing. What does not: what is looked for
(`names`). Form NFD stands in the place of the rule's NFC: the same texts are equal in both, and it is made character by
character, so that each keeps its place. Costs some 0.5 µs a character; `may_differ` tells the texts that need it.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from fraud_platform.identifiers import INVISIBLE

_ESCAPED = re.compile(
    r"(\\+)u(?:([dD][89abAB][0-9a-fA-F]{2})\\+u([dD][c-fC-F][0-9a-fA-F]{2})|([0-9a-fA-F]{4}))"  # two for one character
    r"|((?:%[0-9a-fA-F]{2})+)"
    # marks that quoting doubled or set a backslash before, once or more often
    r"|\\+([\"/])|\\+([bfnrt])|(\\)\\+|(\")\""
)
_CONTROLS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}

_Placed = tuple[str, int, int]
"""A character, and where what stands for it begins and ends."""


@dataclass(frozen=True)
class Normalised:
    """text: in form NFD, without escapes and what is invisible."""

    text: str
    _placed: list[_Placed]

    def span(self, first: int, behind: int) -> tuple[int, int]:
        """Where in the text as it stands these characters of `text` are, with what is invisible between them."""
        places = self._placed[first:behind]
        return min(start for _, start, _ in places), max(end for _, _, end in places)

    def goes_on(self, behind: int) -> bool:
        """Whether a mark at this place alters the letter before it."""
        return behind < len(self.text) and unicodedata.category(self.text[behind])[0] == "M"


def may_differ(text: str) -> bool:
    """False for a text that stands as the rule reads it: ASCII without escapes."""
    return not text.isascii() or "\\" in text or "%" in text


def normalised(text: str) -> Normalised:
    """Read a text."""
    placed = [
        (part, start, end)
        for char, start, end in _characters(text)
        if not INVISIBLE.match(char)
        for part in (char if char.isascii() else unicodedata.normalize("NFD", char))
    ]
    _order_marks(placed)
    return Normalised("".join(char for char, _, _ in placed), placed)


def _characters(text: str) -> Iterator[_Placed]:
    position = 0
    for match in _ESCAPED.finditer(text):
        yield from _as_it_stands(text, position, match.start())
        position = match.end()
        strokes, high, low, unit, encoded, mark, control, *doubled = match.groups()
        at, end = match.span()
        if encoded:
            for char in bytes.fromhex(encoded.replace("%", "")).decode(errors="surrogateescape"):
                start, at = at, at + 3 * len(char.encode(errors="surrogateescape"))
                yield char, start, at
        elif strokes:
            # escaped once, twice, three times there are 1, 2, 4 of them: others are a backslash's own as well
            if len(strokes) & (len(strokes) - 1):
                start, at = at, at + len(strokes) - 1
                yield "\\", start, at
            code = 0x10000 + (int(high, 16) - 0xD800) * 0x400 + int(low, 16) - 0xDC00 if high else int(unit, 16)
            yield chr(code), at, end
        else:
            yield mark or _CONTROLS.get(control) or next(filter(None, doubled)), at, end
    yield from _as_it_stands(text, position, len(text))


def _as_it_stands(text: str, begin: int, end: int) -> Iterator[_Placed]:
    for position in range(begin, end):
        yield text[position], position, position + 1


def _order_marks(placed: list[_Placed]) -> None:
    """Sort each run of marks as Unicode orders them; marks of one kind stay as they are."""
    begin = 0
    while begin < len(placed):
        end = begin
        while end < len(placed) and not placed[end][0].isascii() and unicodedata.combining(placed[end][0]):
            end += 1
        if end - begin > 1:
            placed[begin:end] = sorted(placed[begin:end], key=lambda each: unicodedata.combining(each[0]))
        begin = end + 1
