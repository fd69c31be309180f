"""API keys at rest: what a store of keys has to say, and the one there is, `<home>/access/keys.json`.

What belongs here: making, listing and revoking keys, and whether keys were ever made. What does not: checking one on a
request (`access`), writing the ledger (`key_ledger`).

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
from typing import Annotated, Any, Literal, NamedTuple, Protocol, get_args

import msgspec

from fraud_platform.callers import CALLER
from fraud_platform.versions import LATER

Scope = Literal["decide", "explain", "feedback", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

PREFIX = "fp_"
ID_DIGITS = 8
_SECRET_BYTES = 32
LEDGER = Path("releases") / "ledger.jsonl"
"""Of a home: where each key that was made has its line. `model.ledger` says so too, and takes NumPy to import."""
OPENED = "opened"
"""State of the line by which somebody lets everybody in again, though keys were made before."""


class KeysError(ValueError):
    """The keys file, or what is asked of it, does not fit; the message says what to do."""


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key as it is kept. Several keys may bear one caller's name, so that a key can be changed without a gap."""

    id: Annotated[str, msgspec.Meta(pattern=rf"^[0-9a-f]{{{ID_DIGITS}}}\Z")]
    """Hex digits that also stand in the key itself: what is listed, logged and revoked."""
    caller: Annotated[str, msgspec.Meta(pattern=rf"^{CALLER.pattern}\Z")]
    """Who asks; decisions are kept under this name."""
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    """Of the whole key, hex."""
    scopes: tuple[Scope, ...]
    created_at: datetime
    revoked_at: datetime | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: tuple[ApiKey, ...] = ()


_decode = msgspec.json.Decoder(_File).decode


class Made(NamedTuple):
    """What is known of the keys that were made, whether or not they are still kept."""

    callers: frozenset[str]
    """Whose they were."""
    opened: bool
    """Whether somebody let everybody in again since the last of them."""


KeyState = tuple[int, int, int]
"""What changes with the keys: of a file its time, number and size."""


class KeyStore(Protocol):
    """What keeps keys, as the door (`access`) sees it; `KeyFile` is one, and a database could be another."""

    def state(self) -> KeyState | None:
        """Something that changes with the keys, asked once a second; None while none are kept. Raises OSError."""

    def keys(self) -> tuple[ApiKey, ...]:
        """Every key that is kept, revoked ones included. Raises KeysError, OSError."""

    def made(self) -> Made:
        """Of keys that were made, by a record that is kept apart from them: keys that are lost are not forgotten.
        Raises OSError."""


class KeyFile:
    """The keys of a home: `<home>/access/keys.json`, and the ledger beside it."""

    def __init__(self, home: Path) -> None:
        self._path = keys_path(home)
        self._ledger = home / LEDGER

    def __str__(self) -> str:
        return str(self._path)

    def state(self) -> KeyState | None:
        """The file's time, number and size."""
        try:
            found = os.stat(self._path)  # noqa: PTH116 - on the path of a payment once a second
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size

    def keys(self) -> tuple[ApiKey, ...]:
        """See `read_keys`."""
        return read_keys(self._path)

    def made(self) -> Made:
        """By the ledger's lines of keys."""
        try:
            lines = self._ledger.read_bytes().splitlines()
        except FileNotFoundError:
            lines = []
        told = [_decode_line(line) for line in lines if b'"key"' in line]
        states = [entry for entry in told if entry is not None]
        return Made(
            frozenset(str(each["caller"]) for each in states if each.get("state") != OPENED),
            bool(states) and states[-1].get("state") == OPENED,
        )


class _Line(msgspec.Struct):
    what: str
    to: dict[str, Any]


def _decode_line(line: bytes) -> dict[str, Any] | None:
    """What became of a key; None for a line of something else, and for one that a crash cut off."""
    try:
        found = msgspec.json.decode(line, type=_Line)
    except msgspec.MsgspecError:
        return None
    return found.to if found.what == "key" and "caller" in found.to else None


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
        keys = _decode(payload).keys
    except (msgspec.MsgspecError, RecursionError) as error:
        raise KeysError(
            f"{path} is not a file of API keys: {error}; {LATER}, else restore it, or delete it and add keys"
        ) from error
    if len({key.id for key in keys}) != len(keys):
        raise KeysError(f"{path} has two keys with the same id; restore the file, or delete it and add keys again")
    return keys


def add_key(path: Path, caller: str, scopes: Sequence[Scope], now: datetime) -> tuple[str, ApiKey]:
    """Make a key; returns it, for the only time, and what is kept of it. Raises KeysError."""
    if not CALLER.fullmatch(caller):
        raise KeysError(f"{caller!r} is not a name for a caller: 1 to 64 letters, digits, dots, dashes, underscores")
    if not scopes:
        raise KeysError(f"a key needs at least one of the scopes {', '.join(SCOPES)}")
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
            raise KeysError(f"{path} has no key {key_id!r}: `fraud-platform keys list` shows all keys")
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
