"""Signed tokens (JWT) beside API keys: who asks and for what, by the word of an issuer whose public keys are in a file.

What belongs here: from a token to a caller and scopes. What does not: API keys and the check of a scope (`access`).
"""

import json
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import jwt

from fraud_platform.callers import CALLER
from fraud_platform.decision.api_keys import SCOPES
from fraud_platform.decision.problem import unauthorized

ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")
"""Signatures by a private key alone: with a shared secret, whoever checks tokens could make them too."""
LEEWAY_SECONDS = 30
LONGEST = 4_096
"""Bytes of a token."""
LOOK_SECONDS = 1.0
_REMEMBERED = 1_024
_REQUIRED = ["exp", "iss", "aud", "sub"]


class TokensError(ValueError):
    """The file of public keys cannot be used; the message says why."""


class Tokens:
    """Checks tokens; for one event loop or thread. A token that was good is remembered by its hash until it ends, so
    that a signature is checked once and not for every payment.

    path: JWKS. issuer, audience: what `iss` must be and `aud` must contain. failed: told of a file that cannot be read
    later on; the keys read before stay in force. now: seconds since 1970. Raises TokensError, OSError.
    """

    def __init__(
        self,
        path: Path,
        issuer: str,
        audience: str,
        *,
        failed: Callable[[Exception], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._path, self._issuer, self._audience = path, issuer, audience
        self._failed = failed
        self._now = now
        self._good: dict[bytes, tuple[str, frozenset[str], float]] = {}
        self._seen = path.stat().st_mtime_ns
        self._keys = _read(path)
        self._look_at = now() + LOOK_SECONDS

    def check(self, token: bytes) -> tuple[str, frozenset[str]]:
        """Caller (`sub`) and scopes (`scope`, words apart by spaces). Raises Problem 401, which says what is wrong."""
        if self._now() >= self._look_at:
            self._look()
        digest = sha256(token).digest()
        known = self._good.get(digest)
        if known is None:
            known = self._verified(token)
            if len(self._good) >= _REMEMBERED:
                self._good.clear()
            self._good[digest] = known
        caller, scopes, ends = known
        if self._now() >= ends:
            self._good.pop(digest, None)
            raise unauthorized("the token has expired")
        return caller, scopes

    def _verified(self, token: bytes) -> tuple[str, frozenset[str], float]:
        if len(token) > LONGEST:
            raise unauthorized(f"a token has at most {LONGEST} bytes")
        try:
            key = self._keys.get(jwt.get_unverified_header(token).get("kid", ""))
            if key is None:
                raise unauthorized("the token's `kid` names none of the issuer's keys")
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                issuer=self._issuer,
                audience=self._audience,
                # times are held against `now`, not against the library's own clock
                options={"require": _REQUIRED, "verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
            ends, begins = float(claims["exp"]) + LEEWAY_SECONDS, float(claims.get("nbf", 0)) - LEEWAY_SECONDS
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise unauthorized(f"the token is not good: {error}") from None
        caller, scope = str(claims["sub"]), claims.get("scope", "")
        if not CALLER.fullmatch(caller):
            raise unauthorized("the token's `sub` is no name for a caller")
        if begins > self._now():
            raise unauthorized("the token is not good yet")
        words = scope.split() if isinstance(scope, str) else []
        return caller, frozenset(words) & frozenset(SCOPES), ends

    def _look(self) -> None:
        self._look_at = self._now() + LOOK_SECONDS
        try:
            state = self._path.stat().st_mtime_ns
            if state != self._seen:
                self._keys = _read(self._path)
                self._seen = state
                self._good.clear()
        except (OSError, TokensError) as error:
            self._failed(error)


def _read(path: Path) -> dict[str, jwt.PyJWK]:
    """The keys of a JWKS by `kid`. Raises TokensError, OSError."""
    try:
        found = [jwt.PyJWK.from_dict(entry) for entry in json.loads(path.read_bytes())["keys"]]
    except (ValueError, KeyError, TypeError, jwt.PyJWTError) as error:
        raise TokensError(f"{path} is no JWKS: {error}") from error
    for key in found:
        if key.algorithm_name not in ALGORITHMS or not key.key_id:
            raise TokensError(
                f"{path}: a key needs a `kid` and one of {', '.join(ALGORITHMS)}, got {key.algorithm_name}"
            )
    return {str(key.key_id): key for key in found}
