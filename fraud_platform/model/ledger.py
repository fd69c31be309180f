"""Which release was in force when, who changed it and why: one JSON line per change, never altered.

What belongs here: the file `<home>/releases/ledger.jsonl`. What does not: changing what is in force (`registry`).
"""

import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from fraud_platform.model.bundle import releases


@dataclass(frozen=True, kw_only=True)
class Change:
    """One release taking over from another."""

    at: datetime
    who: str
    why: str
    to: str
    """Name of the release, `fraud-detector-7`."""


def read_ledger(home: Path) -> list[dict[str, Any]]:
    """Every change, oldest first: at, who, why, from (None for the first), to."""
    path = _path(home)
    if not path.exists():
        return []
    # a line without its end was cut off by a crash and never counted
    complete = path.read_bytes().rpartition(b"\n")[0]
    return [json.loads(line) for line in complete.splitlines()]


def in_force(home: Path, at: datetime) -> str | None:
    """Name of the release that decided at a moment, or None when none had been released yet. at: with a time zone."""
    standing = None
    for entry in read_ledger(home):
        if datetime.fromisoformat(entry["at"]) <= at:
            standing = entry["to"]
    return standing


def append_change(home: Path, change: Change) -> bool:
    """Append a change; False when its release is the newest entry's already. Callers hold the promotion's lock."""
    entries = read_ledger(home)
    before = entries[-1]["to"] if entries else None
    if before == change.to:
        return False
    entry = asdict(change) | {"at": change.at.isoformat(), "from": before}
    path = _path(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        cut_off = path.read_bytes().rpartition(b"\n")[2]
        if cut_off:
            file.truncate(file.tell() - len(cut_off))
        file.write(json.dumps(entry, sort_keys=True).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return True


def _path(home: Path) -> Path:
    return releases(home) / "ledger.jsonl"
