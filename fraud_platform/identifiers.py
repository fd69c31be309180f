"""When two identifiers are the same: the one rule for ids of transactions, users, merchants and devices.

What belongs here: the rule, and the looser ones by which a list of the policy may match. What does not: which fields
are identifiers (`decision.wire`, `ingest.normalize`), how long they may be. The client and the process of the rules
import this file, so it stands on the standard library alone.

An identifier is its text in Unicode's form NFC, without invisible characters and without white space around it. Case
counts, and so does every character that can be seen: a bank may tell `ab` from `AB`, and `Ö1` from `O1`. Invisible ones
are left out rather than refused: the payment gets its decision, and that of the person whom the list names.
"""

import re
import unicodedata
from typing import Final, Literal, get_args

Matching = Literal["exact", "case", "look_alikes"]
"""How a list of the policy compares identifiers: by the rule alone; without regard to case; by what looks alike."""
MATCHINGS: Final = get_args(Matching)

INVISIBLE: Final = re.compile(
    "[\x80-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Unicode's Default_Ignorable_Code_Point, which unicodedata does not tell (zero-width spaces and joiners, marks of
direction, variation selectors, fillers, tags), the anchors of annotations (FFF9-FFFB) and the controls beyond ASCII."""

SUSPECT: Final = r"[^\x00-\x7f]|^[\x00-\x20]|[\x00-\x20]$"
"""For columns, in RE2's syntax: finds every text that `canonical` may change, and few that it does not."""

_LATIN: Final = {
    ord(one): latin
    for alike, latins in (
        # small letters, since case is folded before; i, l and 1 are one, o and 0 too
        ("авԁеһнксјморԛѕтѵԝхуіӏ", "abdehhkcjmopqstvwxyll"),  # Cyrillic
        ("αβεζηικμνορτυχ", "abezhlkmnoptyx"),  # Greek
        ("օսոı01i|", "ounlolll"),  # Armenian, Turkish, figures
        ("‐‑‒–—―−", "-------"),  # dashes
    )
    for one, latin in zip(alike, latins, strict=True)
}
"""What passes for a Latin letter, capital or small. Figures among themselves stay apart: two numbers never look
alike."""


def canonical(identifier: str) -> str:
    """The identifier as it is compared, kept and counted.

    May be empty, where there was nothing to be seen. Applied again it changes nothing.
    """
    if identifier.isascii():
        return identifier.strip()
    return unicodedata.normalize("NFC", INVISIBLE.sub("", identifier)).strip()


def match_key(identifier: str, matching: Matching) -> str:
    """What a list compares in a canonical identifier's place: equal for identifiers that the list takes for one."""
    if matching == "exact":
        return identifier
    if matching == "case":
        return unicodedata.normalize("NFC", identifier.casefold())
    # the compatibility form of a folded character may be another that folds
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", identifier).casefold()).casefold()
    return "".join(map(_figure, folded)).translate(_LATIN)


def _figure(char: str) -> str:
    """A decimal figure of any script as 0 to 9; any other character as it is."""
    value = None if char.isascii() else unicodedata.decimal(char, None)
    return char if value is None else str(value)
