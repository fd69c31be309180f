"""Changes of who decides, each with its line in the ledger: challenge, ramp, roll back, return to an earlier release.

What belongs here: what needs nothing but the home, so that it works in seconds while MLflow is away. What does not:
when to change (`rollout`), MLflow's versions and aliases (`registry`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from fraud_platform.model.bundle import (
    Bundle,
    BundleError,
    NoReleaseError,
    exclusive,
    install,
    release_folder,
    releases,
)
from fraud_platform.model.following import refuse_following
from fraud_platform.model.ledger import Change, append_change, read_ledger
from fraud_platform.model.routing import Routing, Stage, read_routing, write_routing


class ReleaseError(RuntimeError):
    """A change that cannot be made; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Reason:
    """What a line of the ledger says beside the change itself."""

    who: str
    """Person, job or sensor."""
    why: str
    evidence: dict[str, Any] | None = None


def challenge(home: Path, bundle_dir: Path, reason: Reason, now: datetime, *, again: bool = False) -> Routing:
    """Put a bundle into shadow beside the champion, in the place of any other challenger. now: with a time zone.

    again: also one that was rolled back before, which a person must want. Raises BundleError, NoReleaseError,
    ReleaseError.
    """
    name = Bundle.load(bundle_dir).name
    with _changing(home) as routing:
        if name == routing.release:
            raise ReleaseError(f"{name} is already the champion")
        if name == routing.challenger:
            return routing
        if not again and name in rolled_back(home):
            raise ReleaseError(
                f"{name} was rolled back before and does not return by itself; "
                "run `fraud-platform release challenge` to try it again"
            )
        install(home, bundle_dir)
        changed = msgspec.structs.replace(
            routing, challenger=name, stage="shadow", weight=0.0, since=_microseconds(now), began=_microseconds(now)
        )
        _change(home, routing, changed, reason, now)
        return changed


def ramp(home: Path, challenger: str, weight: float, reason: Reason, now: datetime) -> Routing:
    """Let a challenger decide for this share of users. Raises ReleaseError when it is not the challenger any more."""
    if not 0 < weight <= 1:
        raise ReleaseError(f"a canary's weight is in (0, 1], got {weight}")
    return _with_challenger(home, challenger, reason, now, lambda r: _staged(r, "canary", weight, now))


def roll_back(home: Path, challenger: str, reason: Reason, now: datetime) -> Routing:
    """Take a challenger out at once. Raises ReleaseError when it is not the challenger any more."""
    return _with_challenger(
        home, challenger, reason, now, lambda r: Routing(release=r.release, since=_microseconds(now))
    )


def return_to(home: Path, release: str, reason: Reason, now: datetime) -> Routing:
    """Put an earlier release of this home into force again, and take any challenger out. Raises BundleError,
    ReleaseError."""
    with _changing(home) as routing:
        if release == routing.release:
            raise ReleaseError(f"{release} is already the champion")
        Bundle.load(release_folder(home, release))
        changed = Routing(release=release, since=_microseconds(now))
        _change(home, routing, changed, reason, now)
        return changed


def take_over(home: Path, routing: Routing, reason: Reason, now: datetime) -> bool:
    """Put into force what another region has in force, whose releases this home has; False where it is already."""
    with exclusive(releases(home) / ".promotion.lock"):
        try:
            before = read_routing(home)
        except (NoReleaseError, BundleError):
            before = Routing(release="")
        if before == routing:
            return False
        _change(home, before, routing, reason, now)
        return True


def retire(home: Path, name: str, reason: Reason, now: datetime) -> None:
    """Give up the way back to a release: what is kept for it alone goes with the next loads. Raises BundleError,
    ReleaseError."""
    with _changing(home) as routing:
        if name in (routing.release, routing.challenger):
            raise ReleaseError(f"{name} is in force; it can be retired once it neither decides nor is tried")
        if not release_folder(home, name).is_dir():
            raise ReleaseError(f"{name} is no release of this home")
        if name not in retired(home):
            append_change(home, Change(at=now, who=reason.who, why=reason.why, what="retired", to=name))


def retired(home: Path) -> set[str]:
    """Releases that were retired, and have not come back since."""
    found: set[str] = set()
    for entry in read_ledger(home):
        if entry["what"] == "retired":
            found.add(entry["to"])
        elif entry["what"] == "champion":
            found.discard(entry["to"])
        elif entry["what"] == "challenger":
            found.discard(entry["to"]["challenger"])
    return found


def champion_before(home: Path) -> str:
    """The release that was in force before the one that is. Raises ReleaseError when there was none, or it was
    retired."""
    for entry in reversed(read_ledger(home)):
        if entry["what"] == "champion" and entry["from"] is not None:
            before = str(entry["from"])
            if before in retired(home):
                number = before.rpartition("-")[2]
                raise ReleaseError(
                    f"{before} was in force before, and was retired: nothing is kept ready for it. `fraud-platform "
                    f"release challenge {number}` brings it back beside the champion"
                )
            return before
    raise ReleaseError("there is no earlier release to return to")


def rolled_back(home: Path) -> set[str]:
    """Challengers that were taken out."""
    return {
        entry["from"]["challenger"]
        for entry in read_ledger(home)
        if entry["what"] == "challenger" and entry["to"]["challenger"] is None and entry["from"]["challenger"]
    }


def _with_challenger(
    home: Path, challenger: str, reason: Reason, now: datetime, change: Callable[[Routing], Routing]
) -> Routing:
    with _changing(home) as routing:
        if routing.challenger != challenger:
            raise ReleaseError(f"{challenger} is no longer the challenger; {routing.challenger or 'nobody'} is")
        changed = change(routing)
        _change(home, routing, changed, reason, now)
        return changed


def _staged(routing: Routing, stage: Stage, weight: float, now: datetime) -> Routing:
    return msgspec.structs.replace(routing, stage=stage, weight=weight, since=_microseconds(now))


@contextmanager
def _changing(home: Path) -> Iterator[Routing]:
    refuse_following(home, "says which release decides")
    with exclusive(releases(home) / ".promotion.lock"):
        yield read_routing(home)


def _change(home: Path, before: Routing, after: Routing, reason: Reason, now: datetime) -> None:
    """Record and ledger; the ledger first: a killed change is one that the ledger announced and that did not happen,
    which the next line's `from` shows, and never one that happened unannounced."""
    changes = []
    if after.release != before.release:
        changes.append(Change(at=now, who=reason.who, why=reason.why, to=after.release, evidence=reason.evidence))
    arms = [{"challenger": r.challenger, "stage": r.stage, "weight": r.weight} for r in (before, after)]
    if arms[0] != arms[1]:
        changes.append(
            Change(at=now, who=reason.who, why=reason.why, what="challenger", was=arms[0], to=arms[1],
                   evidence=reason.evidence)
        )  # fmt: skip
    for change in changes:
        append_change(home, change)
    write_routing(home, after)


def _microseconds(now: datetime) -> int:
    return int(now.timestamp() * 1_000_000)
