"""Tokens beside API keys: who is let in, for what, and who is not; made here by an issuer of our own."""

import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from fraud_platform.decision.access import open_access
from fraud_platform.decision.problem import Problem
from fraud_platform.decision.tokens import Tokens, TokensError

NOW = 1_800_000_000.0
ISSUER, AUDIENCE = "https://idp.example", "fraud-platform"
RSA = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
EC = ec.generate_private_key(ec.SECP256R1())


class Clock:
    """Seconds since 1970, moved by hand."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def jwk(secret: Any, kid: str, alg: str) -> dict[str, Any]:
    kind = RSAAlgorithm if isinstance(secret, rsa.RSAPrivateKey) else ECAlgorithm
    return {**kind.to_jwk(secret.public_key(), as_dict=True), "kid": kid, "alg": alg}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [jwk(RSA, "r", "RS256"), jwk(EC, "e", "ES256")]}))
    return path


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def faults() -> list[Exception]:
    return []


@pytest.fixture
def tokens(keys: Path, clock: Clock, faults: list[Exception]) -> Tokens:
    return Tokens(keys, ISSUER, AUDIENCE, failed=faults.append, now=clock)


def token(secret: Any = EC, alg: str = "ES256", kid: str | None = "e", **changes: Any) -> bytes:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "shop", "exp": NOW + 300, "scope": "decide explain openid"}
    claims = {name: value for name, value in {**claims, **changes}.items() if value is not ...}
    return jwt.encode(claims, secret, alg, headers={"kid": kid} if kid else None).encode()


def refused(tokens: Tokens, text: bytes, why: str) -> None:
    with pytest.raises(Problem, match=why) as caught:
        tokens.check(text)
    assert caught.value.status == 401


def test_a_good_token_names_caller_and_scopes(tokens: Tokens) -> None:
    expected = ("shop", frozenset({"decide", "explain"}))
    assert tokens.check(token()) == expected
    assert tokens.check(token(RSA, "RS256", "r", aud=["other", AUDIENCE])) == expected
    assert tokens.check(token(scope=...)) == ("shop", frozenset())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"iss": "https://elsewhere.example"}, "issuer"),
        ({"aud": "another"}, "[Aa]udience"),
        ({"exp": NOW - 31}, "expired"),
        ({"exp": ...}, "exp"),
        ({"exp": "soon"}, "not good"),
        ({"sub": ...}, "sub"),
        ({"sub": "../x"}, "no name for a caller"),
        ({"nbf": NOW + 31}, "not good yet"),
        ({"kid": "unknown"}, "none of the issuer's keys"),
        ({"kid": None}, "none of the issuer's keys"),
        ({"secret": ec.generate_private_key(ec.SECP256R1())}, "[Ss]ignature"),
        # a key of another kind under this name: the algorithm is the key's, whatever the token says
        ({"secret": RSA, "alg": "RS256"}, "not good"),
        ({"secret": "shared-secret-of-32-bytes-or-more!", "alg": "HS256"}, "not good"),
        ({"secret": None, "alg": "none"}, "not good"),
    ],
)
def test_a_token_that_is_not_good_lets_nobody_in(tokens: Tokens, changes: dict[str, Any], why: str) -> None:
    refused(tokens, token(**changes), why)


def test_what_is_no_token_lets_nobody_in(tokens: Tokens) -> None:
    for text in (b"a.b.c", b"..", b"\xff.\xff.\xff", b"x" * 5_000):
        refused(tokens, text, "token")
    body = token().split(b".")
    refused(tokens, b".".join([body[0], token(sub="admin").split(b".")[1], body[2]]), "[Ss]ignature")


def test_a_token_that_was_good_ends(tokens: Tokens, clock: Clock) -> None:
    text = token()
    tokens.check(text)
    clock.now = NOW + 329
    tokens.check(text)
    clock.now = NOW + 330
    refused(tokens, text, "expired")


def test_a_key_that_is_taken_back_ends_its_tokens_and_an_unreadable_file_changes_nothing(
    tokens: Tokens, keys: Path, clock: Clock, faults: list[Exception]
) -> None:
    text = token()
    tokens.check(text)
    keys.write_text("no JSON")
    clock.now += 1.1
    tokens.check(text)
    assert "is no JWKS" in str(faults[-1])
    keys.write_text(json.dumps({"keys": [jwk(RSA, "r", "RS256")]}))
    clock.now += 1.1
    refused(tokens, text, "none of the issuer's keys")


def test_shared_secrets_are_no_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0", "alg": "HS256", "kid": "s"}]}))
    with pytest.raises(TokensError, match="got HS256"):
        Tokens(path, ISSUER, AUDIENCE, failed=lambda _: None)


def test_access_takes_tokens_and_then_stands_open_to_nobody(keys: Path, tmp_path: Path) -> None:
    access = open_access(tmp_path, loopback=True, tokens=(keys, ISSUER, AUDIENCE), failed=lambda _: None)
    later = token(exp=4_000_000_000)
    assert access.check(b"Bearer " + later, "decide") == "shop"
    assert access.required
    for authorization, status in ((None, 401), (b"Basic " + later, 401), (b"Bearer fp_nokey", 401)):
        with pytest.raises(Problem) as caught:
            access.check(authorization, "decide")
        assert caught.value.status == status
    with pytest.raises(Problem, match="scope admin") as caught:
        access.check(b"Bearer " + later, "admin")
    assert caught.value.status == 403
    assert open_access(tmp_path, loopback=True, tokens=None, failed=lambda _: None).check(None, "admin") == "default"
