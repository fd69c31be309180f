"""Whether this home follows another's: who decides is then changed there, and taken over here.

What belongs here: the note `<home>/releases/followed.json`, and refusing changes by it. What does not: following
(`regions.follow`), which writes it.
"""

from datetime import datetime
from pathlib import Path

import msgspec

from fraud_platform.model.bundle import releases, replace_file


class FollowingError(RuntimeError):
    """A change that is made in the first region; the message says so."""


class Followed(msgspec.Struct, frozen=True, kw_only=True):
    """How far this home has followed."""

    region: str
    number: int = 0
    """Of the last publication that was looked at; 0: none was found yet."""
    looked_at: datetime
    """When the lake was last asked and answered."""
    problem: str | None = None
    """What is not in force here, and why; None: all that was published is."""


def _note(home: Path) -> Path:
    return releases(home) / "followed.json"


def read_followed(home: Path) -> Followed | None:
    """How far this home has followed; None where it is no follower."""
    try:
        return msgspec.json.decode(_note(home).read_bytes(), type=Followed)
    except FileNotFoundError:
        return None


def write_followed(home: Path, followed: Followed) -> None:
    """Note how far it has followed; from the first time on, this home is a follower."""
    releases(home).mkdir(parents=True, exist_ok=True)
    replace_file(_note(home), msgspec.json.format(msgspec.json.encode(followed), indent=2))


def check_region(home: Path, region: str) -> None:
    """Raise FollowingError where the settings name another region than the one that this home follows as: its payments
    would be counted among another's."""
    followed = read_followed(home)
    if followed is not None and followed.region != region:
        raise FollowingError(
            f"{home} is the home of the region {followed.region}, FRAUD_REGION names {region or 'none'}: correct it"
        )


def refuse_following(home: Path, what: str) -> None:
    """Raise FollowingError in a home that follows. what: the end of the sentence "the first region …"."""
    if _note(home).exists():
        raise FollowingError(f"this home follows the first region, which {what}: do it there, and this region follows")
