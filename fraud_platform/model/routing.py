"""Who decides: the release in force, its challenger, and the challenger's share of users, in one record.

What belongs here: the record and whose turn a user's payment is. What does not: when it changes (`rollout`), changing
it with a line in the ledger (`release`).
"""

import json
from pathlib import Path
from typing import Annotated, Literal

import mmh3
import msgspec

from fraud_platform.model.bundle import (
    POINTER_FILE,
    BundleError,
    NoReleaseError,
    current_release,
    releases,
    replace_file,
)
from fraud_platform.versions import NewerVersionError, refuse_newer_json

FORM = 1
"""Of the record: `versions`."""
Stage = Literal["none", "shadow", "canary"]


class Routing(msgspec.Struct, frozen=True, kw_only=True):
    """What `<home>/releases/current.json` holds."""

    release: str
    """The champion, `fraud-detector-7`."""
    challenger: str | None = None
    stage: Stage = "none"
    """`shadow`: the challenger scores every payment and decides none. `canary`: it decides its users' payments."""
    weight: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    """Share of users whose payments the challenger decides, in [0, 1]."""
    since: int = 0
    """UTC microseconds of the last change of challenger, stage or weight."""
    began: int = 0
    """UTC microseconds at which this challenger came into shadow: from then on both scores of a payment are known."""
    form: int = FORM


def read_routing(home: Path) -> Routing:
    """The routing in force. Raises NoReleaseError, or BundleError when the record is unreadable."""
    current_release(home)
    path = releases(home) / POINTER_FILE
    try:
        payload = path.read_bytes()
        refuse_newer_json(str(path), payload, FORM)
        return msgspec.json.decode(payload, type=Routing)
    except FileNotFoundError as error:
        raise NoReleaseError(f"{path} does not exist") from error
    except NewerVersionError as error:
        raise BundleError(str(error)) from error
    except msgspec.MsgspecError as error:
        raise BundleError(f"{path}: {error}") from error


def write_routing(home: Path, routing: Routing) -> None:
    """Replace the record; callers hold the promotion's lock and write the ledger."""
    document = msgspec.to_builtins(routing)
    replace_file(releases(home) / POINTER_FILE, json.dumps(document, indent=2, sort_keys=True).encode())


def is_challengers(user_id: str, challenger: str, weight: float) -> bool:
    """Whether a user's payments are the challenger's to decide: the same answer each time, and still so at a larger
    weight. Another challenger gets other users."""
    return mmh3.hash(f"{challenger}:{user_id}", signed=False) < weight * 2**32
