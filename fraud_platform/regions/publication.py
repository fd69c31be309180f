"""Who decides, as the first region says it in the lake: one small record, and the files that it names by their hash.

What belongs here: the record's form and place. What does not: writing it (`publish`), following it (`follow`).
"""

import hashlib
from datetime import datetime
from pathlib import Path

import msgspec

from fraud_platform.decision.policy_record import PolicyRecord
from fraud_platform.lake import Lake
from fraud_platform.model.bundle import CARD_FILE, DECIDING
from fraud_platform.model.routing import FORM as ROUTING_FORM
from fraud_platform.model.routing import Routing
from fraud_platform.versions import refuse_newer, refuse_newer_json

RECORD = "releases/in_force.json"
FORM = 1
"""Of the record: `versions`."""
FILES = (*DECIDING, CARD_FILE)
"""All of them; a card is not always there."""


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """What is in force in the first region."""

    number: int
    """1, 2, …"""
    published_at: datetime
    routing: Routing | None
    """None before the first release."""
    policy: PolicyRecord | None
    releases: dict[str, dict[str, str]]
    """SHA-256 of each file of each release that the routing names."""
    form: int = FORM

    def says(self) -> tuple[object, ...]:
        """What it says is in force; two that say the same differ in number and time alone."""
        return self.routing, self.policy, self.releases


_decode = msgspec.json.Decoder(Publication).decode


def read_publication(lake: Lake) -> Publication | None:
    """The last one; None before the first, or while the lake's folder is not there. Raises OSError, MsgspecError,
    NewerVersionError."""
    payload = lake.document(RECORD)
    if payload is None:
        return None
    refuse_newer_json(RECORD, payload, FORM)
    publication = _decode(payload)
    if publication.routing is not None:
        refuse_newer(f"the routing in {RECORD}", publication.routing.form, ROUTING_FORM)
    return publication


def encoded(publication: Publication) -> bytes:
    """The record as it lies in the lake."""
    return msgspec.json.format(msgspec.json.encode(publication), indent=2)


def file_name(release: str, file: str) -> str:
    """Name of a release's file in the lake."""
    return f"releases/{release}/{file}"


def sha256(payload: bytes) -> str:
    """As records name it."""
    return hashlib.sha256(payload).hexdigest()


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a release that is there."""
    return {file: sha256((folder / file).read_bytes()) for file in FILES if (folder / file).exists()}
