"""Who decided when, who changed it and why: one JSON line per change, altered by the erasure of a user alone.

What belongs here: the file `<home>/releases/ledger.jsonl`. What does not: changing what is in force (`registry`,
`release`, `decision.policy_record`) or doing what else a line tells of (`decision.api_keys`, `erasure`).
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from fraud_platform.model.bundle import exclusive, releases, replace_file


@dataclass(frozen=True, kw_only=True)
class Change:
    """One thing taking over from another."""

    at: datetime
    who: str
    why: str
    what: Literal["champion", "challenger", "retired", "policy", "gateway", "key", "erase"] = "champion"
    to: Any
    """The release's name, `fraud-detector-7`, also of one that was retired; a challenger with its stage and weight; a
    policy's version, with what differs in it; the gateway's weights; a key by its id, never the key; an erasure by its
    pseudonym, never the user's."""
    was: Any = None
    """What `to` replaces; of a champion the ledger knows it."""
    evidence: dict[str, Any] | None = None
    """The figures that it rests on."""


def ledger_file(home: Path) -> Path:
    """Where a home keeps it."""
    return releases(home) / "ledger.jsonl"


def read_ledger(home: Path) -> list[dict[str, Any]]:
    """Every change, oldest first: at, who, why, what, from (None for the first), to, evidence."""
    path = ledger_file(home)
    if not path.exists():
        return []
    # a line without its end was cut off by a crash and never counted
    complete = path.read_bytes().rpartition(b"\n")[0]
    return [{"what": "champion", "evidence": None} | json.loads(line) for line in complete.splitlines()]


def in_force(home: Path, at: datetime) -> str | None:
    """Name of the release that decided at a moment, or None when none had been released yet. at: with a time zone."""
    standing = None
    for entry in read_ledger(home):
        if entry["what"] == "champion" and datetime.fromisoformat(entry["at"]) <= at:
            standing = entry["to"]
    return standing


def arms_in_force(home: Path, at: datetime) -> dict[str, Any]:
    """Champion, challenger, stage and weight at a moment, as the ledger tells them. at: with a time zone."""
    arms: dict[str, Any] = {"challenger": None, "stage": "none", "weight": 0.0}
    for entry in read_ledger(home):
        if datetime.fromisoformat(entry["at"]) > at:
            continue
        if entry["what"] == "challenger":
            arms = entry["to"]
        elif entry["what"] == "champion":
            # whoever takes over has no challenger yet
            arms = {"challenger": None, "stage": "none", "weight": 0.0}
    return {"champion": in_force(home, at), **arms}


def append_change(home: Path, change: Change) -> bool:
    """Append a change; False when there is none. Callers hold the lock of what they change; the ledger's own is held
    for the append alone, so that a kill switch waits for no promotion."""
    with exclusive(releases(home) / ".ledger.lock"):
        before = change.was
        if change.what == "champion":
            champions = [entry["to"] for entry in read_ledger(home) if entry["what"] == "champion"]
            before = champions[-1] if champions else None
        if before == change.to:
            return False
        _append(home, line_of(change, before))
    return True


def line_of(change: Change, before: Any) -> dict[str, Any]:
    """The line of a change, as JSON. before: what `to` replaces."""
    line = asdict(change) | {"at": change.at.isoformat(), "from": before}
    del line["was"]
    return line


def append_lines(home: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Append lines of the policy that `line_of` made, here or in another home; those that stand here already are left
    out, also where they were altered since."""

    def known(line: dict[str, Any]) -> tuple[Any, ...]:
        return (line["from"] or {}).get("version"), line["to"]["version"], line["at"]

    with exclusive(releases(home) / ".ledger.lock"):
        there = {known(line) for line in read_ledger(home) if line["what"] == "policy"}
        for line in lines:
            if known(line) not in there:
                _append(home, line)


def _append(home: Path, line: dict[str, Any]) -> None:
    path = ledger_file(home)
    with path.open("ab") as file:
        cut_off = path.read_bytes().rpartition(b"\n")[2]
        if cut_off:
            file.truncate(file.tell() - len(cut_off))
        file.write(json.dumps(line, sort_keys=True).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def alter_ledger(home: Path, altered: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Write lines anew, each as `altered` has it; all of them or, killed meanwhile, none. For an erasure."""
    with exclusive(releases(home) / ".ledger.lock"):
        path = ledger_file(home)
        if not path.exists():
            return
        before = path.read_bytes()
        lines = []
        for line in before.rpartition(b"\n")[0].splitlines():
            entry = json.loads(line)
            changed = altered(entry)
            lines.append(line if changed == entry else json.dumps(changed, sort_keys=True).encode())
        after = b"".join(line + b"\n" for line in lines)
        if after != before:
            replace_file(path, after)
