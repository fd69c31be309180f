"""API keys at rest: `<home>/access/keys.json`, the three things that are done to it, and their lines in the ledger.

What belongs here: making, listing and revoking keys. What does not: checking one on a request (`access`).

A key is 256 random bits, so a plain SHA-256 of it is enough: a slow hash makes up for secrets that can be guessed, and
2^256 cannot be; it would only make each request slow. The key itself is shown once and stored nowhere.
"""

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec

from fraud_platform.callers import CALLER

Scope = Literal["decide", "explain", "feedback", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

PREFIX = "fp_"
ID_DIGITS = 8
_SECRET_BYTES = 32


class KeysError(ValueError):
    """The keys file, or what is asked of it, does not fit; the message says what to do."""


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key as it is kept. Several keys may bear one caller's name, so that a key can be changed without a gap."""

    id: str
    """Hex digits that also stand in the key itself: what is listed, logged and revoked."""
    caller: str
    """Who asks; decisions are kept under this name."""
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    """Of the whole key, hex."""
    scopes: tuple[Scope, ...]
    created_at: datetime
    revoked_at: datetime | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: tuple[ApiKey, ...] = ()


_decode = msgspec.json.Decoder(_File).decode


def keys_path(home: Path) -> Path:
    """Where a home keeps its keys."""
    return home / "access" / "keys.json"


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """Every key that was ever made, revoked ones included; none while there is no file. Raises KeysError, OSError."""
    try:
        payload = path.read_bytes()
    except FileNotFoundError:
        return ()
    try:
        return _decode(payload).keys
    except msgspec.MsgspecError as error:
        raise KeysError(f"{path} is not a file of API keys: {error}; restore it, or delete it and add keys") from error


def add_key(path: Path, caller: str, scopes: Sequence[Scope], now: datetime) -> tuple[str, ApiKey]:
    """Make a key; returns it, for the only time, and what is kept of it. Raises KeysError."""
    if not CALLER.fullmatch(caller):
        raise KeysError(f"{caller!r} is no name for a caller: 1 to 64 letters, digits, dots, dashes, underscores")
    if not scopes:
        raise KeysError(f"a key needs at least one scope of {', '.join(SCOPES)}")
    with _locked(path):
        keys = read_keys(path)
        taken = {key.id for key in keys}
        while (key_id := secrets.token_hex(ID_DIGITS // 2)) in taken:
            pass
        token = f"{PREFIX}{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
        digest = hashlib.sha256(token.encode()).hexdigest()
        made = ApiKey(
            id=key_id, caller=caller, sha256=digest, scopes=tuple(sorted(set(scopes), key=SCOPES.index)), created_at=now
        )
        _write(path, (*keys, made))
    return token, made


def revoke_key(path: Path, key_id: str, now: datetime) -> ApiKey:
    """Make a key worthless; it stays listed. Raises KeysError."""
    with _locked(path):
        keys = read_keys(path)
        found = next((key for key in keys if key.id == key_id), None)
        if found is None:
            raise KeysError(f"{path} holds no key {key_id!r}: `fraud-platform keys list` shows them")
        revoked = found if found.revoked_at else msgspec.structs.replace(found, revoked_at=now)
        _write(path, tuple(revoked if key is found else key for key in keys))
    return revoked


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other commands from changing the file between reading and replacing it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.with_suffix(".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(path: Path, keys: tuple[ApiKey, ...]) -> None:
    payload = msgspec.json.format(msgspec.json.encode(_File(keys)), indent=2)
    temporary = path.with_suffix(".tmp")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
