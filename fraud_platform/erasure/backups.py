"""A person in a backup of this home, and taking them out of it.

What belongs here: what an erasure alters of a backup, and keeping it whole. What does not: what a backup holds
(`recovery.backup`). Policies, ledger, comments and records are altered as the home's are; MLflow's database and the
releases are not. The backup gets this home's record of who was erased, or a restore would let an import bring them
back.

The manifest says that the backup is being altered before the first file is, and has the new hashes afterwards: one that
an erasure was killed in is refused by `restore`, and completed by the next erasure.
"""

import hashlib
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from fraud_platform.erasure import home as files
from fraud_platform.erasure import policies
from fraud_platform.erasure.files import Payment
from fraud_platform.erasure.names import Names
from fraud_platform.erasure.rows import Pseudonyms
from fraud_platform.erasure.suppression import read_suppression, suppression_path
from fraud_platform.model.bundle import replace_file
from fraud_platform.model.ledger import ledger_file
from fraud_platform.recovery.backup import ALTERING, MANIFEST, RECORDS, BackupError, read_manifest


def take_out(
    home: Path,
    folder: Path,
    payments: set[Payment],
    names: Names,
    pseudonyms: Pseudonyms,
    who: str,
    now: datetime,
) -> None:
    """Alter a backup of this home. Raises BackupError for what is none, OSError."""
    manifest = read_manifest(folder)
    copy = folder / "home"
    ours, theirs = read_suppression(home), read_suppression(copy)
    if theirs is not None and ours is not None and theirs.key != ours.key:
        raise BackupError(f"{folder} is a backup of another home: its erased users have another key")
    touched = sorted(path.relative_to(folder).as_posix() for path in _touched(folder))
    if not manifest.get(ALTERING):
        for name in touched:
            if name in manifest["files"] and _sha256(folder / name) != manifest["files"][name]:
                raise BackupError(f"{folder / name} was altered after the backup; make another one and delete this one")
    _write(folder, manifest | {ALTERING: True})
    policies.rename(copy, names, pseudonyms, who, now)
    for path in sorted((folder / RECORDS).rglob("*.json")):
        policies.rename_file(path, names, pseudonyms)
    files.blank_comments(copy, payments, names)
    suppression_path(copy).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.copy2(suppression_path(home), suppression_path(copy))
    for lock in copy.rglob("*.lock"):
        lock.unlink()
    known: dict[str, str] = manifest["files"]
    hashes = known | {path.relative_to(folder).as_posix(): _sha256(path) for path in _touched(folder)}
    _write(folder, {name: value for name, value in manifest.items() if name != ALTERING} | {"files": hashes})


def _touched(folder: Path) -> Iterator[Path]:
    """Files that an erasure may alter."""
    copy = folder / "home"
    yield from (copy / "policy").glob("*.json")
    yield from (copy / "feedback").rglob("*.jsonl")
    yield from (folder / RECORDS).rglob("*.json")
    yield from (path for path in (ledger_file(copy), suppression_path(copy)) if path.exists())


def _write(folder: Path, manifest: dict[str, Any]) -> None:
    replace_file(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=1))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
