"""How a person is written: their identifier and its spellings, devices that are theirs alone, and both within a text.

What belongs here: telling an identifier from a longer one that holds it. What does not: where to look (`mentions`),
how devices and spellings are found (`person`). An identifier that a float once held, `12345.0` or `1.2345e4`, is
another spelling of 12345; above 2^53 floats merge identifiers, so there it is none. What the rule of identity
(`identifiers`) takes for the same is one too, as a value and within a text: rows of before the rule, and lines that are
no rows, hold identifiers as they were sent. A text is searched as it stands and, where it differs, as the rule reads it
(`normalised`).
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from urllib.parse import quote, quote_plus

from fraud_platform.erasure.normalised import may_differ, normalised
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

_LONGEST_HINT = 24
# what may stand within an identifier that is the same without it or composed with it: whatever is not ASCII, escaped or
# not; what is ASCII is left to the identifier, so that a search is in no doubt where one of them ends
_BETWEEN = (
    r"(?:[^\x00-\x7f]|%[89a-fA-F][0-9a-fA-F]"
    r"|\\{1,16}u(?:00[89a-fA-F]|0[1-9a-fA-F][0-9a-fA-F]|[1-9a-fA-F][0-9a-fA-F]{2})[0-9a-fA-F])*"
)
# what stands as itself in every way to write it: not what formats double or escape, nor the three ASCII characters
# that another one is the same as (the Kelvin sign is K, the Greek question mark a semicolon)
_KEPT = re.compile(r"[^\x00-\x20\"/\\K;`\x7f-\U0010ffff]+")


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

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where the person stands in a text, as identifiers of their own: first character and the one behind."""
        return self._sought.spans(text)

    def in_text(self, text: str) -> bool:
        """Whether a text names the person."""
        return bool(self._sought.spans(text))

    def in_prose(self, text: str) -> bool:
        """Whether what people write names the user; there a short number is a number."""
        return len(self.user) >= SHORTEST and bool(self._user.spans(text))

    def redacted(self, text: str, put: str) -> str:
        """Prose with something else in the person's place."""
        for first, behind in reversed(self._prose.spans(text)):
            text = text[:first] + put + text[behind:]
        return text

    def in_bytes(self, value: bytes) -> bool:
        """Whether bytes of no known form name the user: as a text of their own, in UTF-8 or UTF-16, or as it stands
        behind its length in MessagePack."""
        if self.in_text(value.decode(errors="replace")):
            return True
        if b"\0" in value:
            wide = (value[start:].decode(form, "replace") for start in (0, 1) for form in ("utf-16-le", "utf-16-be"))
            if any(map(self.in_text, wide)):
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
    def hint(self) -> str:
        """A pattern, of RE2 too, that each text holds in which the rule finds the person though none of `cores` stands
        there; others may hold it as well. Over bytes it takes each for a character."""
        names = [plain(self.user), *map(canonical, self.telling_devices)]
        if self.scientific is not None:
            first, rest = names[0][0], names[0][1:].rstrip("0")
            names.append(f"{first}.{rest}" if rest else first)
        return "|".join(_hint(name) for name in names if name)

    @cached_property
    def _sought(self) -> "_Sought":
        return self._seek([self.user, *self.telling_devices])

    @cached_property
    def _user(self) -> "_Sought":
        return self._seek([self.user])

    @cached_property
    def _prose(self) -> "_Sought":
        return self._seek([name for name in (self.user, *self.telling_devices) if len(name) >= SHORTEST])

    def _seek(self, names: Sequence[str]) -> "_Sought":
        # a longer way to write it first: an escaped one may hold a shorter one
        written = self._compiled({name: sorted(_forms(name), key=len, reverse=True) for name in names})
        # of what cannot be seen no text is searched for
        read = self._compiled({name: _read(name) for name in names if canonical(name)})
        return _Sought(written, read, re.compile(self.hint))

    def _compiled(self, forms: dict[str, list[str]]) -> re.Pattern[str]:
        parts = []
        for name, ways in forms.items():
            parts.append(f"{_BEGIN}(?:{'|'.join(map(re.escape, ways))}){_END}")
            if name == self.user and self.scientific is not None:
                digits = rf"(?:{plain(name)}(?:\.0*)?|{self.scientific})"
                parts[-1] = f"{_BEGIN}{_NUMBER_BEGIN}{digits}{_END}{_NUMBER_END}"
        # of no names nothing is found
        return re.compile("|".join(parts) or r"(?!)")


@dataclass(frozen=True)
class _Sought:
    """What is looked for in texts: as formats write it, and in a text as the rule reads it; a hint of the latter."""

    written: re.Pattern[str]
    read: re.Pattern[str]
    hint: re.Pattern[str]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """In order, none within another."""
        found = [match.span() for match in self.written.finditer(text)]
        if not may_differ(text) or self.hint.search(text) is None:
            return found
        reading = normalised(text)
        found += [
            reading.span(*match.span())
            for match in self.read.finditer(reading.text)
            if not reading.goes_on(match.end())
        ]
        return _joined(found)


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in order, those that share a character as one."""
    found: list[tuple[int, int]] = []
    for first, behind in sorted(spans):
        if found and first < found[-1][1]:
            found[-1] = (found[-1][0], max(behind, found[-1][1]))
        else:
            found.append((first, behind))
    return found


def _read(name: str) -> list[str]:
    """A name as `normalised` gives it in any text; a form's white space is a plus there."""
    read = normalised(canonical(name)).text
    return [read, read.replace(" ", "+")]


def _hint(name: str) -> str:
    """A pattern of the longest part of a name that stands in ASCII however it is written, whatever stands between."""
    part = max(_KEPT.findall(name), key=len, default="")[:_LONGEST_HINT]
    return _BETWEEN.join(_ascii(char) for char in part)


def _ascii(char: str) -> str:
    """A character as it stands, and escaped for JSON or a URL."""
    code = f"{ord(char):02x}"
    digits = "".join(f"[{digit}{digit.upper()}]" if digit.isalpha() else digit for digit in code)
    # so many backslashes escape five times over; a search for any number would take the square of a long run of them
    return rf"(?:\x{code}|\\{{1,16}}u00{digits}|%{digits})"


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
