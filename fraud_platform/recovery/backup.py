"""A backup of what nothing else leads back to: who decided when, keys, policies, labels, models and their registry.

What belongs here: keeping it, and putting it back. What does not: the lake's tables, which an object store or a copy of
the folder keeps; Redis and PostgreSQL, which are loaded from them.

Each is noted in `<home>/backups.jsonl`, so that an erasure knows of it.

It is taken while the promotion's lock is held, so that registry, releases and ledger are of one moment, and databases
by sqlite's own backup, so that each is of one transaction. A manifest with a hash of every file is written last: a
folder without one is no backup.
"""

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from fraud_platform.decision.policy_control import forget
from fraud_platform.homes import begin_home
from fraud_platform.lake import Lake
from fraud_platform.model.bundle import exclusive, releases, replace_file
from fraud_platform.settings import Settings
from fraud_platform.versions import NewerVersionError, refuse_newer

FOLDERS = ("releases", "candidates", "access", "policy", "erasure", "feedback", "labels", "mlflow")
"""Of the home; one that is not there is left out."""
RECORDS = "lake-records"
"""The lake's JSON documents: which history it holds, loads, the inference log's last commit."""
MANIFEST = "manifest.json"
FORM = 1
"""Of a backup: `versions`. One of before there were forms is of the first."""
ALTERING = "altering"
"""Key of a manifest while an erasure alters its backup."""
_MADE = "backups.jsonl"
_LEFT_OUT = (".lock", ".tmp")


class BackupError(RuntimeError):
    """A backup cannot be made or used; the message says why and what to do."""


@dataclass(frozen=True)
class Kept:
    """What a backup holds."""

    files: int
    size: int
    """Bytes."""
    at: str
    """RFC 3339."""


def backup(settings: Settings, folder: Path, now: datetime) -> Kept:
    """Keep this home's state in a new folder. Raises BackupError, OSError."""
    if folder.exists():
        raise BackupError(f"{folder} already exists; name a new folder for each backup")
    home = settings.home.absolute()
    if folder.absolute().is_relative_to(home):
        raise BackupError(f"{folder} lies inside the home and would be lost with it; choose a folder elsewhere")
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True, mode=0o700)
    releases(home).mkdir(parents=True, exist_ok=True)
    with exclusive(releases(home) / ".promotion.lock"):
        for name in FOLDERS:
            for path in _files(home / name):
                _keep(path, temporary / "home" / path.relative_to(home))
        lake = Lake(settings.lake)
        for name in map(lake.name_of, lake.every_file(".json")):
            target = temporary / RECORDS / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(lake.document(name) or b"")
    hashes = {str(path.relative_to(temporary)): _sha256(path) for path in _files(temporary)}
    at = now.isoformat()
    manifest = {"form": FORM, "at": at, "home": str(home), "files": hashes}
    replace_file(temporary / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
    with exclusive(releases(home) / ".promotion.lock"):
        # before it has its name: of one that is not there an erasure says so, of one it does not know it says nothing
        _note(home, folder, at)
    temporary.rename(folder)
    return Kept(len(hashes), sum((folder / name).stat().st_size for name in hashes), at)


def made_backups(home: Path) -> dict[Path, str]:
    """Every folder that this home was backed up to, and when; whether or not it is still there."""
    path = home / _MADE
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    return {Path(line["folder"]): line["at"] for line in lines}


def _note(home: Path, folder: Path, at: str) -> None:
    path = home / _MADE
    noted = made_backups(home) | {folder.absolute(): at}
    lines = [json.dumps({"folder": str(one), "at": when}) + "\n" for one, when in noted.items()]
    replace_file(path, "".join(lines).encode())


def restore(settings: Settings, folder: Path, *, overwrite: bool = False, dry_run: bool = False) -> list[str]:
    """Put back what is missing; what differs too, where `overwrite`. Returns the names, as the manifest has them.

    The whole backup is verified before the first file is written. Nothing is deleted: what the home has beyond the
    backup stays. Raises BackupError.
    """
    manifest = read_manifest(folder)
    if manifest.get(ALTERING):
        raise BackupError(f"an erasure in {folder} was not completed: run `erase --yes --backup {folder}` again")
    lake, home = Lake(settings.lake), settings.home.absolute()
    put = []
    for name, sha256 in sorted(manifest["files"].items()):
        content = (folder / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise BackupError(f"{folder / name} differs from what was backed up; nothing was restored")
        part, _, rest = name.partition("/")
        present = lake.document(rest) if part == RECORDS else _content(home / rest)
        if present is None or (overwrite and present != content):
            put.append(name)
    if not dry_run:
        begin_home(home)
        with exclusive(releases(home) / ".promotion.lock"):
            for name in put:
                part, _, rest = name.partition("/")
                _put(lake, home, part, rest, folder / name)
        # what is here now is of an earlier time than this home had followed the control store to
        forget(home)
    return put


def read_manifest(folder: Path) -> dict[str, Any]:
    """The list of what a backup holds. Raises BackupError."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise BackupError(f"{folder} is not a complete backup: it has no readable {MANIFEST}") from error
    try:
        refuse_newer(f"the backup {folder}", manifest.get("form", 1), FORM)
    except NewerVersionError as error:
        raise BackupError(f"{error}; nothing was restored") from error
    missing = [name for name in manifest["files"] if not (folder / name).is_file()]
    if missing:
        raise BackupError(f"{folder} lacks {missing[0]} and {len(missing) - 1} more file(s); nothing was restored")
    return manifest


def _put(lake: Lake, home: Path, part: str, rest: str, source: Path) -> None:
    if part == RECORDS:
        lake.write_document(rest, source.read_bytes())
        return
    target = home / rest
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = target.with_name(f".{target.name}.restored")
    shutil.copy2(source, temporary)
    temporary.replace(target)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _files(root: Path) -> Iterator[Path]:
    """Files of a folder, without locks and what is being written."""
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if (
            path.is_file()
            and not any(part.endswith(_LEFT_OUT) for part in parts)
            and not path.suffix.startswith(".db-")
        ):
            yield path


def _keep(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if source.suffix != ".db":
        shutil.copy2(source, target)
        return
    with (
        closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as live,
        closing(sqlite3.connect(target)) as kept,
    ):
        live.backup(kept)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
