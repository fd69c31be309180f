"""Tokens beside API keys: who is let in, for what, and who is not; made here by an issuer of our own."""

import base64
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from jwt.utils import to_base64url_uint

from fraud_platform.decision.access import open_access
from fraud_platform.decision.api_keys import add_key, keys_path, revoke_key
from fraud_platform.decision.key_ledger import note_key
from fraud_platform.decision.problem import Problem
from fraud_platform.decision.tokens import Tokens, TokensError

NOW = 1_800_000_000.0
ISSUER, AUDIENCE = "https://idp.example", "fraud-platform"
RSA = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
WEAK_RSA = rsa.generate_private_key(public_exponent=65_537, key_size=1_024)
EC = ec.generate_private_key(ec.SECP256R1())


class Clock:
    """Seconds since 1970, moved by hand."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def jwk(secret: Any, kid: str, alg: str, **changes: Any) -> dict[str, Any]:
    kind = RSAAlgorithm if isinstance(secret, rsa.RSAPrivateKey) else ECAlgorithm
    return {**kind.to_jwk(secret.public_key(), as_dict=True), "kid": kid, "alg": alg, **changes}


def modulus(change: Callable[[int], int]) -> str:
    """The good key's modulus, changed, as a JWKS has it."""
    return to_base64url_uint(change(RSA.public_key().public_numbers().n)).decode()


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
    assert tokens.check(token(exp=NOW + 366 * 86_400)) == expected


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"iss": "https://elsewhere.example"}, "issuer"),
        ({"aud": "another"}, "[Aa]udience"),
        ({"exp": NOW - 31}, "expired"),
        ({"exp": ...}, "exp"),
        ({"exp": "soon"}, "not valid"),
        ({"exp": float("nan")}, "`exp` is not a point in time"),
        ({"exp": float("inf")}, "`exp` is not a point in time"),
        ({"exp": 10**400}, "`exp` is not a point in time"),
        ({"exp": 1e308}, "`exp` is more than 366 days ahead"),
        ({"exp": 2**53 - 1}, "`exp` is more than 366 days ahead"),
        ({"exp": NOW + 366 * 86_400 + 1}, "`exp` is more than 366 days ahead"),
        # as an issuer that counts milliseconds writes it
        ({"exp": (NOW + 300) * 1_000}, "`exp` is more than 366 days ahead"),
        ({"exp": "Infinity"}, "`exp` is not a number"),
        ({"exp": True}, "`exp` is not a number"),
        ({"nbf": float("nan")}, "`nbf` is not a point in time"),
        ({"nbf": float("-inf")}, "`nbf` is not a point in time"),
        ({"nbf": "now"}, "`nbf` is not a number"),
        ({"sub": ...}, "sub"),
        ({"sub": "../x"}, "not a name for a caller"),
        ({"nbf": NOW + 31}, "not valid yet"),
        ({"kid": "unknown"}, "none of the issuer's keys"),
        ({"kid": None}, "none of the issuer's keys"),
        ({"secret": ec.generate_private_key(ec.SECP256R1())}, "[Ss]ignature"),
        # a key of another kind under this name: the algorithm is the key's, whatever the token says
        ({"secret": RSA, "alg": "RS256"}, "not valid"),
        ({"secret": "shared-secret-of-32-bytes-or-more!", "alg": "HS256"}, "not valid"),
        ({"secret": None, "alg": "none"}, "not valid"),
    ],
)
def test_a_token_that_is_not_valid_lets_nobody_in(tokens: Tokens, changes: dict[str, Any], why: str) -> None:
    refused(tokens, token(**changes), why)


def test_what_is_not_a_token_lets_nobody_in(tokens: Tokens) -> None:
    for text in (b"a.b.c", b"..", b"\xff.\xff.\xff", b"x" * 5_000):
        refused(tokens, text, "token")
    body = token().split(b".")
    refused(tokens, b".".join([body[0], token(sub="admin").split(b".")[1], body[2]]), "[Ss]ignature")


def test_a_header_or_claims_nested_without_end_are_refused(tokens: Tokens) -> None:
    head, claims, signature = token().split(b".")
    deep = base64.urlsafe_b64encode(b'{"kid": ' + b"[" * 1_400).rstrip(b"=")
    refused(tokens, b".".join([deep, claims, signature]), "not valid")
    deep = base64.urlsafe_b64encode(b'{"alg": "ES256", "kid": "e", "x": ' + b"[" * 1_000 + b"]" * 1_000 + b"}").rstrip(
        b"="
    )
    refused(tokens, b".".join([deep, claims, signature]), "not valid")
    # signed, so that the claims are read
    signed = head + b"." + base64.urlsafe_b64encode(b'{"exp": ' + b"[" * 1_400 + b"]" * 1_400 + b"}").rstrip(b"=")
    algorithm = ECAlgorithm(ECAlgorithm.SHA256)
    refused(tokens, signed + b"." + base64.urlsafe_b64encode(algorithm.sign(signed, EC)).rstrip(b"="), "not valid")


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
    assert "is not a JWKS" in str(faults[-1])
    keys.write_text(json.dumps({"keys": [jwk(RSA, "r", "RS256")]}))
    clock.now += 1.1
    refused(tokens, text, "none of the issuer's keys")


def test_shared_secrets_are_no_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0", "alg": "HS256", "kid": "s"}]}))
    with pytest.raises(TokensError, match="got HS256"):
        Tokens(path, ISSUER, AUDIENCE, failed=lambda _: None)


