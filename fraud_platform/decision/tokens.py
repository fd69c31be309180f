"""Signed tokens (JWT) beside API keys: who asks and for what, by the word of an issuer whose public keys are in a file.

What belongs here: from a token to a caller and scopes. What does not: API keys and the check of a scope (`access`).
"""

import json
import math
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from fraud_platform.callers import CALLER
from fraud_platform.decision.api_keys import SCOPES
from fraud_platform.decision.problem import unauthorized

ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")
"""Signatures by a private key alone: with a shared secret, whoever checks tokens could make them too."""
LEEWAY_SECONDS = 30
LONGEST_DAYS = 366
"""How far ahead `exp` may lie: far beyond any token that an issuer means, and short of for ever."""
LONGEST = 4_096
"""Bytes of a token."""
SHORTEST_RSA_BITS = 2_048
_SMALL_FACTORS = math.factorial(1_000)
"""Every number up to 1,000 divides it."""
LOOK_SECONDS = 1.0
_MOST_KEY_BYTES = 1024 * 1024
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
            ends, begins = _moment(claims, "exp") + LEEWAY_SECONDS, _moment(claims, "nbf") - LEEWAY_SECONDS
        # a header or claims nested without end cost a recursion, and need no signature
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise unauthorized(f"the token is not valid: {error}") from None
        caller, scope = str(claims["sub"]), claims.get("scope", "")
        if not CALLER.fullmatch(caller):
            raise unauthorized("the token's `sub` is not a name for a caller")
        if ends - LEEWAY_SECONDS > self._now() + LONGEST_DAYS * 86_400:
            raise unauthorized(f"the token's `exp` is more than {LONGEST_DAYS} days ahead")
        if begins > self._now():
            raise unauthorized("the token is not valid yet")
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
        with path.open("rb") as file:
            payload = file.read(_MOST_KEY_BYTES + 1)
        if len(payload) > _MOST_KEY_BYTES:
            raise ValueError(f"more than {_MOST_KEY_BYTES:,} bytes")
        listed = json.loads(payload, object_pairs_hook=_names_once)["keys"]
        if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
            raise ValueError("`keys` is not a list of objects")
        found = [(jwt.PyJWK.from_dict(entry), entry.get("key_ops", ["verify"])) for entry in listed]
    except (ValueError, KeyError, TypeError, RecursionError, jwt.PyJWTError) as error:
        raise TokensError(f"{path} is not a JWKS: {error}") from error
    keys: dict[str, jwt.PyJWK] = {}
    for key, operations in found:
        if key.algorithm_name not in ALGORITHMS or not isinstance(key.key_id, str) or not key.key_id:
            raise TokensError(
                f"{path}: a key needs a `kid` and one of {', '.join(ALGORITHMS)}, got {key.algorithm_name}"
            )
        if key.key_id in keys:
            raise TokensError(f"{path}: two keys have the `kid` {key.key_id}; each needs its own")
        weakness = _weakness(key)
        if weakness:
            raise TokensError(f"{path}: the key {key.key_id} {weakness}")
        if key.public_key_use not in (None, "sig") or not (isinstance(operations, list) and "verify" in operations):
            raise TokensError(
                f"{path}: the key {key.key_id} is not for signatures (`use`, `key_ops`): leave it out of the file"
            )
        keys[key.key_id] = key
    return keys


def _names_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises ValueError for a name that stands twice: one reader takes the first, another the last."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"`{name}` stands twice in one object")
        found[name] = value
    return found


def _weakness(key: jwt.PyJWK) -> str | None:
    """What makes a key one that nobody should trust; None for a good one."""
    public = key.key
    if isinstance(public, rsa.RSAPublicKey):
        if public.key_size < SHORTEST_RSA_BITS:
            return f"is RSA of {public.key_size} bits; {SHORTEST_RSA_BITS} is the least"
        if math.gcd(public.public_numbers().n, _SMALL_FACTORS) > 1:
            return "has a modulus that is no product of two large primes"
        return None
    if isinstance(public, ec.EllipticCurvePublicKey):
        return None if public.curve.name == "secp256r1" else f"is on the curve {public.curve.name}; ES256 is on P-256"
    if isinstance(public, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return None
    return "is a private key; whoever checks tokens needs the public one alone"


def _moment(claims: dict[str, Any], name: str) -> float:
    """A claim in seconds since 1970, 0 where it is absent. Raises ValueError for what is no moment."""
    value = claims.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"`{name}` is not a number")
    # an integer too large for a float is no moment either
    if not (isinstance(value, int) and abs(value) < 2**53) and not (isinstance(value, float) and math.isfinite(value)):
        raise ValueError(f"`{name}` is not a point in time")
    return float(value)
