"""Who may ask for what: the check of an API key, or of a token, on every request.

What belongs here: from an Authorization header to a caller's name. What does not: making keys (`api_keys`), signatures
(`tokens`), HTTP.
"""

import hashlib
import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from hmac import compare_digest
from pathlib import Path
from typing import Protocol, Self

from fraud_platform.callers import DEFAULT_CALLER
from fraud_platform.decision.api_keys import ID_DIGITS, PREFIX, KeyFile, KeysError, KeyState, KeyStore, Scope
from fraud_platform.decision.problem import forbidden, unauthorized

LOOK_SECONDS = 1.0
"""How soon a key that was added or revoked counts."""

_SCHEME = b"bearer "
_ID = slice(len(PREFIX), len(PREFIX) + ID_DIGITS)
_LONGEST = 256


class TokenCheck(Protocol):
    """What takes tokens beside API keys; `decision.tokens.Tokens` is one."""

    def check(self, token: bytes, /) -> tuple[str, frozenset[str]]: ...


@dataclass(frozen=True, slots=True)
class _Known:
    digest: bytes
    caller: str
    scopes: frozenset[str]


_NOBODY = _Known(bytes(hashlib.sha256().digest_size), "", frozenset())
"""Compared with where a key's id is unknown, so that it takes as long as where the secret is wrong."""


@lru_cache(maxsize=64)
def is_loopback(host: str) -> bool:
    """Whether a server that listens on `host` can be reached from its own machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Access:
    """The keys in force, read again when they change. For one event loop or thread.

    A key's id finds it, its SHA-256 is compared in constant time. Where no key was ever made, a service on loopback
    lets everybody in as `default` and any other lets nobody in. A revoked key counts as one here, and so does one that
    was made and is lost: neither revoking the last nor deleting the file opens the door. `keys open` does.

    Callers by token have no name that a key has or had, nor `default`: what is kept under it is another's.
    """

    def __init__(
        self,
        store: KeyStore,
        *,
        loopback: bool,
        failed: Callable[[Exception], None],
        clock: Callable[[], float],
        tokens: TokenCheck | None,
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._loopback = loopback
        self._failed = failed
        self._clock = clock
        self._keys: dict[bytes, _Known] = {}
        self._taken: frozenset[str] = frozenset()
        self._open = False
        self._seen: KeyState | None = store.state()
        self._look_at = clock() + LOOK_SECONDS
        self._read()

    @classmethod
    def load(
        cls,
        store: KeyStore,
        *,
        loopback: bool,
        failed: Callable[[Exception], None],
        clock: Callable[[], float] = time.monotonic,
        tokens: TokenCheck | None = None,
    ) -> Self:
        """Read the keys. Raises KeysError, OSError.

        loopback: whether the service can be reached from its own machine alone. failed: told of keys that are lost, and
        of a store that cannot be read later on; the keys read before stay in force. tokens: where given, tokens are
        taken too, and without a key or a token nobody is let in.
        """
        return cls(store, loopback=loopback, failed=failed, clock=clock, tokens=tokens)

    @property
    def required(self) -> bool:
        """Whether a key has to be shown."""
        return not self._open

    def check(self, authorization: bytes | None, scope: Scope) -> str:
        """The caller's name. authorization: the header's value, `Bearer <key>`. Raises Problem 401, 403."""
        if self._clock() >= self._look_at:
            self.look()
        if self._open:
            return DEFAULT_CALLER
        if authorization is None:
            raise unauthorized("send the header `Authorization: Bearer <key>`; `fraud-platform keys add` makes keys")
        token = authorization[len(_SCHEME) :]
        if self._tokens is not None and token.count(b".") == 2 and authorization[: len(_SCHEME)].lower() == _SCHEME:
            caller, scopes = self._tokens.check(token)
            if caller in self._taken:
                raise unauthorized("the token's `sub` is the name of a caller with an API key; it needs its own")
            return _allowed(caller, scopes, scope)
        known = self._keys.get(token[_ID], _NOBODY)
        if len(token) > _LONGEST or not compare_digest(hashlib.sha256(token).digest(), known.digest):
            raise unauthorized("the key is unknown or revoked")
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            raise unauthorized("the header's form is `Authorization: Bearer <key>`")
        return _allowed(known.caller, known.scopes, scope)

    @property
    def seen(self) -> KeyState | None:
        """State of the store whose keys are in force."""
        return self._seen

    def look(self) -> None:
        """Take the keys that are kept now, where they have changed; `check` does so about once a second."""
        self._look_at = self._clock() + LOOK_SECONDS
        try:
            state = self._store.state()
            if state == self._seen:
                return
            if state is None:
                raise FileNotFoundError(f"{self._store} is gone; its keys stay in force until the service ends")
            self._read()
            self._seen = state
        except (OSError, ValueError) as error:
            self._failed(error)

    def _read(self) -> None:
        keys, made = self._store.keys(), self._store.made()
        self._keys = {
            key.id.encode(): _Known(bytes.fromhex(key.sha256), key.caller, frozenset(key.scopes))
            for key in keys
            if key.revoked_at is None
        }
        self._taken = frozenset({DEFAULT_CALLER, *(key.caller for key in keys), *made.callers})
        lost = not keys and bool(made.callers) and not made.opened
        self._open = self._loopback and not keys and not lost and self._tokens is None
        if lost:
            self._failed(
                KeysError(
                    f"{self._store} is gone, and the ledger says that there were keys: nobody is let in by a key. "
                    "Restore it, or make keys with `fraud-platform keys add`; to let everybody on this machine in "
                    "again, say so with `fraud-platform keys open`"
                )
            )


def _allowed(caller: str, scopes: frozenset[str], scope: Scope) -> str:
    if scope not in scopes:
        raise forbidden(f"this needs a key with the scope {scope}")
    return caller


def open_access(
    home: Path,
    *,
    loopback: bool,
    tokens: tuple[Path, str, str] | None,
    failed: Callable[[Exception], None],
) -> Access:
    """The access of a home. tokens: file of public keys, issuer, audience. Raises KeysError, TokensError, OSError."""
    checked: TokenCheck | None = None
    if tokens is not None:
        # its cryptography takes longer to import than the process of the rules to start
        from fraud_platform.decision.tokens import Tokens

        checked = Tokens(*tokens, failed=failed)
    return Access.load(KeyFile(home), loopback=loopback, failed=failed, tokens=checked)
