"""The gateway before the real decision service: keys, tokens, draining it, and the rules in its stead."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import httpx
import jwt
import pytest
import redis
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from typer.testing import CliRunner

from fraud_platform.cli import app
from fraud_platform.decision.api_keys import add_key, keys_path
from fraud_platform.inference_log.spool import read_spool
from fraud_platform.settings import Settings
from tests.integration import gateway_kit as kit
from tests.integration.service_kit import fill_online_store, free_port, publish_small_model

pytestmark = kit.needs_nginx

NOW = datetime.now(UTC)
ISSUER, AUDIENCE = "https://idp.example", "fraud-platform"
SECRET = ec.generate_private_key(ec.SECP256R1())


@dataclass
class Stack:
    """A home with keys, a service, and a gateway before it, started by its command."""

    settings: Settings
    environment: dict[str, str]
    key: str
    blue: "subprocess.Popen[bytes]" = field(repr=False)

    def command(self, *words: str) -> str:
        done = CliRunner().invoke(app, ["gateway", *words], env={**self.environment, "COLUMNS": "160", "NO_COLOR": "1"})
        assert done.exit_code == 0, done.output
        return done.output


@pytest.fixture(scope="module")
def stack(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("gateway_service")
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
        fill_online_store(client)
    publish_small_model(home, version=7, seed=1)
    key = add_key(keys_path(home), "shop", ["decide"], NOW)[0]
    own = add_key(keys_path(home), "gateway", ["admin"], NOW)[0]
    keys = home / "issuer.json"
    public = ECAlgorithm.to_jwk(SECRET.public_key(), as_dict=True)
    keys.write_text(json.dumps({"keys": [{**public, "kid": "one", "alg": "ES256"}]}))
    ports = [free_port() for _ in range(3)]
    environment = {
        "FRAUD_HOME": str(home), "FRAUD_REDIS_URL": redis_server, "BENTOML_HOME": str(home / "bentoml"),
        "FRAUD_GATEWAY_PORT": str(ports[0]), "FRAUD_RULES_PORT": str(ports[1]), "FRAUD_API_KEY": own,
        "FRAUD_GATEWAY_BLUE": json.dumps([f"127.0.0.1:{ports[2]}"]),
        # this machine may be busy, and a late answer is not what is tested
        "FRAUD_GATEWAY_TIMEOUT_MS": "4000", "FRAUD_GATEWAY_RATE": "20000",
        "FRAUD_JWT_KEYS": str(keys), "FRAUD_JWT_ISSUER": ISSUER, "FRAUD_JWT_AUDIENCE": AUDIENCE,
    }  # fmt: skip
    settings = Settings(home=home, gateway_port=ports[0])

    @contextmanager
    def process(name: str, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
        with (home / f"{name}.log").open("wb") as log:
            command = [sys.executable, "-m", *words]
            running = subprocess.Popen(command, cwd=kit.ROOT, env={**os.environ, **environment}, stdout=log, stderr=log)
        try:
            yield running
        finally:
            if running.poll() is None:
                running.send_signal(signal.SIGTERM)
            running.wait(30)

    serve = ["bentoml", "serve", "bento.service:FraudDetector", "--port", str(ports[2])]
    with process("service", *serve) as blue, process("gateway", "fraud_platform.cli", "gateway", "start"):
        with httpx.Client(base_url=f"http://127.0.0.1:{ports[2]}") as http:
            kit.until(lambda: kit.answers(http, "/readyz"), (home / "service.log").read_text, 120)
        kit.until((home / "gateway" / "nginx.pid").exists, (home / "gateway.log").read_text, 60)
        with kit.client(settings) as http:
            kit.until(lambda: kit.answers(http, "/readyz"), (home / "gateway.log").read_text)
        yield Stack(settings, environment, key, blue)


def test_keys_and_tokens_decide_who_is_answered(stack: Stack) -> None:
    def asked(path: str, authorization: str | None) -> httpx.Response:
        headers = {"authorization": f"Bearer {authorization}"} if authorization else {}
        return http.post(path, json=kit.payment(), headers=headers)

    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "bank", "exp": time.time() + 300, "scope": "decide"}
    token = jwt.encode(claims, SECRET, "ES256", {"kid": "one"})
    forged = jwt.encode(claims, ec.generate_private_key(ec.SECP256R1()), "ES256", {"kid": "one"})
    with kit.client(stack.settings) as http:
        for good in (stack.key, token):
            answer = asked("/v1/predict", good)
            assert answer.status_code == 200, answer.text
            assert answer.json()["served_by"]["model"] == "champion"
            assert asked("/v1/explain", good).status_code == 403
        for bad in (None, "fp_00000000_nobody", forged):
            refused = asked("/v1/predict", bad)
            assert refused.status_code == 401
            assert refused.headers["content-type"] == "application/problem+json"
            assert refused.json()["type"].endswith(":unauthorized")
        assert http.get("/metrics").status_code == http.post("/v1/admin/reload", json={}).status_code == 404
        assert http.get("/docs.json").json()["openapi"].startswith("3.")


def test_a_drained_release_gets_its_payments_back_and_learns_what_the_rules_decided(stack: Stack) -> None:
    under_way = kit.load(stack.settings, 60, 10, stack.key)
    time.sleep(3)
    assert "the rules alone decide" in stack.command("drain", "blue", "--why", "a new kernel")
    time.sleep(1)
    assert "blue gets every payment" in stack.command("switch", "blue", "--why", "it is back")
    found = kit.result(under_way)
    assert found["lost"] == []
    assert found["statuses"] == {"200": 600}, found
    assert min(found["names"]["champion"], found["names"]["rules"]) > 30
    outbox = stack.settings.home / "gateway" / "outbox"
    kit.until(lambda: not list(outbox.iterdir()), lambda: str(list(outbox.iterdir())))
    days = [(NOW + timedelta(days=ahead)).date() for ahead in (0, 1)]
    records = {record.decision_id: record for day in days for record in read_spool(stack.settings.home, day)}
    models = Counter(record.served_by.model for record in records.values() if record.caller == "shop")
    # and one of the test before
    assert models == {"rules": found["names"]["rules"], "champion": found["names"]["champion"] + 1}
    [blue] = [line.split() for line in stack.command("status").splitlines() if line.strip().startswith("blue")]
    assert blue[2:] == ["100%", "ready,", "lacks", "postgres,", "cold_snapshots"]


def test_a_service_that_is_drained_and_then_ended_costs_no_caller_anything(stack: Stack) -> None:
    under_way = kit.load(stack.settings, 60, 6, stack.key)
    time.sleep(2)
    stack.command("drain", "blue", "--why", "a new kernel")
    stack.blue.send_signal(signal.SIGTERM)
    stack.blue.wait(30)
    found = kit.result(under_way)
    assert found["lost"] == []
    assert found["statuses"] == {"200": 360}, found
    assert found["names"].keys() == {"champion", "rules"}
