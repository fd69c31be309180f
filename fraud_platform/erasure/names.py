"""How a person is written: their identifier and its spellings, devices that are theirs alone, and both within a text.

What belongs here: telling an identifier from a longer one that holds it. What does not: where to look (`mentions`),
how devices and spellings are found (`person`). An identifier that a float once held, `12345.0` or `1.2345e4`, is
another spelling of 12345; above 2^53 floats merge identifiers, so there it is none. What the rule of identity
(`identifiers`) takes for the same is one too: rows of before the rule hold identifiers as they were sent.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from urllib.parse import quote, quote_plus

from fraud_platform.identifiers import canonical

SHORTEST = 5
"""Identifiers below this many characters stand in any prose by chance, and are looked for as whole values alone."""

_TELLING = 8
"""A device of fewer characters and no digit, such as `mobile`, is a word, and looked for as a whole value alone."""

_FLOAT = re.compile(r"(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE]\+?[0-9]{1,2})?")
_WHOLE = re.compile(r"0|[1-9][0-9]*")
_EXACT = 2**53

# behind an escape (`\n`, `\u00eb`, `%20`) an identifier begins, though a letter or digit stands before it
_BEGIN = r"(?:(?<![\w-])|(?<=\\[nrtbf])|(?<=\\u[0-9a-fA-F]{4})|(?<=%[0-9A-Fa-f]{2}))"
_END = r"(?![\w-])"
# 12.42 is not 42, nor is the minute of 10:42
_NUMBER_BEGIN, _NUMBER_END = r"(?<![0-9][.:/])", r"(?!\.[0-9])(?![:/][0-9])"


def plain(identifier: str) -> str:
    """An identifier by the rule of identity, and without the marks of a float that once held it."""
    identifier = canonical(identifier)
    if not _FLOAT.fullmatch(identifier):
        return identifier
    number = Decimal(identifier)
    return str(int(number)) if number < _EXACT and number == number.to_integral_value() else identifier


@dataclass(frozen=True)
class Names:
    """What one person is called. spellings: the user_ids of rows that are theirs, as they stand there."""

    user: str
    spellings: frozenset[str] = field(default=frozenset())
    devices: frozenset[str] = field(default=frozenset())
    """Devices that nobody else used."""

    @property
    def users(self) -> list[str]:
        """Every user_id that is theirs, in order."""
        return sorted({self.user, canonical(self.user), plain(self.user), *self.spellings})

    def is_user(self, value: str) -> bool:
        """Whether a whole value is the user's identifier, in any spelling."""
        return value == self.user or plain(value) == plain(self.user)

    @property
    def telling_devices(self) -> list[str]:
        """Devices that a text names when it holds them."""
        return sorted(one for one in self.devices if len(one) >= _TELLING or any(char.isdigit() for char in one))

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Where the person stands in a text, as identifiers of their own: first character and the one behind."""
        for match in self._pattern.finditer(text):
            yield match.span()

    def in_text(self, text: str) -> bool:
        """Whether a text names the person."""
        return self._pattern.search(text) is not None

    def in_prose(self, text: str) -> bool:
        """Whether what people write names the user; there a short number is a number."""
        return len(self.user) >= SHORTEST and self._user.search(text) is not None

    def redacted(self, text: str, put: str) -> str:
        """Prose with something else in the person's place."""
        return self._prose.sub(lambda _: put, text)

    def in_bytes(self, value: bytes) -> bool:
        """Whether bytes of no known form name the user: as a text of their own, or behind its length in MessagePack."""
        if self.in_text(value.decode(errors="replace")):
            return True
        encoded = [user.encode() for user in self.users]
        return any(bytes([0xA0 | len(user)]) + user in value for user in encoded if len(user) < 32) or any(
            bytes([0xD9, len(user)]) + user in value for user in encoded if len(user) < 256
        )

    @cached_property
    def cores(self) -> list[str]:
        """Texts of which each way to write the user or a device holds one; `scientific` beside them."""
        found = {plain(self.user), *(form for name in (self.user, *self.telling_devices) for form in _forms(name))}
        # one that holds another finds nothing that the other does not
        return sorted(core for core in found if not any(other != core and other in core for other in found))

    @cached_property
    def scientific(self) -> str | None:
        """A pattern, of RE2 too, of the identifier as a float with an exponent; None for one that is no number."""
        digits = plain(self.user)
        if not _WHOLE.fullmatch(digits) or int(digits) >= _EXACT:
            return None
        rest = digits[1:].rstrip("0")
        mantissa = digits[0] + (rf"\.{rest}0*" if rest else r"(?:\.0*)?")
        return rf"{mantissa}[eE]\+?0*{len(digits) - 1}"

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return self._compiled([self.user, *self.telling_devices])

    @cached_property
    def _user(self) -> re.Pattern[str]:
        return self._compiled([self.user])

    @cached_property
    def _prose(self) -> re.Pattern[str]:
        return self._compiled([name for name in (self.user, *self.telling_devices) if len(name) >= SHORTEST])

    def _compiled(self, names: Iterable[str]) -> re.Pattern[str]:
        parts = []
        for name in names:
            # a longer way to write it first: an escaped one may hold a shorter one
            forms = sorted(_forms(name), key=len, reverse=True)
            parts.append(f"{_BEGIN}(?:{'|'.join(map(re.escape, forms))}){_END}")
            if name == self.user and self.scientific is not None:
                digits = rf"(?:{plain(name)}(?:\.0*)?|{self.scientific})"
                parts[-1] = f"{_BEGIN}{_NUMBER_BEGIN}{digits}{_END}{_NUMBER_END}"
        # of no names nothing is found
        return re.compile("|".join(parts) or r"(?!)")


def _forms(name: str) -> set[str]:
    """A name as texts hold it, composed or not: as it is, escaped for JSON, encoded for a URL, quoted for CSV."""
    return {form for each in {name, unicodedata.normalize("NFD", name)} for form in _written(each)}


def _written(name: str) -> set[str]:
    escaped = json.dumps(name)[1:-1]
    return {
        *(name, escaped, json.dumps(name, ensure_ascii=False)[1:-1], json.dumps(escaped)[1:-1]),
        *(re.sub(r"\\u[0-9a-f]{4}", lambda match: f"\\u{match[0][2:].upper()}", escaped), name.replace('"', '""')),
        *(quote(name, safe=""), quote(name), quote_plus(name), quote(name, safe="").lower()),
    }