@pytest.mark.parametrize(
    ("listed", "why"),
    [
        ([jwk(WEAK_RSA, "r", "RS256")], "RSA of 1024 bits; 2048"),
        ([jwk(WEAK_RSA, "r", "PS256")], "RSA of 1024 bits; 2048"),
        ([jwk(RSA, "k", "RS256"), jwk(EC, "k", "ES256")], "two keys have the `kid` k"),
        ([{**jwk(ec.generate_private_key(ec.SECP521R1()), "e", "ES256")}], "curve|no JWKS"),
        ([{**RSAAlgorithm.to_jwk(RSA, as_dict=True), "kid": "r", "alg": "RS256"}], "is a private key"),
        ([{**jwk(RSA, "r", "RS256"), "kid": ["r"]}], "needs a `kid`"),
        ([jwk(RSA, "r", "RS256", use="enc")], "the key r is not for signatures"),
        ([jwk(EC, "e", "ES256", use=["sig"])], "the key e is not for signatures"),
        ([jwk(RSA, "r", "RS256", key_ops=["encrypt", "wrapKey"])], "the key r is not for signatures"),
        ([jwk(RSA, "r", "RS256", key_ops="verify")], "the key r is not for signatures"),
        ([jwk(RSA, "r", "RS256", n=modulus(lambda n: n - 1))], "the key r has a modulus that is no product of two"),
        ([jwk(RSA, "r", "RS256", n=modulus(lambda n: n * 997))], "the key r has a modulus that is no product of two"),
    ],
)  # fmt: skip
def test_a_key_that_nobody_should_trust_stops_the_start(tmp_path: Path, listed: list[dict[str, Any]], why: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": listed}))
    with pytest.raises(TokensError, match=why):
        Tokens(path, ISSUER, AUDIENCE, failed=lambda _: None)


def test_a_key_for_signatures_may_say_so(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [jwk(RSA, "r", "PS256", use="sig", key_ops=["verify", "sign"])]}))
    Tokens(path, ISSUER, AUDIENCE, failed=lambda _: None, now=Clock()).check(token(RSA, "PS256", "r"))


def test_what_is_no_list_of_keys_stops_the_start_and_changes_nothing_later(
    tokens: Tokens, keys: Path, clock: Clock, faults: list[Exception]
) -> None:
    for text in ('{"keys": [5]}', '{"keys": "abc"}', '{"keys": [[]]}', '{"keys": {"e": 1}}'):
        keys.write_text(text)
        with pytest.raises(TokensError, match="is not a JWKS: `keys` is not a list of objects"):
            Tokens(keys, ISSUER, AUDIENCE, failed=lambda _: None)
        clock.now += 1.1
        tokens.check(token())
        assert isinstance(faults.pop(), TokensError)


@pytest.mark.parametrize("name", ["keys", "kid", "x"])
def test_a_name_that_stands_twice_in_the_file_stops_the_start(tmp_path: Path, name: str) -> None:
    """Who reads the file, and who reads it after, would take different keys from it."""
    listed = json.dumps({"keys": [jwk(EC, "e", "ES256")]})
    (tmp_path / "keys.json").write_text(listed.replace(f'"{name}":', f'"{name}": [], "{name}":'))
    with pytest.raises(TokensError, match=f"is not a JWKS: `{name}` stands twice in one object"):
        Tokens(tmp_path / "keys.json", ISSUER, AUDIENCE, failed=lambda _: None)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"keys": ' + "[" * 100_000, " " * 1_100_000], ids=range(3))
def test_a_file_that_is_too_deep_or_too_large_stops_the_start(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys.json").write_text(text)
    with pytest.raises(TokensError, match="is not a JWKS"):
        Tokens(tmp_path / "keys.json", ISSUER, AUDIENCE, failed=lambda _: None)


def test_a_token_does_not_get_the_name_of_a_caller_with_a_key(keys: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    now = datetime(2026, 11, 23, tzinfo=UTC)
    _, shop = add_key(keys_path(home), "shop", ["decide"], now)
    _, lost = add_key(keys_path(home), "lost", ["decide"], now)
    revoke_key(keys_path(home), shop.id, now)
    note_key(home, lost, "test", now)
    door = open_access(home, loopback=True, tokens=(keys, ISSUER, AUDIENCE), failed=lambda _: None)
    ends = time.time() + 600
    bearer = {sub: b"Bearer " + token(sub=sub, exp=ends) for sub in ("shop", "lost", "default", "other")}
    for taken in ("shop", "lost", "default"):
        with pytest.raises(Problem, match="the name of a caller with an API key") as caught:
            door.check(bearer[taken], "decide")
        assert caught.value.status == 401
    assert door.check(bearer["other"], "decide") == "other"
    keys_path(home).unlink()
    door = open_access(home, loopback=True, tokens=(keys, ISSUER, AUDIENCE), failed=lambda _: None)
    with pytest.raises(Problem, match="the name of a caller with an API key"):
        door.check(bearer["lost"], "decide")


def test_access_takes_tokens_and_then_stands_open_to_nobody(keys: Path, tmp_path: Path) -> None:
    access = open_access(tmp_path, loopback=True, tokens=(keys, ISSUER, AUDIENCE), failed=lambda _: None)
    later = token(exp=time.time() + 600)
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
