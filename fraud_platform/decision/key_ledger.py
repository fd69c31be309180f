"""What became of an API key, in the ledger.

What belongs here: the line of a key. What does not: keys (`api_keys`), which the process of the rules imports without
all that the ledger stands on.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

from fraud_platform.callers import DEFAULT_CALLER
from fraud_platform.decision.api_keys import OPENED, ApiKey, KeysError, keys_path, read_keys
from fraud_platform.model.bundle import exclusive, releases
from fraud_platform.model.ledger import Change, append_change, read_ledger


def note_opening(home: Path, who: str, why: str, now: datetime) -> None:
    """Say that everybody on this machine may ask again, though keys were made here. Raises KeysError while keys are
    kept: a file that is there is obeyed."""
    if read_keys(keys_path(home)):
        raise KeysError(f"{keys_path(home)} holds keys: revoke those in force and move the file away first")
    to = {"id": "", "caller": DEFAULT_CALLER, "scopes": [], "state": OPENED}
    with exclusive(releases(home) / ".promotion.lock"):
        append_change(home, Change(at=now, who=who, why=why, what="key", to=to))


def note_key(home: Path, key: ApiKey, who: str, now: datetime) -> bool:
    """Write what became of a key to the ledger: its id and scopes, never the key. False when that stands there already.

    It is written after the change: a key must never stay valid because the ledger could not be written, and one that
    was made has not been shown to anybody before this returns.
    """
    standing: dict[str, Any] = {"id": key.id, "caller": key.caller, "scopes": list(key.scopes)}
    after = standing | {"state": "revoked" if key.revoked_at else "valid"}
    with exclusive(releases(home) / ".promotion.lock"):
        known = [entry["to"] for entry in read_ledger(home) if entry["what"] == "key" and entry["to"]["id"] == key.id]
        why = f"key {'revoked' if key.revoked_at else 'added'}"
        before = known[-1] if known else None
        return append_change(home, Change(at=now, who=who, why=why, what="key", was=before, to=after))
